"""The functions of a written module around the kernels of a scan: what they read, and what is made of their sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from attndsl.codegen.torch_projection import arrays_of, statements
from attndsl.codegen.torch_sides import SideCode, Statements, Text
from attndsl.codegen.triton_scan import DecayKind
from attndsl.ir.attention import Attention
from attndsl.ir.expr import Count, Expr, Index, Load, Op, Reduce, Size, Value, mentions, op, rewrite, walk
from attndsl.ir.infix import infix
from attndsl.ir.types import FLOAT, INT, Kind, Type
from attndsl.schedule.legalise import ScanForm
from attndsl.schedule.problem import Problem

MOST = 90
_COUNT = Count(INT)
_OUT = Value(Type(Kind.FLOAT, ("Dv",)), "o")


@dataclass(frozen=True)
class ScanCode:
    """Statements of `prepare` and of `finish`, the helpers that they call, and the const arrays that they read."""

    prepare: Sequence[str]
    finish: Sequence[str]
    helpers: frozenset[str]
    arrays: frozenset[str]


def decay_of(form: ScanForm) -> DecayKind:
    """The kind of decay of the kernels."""
    decay = form.weight.decay
    if decay.channel:
        return "channel"
    if decay.token:
        return "token"
    if decay.log is not None and decay.base is None:
        return "log"
    return "head" if decay.base is not None else "none"


def sums_itself(form: ScanForm) -> bool:
    """Whether the kernels divide by the sum of weights."""
    n = form.weight.normaliser
    return n is not None and n.own and form.kind == "scan"


def other_sum(form: ScanForm) -> bool:
    """Whether the denominator has a sum that is no part of the scan of the output."""
    n = form.weight.normaliser
    return n is not None and n.node is not None and not sums_itself(form)


def counted(form: ScanForm) -> bool:
    """Whether the number of visible keys is needed."""
    n = form.weight.normaliser
    if n is None or sums_itself(form):
        return False
    return mentions(n.whole, lambda e: isinstance(e, Count) or (isinstance(e, Reduce) and e.kind == "mean"))


def finished(form: ScanForm) -> bool:
    """Whether torch makes the output of what the kernels sum."""
    n = form.weight.normaliser
    return form.output is not None or (n is not None and not sums_itself(form))


def fixed_by_scan(form: ScanForm) -> set[str]:
    """The sizes that the number of features depends on."""
    weight = form.weight
    return {n.name for e in (weight.extent, weight.z_extent) if e is not None for n in walk(e) if isinstance(n, Size)}


def scan_code(attention: Attention, form: ScanForm, problem: Problem, fixed: Sequence[str], position: str) -> ScanCode:
    """The code around the scan of a call; `position` is the name of the first row's, empty where it is 0."""
    before, after = statements(attention, problem, fixed), statements(attention, problem, fixed)
    _Before(attention, form, problem, before, position).run()
    if finished(form):
        _After(form, problem, after, position).run()
    roots = (*form.weight.expressions, *form.segments, *(() if form.output is None else (form.output,)))
    helpers = before.helpers | after.helpers
    return ScanCode(before.lines, after.lines, frozenset(helpers), arrays_of(attention, roots))


@dataclass
class _Before:
    attention: Attention
    form: ScanForm
    problem: Problem
    body: Statements
    position: str
    sides: dict[str, SideCode] = field(default_factory=dict[str, SideCode])

    def side(self, row: bool) -> SideCode:
        """Rows, and keys: the same where both have H heads and stand at the same places."""
        sizes, offset = self.problem.sizes, self.problem.q_offset
        assert isinstance(offset, int)
        same = row or (self.form.by_head and self.form.kind != "reduction")
        name = "row" if same else "key"
        if name not in self.sides:
            heads = "H" if row or self.form.by_head else "Hkv"
            where = (sizes["Lq"], offset) if same else (sizes["Lk"], 0)
            arrays = frozenset(p.name for p in self.attention.consts)
            self.sides[name] = SideCode(self.body, name, heads, *where, position=self.position, arrays=arrays)
        return self.sides[name]

    def run(self) -> None:
        form, weight = self.form, self.form.weight
        decay, n = weight.decay, weight.normaliser
        rows, keys = self.side(True), self.side(False)
        steps = [Load(d.type, d.tensor, (*d.indices, Index(INT, "k"))) for d in (*decay.token, *decay.channel)]
        of_rows = [weight.query, *(e for e in (decay.base, decay.log) if e is not None), *steps, *form.segments]
        of_keys = [weight.key]
        if n is not None and other_sum(form) and not n.own:
            of_rows += [] if n.query is None else [n.query]
            of_keys += [] if n.key is None else [n.key]
        rows.expect(*of_rows)
        keys.expect(*of_keys)
        for name, side, e in (("query", rows, weight.query), ("key", keys, weight.key)):
            self._features(name, side, e)
        made = ["query", "key", self._decay(steps), self._documents()]
        if other_sum(form):
            assert n is not None
            assert n.key is not None
            if n.own:
                made += ["query", "key"]
            else:
                key = "key" if n.key == weight.key else "other_key"
                if key != "key":
                    self._features(key, keys, n.key)
                query = "None" if n.query is None else "query" if n.query == weight.query else "other_query"
                if n.query is not None and query != "query":
                    self._features(query, rows, n.query)
                made += [query, key]
        self.body.lines.append(f"return {', '.join(made)}")

    def _features(self, name: str, side: SideCode, e: Expr) -> None:
        code = side.narrowed(e)
        self.body.lines.append(f"# {infix(e, MOST)}")
        spread = self.body.helper("spread")
        self.body.lines.append(f"{name} = {spread}({code}, (B, {side.heads}, {side.places}))")

    def _decay(self, steps: Sequence[Expr]) -> str:
        decay, lines = self.form.weight.decay, self.body.lines
        kind = decay_of(self.form)
        if kind == "none":
            return "None"
        rows = self.side(True)
        base = None if decay.base is None else rows.tensor(decay.base)
        log = None if decay.log is None else rows.tensor(decay.log)
        if base is not None and log is not None:
            base, log = f"({base}) * ({log}).exp()", None
        if kind in ("head", "log"):
            e = decay.base if decay.base is not None else decay.log
            assert e is not None
            lines.append(f"# {infix(e, MOST)}{'' if kind == 'head' else ', a logarithm'}")
            lines.append(f"decay = ({base if base is not None else log})[..., 0].expand(B, H)")
            return "decay"
        side = self.side(False) if kind == "channel" else rows
        steps_ = [side.tensor(e) for e in steps]
        parts = [*steps_, *([log] if log is not None else [])]
        lines.append(f"# {', '.join(infix(e, MOST) for e in steps)}: logarithms")
        whole = " + ".join(f"({p})" if " " in p else p for p in parts)
        whole = whole if len(parts) == 1 else f"({whole})"
        shape = f"B, {side.heads}, {side.places}{', -1' if kind == 'channel' else ''}"
        lines.append(f"decay = {whole}.expand({shape})")
        return "decay"

    def _documents(self) -> str:
        if not self.form.segments:
            return "None"
        rows = self.side(True)
        found = [rows.tensor(s) for s in self.form.segments]
        joined = self.body.helper("segments")
        self.body.lines.append(f"# {', '.join(infix(s, MOST) for s in self.form.segments)}")
        self.body.lines.append(f"documents = {joined}([{', '.join(found)}], {rows.places})")
        return "documents"


@dataclass
class _After:
    form: ScanForm
    problem: Problem
    body: Statements
    position: str

    def run(self) -> None:
        form, n, lines = self.form, self.form.weight.normaliser, self.body.lines
        offset = self.problem.q_offset
        assert isinstance(offset, int)

        def rows(values: dict[Expr, Text]) -> SideCode:
            prefix = f"y{len(lines)}_"
            return SideCode(
                self.body, prefix, "H", self.problem.sizes["Lq"], offset, position=self.position,
                values=values,
            )  # fmt: skip

        if n is not None and not sums_itself(form):
            lines.append(f"# {infix(n.whole, MOST)}")
            values: dict[Expr, Text] = {_COUNT: Text("count")}
            if n.node is not None:
                total = "total"
                if n.node.kind == "mean":
                    rank = "[..., None]" if n.node.type.shape else ""
                    total = f"(total / count.clamp(min=1){rank})"
                values[_total(n.node)] = Text(total)
            side, whole = rows(values), _replaced(n.whole)
            side.expect(whole)
            lines.append(f"below = ({side.tensor(whole)})[..., None]")
            lines.append("out = torch.where(below == 0, 0.0, out / torch.where(below == 0, 1.0, below))")
        if form.output is not None:
            output = _of_vectors(form.output)
            lines.append(f"# {infix(form.output, MOST)}")
            side = rows({_OUT: Text("out")})
            side.expect(output)
            lines.append(f"out = ({side.tensor(output)}).expand(out.shape)")
        lines.append("return out.to(q.dtype)")


def _total(node: Reduce) -> Load:
    return Load(node.type, "@total", ())


def _replaced(e: Expr) -> Expr:
    return rewrite(e, lambda n: _total(n) if isinstance(n, Reduce) else None)


def _of_vectors(e: Expr) -> Expr:
    """An output clause of a vector of values."""

    def rule(node: Expr) -> Expr | None:
        if isinstance(node, Value):
            return replace(node, type=_OUT.type) if node.name == "o" and node.type == FLOAT else None
        return op(node.op, *node.args) if isinstance(node, Op) else None

    return rewrite(e, rule)
