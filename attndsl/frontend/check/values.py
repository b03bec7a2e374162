"""What a name or an expression of the tree stands for while it is checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from attndsl.diagnostics.source import Span
from attndsl.frontend import tree
from attndsl.frontend.modules import Scope
from attndsl.ir.attention import Fact, Space
from attndsl.ir.expr import Expr, Literal, Op, ParamRef, Side, Size
from attndsl.ir.types import FLOAT, Dim, Kind, Type

ROW_SIZES = {"B": "b", "H": "h", "Hkv": "hkv", "Lq": "q"}
"""Sizes that take only their own index."""
POSITION_SIZES = ("L", "Lk")
SIZES = ("B", "H", "Hkv", "Lq", "Lk", "L", "D", "Dv")


@dataclass(frozen=True)
class Poison:
    """The value of what was already reported; whatever is made of it is silent."""


POISON = Poison()


@dataclass(frozen=True)
class TupleValue:
    """A tuple of numbers: coordinates of a grid, or a const with several values."""

    items: tuple[Expr, ...]


@dataclass(frozen=True)
class TableValue:
    """A const with several values that was not looked into yet."""

    name: str
    kind: Kind
    length: int

    def item(self, index: int) -> ParamRef:
        return ParamRef(Type(self.kind), self.name, index)


@dataclass(frozen=True)
class TensorValue:
    """An input, or Q, K, V, without its subscript."""

    name: str
    kind: Kind
    dims: tuple[Expr, ...]
    spelling: str = field(compare=False)
    facts: frozenset[Fact] = frozenset()


@dataclass(frozen=True)
class SegmentValue:
    """A segment of a grid by its name: the right side of `in`, the argument of `size`."""

    name: str


Value = Expr | TupleValue | TableValue | TensorValue | SegmentValue | Poison


@dataclass(frozen=True, eq=False)
class Feature:
    """A `feature` with the names that it sees."""

    function: tree.Function
    names: Mapping[str, Value]
    features: Mapping[str, Feature]
    scope: Scope


@dataclass(frozen=True)
class Grids:
    """The spaces of q and of k. With one grid for both, `shared` is true and they are the same."""

    q: Space | None = None
    k: Space | None = None
    shared: bool = True

    def side(self, side: Side) -> Space | None:
        return self.q if side == "q" else self.k

    @property
    def sides(self) -> tuple[Side, ...]:
        """The sides to look at for a name: q's stands for both on a shared grid."""
        return ("q",) if self.shared else ("q", "k")

    def segments(self) -> dict[str, list[Side]]:
        """Named segments and the sides that have them."""
        out: dict[str, list[Side]] = {}
        for side in ("q", "k"):
            space = self.side(side)
            for segment in space.segments if space else ():
                if segment.name:
                    out.setdefault(segment.name, []).append(side)
        return out

    def axes(self, side: Side) -> dict[str, str]:
        """Axis names of a side and the segments they stand in."""
        space = self.side(side)
        return {axis: segment.name for segment in (space.segments if space else ()) for axis in segment.axes}


_SCORE = "<score>"


def score_version(number: int, span: Span) -> Expr:
    """The score after the first `number` score clauses; replaced before the IR leaves the checker."""
    return ParamRef(FLOAT, _SCORE, number, span=span)


def version_of(node: Expr) -> int | None:
    """The number of a score version, None for every other node."""
    return node.component if isinstance(node, ParamRef) and node.name == _SCORE else None


def describe(value: Value) -> str:
    """How messages call a value."""
    match value:
        case TupleValue(items=items):
            kinds = {str(i.type) for i in items}
            return f"a tuple of {len(items)} {kinds.pop()}s" if len(kinds) == 1 else f"a tuple of {len(items)} numbers"
        case TableValue(kind=kind, length=length):
            return f"a tuple of {length} {kind}s"
        case TensorValue(spelling=spelling):
            return f"a tensor {spelling}"
        case SegmentValue():
            return "a segment of the grid"
        case Poison():
            return "nothing"
        case _:
            return describe_type(value.type)


def describe_type(type_: Type) -> str:
    """`an int`, `a vector float[D]`."""
    if type_.is_number:
        return f"an {type_}" if type_.kind is Kind.INT else f"a {type_}"
    return f"a {'vector' if len(type_.shape) == 1 else 'matrix'} {type_}"


def dim_of(size: Expr) -> Dim:
    """The extent that a type shows for a tensor's dimension."""
    match size:
        case Literal(value=value):
            return int(value)
        case Size(name=name):
            return name
        case ParamRef(name=name, component=None):
            return name
        case ParamRef(name=name, component=component):
            return f"{name}[{component}]"
        case Op(op=op, args=args):
            inner = ",".join(str(dim_of(a)) for a in args)
            return f"{op}({inner})"
        case _:
            return "?"


def indexless(value: Value) -> str:
    """The subscript that a tensor most likely wants, such as `[b, q]`."""
    if not isinstance(value, TensorValue):
        return ""
    names: list[str] = []
    for i, size in enumerate(value.dims):
        name = size.name if isinstance(size, Size) else ""
        if name in ROW_SIZES:
            names.append(ROW_SIZES[name])
        elif name in POSITION_SIZES:
            names.append("k" if name == "Lk" else "q")
        elif any(isinstance(d, Size) and d.name in (*ROW_SIZES, *POSITION_SIZES) for d in value.dims[i + 1 :]):
            names.append("...")
        else:
            break
    return f"[{', '.join(names)}]" if names else ""
