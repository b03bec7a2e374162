"""Tiles whose scores and weights are computed by compiled C."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from attndsl.codegen.native import CHUNK, Leaf, NativeModule
from attndsl.ir.types import Kind
from attndsl.runtime.cpu import threads
from attndsl.runtime.cpu.frame import TileFrame
from attndsl.runtime.cpu.rows import (
    Recording,
    TileGradients,
    gathered,
    mixed,
    outer_gradients,
    products_in_place,
    tile_tensors,
)


class _Leaf(ctypes.Structure):
    _fields_ = (("at", ctypes.c_void_p), ("step", ctypes.c_int64 * 5))


class _Job(ctypes.Structure):
    # as in templates/cpu/native.c.j2
    _fields_ = (
        ("pairs", ctypes.c_void_p), ("gradients", ctypes.c_void_p), ("top", ctypes.c_void_p),
        ("total", ctypes.c_void_p), ("lse", ctypes.c_void_p), ("grad_lse", ctypes.c_void_p),
        ("leaves", ctypes.c_void_p), ("wanted", ctypes.c_void_p), ("range", ctypes.c_void_p),
        ("ranges", ctypes.c_int64), ("keys", ctypes.c_int64), ("size", ctypes.c_int64 * 5),
        ("next", ctypes.c_int64), ("failed", ctypes.c_int64),
    )  # fmt: skip


@dataclass(frozen=True)
class NativeKernel:
    """A compiled module, and whether its ints have 64 bits."""

    module: NativeModule
    library: ctypes.CDLL
    wide: bool

    def forward(self, tile: TileFrame, scale: float) -> tuple[Tensor, Tensor]:
        """The weighted sum [b, g, tiles, r, rows, Dv] and lse [.., rows] of softmax over the score."""
        q, k, v = tile_tensors(tile)
        s = products_in_place(tile, q, k, scale)
        total, lse = s.new_empty(tile.shape[:5]), s.new_empty(tile.shape[:5])
        leaves = [self._read(tile, leaf) for leaf in self.module.leaves]
        self._run("forward", tile, leaves, pairs=s, total=total, lse=lse)
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
        leaves = [self._read(tile, leaf, known.get(leaf.name)) for leaf in self.module.leaves]
        s = products_in_place(tile, q, k, scale)
        ds = products_in_place(tile, grad_out, v, 1.0, "gradients")
        into = [self._gradients(tile, leaf) for leaf in differentiated] if wanted else []
        grad_lse = None if grad_lse is None else grad_lse.expand(tile.shape[:5]).contiguous()
        self._run("backward", tile, leaves, pairs=s, gradients=ds, grad_lse=grad_lse, wanted=into)
        vectors: dict[str, Tensor] = {}
        if wanted:
            sums = [g.sum_to_size(_like(g, x)).to(x.dtype).reshape(x.shape) for g, x in zip(into, found, strict=True)]
            tile.own.update(own)
            _, vectors = recording.pull(found, sums)
        tile.own.clear()
        return outer_gradients(tile, scale, ds, vectors, gathered(s, grad_out), q, k)

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
            return torch.zeros((*lead, -(-rows // CHUNK), columns))
        return torch.empty((*lead, rows, columns))

    def _run(
        self,
        name: str,
        tile: TileFrame,
        leaves: Sequence[Tensor],
        pairs: Tensor,
        gradients: Tensor | None = None,
        total: Tensor | None = None,
        lse: Tensor | None = None,
        grad_lse: Tensor | None = None,
        wanted: Sequence[Tensor] = (),
    ) -> None:
        table = (_Leaf * max(1, len(leaves)))(*[_leaf(t) for t in leaves])
        ranges = [n for r in _ranges(tile) for n in r]
        range_table = (ctypes.c_int64 * len(ranges))(*ranges)
        places = (ctypes.c_void_p * max(1, len(wanted)))(*[t.data_ptr() for t in wanted])
        job = _Job(
            pairs=pairs.data_ptr(), gradients=_at(gradients), total=_at(total), lse=_at(lse),
            grad_lse=_at(grad_lse), leaves=ctypes.addressof(table),
            wanted=ctypes.addressof(places) if wanted else None, range=ctypes.addressof(range_table),
            ranges=len(ranges) // 3, keys=tile.shape[5], size=(ctypes.c_int64 * 5)(*tile.shape[:5]),
        )  # fmt: skip
        assert pairs.numel() == prod(tile.shape)
        threads.run(self.library, name, job)
        if job.failed:
            raise MemoryError(f"{tile.call.attention.name}: no memory for a row of {tile.shape[5]} keys")


def _at(t: Tensor | None) -> int | None:
    return None if t is None else t.data_ptr()


def _leaf(t: Tensor) -> Any:
    size = t.element_size()
    steps = [t.stride(d) * size if t.shape[d] > 1 else 0 for d in range(5)]
    return _Leaf(t.data_ptr(), (ctypes.c_int64 * 5)(*steps))


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
