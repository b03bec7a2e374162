"""Masks whose axes do not separate: look at boxes of pairs on a raster, one by one.

Interval arithmetic says of a box whether the mask is surely true or surely false on it. A box that is neither is
PARTIAL, which is proved by two pairs, one visible and one not: first among the box's corners, then by looking at
all its pairs while the budget lasts.
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
from attndsl.ir.expr import Expr, Load, walk
from attndsl.schedule.interval import Boxes, RangeTable, bounds
from attndsl.schedule.plan import Blocks, TileClass

Longs = npt.NDArray[np.int64]
MOST_BOXES = 1 << 21
MOST_PAIRS = 1 << 24
_CHUNK = 1 << 17


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
    mask: Expr, rows: Raster, columns: Raster, tables: Mapping[str, npt.NDArray[Any]], ranges: Mapping[str, RangeTable]
) -> tuple[Blocks, bool]:
    """All boxes that may hold a visible pair, and whether every class is proven."""
    grid = np.asarray(columns.counts, np.int64)
    total = rows.total * columns.total
    kept: list[tuple[Longs, Longs, npt.NDArray[np.uint8]]] = []
    open_boxes: list[tuple[Longs, Longs]] = []
    for begin in range(0, total, _CHUNK):
        pair = np.arange(begin, min(begin + _CHUNK, total))
        row, column = pair // columns.total, pair % columns.total
        sure, maybe = _bounds(mask, rows, columns, row, column, ranges)
        full = sure & _whole(columns, column)
        some = np.flatnonzero(maybe)
        kinds = np.where(full[some], TileClass.FULL, TileClass.PARTIAL).astype(np.uint8)
        kept.append((row[some], column[some], kinds))
        undecided = np.flatnonzero(maybe & ~sure)
        open_boxes.append((row[undecided], column[undecided]))
    row, column, kind = (np.concatenate(part) for part in zip(*kept, strict=True))
    open_row, open_column = (np.concatenate(part) for part in zip(*open_boxes, strict=True))
    empty, full, exact = _settle(mask, rows, columns, tables, open_row, open_column)
    key, settled = row * columns.total + column, open_row * columns.total + open_column
    gone = np.isin(key, settled[empty])
    now_full = np.isin(key, settled[full]) & _whole(columns, column)
    kind = np.where(now_full, TileClass.FULL, kind).astype(np.uint8)[~gone]
    row, column = row[~gone], column[~gone]
    indptr = np.searchsorted(row, np.arange(rows.total + 1)).astype(np.int32)
    first = np.stack(columns.starts(column), axis=1).astype(np.int32) if len(grid) else np.zeros((0, 0), np.int32)
    return Blocks(indptr, first, kind), exact


def _whole(columns: Raster, column: Longs) -> npt.NDArray[np.bool_]:
    """Whether a box lies inside the extents on every axis."""
    starts = columns.starts(column)
    fits = [s + b <= e for s, b, e in zip(starts, columns.box, columns.extents, strict=True)]
    return np.logical_and.reduce(fits)


def _bounds(
    mask: Expr, rows: Raster, columns: Raster, row: Longs, column: Longs, tables: Mapping[str, RangeTable]
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
    affordable = rest[: MOST_PAIRS // pairs]
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
