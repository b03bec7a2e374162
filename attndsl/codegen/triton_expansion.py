"""Triton code of features that expand a row: concatenations and products of functions of its components."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

from attndsl.codegen.expr_triton import Printer, Reads, Scope, UnsupportedError
from attndsl.codegen.templates import render
from attndsl.codegen.triton_arguments import Argument
from attndsl.codegen.triton_scan import MIXING, ScanModule, read_arguments, tidied
from attndsl.ir.expr import Count, Expr, Index, Load, Op, ParamRef, Reduce, Value, op, walk
from attndsl.ir.types import BOOL, FLOAT

WIDEST = 256
"""Columns of a tile."""


@dataclass(frozen=True)
class Expansion:
    """Features of `tensor` (`Q` or `K`), a vector of `size` components. Rows of the result start `stride` elements
    apart, those of the tensor at multiples of `unit` elements."""

    features: Expr
    tensor: str
    size: int
    stride: int
    unit: int = 1


@dataclass
class Piece:
    """Columns of the result: `width` from `first` on in a tile, `length` of them there, written at `place`; what they
    are, `loads` from the row by name, and places in the row, first."""

    place: int
    first: int
    width: int
    length: int
    indices: dict[str, str] = field(default_factory=dict[str, str])
    loads: dict[str, str] = field(default_factory=dict[str, str])
    lines: list[str] = field(default_factory=list[str])
    value: str = ""


def length(features: Expr, size: int) -> int:
    """How many components a vector has that is made from one of `size`; UnsupportedError if that cannot be said."""
    match features:
        case Load():
            return size
        case Op(op="concat", args=args):
            return sum(length(a, size) for a in args)
        case Op(op="outer", args=args):
            return prod(length(a, size) for a in args)
        case Op(op="distinct", args=(x,)):
            many = length(x, size)
            return many * (many - 1) // 2
        case _:
            vectors = [c for c in features.children if c.type.shape]
            if not vectors:
                raise UnsupportedError("a vector of constants")
            return length(vectors[0], size)


def check_expansion(features: Expr, tensor: str) -> None:
    """UnsupportedError if these features are not functions of single components of a tensor, side by side or
    multiplied with each other."""
    for node in walk(features):
        if isinstance(node, Load):
            if node.tensor != tensor:
                raise UnsupportedError(f"features that read `{node.tensor}`")
        elif isinstance(node, Count | Value | Reduce) or any(isinstance(c, Index) for c in node.children):
            raise UnsupportedError("features of more than a row")
        if isinstance(node, Op) and any(a.type.shape for a in node.args):
            mixing = node.op in MIXING and node.op not in ("concat", "outer", "distinct")
            if mixing or not node.type.shape:
                raise UnsupportedError(f"features with `{node.op}`")


def generate_expansion(e: Expansion, title: list[str]) -> ScanModule:
    """The module of an expansion, with one kernel `expand`. `title` is a comment at its top."""
    check_expansion(e.features, e.tensor)
    reads = Reads({})
    pieces: list[Piece] = []
    place = 0
    for part in _parts(e.features):
        many = length(part, e.size)
        for first in range(0, many, WIDEST):
            width = min(WIDEST, max(16, 1 << (many - first - 1).bit_length()))
            piece = Piece(place, first, width, many)
            _print(part, piece, len(pieces), e.size, reads)
            pieces.append(piece)
        place += many
    found = [Argument(n, "*qkv", "tensor", (n,)) for n in ("x", "out")]
    found += [Argument(f"x_s{axis}", "i64", "stride", ("x", axis)) for axis in "bhl"]
    found += [Argument(n, "i32", "number", (n,)) for n in ("H", "L", "tiles")]
    found += read_arguments(reads)
    arguments = (*found, Argument("BT", "constexpr", "constexpr", ("BT",)))
    text = render(
        "triton/scan_expansion.py.j2", title=title, helpers=reads.helpers, fast_tanh=False, pieces=pieces, e=e,
        arguments=arguments, numbers=[a.name for a in found if not a.type.startswith("*")],
    )  # fmt: skip
    return ScanModule(tidied(text), {"expand": arguments})


def _parts(features: Expr) -> list[Expr]:
    """What stands side by side in a vector."""
    if isinstance(features, Op) and features.op == "concat":
        return [p for a in features.args for p in _parts(a)]
    return [features]


def _print(part: Expr, piece: Piece, n: int, size: int, reads: Reads) -> None:
    leaves: dict[Expr, str] = {}

    def place_of(code: str) -> str:
        """The name of a vector of places in the row."""
        for name, known in piece.indices.items():
            if known == code:
                return name
        name = f"i{n}_{len(piece.indices)}"
        piece.indices[name] = code
        return name

    def at(e: Expr, index: str) -> Expr:
        if not e.type.shape:
            return e
        match e:
            case Load():
                name = next((x for x, i in piece.loads.items() if i == index), f"x{n}_{len(piece.loads)}")
                piece.loads[name] = index
                leaf = ParamRef(FLOAT, f"@{name}")
                leaves[leaf] = name
                return leaf
            case Op(op="concat", args=(first, *rest)):
                if not rest:
                    return at(first, index)
                many = length(first, size)
                before = ParamRef(BOOL, f"@{index} < {many}")
                leaves[before] = f"({index} < {many})[None, :]"
                behind = place_of(f"{index} - {many}")
                return op("select", before, at(first, index), at(_joined(rest), behind))
            case Op(op="outer", args=(a, b)):
                many = length(b, size)
                return op("mul", at(a, place_of(f"{index} // {many}")), at(b, place_of(f"{index} % {many}")))
            case Op(op="distinct", args=(x,)):
                many = length(x, size)
                i = place_of(f"{index} % {many}")
                return op("mul", at(x, i), at(x, place_of(f"({i} + {index} // {many} + 1) % {many}")))
            case Op(args=args):
                return op(e.op, *(at(a, index) for a in args))
            case _:
                raise UnsupportedError(f"features with {type(e).__name__.lower()}")

    scope = Scope(f"e{n}_")
    first = place_of(f"{piece.first} + tl.arange(0, {piece.width})")
    piece.value = Printer(reads, leaves, scope).print(at(part, first))
    piece.lines = scope.lines


def _joined(parts: list[Expr]) -> Expr:
    return parts[0] if len(parts) == 1 else op("concat", *parts)
