"""What a tile computes on whole rows: products, scores, softmax, and their derivatives."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportPrivateUsage=false

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attndsl.runtime.cpu.frame import TileFrame
from attndsl.runtime.cpu.source import Tape

NEVER = -math.inf


@dataclass(frozen=True)
class TileGradients:
    """Gradients of a tile's rows of q and columns of k and v, and of the elements that it read."""

    q: Tensor
    k: Tensor
    v: Tensor


def products(rows: Tensor, cols: Tensor, scale: float = 1.0) -> Tensor:
    """Every row of [b, g, tiles, r, rows, D] times every column of [b, g, tiles, columns, D]."""
    if scale != 1.0:
        rows = rows * scale
    return (rows.flatten(3, 4) @ cols.transpose(-1, -2)).unflatten(3, rows.shape[3:5])


def mixed(weights: Tensor, cols: Tensor) -> Tensor:
    """Weights [b, g, tiles, r, rows, columns] times [b, g, tiles, columns, D], as [b, g, tiles, r, rows, D]."""
    return (weights.flatten(3, 4) @ cols).unflatten(3, weights.shape[3:5])


def gathered(weights: Tensor, rows: Tensor) -> Tensor:
    """Transposed weights times [b, g, tiles, r, rows, D], summed over query heads: [b, g, tiles, columns, D]."""
    return weights.flatten(3, 4).transpose(-1, -2) @ rows.flatten(3, 4)


def full(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """x written out over the pairs."""
    return x if tuple(x.shape) == shape else x.expand(shape).contiguous()


def scores(tile: TileFrame, s: Tensor) -> Tensor:
    """The final score of every pair."""
    score = tile.call.module.score
    return s if score is None else full(tile.run(score, s=s), tile.shape)


def softmax_rows(tile: TileFrame, score: Tensor) -> tuple[Tensor, Tensor | None]:
    """The softmax of visible scores, and which rows are dead (None: no row can be). May overwrite `score`."""
    masks = tile.masks()
    for lo, hi, m in masks:
        score[..., lo:hi].masked_fill_(~m, NEVER)
    if not masks and not tile.call.module.may_be_infinite:
        return torch.softmax(score, -1), None
    dead = score.amax(-1, keepdim=True) == NEVER
    if not bool(dead.any()):
        return torch.softmax(score, -1), None
    weights = torch.softmax(score.masked_fill_(dead, 0.0), -1)
    return weights.masked_fill_(dead, 0.0), dead


def softmax_forward(tile: TileFrame, scale: float, need_lse: bool) -> tuple[Tensor, Tensor | None]:
    """The weighted sum [b, g, tiles, r, rows, Dv] and lse [.., rows] for exp(score) / sum."""
    q, k, v = tile_tensors(tile)
    score = scores(tile, products(q, k, scale))
    lse = None
    if need_lse:
        for lo, hi, m in tile.masks():
            score[..., lo:hi].masked_fill_(~m, NEVER)
        lse = torch.logsumexp(score, -1)
    weights, _ = softmax_rows(tile, score)
    return mixed(weights, v), lse


def tile_tensors(tile: TileFrame) -> tuple[Tensor, Tensor, Tensor]:
    """q of the rows, k and v of the columns, at the precision of the computation."""
    b, dtype = tile.batch, tile.call.dtype
    return b.take_rows(tile.q).to(dtype), b.take_cols(tile.k).to(dtype), b.take_cols(tile.v).to(dtype)


@dataclass(frozen=True)
class Recording:
    """A tile's function of its scaled dot products `s`, with what else it read as leaves."""

    tile: TileFrame
    s: Tensor
    tape: Tape

    @staticmethod
    def start(tile: TileFrame, s: Tensor) -> Recording:
        tile.recording = True
        return Recording(tile, s.detach().requires_grad_(), tile.call.record())

    def pull(self, outputs: list[Tensor], grads: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The gradient of `s` and of the vectors Q, K, V of the tile that were read; other reads are collected."""
        self.tile.call.stop()
        self.tile.recording = False
        own = self.tile.own
        kept = [(o, g.expand(o.shape)) for o, g in zip(outputs, grads, strict=True) if o.requires_grad]
        if not kept:
            return torch.zeros_like(self.s), {}
        leaves = [self.s, *own.values(), *self.tape.leaves]
        found: Any = torch.autograd.grad([o for o, _ in kept], leaves, [g for _, g in kept], allow_unused=True)
        grad_s = torch.zeros_like(self.s) if found[0] is None else found[0]
        vectors = {n: g for n, g in zip(own, found[1 : 1 + len(own)], strict=True) if g is not None}
        self.tape.collect(list(found[1 + len(own) :]))
        return grad_s, vectors


def softmax_backward(tile: TileFrame, scale: float, grad_out: Tensor, grad_lse: Tensor | None) -> TileGradients:
    """Gradients of a softmax tile, by recomputing it; what its score read is collected by the call's sources."""
    q, k, v = tile_tensors(tile)
    s = products(q, k, scale)
    recording = None
    score = s
    if tile.call.module.score is not None:
        recording = Recording.start(tile, s)
        with torch.enable_grad():
            score = scores(tile, recording.s)
        s = score.detach().clone()
    weights, _ = softmax_rows(tile, s)
    grad_weights = products(grad_out, v)
    grad_score = torch.ops.aten._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
    if grad_lse is not None:
        grad_score += weights * grad_lse.unsqueeze(-1)
    grad_s, vectors = (grad_score, {}) if recording is None else recording.pull([score], [grad_score])
    return outer_gradients(tile, scale, grad_s, vectors, gathered(weights, grad_out), q, k)


def outer_gradients(
    tile: TileFrame, scale: float, grad_s: Tensor, vectors: dict[str, Tensor], grad_v: Tensor, q: Tensor, k: Tensor
) -> TileGradients:
    """From the gradient of the scaled dot products (and of vectors that expressions read) to that of q, k, v."""
    grad_q, grad_k = mixed(grad_s, k) * scale, gathered(grad_s, q) * scale
    if "Q" in vectors:
        grad_q = grad_q + vectors["Q"].squeeze(-2)
    if "K" in vectors:
        grad_k = grad_k + vectors["K"].squeeze(3).squeeze(3)
    if "V" in vectors:
        grad_v = grad_v + vectors["V"].squeeze(3).squeeze(3)
    return TileGradients(grad_q, grad_k, grad_v)
