"""One `attention` block: its declarations and clauses, in reading order, to `ir.Attention`."""

from __future__ import annotations

from collections.abc import Callable

from attndsl.diagnostics.report import Note
from attndsl.diagnostics.source import Span
from attndsl.frontend import tree
from attndsl.frontend.check import functions, names
from attndsl.frontend.check.build import LimitError, too_large
from attndsl.frontend.check.expression import Checker
from attndsl.frontend.check.frame import Frame, Place
from attndsl.frontend.check.parameters import Parameters, fresh_sizes
from attndsl.frontend.check.sink import Sink
from attndsl.frontend.check.values import (
    POISON,
    Feature,
    Grids,
    Poison,
    SegmentValue,
    TupleValue,
    Value,
    describe,
    version_of,
)  # fmt: skip
from attndsl.frontend.limits import NODES
from attndsl.frontend.modules import Scope
from attndsl.ir.attention import Attention, Param, Require, Segment, Space
from attndsl.ir.expr import SCORE, TRUE, Expr, walk
from attndsl.ir.types import BOOL, Kind

AXES = 3
"""Most axes of a segment."""


def check_attention(
    block: tree.AttentionBlock,
    scope: Scope,
    sink: Sink,
    cyclic: frozenset[int],
    damaged: Callable[[tree.Node], bool],
) -> Attention | None:
    """The attention of a block, or None where something in it was reported."""
    before = len(sink)
    block_checker = _Block(block, scope, sink, cyclic, damaged)
    try:
        made = block_checker.run()
    except LimitError as limit:
        sink.report(limit.code, str(limit), limit.span, help=limit.help)
        return None
    return made if len(sink) == before else None


class _Block:
    def __init__(
        self,
        block: tree.AttentionBlock,
        scope: Scope,
        sink: Sink,
        cyclic: frozenset[int],
        damaged: Callable[[tree.Node], bool],
    ) -> None:
        self.block = block
        self.sink = sink
        self.frame = Frame({}, scope)
        self.checker = Checker(sink, self.frame, cyclic, damaged)
        self.declared: dict[str, Span] = {}
        self.later: dict[str, Span] = {}
        self.masks: list[Expr] = []
        self.scores: list[Expr] = [SCORE]
        self.weight: Expr | None = None
        self.output: Expr | None = None
        self.requires: list[Require] = []
        self.first: dict[str, Span] = {}

    def run(self) -> Attention | None:
        params = self._parameters()
        self._grids()
        self.later = {c.name: c.name_span for c in self.block.clauses if isinstance(c, tree.Let)}
        self.checker.later = self.later
        for clause in self.block.clauses:
            self._clause(clause)
        return self._finish(params)

    # Declarations

    def _declare(self, name: str, span: Span, what: str) -> bool:
        """Take a name for a parameter, a segment or a let; False if it was reported."""
        if name in self.declared:
            note = Note(self.declared[name], "the first one is here")
            help_ = "choose another name: nothing is ever overwritten"
            self.sink.report("E0206", f"`{name}` is declared twice", span, help=help_, notes=(note,))
            return False
        why = names.why_reserved(name)
        if why:
            other = names.other_name(name, {*self.declared, *self.later})
            help_ = f"choose another name, such as `{other}`"
            self.sink.report("E0204", f"the {what} `{name}` has the name of {why}", span, help=help_)
            return False
        self.declared[name] = span
        return True

    def _parameters(self) -> tuple[Param, ...]:
        nodes = [p for p in self.block.parameters if self._declare(p.name, p.name_span, p.role)]
        for p in self.block.parameters:
            # uses of a name that was refused are not reported too
            self.frame.names.setdefault(p.name, POISON)
        maker = Parameters(self.checker)
        for node in nodes:
            if node.role != "input":
                maker.declare(node)
        inputs = tuple(n for n in nodes if n.role == "input")
        fresh = fresh_sizes(inputs, set(self.declared))
        self.checker.sizes = set(fresh)
        for name, at in fresh.items():
            likely = names.suggestion(name, names.VALUES) if name.lower() in ("lq", "lk", "hkv", "dv") else ""
            if likely and likely != name:
                message = f"`{name}` is not a size"
                self.sink.report("E0201", message, at.span, help=names.did_you_mean(likely))
            self.declared[name] = at.span
        for node in inputs:
            maker.input(node)
        order = {p.name: i for i, p in enumerate(nodes)}
        return tuple(sorted(maker.made, key=lambda p: order[p.name]))

    def _grids(self) -> None:
        clauses = [c for c in self.block.clauses if isinstance(c, tree.Grid)]
        spaces: dict[str, Space] = {}
        places: dict[str, Span] = {}
        for clause in clauses:
            taken = [s for s in places if clause.side in ("both", s) or s == "both"]
            if taken:
                note = Note(places[taken[0]], "the first one is here")
                message = "a second grid" if clause.side == "both" else f"a second grid for {clause.side}"
                help_ = "segments of one sequence are joined: `grid text(m) ++ video(t, y, x)`"
                self.sink.report("E0401", message, clause.span, help=help_, notes=(note,))
                continue
            places[clause.side] = clause.span
            space = self._space(clause)
            if space is not None:
                spaces[clause.side] = space
        if "both" in places:
            both = spaces.get("both")
            self.checker.grids = Grids(both, both, True)
        elif places:
            self.checker.grids = Grids(spaces.get("q"), spaces.get("k"), False)
        broken = len(spaces) < len(clauses)
        self.checker.broken_grids = broken

    def _space(self, clause: tree.Grid) -> Space | None:
        segments: list[Segment] = []
        seen: set[str] = set()
        good = True
        for node in clause.segments:
            if node.name:
                if clause.side != "k" or node.name not in self.frame.names:
                    start = node.span.start
                    at = Span(node.span.source, start, min(node.span.stop, start + len(node.name)))
                    good &= self._declare(node.name, at, "segment")
                self.frame.names[node.name] = SegmentValue(node.name)
            elif len(clause.segments) > 1:
                message = "a segment of several has no name"
                self.sink.report("E0404", message, node.span, label="a name was expected")
                good = False
            if len(node.axes) > AXES:
                message = f"a grid of {len(node.axes)} axes"
                self.sink.report("E0616", message, node.span, label=f"at most {AXES}")
                good = False
            for axis in node.axes:
                if axis in seen or (axis == node.name and len(node.axes) > 1):
                    message = f"the grid has two coordinates `{axis}`"
                    self.sink.report("E0206", message, node.span, help="each axis and segment has a name of its own")
                    good = False
                seen.add(axis)
            segments.append(Segment(node.name, node.axes))
        return Space(tuple(segments)) if good else None

    # Clauses

    def _clause(self, clause: tree.Clause) -> None:
        match clause:
            case tree.Let():
                self._let(clause)
            case tree.Function():
                self._feature(clause)
            case tree.RequireClause():
                self._require(clause)
            case tree.Rewrite(target="mask"):
                self._mask(clause)
            case tree.Rewrite(target="score"):
                self._score(clause)
            case tree.Rewrite(target="weight"):
                self._weight(clause)
            case tree.Rewrite():
                self._output(clause)
            case tree.Grid():
                pass

    def _at(self, place: Place, node: tree.TreeExpr) -> Value:
        self.checker.place = place
        try:
            return self.checker.value(node)
        finally:
            self.checker.place = "let"

    def _let(self, clause: tree.Let) -> None:
        value = self._at("let", clause.value)
        self.later.pop(clause.name, None)
        if self._declare(clause.name, clause.name_span, "let"):
            self.frame.names[clause.name] = value
        else:
            self.frame.names.setdefault(clause.name, POISON)

    def _feature(self, clause: tree.Function) -> None:
        functions.check_declaration(clause, self.sink)
        if clause.name in self.frame.features or clause.name in self.frame.scope.functions:
            message = f"the function `{clause.name}` is declared twice"
            self.sink.report("E0206", message, clause.name_span, help="choose another name")
            return
        shadowed = [p for p in clause.parameters if p in self.declared]
        for name in shadowed:
            note = Note(self.declared[name], "declared here")
            message = f"the parameter `{name}` of `{clause.name}` hides another"
            self.sink.report("E0206", message, clause.name_span, help="choose another name", notes=(note,))
        visible = dict(self.frame.names)
        feature = Feature(clause, visible, dict(self.frame.features), self.frame.scope)
        self.frame.features[clause.name] = feature
        self._check_feature(feature)

    def _check_feature(self, feature: Feature) -> None:
        """Names and calls of a feature, whether it is used or not: its parameters stand for anything."""
        clause = feature.function
        with self.checker.within(Frame(dict(feature.names), feature.scope, False, dict(feature.features))):
            unknowns: dict[str, Value] = dict.fromkeys(clause.parameters, POISON)
            self.checker.frame.names.update(unknowns)
            for statement in clause.statements:
                if isinstance(statement, tree.Let):
                    self._at("let", statement.value)
                    self.checker.frame.names[statement.name] = POISON
                else:
                    self._at("require", statement.condition)
            self._at("let", clause.value)

    def _require(self, clause: tree.RequireClause) -> None:
        value = self._single("require", clause.condition, "the condition of `require`")
        if isinstance(value, Poison):
            return
        if value.type != BOOL:
            self._wrong("the condition of `require`", value, clause.condition, "a bool was expected")
            return
        self.requires.append(Require(value, clause.message, span=clause.condition.span))

    def _mask(self, clause: tree.Rewrite) -> None:
        value = self._single("mask", clause.value, "the mask")
        if isinstance(value, Poison):
            return
        if value.type != BOOL:
            self._wrong("the mask", value, clause.value, "a bool was expected")
            return
        self.masks.append(value)

    def _score(self, clause: tree.Rewrite) -> None:
        value = self._number("score", clause.value, "the score")
        self.scores.append(SCORE if isinstance(value, Poison) else value)
        self.checker.version += 1

    def _weight(self, clause: tree.Rewrite) -> None:
        if not self._once(clause, "weight"):
            return
        if clause.value == tree.Name("softmax"):
            return
        value = self._number("weight", clause.value, "the weight")
        if not isinstance(value, Poison):
            self.weight = value

    def _output(self, clause: tree.Rewrite) -> None:
        if not self._once(clause, "output"):
            return
        value = self._single("output", clause.value, "the output")
        if isinstance(value, Poison):
            return
        if value.type.shape != ("Dv",) or value.type.kind is not Kind.FLOAT:
            help_ = "a gate multiplies `o`: `output o * gate`" if value.type.is_number else ""
            self._wrong("the output", value, clause.value, "a vector float[Dv] was expected", help_)
            return
        self.output = value

    def _once(self, clause: tree.Rewrite, name: str) -> bool:
        if name in self.first:
            note = Note(self.first[name], "the first one is here")
            self.sink.report("E0401", f"a second `{name}`", clause.span, help=f"keep one `{name}`", notes=(note,))
            return False
        self.first[name] = clause.span
        return True

    def _single(self, place: Place, node: tree.TreeExpr, what: str) -> Expr | Poison:
        value = self._at(place, node)
        operand = self.checker.as_operand(value, node)
        if isinstance(operand, TupleValue):
            help_ = "`all(...)` or `any(...)` makes one bool of a tuple"
            if any(i.type != BOOL for i in operand.items):
                help_ = "it needs one value, not one per axis"
            return self.checker.report(
                "E0301", f"{what} is {describe(operand)}", node.span, "one value was expected", help_
            )
        return operand

    def _number(self, place: Place, node: tree.TreeExpr, what: str) -> Expr | Poison:
        value = self._single(place, node, what)
        if isinstance(value, Poison):
            return POISON
        if not value.type.is_number or value.type.kind is Kind.BOOL:
            help_ = "who sees whom is a `mask`" if value.type == BOOL else ""
            help_ = help_ or "`dot`, `norm` or `total` makes a number of a vector"
            return self._wrong(what, value, node, "a number was expected", help_)
        return self.checker.build.to_float(value)

    def _wrong(self, what: str, value: Expr, node: tree.TreeExpr, label: str, help_: str = "") -> Poison:
        return self.checker.report("E0310", f"{what} is {describe(value)}", node.span, label, help_)

    # The result

    def _finish(self, params: tuple[Param, ...]) -> Attention | None:
        build = self.checker.build
        span = self.block.name_span
        mask: Expr = TRUE
        for part in self.masks:
            mask = part if mask is TRUE else build.op("and", mask, part, span=part.span)
        scores: list[Expr] = [build.make(SCORE)]
        for raw in self.scores[1:]:
            scores.append(self._resolved(raw, scores))
        score, weight = scores[-1], self.weight
        if weight is not None:
            old = any(scores[v] is not score for v in map(version_of, walk(weight)) if v is not None)
            if old:
                # an earlier score is used in the weight: `s` of the IR becomes the scaled dot product itself
                weight, score = self._resolved(weight, scores), scores[0]
            else:
                weight = self._resolved(weight, [scores[0]] * len(scores))
        made = Attention(
            self.block.name,
            params,
            mask,
            score,
            weight,
            self.output,
            self.checker.grids.q,
            self.checker.grids.k,
            self.checker.grids.shared,
            self._requirements(),
            span=span,
        )
        roots = [e for e in (mask, score, weight, self.output) if e is not None]
        roots += [r.condition for r in made.requires]
        if len({n for root in roots for n in walk(root)}) > NODES:
            raise too_large(span)
        return made

    def _requirements(self) -> tuple[Require, ...]:
        """The attention's own conditions, then those of the functions that it calls."""
        own = {r.condition for r in self.requires}
        return (*self.requires, *(r for r in self.checker.requires.values() if r.condition not in own))

    def _resolved(self, root: Expr, scores: list[Expr]) -> Expr:
        """The expression with each version of the score replaced."""
        done: dict[Expr, Expr] = {}
        for node in walk(root):
            version = version_of(node)
            if version is not None:
                done[node] = scores[version]
            else:
                children = tuple(done[c] for c in node.children)
                same = children == node.children
                done[node] = node if same else self.checker.build.make(node.with_children(children))
        return done[root]
