"""The two sides of a kernel: names and positions of a tile's rows, and of a box's keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any

from attndsl.codegen.expr_triton import Reads, extent_name
from attndsl.codegen.triton_arguments import suffix
from attndsl.codegen.triton_form import FULL_SPANS, PARTIAL_SPANS, Form, SideForm
from attndsl.codegen.triton_score import TILE_FIRST_ROW, TILE_ORIGIN
from attndsl.ir.attention import Attention, Segment
from attndsl.ir.expr import FALSE, TRUE, Coord, Expr, Extent, Index, Member, Side, integer, op, rewrite
from attndsl.ir.simplify import simplify_expr
from attndsl.ir.types import INT


@dataclass
class RowCode:
    """How a tile finds its rows. `leaves` names q-side nodes, [BM, 1]; `vectors` the same as [BM] at the end of a tile
    of neighbours."""

    axes: tuple[str, ...]
    split: bool
    boxes: list[str]
    extents: list[str]
    lines: list[str]
    leaves: dict[Expr, str]
    vectors: dict[Expr, str] = field(default_factory=dict[Expr, str])


@dataclass
class PieceCode:
    """How the boxes of a k segment are found, and their loops."""

    suffix: str
    title: str
    flat: bool
    axes: tuple[str, ...]
    names: list[str]
    starts: list[str]
    origins: list[str]
    locals: list[str]
    spans: bool
    numbers: int
    columns: list[str]
    residues: list[str]
    loads: list[str]
    boxes: list[str]
    size: str
    entry: int
    extents: list[str]
    strides: list[str]
    start: str
    at: str
    position: str
    inside: str
    leaves: dict[Expr, str]
    constants: list[str]
    full: Any = None
    partial: Any = None
    loops: tuple[tuple[str, Any, bool], ...] = ()
    edges: int = FULL_SPANS + PARTIAL_SPANS

    def origin(self, which: str) -> str:
        """The code of a span's origin, for box i among those of `full`, `partial` or `all` spans."""
        first, last = {"full": (0, FULL_SPANS), "partial": (FULL_SPANS, self.edges), "all": (0, self.edges)}[which]
        text = f"origin{self.suffix}_{last - 1}"
        for n in reversed(range(first, last - 1)):
            text = f"tl.where(i < edge{self.suffix}_{n}, origin{self.suffix}_{n}, {text})"
        return text

    def spans_of(self, which: str) -> range:
        """The numbers of these spans."""
        return {"full": range(FULL_SPANS), "partial": range(FULL_SPANS, self.edges), "all": range(self.edges)}[which]


def row_code(form: Form, reads: Reads) -> RowCode:
    """The rows of a tile."""
    side, own = form.q, form.sides[0]
    count = len(side.axes)
    width = 3 if side.any_split else 2
    extents = [extent_of(own, side, a, form.on_grid, reads) for a in side.axes]
    names = [coordinate(own, a) for a in side.axes]
    lines: list[str] = []
    for i in range(count):
        at = f"rows + tile * {width * count}"
        if form.walk == "specialized":
            # Triton adds the offset of a group of warps to the place that q is loaded from, wherever it is used
            lines += [f"q_row = tl.load({at})", f"row_{i} = tile * BM"]
        else:
            lines.append(f"row_{i} = tl.load({at} + {i})")
        lines.append(f"stop_{i} = tl.load({at} + {count + i})")
        if side.any_split:
            lines.append(f"residue_{i} = tl.load({at} + {2 * count + i})")
    boxes = ["BM"] if count == 1 else [f"BM_{i}" for i in range(count)]
    if count > 1:
        lines.append("local = tl.arange(0, BM)")
    locals_ = locals_of("local", boxes)
    if count == 1:
        locals_ = ["tl.arange(0, BM)"]
    inside: list[str] = []
    for i, name in enumerate(names):
        lines.append(f"c_{i} = (row_{i} + {locals_[i]})[:, None]")
        inside.append(f"(c_{i} < stop_{i})")
        origin = f"residue_{i} + split_{own}_{i} * " if side.split[i] else ""
        lines.append(f"{name} = {origin}c_{i}")
    lines.append(f"row_inside = {' & '.join(inside)}")
    first = [(f"residue_{i} + split_{own}_{i} * row_{i}" if side.split[i] else f"row_{i}") for i in range(count)]
    lines.append(f"row = {own}_start + {linear(names, extents)}")
    if not form.turned:
        lines.append("q_at = row + q_offset")
    lines.append(f"first_row = {own}_start + {linear([f'({f})' if ' ' in f else f for f in first], extents)}")
    leaves: dict[Expr, str] = {Index(INT, "b"): "b", Index(INT, "h"): "h", Index(INT, "hkv"): "hkv"}
    if form.turned:
        leaves |= {Index(INT, "k"): "row", TILE_FIRST_ROW: "(first_row - q_offset)", TILE_ORIGIN: "first_row"}
    else:
        leaves |= {Index(INT, "row"): "row", Index(INT, "q"): "q_at"}
        leaves |= {TILE_FIRST_ROW: "first_row", TILE_ORIGIN: "(first_row + q_offset)"}
    vectors: dict[Expr, str] = {Index(INT, "row"): "(q_start + at)", Index(INT, "q"): "(q_start + at + q_offset)"}
    if form.on_grid:
        leaves.update({Coord(INT, own, side.segment, a): n for a, n in zip(side.axes, names, strict=True)})
        vectors[Coord(INT, own, side.segment, side.axes[0])] = "at"
    return RowCode(side.axes, side.any_split, boxes, extents, lines, leaves, vectors)


def piece_code(form: Form, index: int, reads: Reads) -> PieceCode:
    """The boxes of a segment of the columns' side."""
    piece, other = form.pieces[index], form.sides[1]
    side, end = piece.side, suffix(form, index)
    count = len(side.axes)
    extents = [extent_of(other, side, a, form.on_grid, reads) for a in side.axes]
    names = [coordinate(other, a) for a in side.axes]
    boxes = [f"BN{end}"] if count == 1 else [f"BN{end}_{i}" for i in range(count)]
    size = f"BN{end}" if count == 1 else "BN" + end
    starts = ["start"] if count == 1 else [f"start_{i}" for i in range(count)]
    width = count if piece.flat else 2
    residues = [f"residue_{other}{i}" for i in range(count)] if side.any_split else []
    entry = f"boxes{end} + {'i' if piece.flat else 'run'} * {width + (count if side.any_split else 0)}"
    loads = [f"{s} = tl.load({entry} + {i})" for i, s in enumerate(starts)] if piece.flat else []
    loads += [f"{s} = tl.load({entry} + {width + i})" for i, s in enumerate(residues)]
    columns = [*(starts if piece.flat else ["first", "boxes_here"]), *residues]
    origins = [f"residue_{other}{i} + split_{other}{end}_{i} * " if side.split[i] else "" for i in range(count)]
    inside = " & ".join(f"({n} >= 0) & ({n} < {e})" for n, e in zip(names, extents, strict=True))
    strides: list[str] = []
    for i in range(count):
        inner = " * ".join(extents[i + 1 :])
        strides.append(f"{inner} * " if inner else "")
    position = f"{other}_start{end} + {linear(names, extents)}"
    at = "query" if form.turned else "k_at"
    leaves: dict[Expr, str] = {Index(INT, "k"): at}
    if form.turned:
        leaves = {Index(INT, "row"): at, Index(INT, "q"): f"({at} + q_offset)"}
    if form.on_grid:
        leaves.update({Coord(INT, other, side.segment, a): n for a, n in zip(side.axes, names, strict=True)})
    title = (
        f"{'Queries' if form.turned else 'Keys'} of segment {side.segment}."
        if side.segment and len(form.pieces) > 1
        else ""
    )
    constants = [size, *(boxes if count > 1 else [])]
    return PieceCode(
        suffix=end, title=title, flat=piece.flat, axes=side.axes, names=names, starts=starts, origins=origins,
        locals=locals_of("column", boxes), spans=piece.spans, numbers=piece.numbers, columns=columns, residues=residues,
        loads=loads, boxes=boxes, size=size, entry=width + (count if side.any_split else 0), extents=extents,
        strides=strides, start=f"{other}_start{end}", at=at, position=position, inside=inside, leaves=leaves,
        constants=constants,
    )  # fmt: skip


def coordinate(side: str, axis: str) -> str:
    """The name of a coordinate in a kernel."""
    from attndsl.codegen.expr_torch import mangle

    return f"{side}c_{mangle(axis)}"


def extent_of(side: Side, form_side: SideForm, axis: str, on_grid: bool, reads: Reads) -> str:
    """The argument that holds the extent of an axis."""
    if not on_grid or axis.isdigit():
        return "Lq" if side == "q" else "Lk"
    reads.extents[side, form_side.segment, axis] = None
    return extent_name(side, form_side.segment, axis)


def locals_of(name: str, boxes: Sequence[str]) -> list[str]:
    """Row-major coordinates within a box."""
    found: list[str] = []
    for i, box in enumerate(boxes):
        inner = " * ".join(boxes[i + 1 :])
        text = f"{name} // ({inner})" if inner else name
        found.append(f"{text} % {box}" if i and inner else f"{name} % {box}" if i else text)
    return found


def linear(names: Sequence[str], extents: Sequence[str]) -> str:
    """The code of a row-major position."""
    text = names[0]
    for name, extent in zip(names[1:], extents[1:], strict=True):
        text = f"({text}) * {extent} + {name}" if " " in text else f"{text} * {extent} + {name}"
    return text


def neighbours(rows: RowCode, piece: PieceCode, form: Form) -> dict[Expr, tuple[str, str]]:
    """The positions of rows and of columns that are neighbours: that of the first, and the distance from it."""
    found: dict[Expr, tuple[str, str]] = {}
    own, other = (Index(INT, "k"), Index(INT, "row")) if form.turned else (Index(INT, "row"), Index(INT, "k"))
    if len(rows.axes) == 1 and not rows.split:
        found[own] = f"({form.sides[0]}_start + row_0).to(tl.int64)", "tl.arange(0, BM)[:, None]"
    if len(piece.axes) == 1 and not piece.residues:
        found[other] = f"({piece.start} + start).to(tl.int64)", f"tl.arange(0, {piece.size})[None, :]"
    return found


def local_meaning(attention: Attention, form: Form, index: int | None) -> Callable[[Expr], Expr]:
    """Expressions as they read between the form's segment of rows and one of columns (None: after the last column)."""
    other = None if index is None else form.pieces[index].side.segment

    def rule(node: Expr) -> Expr | None:
        match node:
            case Member(side=side, segment=segment):
                if form.on_grid:
                    own = form.q.segment if side == form.sides[0] else other
                    return TRUE if own == segment else FALSE
                return _inside(attention, side, segment)
            case Coord(side=side, segment=segment, axis=axis):
                if form.on_grid:
                    own = form.q.segment if side == form.sides[0] else other
                    return None if own == segment else integer(-1)
                return _coordinate_of(attention, side, segment, axis)
            case _:
                return None

    def local(e: Expr) -> Expr:
        changed = rewrite(e, rule)
        return e if changed is e else simplify_expr(changed)

    return local


def on_a_line(attention: Attention) -> Attention:
    """The attention with its mask as a function of positions: coordinates follow from them."""
    return replace(attention, mask=simplify_expr(linear_coordinates(attention, attention.mask)))


def linear_coordinates(attention: Attention, e: Expr) -> Expr:
    """An expression of an attention with coordinates as functions of positions."""

    def rule(node: Expr) -> Expr | None:
        match node:
            case Member(side=side, segment=segment):
                return _inside(attention, side, segment)
            case Coord(side=side, segment=segment, axis=axis):
                return _coordinate_of(attention, side, segment, axis)
            case _:
                return None

    return rewrite(e, rule)


def _segments(attention: Attention, side: Side) -> tuple[Segment, ...]:
    space = attention.q_space if side == "q" else attention.k_space
    assert space is not None
    return space.segments


def _length(side: Side, segment: Segment) -> Expr:
    extents: list[Expr] = [Extent(INT, side, segment.name, a) for a in segment.axes]
    return reduce(lambda a, b: op("mul", a, b), extents)


def _relative(attention: Attention, side: Side, segment: str) -> tuple[Expr, Segment]:
    """The position within a segment, which may lie outside it, and the segment."""
    position: Expr = Index(INT, "q" if side == "q" else "k")
    for s in _segments(attention, side):
        if s.name == segment:
            return position, s
        position = op("sub", position, _length(side, s))
    raise KeyError(segment)


def _inside(attention: Attention, side: Side, segment: str) -> Expr:
    position, found = _relative(attention, side, segment)
    return op("and", op("ge", position, integer(0)), op("lt", position, _length(side, found)))


def _coordinate_of(attention: Attention, side: Side, segment: str, axis: str) -> Expr:
    position, found = _relative(attention, side, segment)
    i = found.axes.index(axis)
    for a in found.axes[:i:-1]:
        position = op("floordiv", position, Extent(INT, side, segment, a))
    if i:
        position = op("mod", position, Extent(INT, side, segment, axis))
    return op("select", _inside(attention, side, segment), position, integer(-1))
