"""From a plan's boxes to row tiles with the columns that they visit, in positions.

A row tile has all its visible keys in one place, so that every weight is computed on whole rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from math import prod

import numpy as np
import numpy.typing as npt

from attndsl.schedule.plan import BoxRun, Layout, Piece, Plan, Product, TileClass, runs

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Take:
    """Positions of a tile's rows or columns: a range from `start`, or an explicit list."""

    start: int
    count: int
    index: Positions | None = None

    @staticmethod
    def of(index: Positions) -> Take:
        """The list, as a range if it is one."""
        n = len(index)
        if n and index[-1] - index[0] == n - 1 and bool((np.diff(index) == 1).all()):
            return Take(int(index[0]), n)
        return Take(int(index[0]) if n else 0, n, index)

    @property
    def positions(self) -> Positions:
        return np.arange(self.start, self.start + self.count) if self.index is None else self.index

    def part(self, lo: int, hi: int) -> Take:
        """Elements lo up to hi."""
        if self.index is None:
            return Take(self.start + lo, hi - lo)
        return Take.of(self.index[lo:hi])


@dataclass(frozen=True)
class RowTile:
    """Rows and the columns that they visit. `partial` are ranges of columns (by their number) that need the mask."""

    rows: Take
    cols: Take
    partial: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class HeadClass:
    """Batches and heads that share their tiles: every pair of one of `batches` and one of `heads`."""

    batches: tuple[int, ...]
    heads: tuple[int, ...]
    sources: tuple[int, ...]
    """Which source of each piece of the pass."""


def head_classes(pieces: tuple[Piece, ...], batches: int, heads: int) -> list[HeadClass]:
    """Products of batches and heads with equal sources, together all of them."""
    groups: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
    tables = [np.broadcast_to(p.class_of, (max(1, p.class_of.shape[0]), heads)) for p in pieces]
    if all(t.shape[0] == 1 for t in tables):
        rows = {0: tuple(range(batches))}
    else:
        rows = {b: (b,) for b in range(batches)}
    for b, members in rows.items():
        key_of = [tuple(int(t[b % t.shape[0], h]) for t in tables) for h in range(heads)]
        by_key: dict[tuple[int, ...], list[int]] = {}
        for h, key in enumerate(key_of):
            by_key.setdefault(key, []).append(h)
        for key, hs in by_key.items():
            groups.setdefault((key, tuple(hs)), []).extend(members)
    return [HeadClass(tuple(bs), hs, key) for (key, hs), bs in groups.items()]


def row_tiles(plan: Plan, chosen: HeadClass, max_rows: int) -> Iterator[RowTile]:
    """The row tiles of a head class; each row of q is in one. Tiles of more than `max_rows` rows are divided."""
    pieces = plan.forward.pieces
    by_rows: dict[int, list[tuple[Piece, int]]] = {}
    for piece, source in zip(pieces, chosen.sources, strict=True):
        by_rows.setdefault(piece.rows.start, []).append((piece, source))
    for members in by_rows.values():
        members.sort(key=lambda m: -sum(a.split for a in m[0].rows.axes))
        for tile in _segment_tiles(members):
            yield from _divided(tile, max_rows)


def _segment_tiles(members: list[tuple[Piece, int]]) -> Iterator[RowTile]:
    lead, source = members[0]
    others = [_Visits(piece, s) for piece, s in members[1:]]
    for rows, found in _tiles(lead, source):
        columns = [_columns(lead.cols, r) for r in found]
        for other in others:
            columns += other.of(rows)
        yield _row_tile(rows, columns)


def _tiles(piece: Piece, source: int) -> Iterator[tuple[Positions, list[BoxRun]]]:
    """Rows and runs of every row tile."""
    chosen = piece.sources[source]
    per_axis = _axis_tiles(piece, source)
    for tile in range(prod(map(len, per_axis))):
        at = np.unravel_index(tile, tuple(map(len, per_axis)))
        spans = [tiles[int(i)] for tiles, i in zip(per_axis, at, strict=True)]
        axes = [np.arange(lo, hi) * a.split + g for (lo, hi, g), a in zip(spans, piece.rows.axes, strict=True)]
        yield _linear(piece.rows, axes), list(runs(chosen, piece, tile))


def _axis_tiles(piece: Piece, source: int) -> list[list[tuple[int, int, int]]]:
    """(start, stop, residue) of the row tiles of every axis, in the order of the source's tables."""
    chosen = piece.sources[source]
    if isinstance(chosen, Product):
        tables = [(x.row_start, x.row_stop, x.row_residue) for x in chosen.axes]
        return [list(zip(*(t.tolist() for t in table), strict=True)) for table in tables]
    return [_raster(a.extent, a.split, a.box) for a in piece.rows.axes]


def _raster(extent: int, split: int, box: int) -> list[tuple[int, int, int]]:
    out: list[tuple[int, int, int]] = []
    for g in range(min(split, extent)):
        n = (extent - g + split - 1) // split
        out += [(c, min(c + box, n), g) for c in range(0, n, box)]
    return out


def _columns(layout: Layout, run: BoxRun) -> tuple[Positions, bool]:
    """Positions of a run's columns inside the segment, and whether they need the mask."""
    axes: list[Positions] = []
    for first, count, g, a in zip(run.first, run.count, run.residue, layout.axes, strict=True):
        n = (a.extent - g + a.split - 1) // a.split
        axes.append(np.arange(max(0, first), min(n, first + count * a.box)) * a.split + g)
    return _linear(layout, axes), run.kind != TileClass.FULL


def _linear(layout: Layout, axes: list[Positions]) -> Positions:
    place = np.zeros((), dtype=np.int64)
    for coords, extent in zip(axes, layout.extents, strict=True):
        place = place[..., None] * extent + coords
    return place.reshape(-1) + layout.start


class _Visits:
    """The boxes of a further piece between the same rows and other columns, whose row tiles may differ."""

    def __init__(self, piece: Piece, source: int) -> None:
        self.piece = piece
        self.tiles: list[list[BoxRun]] = []
        self.tile_of = np.zeros(prod(piece.rows.extents), dtype=np.int32)
        for rows, found in _tiles(piece, source):
            self.tile_of[rows - piece.rows.start] = len(self.tiles)
            self.tiles.append(found)

    def of(self, rows: Positions) -> list[tuple[Positions, bool]]:
        """Columns that any of the rows visits; with several tiles, all under the mask."""
        tiles = np.unique(self.tile_of[rows - self.piece.rows.start])
        visits = [[_columns(self.piece.cols, r) for r in self.tiles[int(t)]] for t in tiles]
        if len(tiles) == 1:
            return visits[0]
        every = [c for v in visits for c, _ in v]
        return [(reduce(np.union1d, every), True)] if every else []


def _row_tile(rows: Positions, columns: list[tuple[Positions, bool]]) -> RowTile:
    columns = [c for c in columns if len(c[0])]
    if not columns:
        return RowTile(Take.of(rows), Take(0, 0), ())
    columns.sort(key=lambda c: int(c[0][0]))
    joined = Take.of(np.concatenate([c for c, _ in columns]))
    if joined.index is not None:
        columns.sort(key=lambda c: c[1])  # FULL first: one range needs the mask
        joined = Take.of(np.concatenate([c for c, _ in columns]))
    ranges: list[tuple[int, int]] = []
    at = 0
    for c, is_partial in columns:
        if is_partial:
            if ranges and ranges[-1][1] == at:
                ranges[-1] = (ranges[-1][0], at + len(c))
            else:
                ranges.append((at, at + len(c)))
        at += len(c)
    return RowTile(Take.of(rows), joined, few_ranges(ranges))


def few_ranges(ranges: list[tuple[int, int]], limit: int = 2) -> tuple[tuple[int, int], ...]:
    """At most `limit` ranges that cover these."""
    if len(ranges) <= limit:
        return tuple(ranges)
    return ((ranges[0][0], ranges[-1][1]),)


def _divided(tile: RowTile, max_rows: int) -> Iterator[RowTile]:
    n = tile.rows.count
    for lo in range(0, n, max_rows):
        yield tile if n <= max_rows else RowTile(tile.rows.part(lo, min(n, lo + max_rows)), tile.cols, tile.partial)


def with_all_rows(tiles: Iterator[RowTile], rows: int) -> Iterator[RowTile]:
    """The tiles, and after them those rows of [0, rows) that none has: they see nothing."""
    left = np.ones(rows, dtype=np.bool_)
    for tile in tiles:
        left[tile.rows.positions] = False
        yield tile
    missing = np.flatnonzero(left)
    if len(missing):
        yield RowTile(Take.of(missing), Take(0, 0), ())


FULL_ROWS = 1024
PARTIAL_ROWS = 256
LISTED_ROWS = 128


def merged(tiles: Iterator[RowTile], full_rows: int = FULL_ROWS, lists: bool = False) -> Iterator[RowTile]:
    """Larger tiles where that wastes little: neighbours with the same columns, or with long ranges that hardly
    differ; with `lists` also where columns are no ranges."""
    last: RowTile | None = None
    for tile in tiles:
        joined = None if last is None else _joined(last, tile, full_rows)
        if joined is None and last is not None and lists:
            joined = _listed(last, tile)
        if last is not None and joined is None:
            yield last
        last = tile if joined is None else joined
    if last is not None:
        yield last


def _joined(a: RowTile, b: RowTile, full_rows: int) -> RowTile | None:
    rows = a.rows.count + b.rows.count
    ranges = (a.rows, b.rows, a.cols, b.cols)
    if any(t.index is not None for t in ranges) or b.rows.start != a.rows.start + a.rows.count:
        return None
    if not a.cols.count or not b.cols.count:
        return None
    taken = Take(a.rows.start, rows)
    if a.cols == b.cols and not a.partial and not b.partial:
        return RowTile(taken, a.cols, ()) if rows <= full_rows else None
    lo, hi = min(a.cols.start, b.cols.start), max(a.cols.start + a.cols.count, b.cols.start + b.cols.count)
    if rows > min(PARTIAL_ROWS, full_rows, (hi - lo) // 8) or hi - lo > max(a.cols.count, b.cols.count) + rows:
        return None
    ranges = sorted((*_masked(a, lo, hi), *_masked(b, lo, hi)))
    union: list[tuple[int, int]] = []
    for start, stop in ranges:
        if union and start <= union[-1][1]:
            union[-1] = (union[-1][0], max(stop, union[-1][1]))
        else:
            union.append((start, stop))
    return RowTile(taken, Take(lo, hi - lo), few_ranges(union))


def _listed(a: RowTile, b: RowTile) -> RowTile | None:
    """Two tiles of few rows of which one has a list of columns; the mask is needed everywhere."""
    rows = a.rows.count + b.rows.count
    neighbours = a.rows.index is None and b.rows.index is None and b.rows.start == a.rows.start + a.rows.count
    if rows > LISTED_ROWS or not neighbours or (a.cols.index is None and b.cols.index is None):
        return None
    both = np.union1d(a.cols.positions, b.cols.positions)
    if len(both) > max(a.cols.count, b.cols.count) + b.rows.count:
        return None
    return RowTile(Take(a.rows.start, rows), Take.of(both), ((0, len(both)),))


def _masked(tile: RowTile, lo: int, hi: int) -> list[tuple[int, int]]:
    """Ranges of columns (counted from lo) that need the mask: the tile's own, and what it leaves out of lo to hi."""
    start = tile.cols.start - lo
    stop = start + tile.cols.count
    out = [(start + p, start + q) for p, q in tile.partial]
    return out + [(x, y) for x, y in ((0, start), (stop, hi - lo)) if y > x]
