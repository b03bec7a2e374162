"""Ranges of a mask over boxes of pairs, as Triton statements: the device's form of `schedule/interval.py`.

What depends on one side alone is evaluated at every position of the side and reduced to its smallest and largest value,
which is exact. What depends on both sides follows by interval arithmetic, in 64 bits. What has no rule is unknown: it
is neither surely true nor surely false.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from attndsl.codegen.expr_triton import Reads, Scope, input_name
from attndsl.ir.expr import COMPARISONS, Expr, Literal, Load, Op
from attndsl.ir.types import Kind

POSITION_BITS = 32
MOST_BITS = 62
"""Of a number in 64-bit arithmetic."""


@dataclass(frozen=True)
class Range:
    """Names of the smallest and largest value of an int, of at most so many bits."""

    low: str
    high: str
    bits: int = POSITION_BITS


@dataclass(frozen=True)
class Truth:
    """Code of whether a bool is surely true (None: never), and possibly true (None: always)."""

    sure: str | None
    maybe: str | None


UNKNOWN = Truth(None, None)


@dataclass
class Intervals:
    """Writes ranges into `scope`. `reduced` gives the smallest and largest value of an int or bool (as 0 and 1) that
    depends on at most one side, None for what depends on both."""

    reads: Reads
    scope: Scope
    reduced: Callable[[Expr], tuple[str, str] | None]
    _truths: dict[Expr, Truth] = field(default_factory=dict[Expr, Truth])
    _ranges: dict[Expr, Range | None] = field(default_factory=dict[Expr, "Range | None"])

    def truth(self, node: Expr) -> Truth:
        """The range of a bool."""
        found = self._truths.get(node)
        if found is None:
            found = self._truths[node] = self._named(self._truth(node))
        return found

    def range(self, node: Expr) -> Range | None:
        """The range of an int; None where nothing is known."""
        if node not in self._ranges:
            found = self._range(node) if node.type.kind is Kind.INT else None
            self._ranges[node] = found if found is None or found.bits <= MOST_BITS else None
        return self._ranges[node]

    def _named(self, found: Truth) -> Truth:
        return Truth(*(None if t is None else self._name(t) for t in (found.sure, found.maybe)))

    def _name(self, code: str) -> str:
        return code if code.isidentifier() else self.scope.name(code).code

    # Bools

    def _truth(self, node: Expr) -> Truth:
        ends = self.reduced(node)
        if ends is not None:
            return Truth(f"({ends[0]} != 0)", f"({ends[1]} != 0)")
        match node:
            case Op(op="and", args=(a, b)):
                return _both(self.truth(a), self.truth(b))
            case Op(op="or", args=(a, b)):
                return _not(_both(_not(self.truth(a)), _not(self.truth(b))))
            case Op(op="not", args=(a,)):
                return _not(self.truth(a))
            case Op(op="select", args=(c, a, b)):
                chosen, yes, no = (self.truth(e) for e in (c, a, b))
                return _not(_both(_not(_both(chosen, yes)), _not(_both(_not(chosen), no))))
            case Op(op=("eq" | "ne"), args=(a, b)) if a.type.kind is Kind.BOOL:
                x, y = self.truth(a), self.truth(b)
                same = _not(_both(_not(_both(x, y)), _not(_both(_not(x), _not(y)))))
                return same if node.op == "eq" else _not(same)
            case Op(op=name, args=(a, b)) if name in COMPARISONS and a.type.kind is Kind.INT:
                x, y = self.range(a), self.range(b)
                return UNKNOWN if x is None or y is None else _compared(name, x, y)
            case Load():
                found = self._loaded(node)
                if found is None:
                    return UNKNOWN
                point, value = found
                return Truth(f"{point} & ({value} != 0)", f"({point} == 0) | ({value} != 0)")
            case _:
                return UNKNOWN

    # Ints

    def _range(self, node: Expr) -> Range | None:
        ends = self.reduced(node)
        if ends is not None:
            return Range(*ends)
        if isinstance(node, Op) and node.op == "to_int":
            (inner,) = node.args
            if inner.type.kind is not Kind.BOOL:
                return None
            found = self.truth(inner)
            low, high = (
                str(i) if t is None else self._name(f"{t}.to(tl.int64)")
                for i, t in enumerate((found.sure, found.maybe))
            )
            return Range(low, high, 1)
        if not isinstance(node, Op):
            return None
        if node.op in ("floordiv", "mod"):
            return self._divided(node)
        if node.op == "mul":
            return self._multiplied(node)
        args = [self.range(a) for a in node.args if a.type.kind is Kind.INT]
        if len(args) < len(node.args) and node.op != "select":
            return None
        known = [a for a in args if a is not None]
        if len(known) < len(args):
            return None
        bits = max(a.bits for a in known)
        match node.op, known:
            case "add", [a, b]:
                return self._made(f"{a.low} + {b.low}", f"{a.high} + {b.high}", bits + 1)
            case "sub", [a, b]:
                return self._made(f"{a.low} - {b.high}", f"{a.high} - {b.low}", bits + 1)
            case "neg", [a]:
                return self._made(f"-{a.high}", f"-{a.low}", bits)
            case "abs", [a]:
                low = f"tl.maximum(tl.maximum({a.low}, -{a.high}), 0)"
                return self._made(low, f"tl.maximum(tl.abs({a.low}), tl.abs({a.high}))", bits)
            case ("min" | "max") as name, [a, b]:
                function = "tl.minimum" if name == "min" else "tl.maximum"
                return self._made(f"{function}({a.low}, {b.low})", f"{function}({a.high}, {b.high})", bits)
            case "select", [a, b]:
                return self._made(f"tl.minimum({a.low}, {b.low})", f"tl.maximum({a.high}, {b.high})", bits)
            case _:
                return None

    def _made(self, low: str, high: str, bits: int) -> Range:
        return Range(self._name(low), self._name(high), bits)

    def _multiplied(self, node: Op) -> Range | None:
        a, b = node.args
        if isinstance(a, Literal):
            a, b = b, a
        x = self.range(a)
        if x is None or not isinstance(b, Literal):
            return None
        by = int(b.value)
        low, high = (x.low, x.high) if by >= 0 else (x.high, x.low)
        return self._made(f"{low} * {by}", f"{high} * {by}", x.bits + abs(by).bit_length())

    def _divided(self, node: Op) -> Range | None:
        a, b = node.args
        x = self.range(a)
        if x is None or not isinstance(b, Literal) or int(b.value) <= 0:
            return None
        by = int(b.value)
        low, high = (self._name(_floor(end, by)) for end in (x.low, x.high))
        if node.op == "floordiv":
            return Range(low, high, x.bits)
        return self._made(
            f"tl.where({low} == {high}, {x.low} - {low} * {by}, 0)",
            f"tl.where({low} == {high}, {x.high} - {high} * {by}, {by - 1})",
            by.bit_length(),
        )  # fmt: skip

    def _loaded(self, node: Load) -> tuple[str, str] | None:
        """Whether all indices of a read are one number each over a box, and what is read there."""
        if len(node.indices) != self.reads.ranks[node.tensor]:
            return None
        known = [self.range(i) for i in node.indices]
        found = [r for r in known if r is not None]
        if len(found) < len(known):
            return None
        self.reads.inputs[node.tensor] = None
        name = input_name(node.tensor)
        tests = [f"({r.low} == {r.high})" for r in found]
        point = self._name(" & ".join(tests))
        inside = [f"({r.low} >= 0) & ({r.low} < {name}_n{i})" for i, r in enumerate(found)]
        offset = " + ".join(f"{r.low} * {name}_s{i}" for i, r in enumerate(found))
        load = f"tl.load({name} + ({offset}), mask={point} & {' & '.join(inside)}, other=0)"
        return point, self._name(load)


def _floor(x: str, by: int) -> str:
    if by & (by - 1) == 0:
        return f"{x} >> {by.bit_length() - 1}"
    return f"tl.where({x} >= 0, {x} // {by}, -(({by - 1} - {x}) // {by}))"


def _not(t: Truth) -> Truth:
    return Truth(*(None if x is None else f"({x} == 0)" for x in (t.maybe, t.sure)))


def _both(a: Truth, b: Truth) -> Truth:
    sure = None if a.sure is None or b.sure is None else f"({a.sure} & {b.sure})"
    maybe = " & ".join(x for x in (a.maybe, b.maybe) if x is not None)
    return Truth(sure, f"({maybe})" if maybe else None)


def _compared(name: str, a: Range, b: Range) -> Truth:
    match name:
        case "lt":
            return Truth(f"({a.high} < {b.low})", f"({a.low} < {b.high})")
        case "le":
            return Truth(f"({a.high} <= {b.low})", f"({a.low} <= {b.high})")
        case "gt":
            return Truth(f"({a.low} > {b.high})", f"({a.high} > {b.low})")
        case "ge":
            return Truth(f"({a.low} >= {b.high})", f"({a.high} >= {b.low})")
        case _:
            sure = f"(({a.low} == {a.high}) & ({b.low} == {b.high}) & ({a.low} == {b.low}))"
            equal = Truth(sure, f"(({a.low} <= {b.high}) & ({b.low} <= {a.high}))")
            return equal if name == "eq" else _not(equal)
