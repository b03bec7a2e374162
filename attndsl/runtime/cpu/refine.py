"""Row tiles trimmed to the columns that their mask really touches, where the mask depends on positions alone."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from attndsl.runtime.cpu.frame import CallFrame, TileFrame
from attndsl.runtime.cpu.part import batches
from attndsl.runtime.cpu.tiling import RowTile, Take


def refined(tiles: Iterator[RowTile], frame: CallFrame) -> Iterator[RowTile]:
    """The same tiles without columns that no row sees at either end, and without the mask where it says nothing.

    Tiles of a plan are boxes of its layout; these are as tight as their rows.
    """
    for tile in tiles:
        yield _refined(tile, frame) if tile.partial and tile.cols.index is None else tile


def _refined(tile: RowTile, frame: CallFrame) -> RowTile:
    masks = evaluate(tile, frame)
    if not masks:
        return tile
    columns = tile.cols.count
    seen = torch.ones(columns, dtype=torch.bool)
    whole = torch.ones(columns, dtype=torch.bool)
    for lo, hi, m in masks:
        flat = m.expand(*m.shape[:4], tile.rows.count, hi - lo).reshape(-1, hi - lo)
        seen[lo:hi] = flat.any(0)
        whole[lo:hi] = flat.all(0)
    if not bool(seen.any()):
        return RowTile(tile.rows, Take(0, 0), ())
    found = seen.nonzero().reshape(-1)
    first, last = int(found[0]), int(found[-1]) + 1
    ranges: list[tuple[int, int]] = []
    for lo, hi, _ in masks:
        part = (~whole[max(lo, first) : min(hi, last)]).nonzero().reshape(-1)
        if len(part):
            base = max(lo, first) - first
            ranges.append((base + int(part[0]), base + int(part[-1]) + 1))
    return RowTile(tile.rows, tile.cols.part(first, last), tuple(ranges))


def evaluate(tile: RowTile, frame: CallFrame) -> list[tuple[int, int, Tensor]]:
    """The mask of one tile on its partial columns."""
    return TileFrame.bare(frame, next(batches(iter([tile]), 1))).masks()
