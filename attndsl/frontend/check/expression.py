"""From expressions of the tree to typed IR: names, operators, conditionals, coordinates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from attndsl.diagnostics.report import Note
from attndsl.diagnostics.source import Span
from attndsl.frontend import tree
from attndsl.frontend.check import calls, grids, names, subscripts
from attndsl.frontend.check.build import Builder, LimitError, MismatchError
from attndsl.frontend.check.frame import NAMES, WHY, Frame, Place, Uses, forbidden
from attndsl.frontend.check.sink import Sink
from attndsl.frontend.check.values import (
    POISON,
    SIZES,
    Grids,
    Poison,
    SegmentValue,
    TableValue,
    TensorValue,
    TupleValue,
    Value,
    describe,
    score_version,
)  # fmt: skip
from attndsl.frontend.limits import LITERAL
from attndsl.ir.attention import Require
from attndsl.ir.expr import Count, Expr, Index, Literal, Load, Size
from attndsl.ir.expr import Value as IrValue
from attndsl.ir.types import BOOL, FLOAT, INT, Kind, Type

if TYPE_CHECKING:
    from collections.abc import Generator

NESTED = 160
"""Tree levels that are open at once, through all calls."""

_OPERATORS = {"+": "add", "-": "sub", "*": "mul", "/": "div", "//": "floordiv", "%": "mod", "^": "pow"}
_COMPARISONS = {"<": "lt", "<=": "le", ">": "gt", ">=": "ge", "==": "eq", "!=": "ne"}
Operand = Expr | TupleValue


class Checker:
    """Checks the expressions of one attention. `value` gives what an expression means; wrong ones are reported
    once and give POISON, which stays silent in whatever is made of it."""

    def __init__(self, sink: Sink, frame: Frame, cyclic: frozenset[int], damaged: Callable[[tree.Node], bool]) -> None:
        self.sink = sink
        self.frame = frame
        self.cyclic = cyclic
        self.damaged = damaged
        self.build = Builder()
        self.uses = Uses()
        self.grids = Grids()
        self.broken_grids = False
        self.later: dict[str, Span] = {}
        self.sizes: set[str] = set()
        self.version = 0
        self.place: Place = "let"
        self.numerators: list[Value] = []
        self.memo: dict[tuple[int, Place, tuple[Value, ...]], Value] = {}
        self.requires: dict[tuple[Expr, str], Require] = {}
        """What the functions that were called require, each once."""
        self.deferred = False
        """Whether what a value is made of is looked at later, in what is made of it."""
        self._depth = 0

    # Reporting

    def report(
        self, code: str, message: str, span: Span, label: str = "", help: str = "", notes: Sequence[Note] = ()
    ) -> Poison:
        """Report a finding and give POISON. Inside the standard library it is the user's call that is wrong."""
        frame = self.frame
        notes = tuple(notes)
        if frame.at is not None:
            name = frame.caller.name if frame.caller else ""
            given = f"`{name}` was given {frame.caller.arguments}" if frame.caller else ""
            message = f"in `{name}`: {message}"
            span, label, notes = frame.at, "in this call", ()
            help = "; ".join(x for x in (given, help) if x)
        elif frame.caller is not None:
            text = f"in this call of `{frame.caller.name}`, with {frame.caller.arguments}"
            notes = (*notes, Note(frame.caller.span, text))
        self.sink.report(code, message, span, label=label, help=help, notes=notes)
        return POISON

    def mismatch(self, found: MismatchError, node: tree.Node, operands: Sequence[tree.Node]) -> Poison:
        """Report operands that do not fit, at the one that is wrong."""
        at = found.argument
        span = operands[at].span if at is not None and at < len(operands) else node.span
        return self.report(found.code, str(found), span, found.label, found.help)

    def at(self, node: tree.Node) -> Span:
        """The span that IR nodes made for this tree node carry."""
        return self.frame.at or node.span

    @contextmanager
    def within(self, frame: Frame) -> Generator[None, None, None]:
        """Evaluate in another body."""
        before = self.frame, self.numerators
        self.frame, self.numerators = frame, []
        try:
            yield
        finally:
            self.frame, self.numerators = before

    # Expressions

    def value(self, node: tree.TreeExpr) -> Value:
        """What an expression means; POISON if that was reported."""
        if self._depth >= NESTED:
            message = f"this expression is nested more than {NESTED} levels deep with its functions inlined"
            raise LimitError("E0612", message, self.at(node), "write it with fewer functions that call each other")
        self._depth += 1
        try:
            return self._value(node)
        finally:
            self._depth -= 1

    def _value(self, node: tree.TreeExpr) -> Value:
        match node:
            case tree.Name():
                return self.name(node)
            case tree.Number(value=value):
                return self._number(node, value)
            case tree.Boolean(value=value):
                return self.build.make(Literal(BOOL, value, span=self.at(node)))
            case tree.Attribute():
                return grids.attribute(self, node)
            case tree.Subscript():
                return subscripts.subscript(self, node)
            case tree.Call():
                return calls.call(self, node)
            case tree.Unary():
                return self._unary(node)
            case tree.Binary():
                return self._binary(node)
            case tree.Comparison():
                return self._comparison(node)
            case tree.Conditional():
                return self._conditional(node)
            case tree.TupleLiteral():
                return self._tuple(node)

    def operand(self, node: tree.TreeExpr) -> Operand | Poison:
        """The value of an expression that takes part in an operation."""
        return self.as_operand(self.value(node), node)

    def as_operand(self, value: Value, node: tree.Node) -> Operand | Poison:
        """A number, vector or tuple; tensors without their subscript and segments are reported."""
        match value:
            case TableValue():
                return TupleValue(tuple(self.build.make(value.item(i)) for i in range(value.length)))
            case TensorValue():
                return subscripts.bare(self, value, node)
            case SegmentValue(name=name):
                help_ = f"`q in {name}` asks for the segment, `q.{name}` is the coordinate, `size({name})` the extents"
                return self.report("E0306", f"`{name}` is a segment of the grid, not a number", node.span, "", help_)
            case _:
                return value

    def single(self, node: tree.TreeExpr, what: str) -> Expr | Poison:
        """An operand that is no tuple; `what` names it in the message."""
        value = self.operand(node)
        if isinstance(value, TupleValue):
            message = f"{what} is {describe(value)}"
            return self.report("E0301", message, node.span, "a number was expected", "`all` and `any` join a tuple")
        return value

    def apply(
        self, node: tree.Node, rule: Callable[..., Expr], nodes: Sequence[tree.TreeExpr], *values: Operand | Poison
    ) -> Operand | Poison:
        """The rule on the operands, mapped over tuples."""
        good = [v for v in values if not isinstance(v, Poison)]
        if len(good) < len(values):
            return POISON
        try:
            return self.build.lift(rule, *good)
        except MismatchError as found:
            return self.mismatch(found, node, nodes)

    def name(self, node: tree.Name) -> Value:
        """What a bare word stands for."""
        name = node.id
        frame = self.frame
        if not name:
            return POISON  # stands for what a front end could not read
        if name in frame.names:
            value = frame.names[name]
        elif name in names.VALUES and (not frame.closed or name in names.EVERYWHERE):
            value = self._built_in(node)
        elif name in self.sizes and not frame.closed:
            value = self.build.make(Size(INT, name, span=self.at(node)))
        elif frame.closed:
            return POISON  # reported where the function was checked on its own
        else:
            return self._unknown(node)
        return self.visible(value, name, node)

    def visible(self, value: Value, name: str, node: tree.Node) -> Value:
        """The value, unless the clause at hand may not look at it."""
        wrong = self.uses.of(value) & forbidden(self.place)
        if not wrong or self.frame.closed or self.deferred:
            return value
        used = sorted(wrong)[0]
        through = "" if used == name or used == "tensor" else f" (it is made of `{used}`)"
        message = f"`{name}` is not available in {NAMES[self.place]}{through}"
        return self.report("E0402", message, node.span, "", WHY[self.place])

    def _unknown(self, node: tree.Name) -> Poison:
        name = node.id
        frame = self.frame
        if name in self.later:
            note = Note(self.later[name], "it is bound here")
            help = "lets and clauses are read in order: move the `let` up"
            return self.report("E0201", f"`{name}` is used before its `let`", node.span, "", help, (note,))
        axes = {a for side in self.grids.sides for a in self.grids.axes(side)}
        if name in axes:
            return self.report("E0201", f"unknown name `{name}`", node.span, "", f"write `q.{name}` or `k.{name}`")
        if name == "scale":
            help_ = "`s` is scaled already: it is scale * dot(Q, K)"
            return self.report("E0201", "`scale` is an argument of the call, not a value", node.span, "", help_)
        if name in names.ARITY or name in frame.scope.functions or name in frame.features:
            message = f"`{name}` is a function"
            return self.report("E0203", message, node.span, "a value was expected", f"call it: `{name}(...)`")
        found = names.did_you_mean(names.suggestion(name, {*frame.names, *names.VALUES, *self.sizes}))
        if self.place == "shape":
            frame.names[name] = POISON  # reported here, not again where it is used
            found = found or f"a size of its own is bound where it stands alone: `input x: f32[{name}]`"
        return self.report("E0201", f"unknown name `{name}`", node.span, "", found)

    def _built_in(self, node: tree.Name) -> Value:
        name = node.id
        make, span = self.build.make, self.at(node)
        match name:
            case "q" | "k" | "b" | "h" | "hkv":
                return make(Index(INT, name, span=span))
            case "s":
                return make(score_version(self.version, span))
            case "o":
                return make(IrValue(Type(Kind.FLOAT, ("Dv",)), "o", span=span))
            case "Q" | "K" | "V":
                return self.built_in_vector(name, span)
            case "pi" | "inf":
                value = 3.141592653589793 if name == "pi" else float("inf")
                return make(Literal(FLOAT, value, span=span))
            case "count":
                return make(Count(INT, span=span))
            case "sum":
                return self._bare_sum(node)
            case _:
                assert name in SIZES
                return make(Size(INT, name, span=span))

    def built_in_vector(self, name: str, span: Span) -> Expr:
        """Q, K or V of the pair."""
        indices = ("b", "h", "row") if name == "Q" else ("b", "hkv", "k")
        made = tuple(self.build.make(Index(INT, i, span=span)) for i in indices)
        type_ = Type(Kind.FLOAT, ("Dv" if name == "V" else "D",))
        return self.build.make(Load(type_, name, made, span=span))

    def _bare_sum(self, node: tree.Name) -> Value:
        if not self.numerators:
            help_ = "a bare `sum` is the sum of the left side of the `/` it stands under; otherwise write `sum(e)`"
            return self.report("E0403", "this `sum` has no `/` before it", node.span, "", help_)
        value = self.numerators[-1]
        if isinstance(value, Poison):
            return POISON
        return calls.reduction(self, "sum", value, node)

    def _number(self, node: tree.Number, value: int | float) -> Value:
        if isinstance(value, int) and abs(value) >= LITERAL:
            return self.report("E0614", "the number is not below 2^31", node.span, "too large a number")
        return self.build.make(Literal(INT if isinstance(value, int) else FLOAT, value, span=self.at(node)))

    def _unary(self, node: tree.Unary) -> Value:
        value = self.operand(node.operand)
        span = self.at(node)
        if node.operator == "not":
            return self.apply(node, partial(self.build.logic, "not", span=span), (node.operand,), value)
        return self.apply(node, partial(self.build.negative, span=span), (node.operand,), value)

    def _binary(self, node: tree.Binary) -> Value:
        nodes = (node.left, node.right)
        left = self.operand(node.left)
        if node.operator == "/":
            self.numerators.append(left)
            right = self.operand(node.right)
            self.numerators.pop()
        else:
            right = self.operand(node.right)
        sign, span = node.operator, self.at(node)
        if sign == "and" or sign == "or":
            return self.apply(node, partial(self.build.logic, sign, span=span), nodes, left, right)
        if sign == "@":
            return self.apply(node, partial(self._matmul, span=span), nodes, left, right)
        name = _OPERATORS[sign]
        return self.apply(node, partial(self.build.arithmetic, name, span=span, sign=sign), nodes, left, right)

    def _matmul(self, a: Expr, b: Expr, span: Span) -> Expr:
        ranks = len(a.type.shape), len(b.type.shape)
        if ranks != (1, 2):
            help_ = {
                (1, 1): "the product of two vectors is `dot(x, y)`",
                (2, 1): "the vector stands on the left: `x @ W`",
            }
            message = f"`@` between {describe(a)} and {describe(b)}"
            raise MismatchError("E0302", message, "a vector @ a matrix was expected", help_.get(ranks, ""))
        if a.type.shape[0] != b.type.shape[0]:
            message = f"`@` between {a.type} and {b.type}"
            raise MismatchError("E0302", message, "the vector's size must be the matrix's first")
        return self.build.op("matmul", self.build.to_float(a), self.build.to_float(b), span=span)

    def _comparison(self, node: tree.Comparison) -> Value:
        span = self.at(node)
        result: Operand | Poison | None = None
        values = [self.value(o) for o in node.operands]
        for i, sign in enumerate(node.operators):
            nodes = node.operands[i], node.operands[i + 1]
            if sign == "in":
                one: Operand | Poison = grids.member(self, values[i], values[i + 1], nodes, span)
            else:
                left, right = (self.as_operand(v, n) for v, n in zip(values[i : i + 2], nodes, strict=True))
                rule = partial(self.build.compare, _COMPARISONS[sign], span=span, sign=sign)
                one = self.apply(node, rule, nodes, left, right)
            if result is None:
                result = one
            else:
                result = self.apply(node, partial(self.build.logic, "and", span=span), (), result, one)
        assert result is not None
        return result

    def _conditional(self, node: tree.Conditional) -> Value:
        nodes = node.condition, node.then, node.otherwise
        values = [self.operand(n) for n in nodes]
        span = self.at(node)
        return self.apply(node, partial(self.build.choose, span=span), nodes, *values)

    def _tuple(self, node: tree.TupleLiteral) -> Value:
        items: list[Expr] = []
        for item in node.items:
            value = self.single(item, "an item of a tuple")
            if isinstance(value, Poison):
                continue
            if not value.type.is_number:
                self.report("E0301", f"an item of a tuple is {describe(value)}", item.span, "a number was expected")
                continue
            items.append(value)
        return TupleValue(tuple(items)) if len(items) == len(node.items) else POISON
