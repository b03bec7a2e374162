"""Segments as index boxes: the mask between one segment of rows and one of columns, in its axes' coordinates.

Every position becomes coordinates: a sequence without a grid has one axis; a segment with fewer axes than its
counterpart gets axes of extent 1 in front. What does not vary in the pair of segments (membership, extents, sizes,
scalars) becomes a number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from attndsl.ir.attention import Attention, Space
from attndsl.ir.expr import (
    Coord,
    Expr,
    Extent,
    Index,
    Literal,
    Member,
    ParamRef,
    Side,
    Size,
    integer,
    number,
    op,
    rewrite,
)
from attndsl.ir.types import BOOL, INT, Kind
from attndsl.schedule.linear import Linear, expression, split_divisions
from attndsl.schedule.problem import Problem

BATCH_OFFSET = ParamRef(INT, "q_offset of this batch")


@dataclass(frozen=True)
class SegmentBox:
    """A segment of one side: its axes' names, extents and coordinate nodes, and where it starts."""

    side: Side
    segment: str
    start: int
    axes: tuple[str, ...]
    extents: tuple[int, ...]

    @property
    def nodes(self) -> tuple[Expr, ...]:
        return tuple(Coord(INT, self.side, self.segment, a) for a in self.axes)

    @property
    def position(self) -> Expr:
        """The linear position (without an offset) as an expression of the coordinates."""
        terms: dict[Expr, int] = {}
        stride = 1
        for node, extent in zip(reversed(self.nodes), reversed(self.extents), strict=True):
            terms[node] = stride
            stride *= extent
        return expression(Linear(terms, self.start))

    def padded(self, count: int) -> SegmentBox:
        """The same segment with axes of extent 1 in front, `count` in all."""
        missing = count - len(self.axes)
        names = tuple(f"#{i}" for i in range(missing))
        return SegmentBox(self.side, self.segment, self.start, names + self.axes, (1,) * missing + self.extents)


@dataclass(frozen=True)
class Pair:
    """The mask between a q and a k segment, over the coordinates of the two boxes."""

    q: SegmentBox
    k: SegmentBox
    mask: Expr


def pairs(attention: Attention, problem: Problem) -> Iterator[Pair]:
    """Every pair of a q segment and a k segment, with the mask between them."""
    if problem.moved and attention.q_space is not None:
        q = SegmentBox("q", "", 0, ("0",), (problem.sizes["Lq"],))
        k = SegmentBox("k", "", 0, ("0",), (problem.sizes["Lk"],))
        yield _pair(attention, problem, q, k, on_grid=False)
        return
    for q in _boxes("q", attention.q_space, problem.q_extents, problem.sizes["Lq"]):
        for k in _boxes("k", attention.k_space, problem.k_extents, problem.sizes["Lk"]):
            count = max(len(q.axes), len(k.axes))
            yield _pair(attention, problem, q.padded(count), k.padded(count), on_grid=True)


def _boxes(
    side: Side, space: Space | None, extents: Mapping[str, tuple[int, ...]], length: int
) -> Iterator[SegmentBox]:
    if space is None:
        yield SegmentBox(side, "", 0, ("0",), (length,))
        return
    start = 0
    for segment in space.segments:
        box = SegmentBox(side, segment.name, start, segment.axes, extents[segment.name])
        yield box
        start += prod(box.extents)


def _pair(attention: Attention, problem: Problem, q: SegmentBox, k: SegmentBox, on_grid: bool) -> Pair:
    substitute = _Substitution(attention, problem, q, k, on_grid)
    mask = rewrite(attention.mask, substitute)
    small = {n: e for box in (q, k) for n, e in zip(box.nodes, box.extents, strict=True)}
    return Pair(q, k, split_divisions(mask, small))


@dataclass(frozen=True)
class _Substitution:
    attention: Attention
    problem: Problem
    q: SegmentBox
    k: SegmentBox
    on_grid: bool

    def __call__(self, node: Expr) -> Expr | None:
        sizes = self.problem.sizes
        match node:
            case Size(name=name):
                return integer(sizes[name])
            case ParamRef(name=name) if name in self.problem.scalars:
                return literal(self.problem.scalars[name], node.type.kind)
            case Extent(side=side, segment=segment, axis=axis):
                return integer(self._extent(side, segment, axis))
            case Index(name="row"):
                return self.q.position if self.on_grid else self.q.nodes[0]
            case Index(name="q"):
                return self._query_position()
            case Index(name="k"):
                return self.k.position if self.on_grid else self.k.nodes[0]
            case Index(name="hkv"):
                return op("floordiv", Index(INT, "h"), integer(sizes["H"] // max(sizes["Hkv"], 1)))
            case Member(side=side, segment=segment):
                return self._member(side, segment)
            case Coord(side=side, segment=segment):
                return self._coordinate(node, side, segment)
            case _:
                return None

    def _query_position(self) -> Expr:
        offset = self.problem.q_offset
        row = self.q.position if self.on_grid else self.q.nodes[0]
        if isinstance(offset, int):
            return op("add", row, integer(offset)) if offset else row
        return op("add", row, BATCH_OFFSET)

    def _space(self, side: Side) -> tuple[Space, Mapping[str, tuple[int, ...]]]:
        space = self.attention.q_space if side == "q" else self.attention.k_space
        assert space is not None
        return space, self.problem.q_extents if side == "q" else self.problem.k_extents

    def _extent(self, side: Side, segment: str, axis: str) -> int:
        space, extents = self._space(side)
        found = next(s for s in space.segments if s.name == segment)
        return extents[segment][found.axes.index(axis)]

    def _member(self, side: Side, segment: str) -> Expr:
        if self.on_grid:
            return literal((self.q if side == "q" else self.k).segment == segment, Kind.BOOL)
        start, count = self._place(side, segment)
        position = self._query_position() if side == "q" else self.k.nodes[0]
        return op("and", op("ge", position, integer(start)), op("lt", position, integer(start + count)))

    def _coordinate(self, node: Coord, side: Side, segment: str) -> Expr | None:
        if self.on_grid:
            return None if (self.q if side == "q" else self.k).segment == segment else integer(-1)
        space, extents = self._space(side)
        axes = next(s for s in space.segments if s.name == segment).axes
        i = axes.index(node.axis)
        start, _ = self._place(side, segment)
        position = self._query_position() if side == "q" else self.k.nodes[0]
        inside = op("floordiv", op("sub", position, integer(start)), integer(prod(extents[segment][i + 1 :])))
        found = op("mod", inside, integer(extents[segment][i])) if i else inside
        return op("select", self._member(side, segment), found, integer(-1))

    def _place(self, side: Side, segment: str) -> tuple[int, int]:
        """Start and length of a segment."""
        space, extents = self._space(side)
        start = 0
        for s in space.segments:
            if s.name == segment:
                return start, prod(extents[s.name])
            start += prod(extents[s.name])
        raise KeyError(segment)


def literal(value: Any, kind: Kind) -> Literal:
    """A number of a given kind as a literal."""
    match kind:
        case Kind.BOOL:
            return Literal(BOOL, bool(value))
        case Kind.INT:
            return integer(int(value))
        case Kind.FLOAT:
            return number(float(value))
