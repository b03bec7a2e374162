"""Row tiles trimmed to the columns that their mask really touches, where the mask depends on positions alone."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from attndsl.runtime.cpu.frame import CallFrame, TileFrame
from attndsl.runtime.cpu.part import Batch
from attndsl.runtime.cpu.tiling import RowTile, Take

PAIRS = 1 << 20
"""Pairs whose mask is evaluated at once."""
MULTIPLE = 16
"""Columns of a trimmed tile, where there are as many: products of odd widths are slow."""

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


def refined(tiles: Iterator[RowTile], frame: CallFrame) -> Iterator[RowTile]:
    """The same tiles without columns that no row sees at either end, and without the mask where it says nothing.

    Tiles of a plan are boxes of its layout; these are as tight as their rows. Alike tiles are looked at together.
    """
    waiting: list[RowTile] = []
    for tile in tiles:
        if waiting and not _alike(waiting, tile):
            yield from _refined(waiting, frame)
            waiting = []
        waiting.append(tile)
    if waiting:
        yield from _refined(waiting, frame)


def _alike(before: Sequence[RowTile], tile: RowTile) -> bool:
    a = before[0]
    same = a.rows.count == tile.rows.count and a.cols.count == tile.cols.count and a.partial == tile.partial
    ranges = a.cols.index is None and tile.cols.index is None
    return same and ranges and (len(before) + 1) * a.rows.count * a.cols.count <= PAIRS


def _refined(tiles: Sequence[RowTile], frame: CallFrame) -> Iterator[RowTile]:
    if not tiles[0].partial or tiles[0].cols.index is not None:
        yield from tiles
        return
    seen, whole, ranges = _evaluated(tiles, frame)
    count = seen.shape[1]
    first, last = _ends(seen)
    alive: Bools = np.any(seen, axis=1)
    spare = np.minimum(-(last - first) % MULTIPLE, count - (last - first))
    ahead = np.minimum(spare, first)
    first, last = first - ahead, last + spare - ahead
    at = np.arange(count)
    bad = ~whole & (at >= first[:, None]) & (at < last[:, None])
    found: list[tuple[int, Ints, Ints, Bools]] = [
        (lo, *_ends(bad[:, lo:hi]), np.any(bad[:, lo:hi], axis=1)) for lo, hi in ranges
    ]
    for i, tile in enumerate(tiles):
        if not alive[i]:
            yield RowTile(tile.rows, Take(0, 0), ())
            continue
        base = int(first[i])
        partial = tuple((lo + int(a[i]) - base, lo + int(b[i]) - base) for lo, a, b, some in found if some[i])
        yield RowTile(tile.rows, tile.cols.part(base, int(last[i])), partial)


def _ends(found: Bools) -> tuple[Ints, Ints]:
    """The first true column of every row, and the one after the last; of rows without one, anything inside."""
    return found.argmax(1), found.shape[1] - found[:, ::-1].argmax(1)


def _evaluated(tiles: Sequence[RowTile], frame: CallFrame) -> tuple[Bools, Bools, Sequence[tuple[int, int]]]:
    """By tile and column, whether any and whether every row sees it; and the ranges that were evaluated."""
    first = tiles[0]
    rows, columns = first.rows.count, first.cols.count
    starts = torch.tensor([t.cols.start for t in tiles])
    batch = Batch(
        tiles=len(tiles),
        rows=Take(0, len(tiles) * rows),
        row_count=rows,
        col_start=0,
        col_step=0,
        col_count=columns,
        col_index=starts[:, None] + torch.arange(columns),
        row_index=torch.from_numpy(np.concatenate([t.rows.positions for t in tiles])),
        partial=first.partial,
    )
    seen = np.ones((len(tiles), columns), dtype=np.bool_)
    whole = seen.copy()
    masks = TileFrame.bare(frame, batch).masks()
    for lo, hi, m in masks:
        flat = m.expand(1, 1, len(tiles), 1, rows, hi - lo)[0, 0, :, 0]
        seen[:, lo:hi] = flat.any(1).numpy()
        whole[:, lo:hi] = flat.all(1).numpy()
    return seen, whole, [(lo, hi) for lo, hi, _ in masks]
