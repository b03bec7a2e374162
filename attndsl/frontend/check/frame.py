"""What code sees while it is checked, and what each clause may look at."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal as Lit

from attndsl.diagnostics.source import Span
from attndsl.frontend.check.values import Feature, TensorValue, TupleValue, Value, version_of
from attndsl.frontend.modules import Scope
from attndsl.ir.expr import Coord, Count, Decay, Expr, Index, Load, Member, Reduce
from attndsl.ir.expr import Value as IrValue

Place = Lit["let", "mask", "score", "weight", "output", "require", "shape", "default"]


@dataclass(frozen=True)
class Caller:
    """The call through which a function's body is being checked."""

    name: str
    span: Span
    arguments: str


@dataclass
class Frame:
    """The names of one body. `closed` bodies (`fn`) see no built-in values but pi, inf and sum.

    `at` is the span that stands for everything inside a body of the standard library: the user's call.
    """

    names: dict[str, Value]
    scope: Scope
    closed: bool = False
    features: dict[str, Feature] = field(default_factory=dict[str, Feature])
    caller: Caller | None = None
    at: Span | None = None


_FORBIDDEN: dict[Place, frozenset[str]] = {
    "let": frozenset(),
    "mask": frozenset(("s", "o", "Q", "K", "V", "sum", "count", "decay")),
    "score": frozenset(("o", "sum", "count")),
    "weight": frozenset(("o",)),
    "output": frozenset(("s", "k", "K", "V", "sum", "count", "decay")),
    "require": frozenset(("s", "o", "q", "k", "b", "h", "hkv", "Q", "K", "V", "sum", "count", "decay", "tensor")),
}
_NO_VALUES = _FORBIDDEN["require"] | {"size"}

WHY: dict[Place, str] = {
    "mask": "a mask is made of positions, sizes, scalars and inputs; what depends on Q, K or s belongs in `score`",
    "score": "a score is one number per pair, before any sum over keys; sums and counts belong in `weight`",
    "weight": "`o` exists after the weighted sum; use it in `output`",
    "output": "`output` runs once per row, after the sum over keys: it sees o, Q, q, h, b, scalars and inputs",
    "require": "a `require` is decided before the call looks at data: consts, scalars, sizes and extents only",
    "shape": "a tensor's sizes are made of sizes and int consts",
    "default": "a default is a literal",
}

NAMES: dict[Place, str] = {
    "mask": "a mask", "score": "a score", "weight": "a weight", "output": "an output", "require": "a `require`",
    "shape": "a tensor's shape", "default": "a default",
}  # fmt: skip


class Uses:
    """What values are made of, as far as clauses forbid it; remembered per node."""

    def __init__(self) -> None:
        self._known: dict[Expr, frozenset[str]] = {}

    def of(self, value: Value) -> frozenset[str]:
        """Names of forbidden-able ingredients: `s o q k b h hkv Q K V sum count decay tensor`."""
        if isinstance(value, TensorValue):
            return frozenset(("tensor",))
        if isinstance(value, TupleValue):
            return frozenset[str]().union(*(self.of(i) for i in value.items))
        if not isinstance(value, Expr):
            return frozenset()
        known = self._known.get(value)
        if known is None:
            known = _leaf(value).union(*(self.of(c) for c in value.children))
            self._known[value] = known
        return known


def _leaf(node: Expr) -> frozenset[str]:
    if version_of(node) is not None:
        return frozenset(("s",))
    match node:
        case IrValue(name=value):
            name = value
        case Index(name="row"):
            name = "q"
        case Index(name=index):
            name = index
        case Coord(side=side) | Member(side=side):
            name = side
        case Load(tensor="Q" | "K" | "V" as tensor):
            return frozenset((tensor,))
        case Load():
            name = "tensor"
        case Reduce():
            name = "sum"
        case Count():
            name = "count"
        case Decay():
            name = "decay"
        case _:
            return frozenset()
    return frozenset((name,))


def forbidden(place: Place) -> frozenset[str]:
    """What a clause may not look at."""
    return _FORBIDDEN.get(place, _NO_VALUES)
