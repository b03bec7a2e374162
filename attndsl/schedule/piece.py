"""From the masks of a pair of segments to a `Piece` of a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from attndsl.ir.expr import FALSE, TRUE, Expr, Op, op, walk
from attndsl.schedule.axis import AxisMask, SolvedAxis, axis_ranges, conjunction, factors, solve_axis
from attndsl.schedule.blocks import Raster, classify
from attndsl.schedule.classes import ClassMask
from attndsl.schedule.decide import decide, range_tables, sorted_in_range
from attndsl.schedule.plan import AxisLayout, Layout, Piece, Product, Source
from attndsl.schedule.space import SegmentBox

Ints = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Shape:
    """The boxes of one pair of segments: coordinates per axis of a q box and of a k box."""

    q: tuple[int, ...]
    k: tuple[int, ...]


@dataclass(frozen=True)
class Separated:
    """A class's mask as one condition per axis; `coupled` holds the conditions on several axes."""

    axes: tuple[SolvedAxis, ...]
    coupled: tuple[Expr, ...]

    @property
    def solved(self) -> bool:
        """Whether the axes say all there is to say."""
        return not self.coupled and all(a.solved for a in self.axes)


@dataclass(frozen=True)
class Analysed:
    """A class after analysis, for one direction: rows and columns are segments of different sides."""

    item: ClassMask
    mask: Expr
    rows: SegmentBox
    columns: SegmentBox
    separated: Separated


@dataclass
class Findings:
    """What to tell the user, collected while a plan is made."""

    exact: bool = True
    reasons: dict[str, None] = field(default_factory=dict[str, None])

    def add(self, reason: str) -> None:
        self.reasons[reason] = None


def analyse(item: ClassMask, *, rows_are_q: bool, split: bool) -> Analysed:
    """Decide, separate and solve the mask of one class for its columns."""
    mask = _plain_factors(decide(item))
    rows, columns = (item.pair.q, item.pair.k) if rows_are_q else (item.pair.k, item.pair.q)
    rising = sorted_in_range(item, mask)
    per_axis: list[list[Expr]] = [[] for _ in rows.axes]
    coupled: list[Expr] = []
    for factor in factors(mask):
        used = _axes_of(factor, rows, columns)
        if len(used) > 1:
            coupled.append(factor)
        else:
            per_axis[used.pop() if used else 0].append(factor)
    axes = tuple(
        solve_axis(
            AxisMask(conjunction(parts), r, c, rn, cn, _read_by(parts, item.tables), rising & _names(parts)),
            split=split,
        )
        for parts, r, c, rn, cn in zip(
            per_axis, rows.nodes, columns.nodes, rows.extents, columns.extents, strict=True
        )
    )  # fmt: skip
    return Analysed(item, mask, rows, columns, Separated(axes, tuple(coupled)))


def _plain_factors(mask: Expr) -> Expr:
    """`not (a or b)` as `not a and not b`, so that its parts separate."""
    if isinstance(mask, Op) and mask.op == "not":
        inner = mask.args[0]
        if isinstance(inner, Op) and inner.op == "or":
            return conjunction([_plain_factors(op("not", a)) for a in inner.args])
        if isinstance(inner, Op) and inner.op == "not":
            return _plain_factors(inner.args[0])
    if isinstance(mask, Op) and mask.op == "and":
        return conjunction([_plain_factors(a) for a in mask.args])
    return mask


def _axes_of(factor: Expr, rows: SegmentBox, columns: SegmentBox) -> set[int]:
    nodes = set(walk(factor))
    return {i for side in (rows, columns) for i, n in enumerate(side.nodes) if n in nodes}


def _names(parts: list[Expr]) -> frozenset[str]:
    return frozenset(str(getattr(n, "tensor", "")) for p in parts for n in walk(p))


def _read_by(parts: list[Expr], tables: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    names = _names(parts)
    return {n: t for n, t in tables.items() if n in names}


def make_piece(class_of: Ints, items: tuple[Analysed, ...], shape: Shape, rows_are_q: bool, found: Findings) -> Piece:
    """The piece of a pair of segments with boxes of a given shape."""
    row_box, column_box = (shape.q, shape.k) if rows_are_q else (shape.k, shape.q)
    sources: list[Source] = []
    splits = (1,) * len(row_box)
    for item in items:
        source, splits = _source(item, row_box, column_box, found)
        sources.append(source)
    rows, columns = items[0].rows, items[0].columns
    return Piece(
        _layout(rows, row_box, splits), _layout(columns, column_box, splits), class_of, tuple(sources)
    )  # fmt: skip


def _layout(box: SegmentBox, sizes: tuple[int, ...], splits: tuple[int, ...]) -> Layout:
    axes = zip(box.axes, box.extents, sizes, splits, strict=True)
    return Layout(box.segment, box.start, tuple(AxisLayout(*a) for a in axes))


def _source(
    item: Analysed, row_box: tuple[int, ...], column_box: tuple[int, ...], found: Findings
) -> tuple[Source, tuple[int, ...]]:
    separated = item.separated
    splits = tuple(a.split for a in separated.axes)
    if not separated.solved and max(splits) == 1:
        rows = Raster(item.rows.nodes, item.rows.extents, row_box)
        columns = Raster(item.columns.nodes, item.columns.extents, column_box)
        looked_at = classify(item.mask, rows, columns, item.item.tables, range_tables(item.item))
        if looked_at is not None:
            _tell_blocks(item, looked_at[1], found)
            return looked_at[0], splits
    ranges: list[Any] = []
    for axis, r, c in zip(separated.axes, row_box, column_box, strict=True):
        made, exact = axis_ranges(axis, r, c)
        ranges.append(made)
        found.exact &= exact
    if not separated.solved:
        found.exact = False
        found.add("some conditions are not solved for the position and the boxes are too many to look at: PARTIAL")
    return Product(tuple(ranges), masked=bool(separated.coupled)), splits


def _tell_blocks(item: Analysed, exact: bool, found: Findings) -> None:
    if item.item.missing:
        names = ", ".join(f"`{n}`" for n in sorted(item.item.missing))
        found.add(f"without the values of {names} the boxes it decides are PARTIAL")
    found.add("boxes were looked at one by one: the mask does not separate into solvable conditions per axis")
    if not exact:
        found.exact = False
        if not item.item.missing:
            found.add("too many boxes to prove each PARTIAL one by its pairs")


def empty(item: Analysed) -> bool:
    """Whether no pair is visible."""
    return item.mask == FALSE


def dense(item: Analysed) -> bool:
    """Whether every pair is visible."""
    return item.mask == TRUE
