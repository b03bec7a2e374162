"""Masks whose axes do not separate: look at boxes of pairs on a raster, one by one.

Interval arithmetic says of a box whether the mask is surely true or surely false on it, of large boxes first. A box
that is neither is PARTIAL, which is proved by two pairs, one visible and one not: first among the box's corners,
then by looking at all its pairs while the budget lasts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from attndsl.ir.evaluate import Env, evaluate
from attndsl.ir.expr import Expr, Load, Op, walk
from attndsl.schedule.interval import Boxes, bounds
from attndsl.schedule.plan import Blocks, TileClass
from attndsl.schedule.tables import Table

Longs = npt.NDArray[np.int64]
MOST_BOXES = 1 << 21
MOST_PAIRS = 1 << 24
USUAL_OPERATIONS = 16
SAMPLE = 1 << 13
_CHUNK = 1 << 17
_COARSEST = 1 << 14


@dataclass(frozen=True)
class Raster:
    """Boxes on one side: extents and box shape per axis."""

    nodes: tuple[Expr, ...]
    extents: tuple[int, ...]
    box: tuple[int, ...]

    @property
    def counts(self) -> tuple[int, ...]:
        return tuple(-(-e // b) for e, b in zip(self.extents, self.box, strict=True))

    @property
    def total(self) -> int:
        return prod(self.counts)

    def starts(self, boxes: Longs) -> list[Longs]:
        """Coordinates of the first element of boxes given by row-major number."""
        return [c * b for c, b in zip(np.unravel_index(boxes, self.counts), self.box, strict=True)]

    def last(self, starts: list[Longs]) -> list[Longs]:
        """Coordinates of the last element inside the extents."""
        return [np.minimum(s + b, e) - 1 for s, b, e in zip(starts, self.box, self.extents, strict=True)]


def classify(
    mask: Expr, rows: Raster, columns: Raster, tables: Mapping[str, npt.NDArray[Any]], ranges: Mapping[str, Table]
) -> tuple[Blocks, bool] | None:
    """All boxes that may hold a visible pair, and whether every class is proven; None if they are too many."""
    found = _descend(mask, rows, columns, ranges)
    if found is None:
        return None
    row, column, sure = found
    whole = _whole(columns, column)
    kind = np.where(sure & whole, TileClass.FULL, TileClass.PARTIAL).astype(np.uint8)
    still_open = np.flatnonzero(~sure)
    empty, full, exact = _settle(mask, rows, columns, tables, row[still_open], column[still_open])
    kind[still_open[full & whole[still_open]]] = TileClass.FULL
    kept = np.ones(len(row), bool)
    kept[still_open[empty]] = False
    row, column, kind = row[kept], column[kept], kind[kept]
    return _in_runs(rows, columns, row, column, kind), exact


def _in_runs(rows: Raster, columns: Raster, row: Longs, column: Longs, kind: npt.NDArray[np.uint8]) -> Blocks:
    """Boxes of one class that follow each other along the last axis as one entry."""
    line = column // columns.counts[-1]
    follows = (row[1:] == row[:-1]) & (column[1:] == column[:-1] + 1) & (line[1:] == line[:-1])
    heads = np.flatnonzero(np.append(True, ~(follows & (kind[1:] == kind[:-1])))[: len(row)])
    count = np.diff(np.append(heads, len(row)))
    indptr = np.searchsorted(row[heads], np.arange(rows.total + 1)).astype(np.int32)
    first = np.stack(columns.starts(column[heads]), axis=1)
    return Blocks(indptr, first.astype(np.int32), count.astype(np.int32), kind[heads])


def sampled_share(mask: Expr, rows: Raster, columns: Raster, tables: Mapping[str, Table]) -> tuple[float, float]:
    """The share of boxes that may hold a visible pair, and of those that surely hold no other; from a sample."""
    total = rows.total * columns.total
    if total > SAMPLE:
        pair = np.random.default_rng(0).integers(0, total, SAMPLE)
    else:
        pair = np.arange(total)
    row, column = pair // columns.total, pair % columns.total
    sure, maybe = _bounds(mask, rows, columns, row, column, tables)
    return float(maybe.mean()), float((sure & maybe & _whole(columns, column)).mean())


def _descend(
    mask: Expr, rows: Raster, columns: Raster, tables: Mapping[str, Table]
) -> tuple[Longs, Longs, npt.NDArray[np.bool_]] | None:
    """Numbers of the row and column boxes that may hold a visible pair, sorted, and whether all their pairs surely are.

    Large boxes are looked at first and halved on every axis where they are neither empty nor full.
    """
    level = 0
    while _coarser(rows, level).total * _coarser(columns, level).total > _COARSEST:
        level += 1
    top_rows, top_columns = _coarser(rows, level), _coarser(columns, level)
    pair = np.arange(top_rows.total * top_columns.total)
    row, column, sure = pair // top_columns.total, pair % top_columns.total, np.zeros(len(pair), bool)
    while True:
        here_rows, here_columns = _coarser(rows, level), _coarser(columns, level)
        unsure = np.flatnonzero(~sure)
        kept = np.ones(len(row), bool)
        for begin in range(0, len(unsure), _CHUNK):
            some = unsure[begin : begin + _CHUNK]
            full, maybe = _bounds(mask, here_rows, here_columns, row[some], column[some], tables)
            sure[some], kept[some] = full & maybe, maybe
        row, column, sure = row[kept], column[kept], sure[kept]
        if not level:
            order = np.argsort(row * columns.total + column)
            return row[order], column[order], sure[order]
        level -= 1
        everything = _coarser(rows, level).total * _coarser(columns, level).total
        if min(len(row) << (len(rows.box) + len(columns.box)), everything) > MOST_BOXES:
            return None
        row, column, sure = _halved(row, column, sure, here_rows, here_columns, rows, columns, level)


def _coarser(raster: Raster, level: int) -> Raster:
    return Raster(raster.nodes, raster.extents, tuple(b << level for b in raster.box))


def _halved(
    row: Longs,
    column: Longs,
    sure: npt.NDArray[np.bool_],
    old_rows: Raster,
    old_columns: Raster,
    rows: Raster,
    columns: Raster,
    level: int,
) -> tuple[Longs, Longs, npt.NDArray[np.bool_]]:
    """The boxes of the next level inside the given ones."""
    new_rows, new_columns = _coarser(rows, level), _coarser(columns, level)
    counts = (*new_rows.counts, *new_columns.counts)
    parents = [*np.unravel_index(row, old_rows.counts), *np.unravel_index(column, old_columns.counts)]
    axes = [np.asarray(p)[:, None] * 2 for p in parents]
    child = np.indices((2,) * len(axes)).reshape(len(axes), 1, -1)
    numbers = [a + c for a, c in zip(axes, child, strict=True)]
    inside = np.logical_and.reduce([n < count for n, count in zip(numbers, counts, strict=True)])
    flat = [n[inside] for n in numbers]
    split = len(new_rows.counts)
    new_row = np.ravel_multi_index(tuple(flat[:split]), new_rows.counts)
    new_column = np.ravel_multi_index(tuple(flat[split:]), new_columns.counts)
    return np.asarray(new_row), np.asarray(new_column), np.broadcast_to(sure[:, None], inside.shape)[inside]


def _whole(columns: Raster, column: Longs) -> npt.NDArray[np.bool_]:
    """Whether a box lies inside the extents on every axis."""
    starts = columns.starts(column)
    fits = [s + b <= e for s, b, e in zip(starts, columns.box, columns.extents, strict=True)]
    return np.logical_and.reduce(fits)


def _bounds(
    mask: Expr, rows: Raster, columns: Raster, row: Longs, column: Longs, tables: Mapping[str, Table]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    ranges: dict[Expr, tuple[Any, Any]] = {}
    for side, boxes in ((rows, row), (columns, column)):
        starts = side.starts(boxes)
        for node, lo, hi in zip(side.nodes, starts, side.last(starts), strict=True):
            ranges[node] = (lo, hi)
    sure, maybe = bounds(mask, Boxes(ranges, tables))
    return np.broadcast_to(np.asarray(sure, bool), row.shape), np.broadcast_to(np.asarray(maybe, bool), row.shape)


def _settle(
    mask: Expr, rows: Raster, columns: Raster, tables: Mapping[str, npt.NDArray[Any]], row: Longs, column: Longs
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_], bool]:
    """Which open boxes are empty and which are full, by looking at pairs; and whether all could be settled."""
    n = len(row)
    seen, unseen = np.zeros(n, bool), np.zeros(n, bool)
    if not n:
        return seen, unseen, True
    readable = all(name in tables for name in _tables_of(mask))
    if not readable:
        return seen, unseen, False
    for corners in (0, 1):
        _look(mask, rows, columns, tables, row, column, seen, unseen, corners)
    rest = np.flatnonzero(~(seen & unseen))
    pairs = prod(rows.box) * prod(columns.box)
    # a mask of many operations is looked at on fewer pairs, so that the time stays bounded
    effort = max(1, sum(isinstance(node, Op) for node in walk(mask)) // USUAL_OPERATIONS)
    affordable = rest[: MOST_PAIRS // effort // pairs]
    per_chunk = max(1, _CHUNK // pairs)
    for i in range(0, len(affordable), per_chunk):
        chosen = affordable[i : i + per_chunk]
        values, valid = _all_pairs(mask, rows, columns, tables, row[chosen], column[chosen])
        seen[chosen] = (values & valid).any(axis=1)
        unseen[chosen] = (~values & valid).any(axis=1)
    looked = np.zeros(n, bool)
    looked[affordable] = True
    return looked & ~seen, looked & ~unseen, len(affordable) == len(rest)


def _tables_of(mask: Expr) -> set[str]:
    return {node.tensor for node in walk(mask) if isinstance(node, Load)}


def _look(
    mask: Expr,
    rows: Raster,
    columns: Raster,
    tables: Mapping[str, npt.NDArray[Any]],
    row: Longs,
    column: Longs,
    seen: npt.NDArray[np.bool_],
    unseen: npt.NDArray[np.bool_],
    inset: int,
) -> None:
    """Evaluate the mask at the corners of every open box (or at points `inset` from them)."""
    ends: dict[Expr, tuple[Longs, Longs]] = {}
    for side, boxes in ((rows, row), (columns, column)):
        starts = side.starts(boxes)
        for node, lo, hi in zip(side.nodes, starts, side.last(starts), strict=True):
            ends[node] = (np.minimum(lo + inset, hi), np.maximum(hi - inset, lo))
    for corner in product((0, 1), repeat=len(ends)):
        todo = np.flatnonzero(~(seen & unseen))
        if not len(todo):
            return
        env = Env({node: pair[c][todo] for (node, pair), c in zip(ends.items(), corner, strict=True)}, tables)
        value = np.broadcast_to(np.asarray(evaluate(mask, env), bool), todo.shape)
        seen[todo] |= value
        unseen[todo] |= ~value


def _all_pairs(
    mask: Expr, rows: Raster, columns: Raster, tables: Mapping[str, npt.NDArray[Any]], row: Longs, column: Longs
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """The mask on all pairs of some boxes, [boxes, pairs], and which pairs lie inside the extents."""
    shape = (*rows.box, *columns.box)
    grids = np.indices(shape).reshape(len(shape), -1)
    values: dict[Expr, Any] = {}
    valid: Any = True
    axis = 0
    for side, boxes in ((rows, row), (columns, column)):
        for node, start, extent in zip(side.nodes, side.starts(boxes), side.extents, strict=True):
            coordinate = start[:, None] + grids[axis]
            valid = valid & (coordinate < extent)
            values[node] = np.minimum(coordinate, extent - 1)
            axis += 1
    found = np.broadcast_to(np.asarray(evaluate(mask, Env(values, tables)), bool), valid.shape)
    return found, valid
