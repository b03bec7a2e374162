"""The tensors of one head class as key heads and the query heads of each, and one tile of them."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attndsl.runtime.call import Call
from attndsl.runtime.cpu.tiling import HeadClass, RowTile, Take


@dataclass(frozen=True)
class Selection:
    """Which batches and heads, and whether heads are kept as groups of one key head (`group` query heads each)."""

    batches: tuple[int, ...]
    heads: tuple[int, ...]
    key_heads: tuple[int, ...]
    group: int
    whole: bool

    @staticmethod
    def of(chosen: HeadClass, batches: int, heads: int, key_heads: int) -> Selection:
        """The class's heads; those that do not fill their groups each stand alone with a copy of their key head."""
        group = heads // key_heads
        whole = len(chosen.batches) == batches and len(chosen.heads) == heads
        keys = tuple(h // group for h in chosen.heads[::group])
        filled = tuple(k * group + j for k in keys for j in range(group))
        if filled == chosen.heads:
            return Selection(chosen.batches, chosen.heads, keys, group, whole)
        return Selection(chosen.batches, chosen.heads, tuple(h // group for h in chosen.heads), 1, whole)

    def queries(self, t: Tensor) -> Tensor:
        """[B, H, L, ..] as [b, key head, query head, L, ..]."""
        t = t if self.whole else _pick(_pick(t, 0, self.batches), 1, self.heads)
        return t.unflatten(1, (len(self.key_heads), self.group))

    def keys(self, t: Tensor) -> Tensor:
        """[B, Hkv, L, D] as [b, key head, L, D]."""
        return t if self.whole else _pick(_pick(t, 0, self.batches), 1, self.key_heads)

    def add_queries(self, whole: Tensor, part: Tensor) -> None:
        """Write a part made by `queries` back."""
        if not self.whole:
            at = (torch.tensor(self.batches)[:, None], torch.tensor(self.heads)[None])
            whole[at] = part.flatten(1, 2)

    def add_keys(self, whole: Tensor, part: Tensor) -> None:
        """Add a part made by `keys` (several may be copies of one key head) in order."""
        if self.whole:
            return
        for i, b in enumerate(self.batches):
            whole[b].index_add_(0, torch.tensor(self.key_heads), part[i])


def _pick(t: Tensor, dim: int, chosen: tuple[int, ...]) -> Tensor:
    first, n = chosen[0], len(chosen)
    if chosen == tuple(range(first, first + n)):
        return t.narrow(dim, first, n)
    return t.index_select(dim, torch.tensor(chosen))


@dataclass(frozen=True)
class Batch:
    """Row tiles of one shape that are computed at once. Rows of consecutive tiles follow one another if they are a
    range; columns are a range each, `col_step` apart, or an index [tiles, columns]."""

    tiles: int
    rows: Take
    row_count: int
    col_start: int
    col_step: int
    col_count: int
    col_index: Tensor | None
    row_index: Tensor | None
    partial: tuple[tuple[int, int], ...]
    added: Tensor | None = None
    """The mask as 0 and -inf, [1, 1 or tiles, 1, rows, columns], where it is known for all calls."""

    @property
    def pairs(self) -> int:
        return self.row_count * self.col_count

    def part(self, lo: int, hi: int) -> Batch:
        """Tiles lo up to hi."""
        r = self.row_count
        return Batch(
            tiles=hi - lo,
            rows=self.rows.part(lo * r, hi * r),
            row_count=r,
            col_start=self.col_start + lo * self.col_step,
            col_step=self.col_step,
            col_count=self.col_count,
            col_index=None if self.col_index is None else self.col_index[lo:hi],
            row_index=None if self.row_index is None else self.row_index[lo * r : hi * r],
            partial=self.partial,
            added=self.added if self.added is None or self.added.shape[1] == 1 else self.added[:, lo:hi],
        )

    def row_positions(self) -> Tensor:
        """[tiles, rows]."""
        if self.row_index is not None:
            return self.row_index.reshape(self.tiles, self.row_count)
        return torch.arange(self.rows.start, self.rows.start + self.rows.count).reshape(self.tiles, self.row_count)

    def col_positions(self) -> Tensor:
        """[tiles, columns]."""
        if self.col_index is not None:
            return self.col_index
        starts = self.col_start + self.col_step * torch.arange(self.tiles)
        return starts[:, None] + torch.arange(self.col_count)

    # q [b, g, r, L, D] and k [b, g, L, D] at the tile; what comes out may be a view.

    def take_rows(self, q: Tensor) -> Tensor:
        """[b, g, r, L, ..] to [b, g, tiles, r, rows, ..]."""
        rows = (
            q.narrow(3, self.rows.start, self.rows.count)
            if self.row_index is None
            else q.index_select(3, self.row_index)
        )
        return rows.unflatten(3, (self.tiles, self.row_count)).transpose(2, 3)

    def put_rows(self, out: Tensor, value: Tensor) -> None:
        """Write [b, g, tiles, r, rows, ..] to the tile's rows of [b, g, r, L, ..]."""
        value = value.transpose(2, 3).flatten(3, 4)
        if self.row_index is None:
            out.narrow(3, self.rows.start, self.rows.count).copy_(value)
        else:
            out.index_copy_(3, self.row_index, value.to(out.dtype))

    def take_cols(self, k: Tensor) -> Tensor:
        """[b, g, L, D] to [b, g, tiles, columns, D]."""
        if self.col_index is not None:
            return k.index_select(2, self.col_index.reshape(-1)).unflatten(2, (self.tiles, self.col_count))
        if self.tiles == 1:
            return k.narrow(2, self.col_start, self.col_count).unsqueeze(2)
        b, g, _, d = k.shape
        sb, sg, sl, sd = k.stride()
        size, stride = (b, g, self.tiles, self.col_count, d), (sb, sg, self.col_step * sl, sl, sd)
        return k.as_strided(size, stride, k.storage_offset() + self.col_start * sl)

    def add_cols(self, total: Tensor, value: Tensor) -> None:
        """Add [b, g, tiles, columns, D] to the tile's columns of [b, g, L, D], tile after tile."""
        if self.col_index is not None:
            total.index_add_(2, self.col_index.reshape(-1), value.flatten(2, 3).to(total.dtype))
            return
        for t in range(self.tiles):
            total.narrow(2, self.col_start + t * self.col_step, self.col_count).add_(value[:, :, t])


def batches(tiles: Iterator[RowTile], most: int) -> Iterator[Batch]:
    """Consecutive tiles of equal shape, at most `most` at once."""
    waiting: list[RowTile] = []
    for tile in tiles:
        if waiting and (len(waiting) >= most or not _joins(waiting, tile)):
            yield _batch(waiting)
            waiting = []
        waiting.append(tile)
    if waiting:
        yield _batch(waiting)


def _joins(before: Sequence[RowTile], tile: RowTile) -> bool:
    last, first = before[-1], before[0]
    if tile.rows.count != last.rows.count or tile.cols.count != last.cols.count or tile.cols.count == 0:
        return False
    if (tile.rows.index is None) != (last.rows.index is None) or (tile.cols.index is None) != (last.cols.index is None):
        return False
    if bool(tile.partial) != bool(last.partial):
        return False
    if tile.rows.index is None and tile.rows.start != last.rows.start + last.rows.count:
        return False
    step = tile.cols.start - last.cols.start
    if tile.cols.index is None and (step <= 0 or (len(before) > 1 and step != before[1].cols.start - first.cols.start)):
        return False
    return tile.cols.index is not None or tile.partial == last.partial


def _batch(tiles: Sequence[RowTile]) -> Batch:
    first = tiles[0]
    n = len(tiles)
    row_index = col_index = None
    if first.rows.index is not None:
        row_index = torch.cat([torch.from_numpy(t.rows.positions) for t in tiles])
    if first.cols.index is not None:
        col_index = torch.stack([torch.from_numpy(t.cols.positions) for t in tiles])
    partial = first.partial
    if n > 1 and any(t.partial != partial for t in tiles):
        ranges = [r for t in tiles for r in t.partial]
        partial = ((min(r[0] for r in ranges), max(r[1] for r in ranges)),)
    return Batch(
        tiles=n,
        rows=Take(first.rows.start, n * first.rows.count),
        row_count=first.rows.count,
        col_start=first.cols.start,
        col_step=tiles[1].cols.start - first.cols.start if n > 1 and col_index is None else 0,
        col_count=first.cols.count,
        col_index=col_index,
        row_index=row_index,
        partial=partial,
    )


def offset_of(call: Call) -> Tensor:
    """`q_offset` as [1 or B, 1, 1, 1, 1, 1]."""
    if isinstance(call.q_offset, Tensor):
        return call.q_offset.to(torch.int64).reshape(-1, 1, 1, 1, 1, 1)
    return torch.full((1, 1, 1, 1, 1, 1), call.q_offset)
