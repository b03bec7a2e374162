"""Choose the boxes: the cost of a shape is the work of the boxes it makes the mask visit.

On separable masks the boxes of an axis depend on that axis' box sizes alone, so the counts of all shapes follow
from a small table per axis. The rows of a long axis are sampled.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from attndsl.schedule.axis import SolvedAxis, sampled_rows
from attndsl.schedule.blocks import Raster, sampled_share
from attndsl.schedule.decide import range_tables
from attndsl.schedule.piece import Analysed, Shape
from attndsl.schedule.place import estimate
from attndsl.schedule.rows import Longs, Touched, merged, touched

SIDES = (128, 64)
"""Positions per box that kernels are written for."""
MOST_ROWS = 1 << 12
MOST_CLASSES = 4


@dataclass(frozen=True)
class Costs:
    """What a kernel pays, in units of one pair of a 128 x 128 box without mask code.

    `partial` per pair of a PARTIAL box on top, `box` per box, `tile` per row tile; a side of 64 costs a factor
    `half_side`, a box with a last axis shorter than 8 a factor `strip`.
    """

    partial: float = 0.25
    box: float = 600.0
    tile: float = 9000.0
    half_side: float = 1.09
    strip: float = 1.01


COSTS = Costs()


def choose(items: tuple[Analysed, ...]) -> Shape:
    """The cheapest shape for the classes of one pair of segments."""
    first = items[0]
    sampled = items[:: -(-len(items) // MOST_CLASSES)]
    if not all(i.separated.solved for i in items):
        return _looked_at(sampled)
    boxes, q_index, k_index = _candidates(first.rows.extents, first.columns.extents, (SIDES, SIDES))
    cost = np.zeros(len(q_index))
    for item in sampled:
        cost += _costs(item, boxes, q_index, k_index)
    best = int(np.argmin(cost))
    return Shape(boxes[int(q_index[best])], boxes[int(k_index[best])])


def ranked(items: tuple[Analysed, ...], rows: int, columns: int, count: int) -> tuple[Shape, ...]:
    """The cheapest shapes of boxes of `rows` and `columns` positions, cheapest first; at most `count`. Empty for masks
    that are looked at box by box."""
    first = items[0]
    sampled = items[:: -(-len(items) // MOST_CLASSES)]
    if not all(i.separated.solved for i in items):
        return ()
    boxes, q_index, k_index = _candidates(first.rows.extents, first.columns.extents, ((rows,), (columns,)))
    if not len(q_index):
        return ()
    cost = np.zeros(len(q_index))
    for item in sampled:
        cost += _costs(item, boxes, q_index, k_index)
    order = np.argsort(cost, kind="stable")[:count]
    return tuple(Shape(boxes[int(q_index[i])], boxes[int(k_index[i])]) for i in order)


def _looked_at(items: tuple[Analysed, ...]) -> Shape:
    """For masks that are looked at box by box: the box, of one shape on both sides, that leaves least to do."""
    first = items[0]
    rows, columns = _boxes(first.rows.extents, SIDES[0]), _boxes(first.columns.extents, SIDES[0])
    best: tuple[float, Shape] | None = None
    for q in rows:
        k = q if q in columns else min(columns, key=lambda box: _distance(box, q))
        cost = sum(_looked_cost(item, q, k) for item in items)
        if best is None or cost < best[0]:
            best = (cost, Shape(q, k))
    assert best is not None
    return best[1]


def _distance(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    return sum(abs(x.bit_length() - y.bit_length()) for x, y in zip(a, b, strict=True))


def _looked_cost(item: Analysed, q: tuple[int, ...], k: tuple[int, ...]) -> float:
    rows = Raster(item.rows.nodes, item.rows.extents, q)
    columns = Raster(item.columns.nodes, item.columns.extents, k)
    maybe, sure = sampled_share(item.mask, rows, columns, range_tables(item.item))
    strips = COSTS.strip ** ((q[-1] < 8) + (k[-1] < 8)) if len(q) > 1 else 1.0
    return rows.total * columns.total * (maybe + COSTS.partial * max(maybe - sure, 0.0)) * strips


Boxes = tuple[tuple[int, ...], ...]


@lru_cache(maxsize=64)
def _candidates(
    rows: tuple[int, ...], columns: tuple[int, ...], sides: tuple[tuple[int, ...], tuple[int, ...]]
) -> tuple[Boxes, Longs, Longs]:
    """All boxes of some volumes (of rows, of columns), and the pairs of them to try, as indices."""
    q = [b for side in sides[0] for b in _boxes(rows, side)]
    k = [b for side in sides[1] for b in _boxes(columns, side)]
    every = tuple(dict.fromkeys(q + k))
    number = {b: i for i, b in enumerate(every)}
    chosen = [(number[a], number[b]) for a in q for b in k]
    pairs: Longs = np.asarray(chosen, np.int64).reshape(-1, 2)
    return every, pairs[:, 0], pairs[:, 1]


def _boxes(extents: tuple[int, ...], volume: int) -> list[tuple[int, ...]]:
    """Boxes of powers of two with a given volume, no side longer than it needs to be."""
    if len(extents) == 1:
        return [(volume,)]
    found: list[tuple[int, ...]] = []
    side = 1
    while side <= volume and (side == 1 or side < 2 * extents[0]):
        found += [(side, *rest) for rest in _boxes(extents[1:], volume // side)]
        side *= 2
    return found


def _costs(item: Analysed, boxes: Boxes, q_index: Longs, k_index: Longs) -> npt.NDArray[np.float64]:
    """The cost of every candidate for one class."""
    sizes = np.asarray(boxes, np.int64)
    visited = full = tiles = np.ones(len(q_index))
    for i, axis in enumerate(item.separated.axes):
        q, k = sizes[q_index, i], sizes[k_index, i]
        counts = _AxisCounts.make(axis, np.unique(q), np.unique(k))
        row, column = _position(counts.row_boxes, q), _position(counts.column_boxes, k)
        visited, full = visited * counts.visited[row, column], full * counts.full[row, column]
        tiles = tiles * counts.tiles[row]
    volume = sizes.prod(axis=1)
    area = volume[q_index] * volume[k_index]
    halves = (volume[q_index] < SIDES[0]).astype(int) + (volume[k_index] < SIDES[0])
    strips = (sizes[q_index, -1] < 8).astype(int) + (sizes[k_index, -1] < 8)
    shape = COSTS.half_side**halves * COSTS.strip**strips
    work = (visited + COSTS.partial * np.maximum(visited - full, 0)) * area * shape
    return work + COSTS.box * visited + COSTS.tile * tiles


def _position(values: Longs, wanted: Longs) -> Longs:
    return np.asarray(np.searchsorted(values, wanted), np.int64)  # pyright: ignore[reportUnknownMemberType]


@dataclass(frozen=True)
class _AxisCounts:
    """Boxes and FULL boxes of one axis [row box sizes, column box sizes], and row tiles [row box sizes]."""

    row_boxes: Longs
    column_boxes: Longs
    visited: npt.NDArray[np.float64]
    full: npt.NDArray[np.float64]
    tiles: npt.NDArray[np.float64]

    @staticmethod
    def make(solved: SolvedAxis, row_boxes: Longs, column_boxes: Longs) -> _AxisCounts:
        """Count with the intervals of single rows, joined into tiles of every size."""
        most = max(SIDES[0], int(row_boxes.max()), int(column_boxes.max()))
        rows, block, scale = sampled_rows(solved, most, MOST_ROWS)
        visible = touched(solved.visible, rows, most)
        denied = touched(solved.denied, rows, most)
        visited = np.zeros((len(row_boxes), len(column_boxes)))
        full, tiles = np.zeros_like(visited), np.zeros(len(row_boxes))
        for i, size in enumerate(row_boxes):
            # rows of a block are neighbours of one residue class
            tile_of_row = block * (most // size + 1) + (rows.start % most) // size
            _, first, number = np.unique(tile_of_row, return_index=True, return_inverse=True)
            columns = rows.columns if isinstance(rows.columns, int) else rows.columns[first]
            seen, hidden = _joined(visible, number), _joined(denied, number)
            boxes, fulls = estimate(seen, hidden, columns, column_boxes, len(first))
            visited[i], full[i], tiles[i] = boxes * scale, fulls * scale, len(first) * scale
        return _AxisCounts(row_boxes, column_boxes, visited, full, tiles)


def _joined(intervals: Touched, number: Longs) -> Touched:
    return Touched(*merged(number[intervals.tile], intervals.lo, intervals.hi), intervals.exact)
