"""Put column boxes over the columns that a row tile sees, and say which boxes are FULL.

Boxes need no raster. For each run of visible columns [a, b) there are ceil((b - a) / box) boxes; the first may start
anywhere in [b - n*box, a], and starts where most boxes become FULL: aligned to the longest stretch that no row
of the tile is denied. Ties: the raster, then inside the axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from attndsl.schedule.plan import TileClass
from attndsl.schedule.rows import Longs, Touched, merged

MOST_RUNS = 256
"""A tile with more separate runs than this has its boxes put on the raster."""
_FAR = 2**40


@dataclass(frozen=True)
class Boxes:
    """Runs of equal boxes: `count` boxes of one class from coordinate `first` on, for row tile `tile`; sorted by
    tile, then `first`; runs of a tile do not overlap."""

    tile: Longs
    first: Longs
    count: Longs
    kind: npt.NDArray[np.uint8]


def place(visible: Touched, denied: Touched, columns: Longs | int, box: int, tiles: int) -> Boxes:
    """Boxes over `visible`; those that meet `denied`, or columns outside [0, columns), are PARTIAL.

    `columns` is one number or one per tile.
    """
    gaps = _Gaps.make(denied, columns, tiles)
    rank = _ranks(visible.tile, tiles)
    deepest = int(rank.max()) + 1 if len(rank) else 0
    if deepest > MOST_RUNS:
        snapped = merged(visible.tile, visible.lo // box * box, -(-visible.hi // box) * box)
        return _joined(_classify(*snapped, box, gaps), box)
    parts: list[Boxes] = []
    end = np.full(tiles, -_FAR, np.int64)
    for level in range(deepest):
        chosen = np.flatnonzero(rank == level)
        tile, hi = visible.tile[chosen], visible.hi[chosen]
        floor = end[tile]
        lo = np.maximum(visible.lo[chosen], floor)
        keep = lo < hi
        tile, lo, hi, floor = tile[keep], lo[keep], hi[keep], floor[keep]
        if not len(tile):
            continue
        origin, stop = _origins(tile, lo, hi, floor, box, gaps)
        end[tile] = stop
        parts.append(_classify(tile, origin, stop, box, gaps))
    return _joined(_gathered(parts), box)


def _ranks(tile: Longs, tiles: int) -> Longs:
    """The number of earlier entries with the same tile, in a sorted list."""
    starts = np.searchsorted(tile, np.arange(tiles))
    return np.arange(len(tile)) - starts[tile]


@dataclass(frozen=True)
class _Gaps:
    """Denied intervals as a padded matrix [tiles, most], in order; what lies outside the axis included."""

    lo: Longs
    hi: Longs
    columns: Any

    @staticmethod
    def make(denied: Touched, columns: Longs | int, tiles: int) -> _Gaps:
        rank = _ranks(denied.tile, tiles)
        most = int(rank.max()) + 1 if len(rank) else 0
        lo, hi = np.full((tiles, most + 2), _FAR, np.int64), np.full((tiles, most + 2), _FAR, np.int64)
        lo[:, 0], hi[:, 0] = -_FAR, 0
        lo[denied.tile, rank + 1], hi[denied.tile, rank + 1] = denied.lo, denied.hi
        last = np.bincount(denied.tile, minlength=tiles)[:tiles] + 1
        lo[np.arange(tiles), last] = columns
        return _Gaps(lo, hi, columns)

    def columns_of(self, tile: Longs) -> Any:
        return self.columns if isinstance(self.columns, int) else self.columns[tile]


def estimate(visible: Touched, denied: Touched, columns: Longs | int, sizes: Longs, tiles: int) -> tuple[Longs, Longs]:
    """Boxes and FULL boxes over all tiles for several box sizes at once, [sizes].

    For the cost model: `place` may save a box where two runs of a tile are close, and may find FULL boxes beside
    the longest stretch.
    """
    gaps = _Gaps.make(denied, columns, tiles)
    core_lo, core_hi = _longest_core(visible.tile, visible.lo, visible.hi, gaps)
    box = sizes[:, None]
    count = -(-(visible.hi - visible.lo) // box)
    full = np.zeros(count.shape, np.int64)
    for candidate in _candidates(visible.lo, visible.hi - count * box, core_lo, core_hi, box):
        allowed = (candidate >= visible.hi - count * box) & (candidate <= visible.lo)
        full = np.maximum(full, np.where(allowed, _full_boxes(candidate, core_lo, core_hi, box), 0))
    return count.sum(axis=1), full.sum(axis=1)


def _origins(tile: Longs, lo: Longs, hi: Longs, floor: Longs, box: int, gaps: _Gaps) -> tuple[Longs, Longs]:
    """First and last coordinate (exclusive) of the boxes over [lo, hi); the first is at least `floor`."""
    count = -(-(hi - lo) // box)
    core_lo, core_hi = _longest_core(tile, lo, hi, gaps)
    least = np.maximum(hi - count * box, floor)
    extent = gaps.columns_of(tile)
    best = lo.copy()
    best_score = np.full(len(lo), -1, np.int64)
    for candidate in _candidates(lo, least, core_lo, core_hi, box):
        allowed = (candidate >= least) & (candidate <= lo)
        inside = (candidate >= 0) & (candidate + count * box <= extent)
        full = _full_boxes(candidate, core_lo, core_hi, box)
        score = np.where(allowed, full * 4 + (candidate % box == 0) * 2 + inside, -1)
        better = score > best_score
        best = np.where(better, candidate, best)
        best_score = np.maximum(score, best_score)
    return best, best + count * box


def _candidates(lo: Longs, least: Longs, core_lo: Longs, core_hi: Longs, box: Any) -> tuple[Longs, ...]:
    """Where the first box may start: on the raster, at either end of its room, aligned to either end of the core."""
    return lo // box * box, lo, least, lo - (lo - core_lo) % box, lo - (lo - core_hi) % box


def _full_boxes(origin: Longs, core_lo: Longs, core_hi: Longs, box: Any) -> Longs:
    return np.maximum((core_hi - origin) // box - -((origin - core_lo) // box), 0)


def _longest_core(tile: Longs, lo: Longs, hi: Longs, gaps: _Gaps) -> tuple[Longs, Longs]:
    """The longest part of [lo, hi) without a denied column."""
    after, before = gaps.hi[tile][:, :-1], gaps.lo[tile][:, 1:]
    starts = np.maximum(after, lo[:, None])
    stops = np.minimum(before, hi[:, None])
    pick = np.argmax(stops - starts, axis=1)
    rows = np.arange(len(tile))
    start = starts[rows, pick]
    return start, np.maximum(stops[rows, pick], start)


def _classify(tile: Longs, lo: Longs, hi: Longs, box: int, gaps: _Gaps) -> Boxes:
    """Cut box runs [lo, hi) where boxes meet a denied interval."""
    count = (hi - lo) // box
    denied_lo, denied_hi = gaps.lo[tile], gaps.hi[tile]
    done = np.zeros(len(tile), np.int64)
    parts: list[Boxes] = []

    def emit(upto: Longs, kind: TileClass) -> None:
        some = np.flatnonzero(upto > done)
        if len(some):
            kinds = np.full(len(some), kind, np.uint8)
            parts.append(Boxes(tile[some], lo[some] + done[some] * box, (upto - done)[some], kinds))
            done[some] = upto[some]

    for i in range(denied_lo.shape[1]):
        first = np.clip((denied_lo[:, i] - lo) // box, 0, count)
        last = np.clip(-((lo - denied_hi[:, i]) // box), 0, count)
        some = last > np.maximum(first, done)
        if np.any(some):
            emit(np.where(some, np.maximum(first, done), done), TileClass.FULL)
            emit(np.where(some, np.maximum(last, done), done), TileClass.PARTIAL)
    emit(count, TileClass.FULL)
    return _gathered(parts)


def _gathered(parts: list[Boxes]) -> Boxes:
    if not parts:
        none = np.zeros(0, np.int64)
        return Boxes(none, none, none, np.zeros(0, np.uint8))
    tile, first, count, kind = (
        np.concatenate([getattr(p, name) for p in parts]) for name in ("tile", "first", "count", "kind")
    )
    order = np.lexsort((first, tile))
    return Boxes(tile[order], first[order], count[order], kind[order])


def _joined(boxes: Boxes, box: int) -> Boxes:
    """Runs of one class that follow each other as one run."""
    if len(boxes.tile) < 2:
        return boxes
    stop = boxes.first + boxes.count * box
    follows = (boxes.tile[1:] == boxes.tile[:-1]) & (boxes.first[1:] == stop[:-1]) & (boxes.kind[1:] == boxes.kind[:-1])
    heads = np.flatnonzero(np.append(True, ~follows))
    return Boxes(boxes.tile[heads], boxes.first[heads], np.add.reduceat(boxes.count, heads), boxes.kind[heads])
