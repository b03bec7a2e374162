"""Tiles whose scores and weights are computed by compiled C."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from attndsl.codegen.native import Leaf, NativeModule
from attndsl.ir.types import Kind
from attndsl.runtime.cpu import threads
from attndsl.runtime.cpu.frame import TileFrame
from attndsl.runtime.cpu.job import Job
from attndsl.runtime.cpu.rows import (
    Recording,
    TileGradients,
    gathered,
    mixed,
    outer_gradients,
    products_in_place,
    tile_tensors,
    with_vectors,
)
from attndsl.runtime.cpu.schedule import SLAB_PAIRS, Way

OWN_PAIRS = 1 << 22
MOST_ROWS, FEWEST_ROWS = 128, 16
"""Pairs and rows that a thread computes at once where it multiplies itself. Products of fewer rows are slower, though
their pairs would fit a core's own cache."""
SHARED_ROWS = 8
"""Rows that a thread takes at once where torch multiplies."""
TILE_PAIRS = 1 << 26
"""Pairs of other tiles: nothing of their size is kept."""
KEY_NUMBERS = 1 << 20
"""Numbers of key gradients of one step: they should stay in a cache until they are added."""
UNITS = 2
"""Parts of the rows for each thread, where key gradients are summed by part."""


@dataclass(frozen=True)
class NativeKernel:
    """A compiled module, and whether its ints have 64 bits."""

    module: NativeModule
    library: ctypes.CDLL
    wide: bool

    @cached_property
    def gemm(self) -> ctypes.c_void_p | None:
        """What multiplies within the kernel; None where torch multiplies before and after it."""
        return threads.gemm()

    @cached_property
    def way(self) -> Way:
        """Which tiles it wants."""
        by_pair = any(leaf.span == "pair" for leaf in self.module.leaves)
        return "slabs" if self.gemm is None or by_pair else "native"

    def room(self, rows: int, columns: int, width: int, backward: bool) -> int:
        """Pairs of one step, of tiles of so many rows and columns; keys and values together are `width` numbers."""
        most = SLAB_PAIRS if self.way == "slabs" else TILE_PAIRS
        if not backward:
            return most
        units = max(UNITS * torch.get_num_threads(), KEY_NUMBERS // (columns * width))
        return min(most, units * rows * columns)

    def forward(self, tile: TileFrame, scale: float) -> tuple[Tensor, Tensor]:
        """The weighted sum [b, g, tiles, r, rows, Dv] and lse [.., rows] of softmax over the score."""
        q, k, v = tile_tensors(tile)
        total, lse = torch.empty((2, *tile.shape[:5]))
        job = self._job(tile)
        job.leaves([self._read(tile, leaf) for leaf in self.module.leaves])
        job.arrays(total=total, lse=lse)
        if self.gemm is not None:
            out = torch.empty((*tile.shape[:5], v.shape[-1]))
            job.matrices(self.gemm, scale, q=q, k=k, v=v, out=out)
            job.run(self.library, "forward")
            return out, lse
        s = products_in_place(tile, q, k, scale)
        job.arrays(pairs=s)
        job.run(self.library, "forward")
        return mixed(s, v).div_(total.unsqueeze(-1)), lse

    def backward(self, tile: TileFrame, scale: float, grad_out: Tensor, grad_lse: Tensor | None) -> TileGradients:
        """Gradients of a tile, by recomputing it; what its leaves read is collected by the call's sources."""
        q, k, v = tile_tensors(tile)
        recording = Recording.start(tile, torch.zeros(()))
        differentiated = self.module.differentiated
        with torch.enable_grad():
            found = [self._value(tile, leaf) for leaf in differentiated]
        own = dict(tile.own)
        tile.call.stop()
        tile.recording = False
        tile.own.clear()
        wanted = any(x.requires_grad for x in found)
        known = {leaf.name: x for leaf, x in zip(differentiated, found, strict=True)}
        job = self._job(tile)
        job.leaves([self._read(tile, leaf, known.get(leaf.name)) for leaf in self.module.leaves])
        into = [self._gradients(tile, leaf) for leaf in differentiated] if wanted else []
        job.wanted(into)
        job.arrays(grad_lse=None if grad_lse is None else grad_lse.expand(tile.shape[:5]).contiguous())
        grads = self._backward(tile, job, scale, grad_out, (q, k, v))
        vectors: dict[str, Tensor] = {}
        if wanted:
            sums = [g.sum_to_size(_like(g, x)).to(x.dtype).reshape(x.shape) for g, x in zip(into, found, strict=True)]
            tile.own.update(own)
            _, vectors = recording.pull(found, sums)
        tile.own.clear()
        return with_vectors(grads, vectors)

    def _backward(
        self, tile: TileFrame, job: Job, scale: float, grad_out: Tensor, tensors: tuple[Tensor, Tensor, Tensor]
    ) -> TileGradients:
        q, k, v = tensors
        if self.gemm is None:
            s = products_in_place(tile, q, k, scale)
            ds = products_in_place(tile, grad_out, v, 1.0, "gradients")
            job.arrays(pairs=s, gradients=ds)
            job.run(self.library, "backward")
            return outer_gradients(tile, scale, ds, {}, gathered(s, grad_out), q, k)
        b, g, t, r, rows, columns = tile.shape
        chunks = r * -(-rows // self._rows(tile))
        parts = min(chunks, max(1, -(-UNITS * torch.get_num_threads() // (b * g * t))))
        grad_q = torch.empty((*tile.shape[:5], q.shape[-1]))
        grad_k, grad_v = (torch.empty((b, g, t, parts, columns, x.shape[-1])) for x in (k, v))
        job.matrices(
            self.gemm, scale, parts, q=q, k=k, v=v, grad_out=grad_out, grad_q=grad_q, grad_k=grad_k, grad_v=grad_v
        )
        job.run(self.library, "backward")
        if parts == 1:
            return TileGradients(grad_q, grad_k.squeeze(3), grad_v.squeeze(3))
        return TileGradients(grad_q, grad_k.sum(3), grad_v.sum(3))

    def _job(self, tile: TileFrame) -> Job:
        return Job(tile.shape, self._rows(tile), _ranges(tile))

    def _rows(self, tile: TileFrame) -> int:
        """Rows that a thread takes at once: enough for a product, few enough to share a tile."""
        *lead, rows, columns = tile.shape
        if self.gemm is None:
            return SHARED_ROWS
        share = -(-prod(lead) * rows // (4 * torch.get_num_threads()))
        return max(FEWEST_ROWS, min(MOST_ROWS, OWN_PAIRS // columns, share))

    def _value(self, tile: TileFrame, leaf: Leaf) -> Tensor:
        return tile.run(leaf.function, **tile.pair_values(leaf.function))

    def _read(self, tile: TileFrame, leaf: Leaf, value: Tensor | None = None) -> Tensor:
        """A leaf as C reads it: [.., rows, 1], [.., 1, columns] or [.., rows, columns], keys side by side."""
        known = tile.leaves.get(leaf.name)
        if known is None:
            known = self._converted(tile, leaf, value)
            if leaf.shared:
                tile.leaves[leaf.name] = known
        return known

    def _converted(self, tile: TileFrame, leaf: Leaf, value: Tensor | None) -> Tensor:
        found = (self._value(tile, leaf) if value is None else value).detach()
        kinds = {Kind.FLOAT: torch.float32, Kind.BOOL: torch.bool, Kind.INT: torch.int64 if self.wide else torch.int32}
        found = found.to(kinds[leaf.kind])
        if leaf.span == "row":
            return found
        n = tile.shape[5]
        if found.shape[5] != n:
            found = found.expand(*found.shape[:5], n)
        return found if found.stride(5) == 1 or n == 1 else found.contiguous()

    def _gradients(self, tile: TileFrame, leaf: Leaf) -> Tensor:
        """Room for the gradients of a leaf: of rows, of keys by chunk of rows, or of pairs."""
        *lead, rows, columns = tile.shape
        if leaf.span == "row":
            return torch.empty((*lead, rows, 1))
        if leaf.span == "column":
            return torch.zeros((*lead, -(-rows // self._rows(tile)), columns))
        return torch.empty((*lead, rows, columns))


def _ranges(tile: TileFrame) -> list[tuple[int, int, int]]:
    """(from, to, whether the mask is needed) over all columns."""
    out: list[tuple[int, int, int]] = []
    at = 0
    partial = () if tile.call.module.mask is None else tile.batch.partial
    for lo, hi in sorted(partial):
        if lo > at:
            out.append((at, lo, 0))
        out.append((lo, hi, 1))
        at = hi
    if at < tile.shape[5]:
        out.append((at, tile.shape[5], 0))
    return out


def _like(g: Tensor, x: Tensor) -> tuple[int, ...]:
    """The shape of x beside g: six dimensions."""
    return (1,) * (g.ndim - x.ndim) + tuple(x.shape)
