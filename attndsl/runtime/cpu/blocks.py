"""Blocks of a scan: stretches of the sequence, and what generated functions say about their rows and keys."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attndsl.codegen.cpu_scan import COLUMN, ROW, ScanFunctions
from attndsl.codegen.names import Function
from attndsl.ir.features import Normaliser
from attndsl.runtime.cpu.chunks import Decays, Sees, decays
from attndsl.runtime.cpu.frame import PAIR, CallFrame, HeadTensors, TileFrame
from attndsl.runtime.cpu.part import Batch, Selection
from attndsl.runtime.cpu.tiling import Take
from attndsl.schedule.legalise import ScanForm

CHUNK = 64
"""Positions of a chunk: within one, products are formed pair by pair; between chunks, states are."""

BLOCK_NUMBERS = 1 << 19
"""Numbers that a step of a scan holds at once, about: its buffers should stay in the cache."""


@dataclass(frozen=True)
class Block:
    """Consecutive chunks: rows `row` up to `row + count`, keys `col` up to `col + count`; either may be left out."""

    row: int | None
    col: int | None
    chunks: int
    size: int

    @property
    def count(self) -> int:
        return self.chunks * self.size

    @property
    def batch(self) -> Batch:
        """Its tiles: a chunk of rows against the same chunk of keys."""
        rows = 0 if self.row is None else self.size
        return Batch(
            tiles=self.chunks,
            rows=Take(self.row or 0, self.chunks * rows),
            row_count=rows,
            col_start=self.col or 0,
            col_step=self.size,
            col_count=0 if self.col is None else self.size,
            col_index=None,
            row_index=None,
            partial=(),
        )


def blocks(row: int | None, col: int | None, count: int, most: int) -> Iterator[Block]:
    """Blocks of at most `most` chunks over `count` positions from these rows and keys; a last chunk may be short."""
    done = 0
    while done < count:
        left = count - done
        size = min(left, CHUNK)
        chunks = min(most, max(1, left // CHUNK))
        yield Block(None if row is None else row + done, None if col is None else col + done, chunks, size)
        done += chunks * size


@dataclass(frozen=True)
class Lane:
    """What one state sums: features of the query (None: ones) and of the key, and values."""

    query: Tensor | None
    key: Tensor
    value: Tensor


class ScanTile(TileFrame):
    """A block as generated functions see it; positions may be ahead of the places in the tensors."""

    def run(self, function: Function, **values: Any) -> Tensor:
        """A generated function on this tile, floats in the precision of the call."""
        found: Any = self.call.functions[function.name](*self._arguments(function, values))
        if not isinstance(found, Tensor):
            found = torch.tensor(found, dtype=self.call.dtype if isinstance(found, float) else None)
        if found.is_floating_point():
            found = found.to(self.call.dtype)
        return found if found.ndim >= len(PAIR) else found.reshape(PAIR)

    def _bound(self) -> None:
        # keys are padded to where rows stand, so that only these cannot leave their tensors
        sizes = self.call.call.sizes
        bounds = {id(self.at(i)): (self.at(i), sizes[n]) for i, n in (("b", "B"), ("h", "H"), ("hkv", "Hkv"))}
        for source in (*self.call.sources.values(), *self.call.prefixes.values()):
            source.bounds = bounds


@dataclass(frozen=True)
class View:
    """A call as a scan looks at it: key and value are as long as the rows reach, `position` is that of place 0."""

    frame: CallFrame
    form: ScanForm
    q: Tensor
    k: Tensor
    v: Tensor
    position: int
    offset: int

    @property
    def functions(self) -> ScanFunctions:
        found = self.frame.module.scan
        assert found is not None
        return found

    @property
    def normaliser(self) -> Normaliser | None:
        return self.form.weight.normaliser

    @property
    def group(self) -> int:
        """Query heads of a key head."""
        return self.q.shape[1] // self.k.shape[1]

    @property
    def state_group(self) -> int:
        """States of a key head."""
        return self.group if self.form.by_head else 1

    def tile(self, block: Block) -> ScanTile:
        """The tile of a block, with its indices."""
        B, H = self.q.shape[:2]
        G = self.k.shape[1]
        chosen = Selection(tuple(range(B)), tuple(range(H)), tuple(range(G)), self.group, True)
        batch = block.batch
        made = TileFrame.of(self.frame, batch, HeadTensors.of(chosen, self.q, self.k, self.v))
        tile = ScanTile(made.call, made.batch, made.q, made.k, made.v, made.index)
        tile.index["offset"] = torch.full((1, 1, 1, 1, 1, 1), self.offset + self.position)
        tile.index["k"] = batch.col_positions().reshape(1, 1, batch.tiles, 1, 1, batch.col_count) + self.position
        return tile

    def places(self, tile: ScanTile) -> dict[str, Any]:
        """Where rows and keys stand in the tensors."""
        return {ROW: tile.at("q") - self.position, COLUMN: tile.at("k") - self.position}

    def run(self, tile: ScanTile, function: Function) -> Tensor:
        """A function of the rows or the keys of a tile."""
        return tile.run(function, **self.places(tile))

    def rows(self, tile: ScanTile, function: Function) -> Tensor:
        """Vectors of the rows [b, g, t, r, C, F]."""
        found = self.run(tile, function).squeeze(5)
        return found.expand(*tile.shape[:4], tile.shape[4], found.shape[-1])

    def keys(self, tile: ScanTile, function: Function) -> Tensor:
        """Vectors of the keys [b, g, t, r or 1, C, F], 0 past the last key."""
        found = self.run(tile, function).squeeze(4)
        b, g, t = tile.shape[:3]
        found = found.expand(b, g, t, self.state_group, tile.shape[5], found.shape[-1])
        length = self.frame.call.k.shape[2]
        if tile.batch.col_start + tile.batch.tiles * tile.batch.col_step > length:
            there = tile.batch.col_positions().reshape(1, 1, t, 1, -1, 1) < length
            found = torch.where(there, found, 0.0)
        return found

    def lanes(self, tile: ScanTile) -> list[Lane]:
        """What the states of a tile sum: the numerator (with its own sum as one more value), and the denominator's sum.
        Queries are None in a block without rows."""
        f, n = self.functions, self.normaliser
        has_rows = tile.batch.row_count > 0
        query = self.rows(tile, f.query) if has_rows else None
        key = self.keys(tile, f.key)
        value = tile.own_vector("V").squeeze(4)
        if n is not None and n.own:
            value = torch.cat([value, value.new_ones((*value.shape[:-1], 1))], -1)
        lanes = [Lane(query, key, value)]
        if f.z_key is not None:
            z = self.keys(tile, f.z_key)
            one = z.new_ones((*z.shape[:-1], 1))
            if f.z_query is None:
                lanes.append(Lane(query.new_ones((*query.shape[:-1], 1)) if query is not None else None, one, z))
            else:
                lanes.append(Lane(self.rows(tile, f.z_query) if has_rows else None, z, one))
        return lanes

    def segment(self, tile: ScanTile) -> Tensor | None:
        """The segments of the keys' positions [b, g, t, r or 1, C, n]."""
        if not self.functions.segments:
            return None
        b, g, t = tile.shape[:3]
        shape = (b, g, t, self.state_group, tile.shape[5])
        return torch.stack([self.run(tile, s).squeeze(4).expand(shape) for s in self.functions.segments], -1)

    def decays(self, tile: ScanTile, sees: Sees, segment: Tensor | None, before: Tensor | None) -> Decays:
        """The decays of a tile; `segment` is that of its positions, `before` [b, g, r, n] that of the position before
        the first (None: nothing was seen)."""
        f = self.functions
        token: Tensor | None = None
        channel: Tensor | None = None
        for function in f.tokens:
            g = self.run(tile, function).squeeze(4)
            token = g if token is None else token + g
        for function in f.channels:
            g = self.run(tile, function).squeeze(4)
            channel = g if channel is None else channel + g
        previous: Tensor | None = None
        if segment is not None:
            ends = segment[..., -1:, :]
            first = segment[:, :, :1, :, :1] if before is None else before.unsqueeze(2).unsqueeze(-2)
            previous = torch.cat([first, ends[:, :, :-1]], 2)
        return decays(
            tile.shape[5],
            sees,
            self.frame.dtype,
            base=None if f.base is None else self.run(tile, f.base).squeeze(-1),
            log=None if f.log is None else self.run(tile, f.log).squeeze(-1),
            token=token,
            channel=channel,
            segment=segment,
            before=previous,
        )

    def count(self, tile: ScanTile) -> Tensor:
        """How many keys each row sees [1, 1, t, 1, rows, 1]; without segments."""
        length = self.frame.call.k.shape[2]
        if self.form.kind == "reduction":
            return torch.full((1, 1, 1, 1, 1, 1), length + self.position)
        return (tile.at("q") + (0 if self.form.strict else 1)).clamp(0, length + self.position)
