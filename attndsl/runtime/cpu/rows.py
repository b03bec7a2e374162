"""What a tile computes on whole rows: products, scores, softmax, and their derivatives."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportPrivateUsage=false

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attndsl.runtime.cpu.frame import TileFrame, rows_of
from attndsl.runtime.cpu.source import Tape

NEVER = -math.inf
SLAB_PAIRS = 1 << 17
"""Pairs whose scores and weights are computed at once: some buffers of them should stay in a core's own cache."""


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
    return s if score is None else full(tile.run(score, s=s, **tile.pair_values(score)), tile.shape)


def _slabs(tile: TileFrame) -> list[tuple[int, int]]:
    """Rows that are computed at once."""
    *lead, rows, columns = tile.shape
    step = rows if math.prod(lead) > 1 else max(1, SLAB_PAIRS // max(1, columns))
    return [(lo, min(rows, lo + step)) for lo in range(0, rows, step)]


def _may_be_dead(tile: TileFrame) -> bool:
    """Whether a row can have no score above -inf."""
    masked = sum(hi - lo for lo, hi, _ in tile.masks())
    return tile.call.module.may_be_infinite or masked == tile.shape[-1]


def softmax_rows(tile: TileFrame, score: Tensor) -> Tensor:
    """The softmax of visible scores; 0 in rows that see nothing. May overwrite `score`."""
    rows = tile.shape[4]
    return _softmax(score, [(lo, hi, ~m) for lo, hi, m in tile.masks()], (0, rows, rows), _may_be_dead(tile), None)[0]


Hidden = list[tuple[int, int, Tensor]]
"""Ranges of columns and where they are invisible."""


def _softmax(
    score: Tensor, hidden: Hidden, at: tuple[int, int, int], may_be_dead: bool, out: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """The softmax of some rows (from, to, of how many), which may be `out`; and the largest score of each row where
    one can be dead. Overwrites `score`."""
    for lo, hi, m in hidden:
        score[..., lo:hi].masked_fill_(rows_of(m, *at), NEVER)
    top = score.amax(-1, keepdim=True) if may_be_dead else None
    dead = None if top is None else top == NEVER
    if dead is None or not bool(dead.any()):
        return torch.softmax(score, -1) if out is None else torch.softmax(score, -1, out=out), top
    weights = torch.softmax(score.masked_fill_(dead, 0.0), -1).masked_fill_(dead, 0.0)
    return weights if out is None else out.copy_(weights), top


def products_in_place(tile: TileFrame, rows: Tensor, cols: Tensor, scale: float, name: str = "") -> Tensor:
    """`products` in a buffer of the call, whose pages are there already; not to be kept."""
    rows = rows.flatten(3, 4)
    b, g, t, m, _ = rows.shape
    n = cols.shape[-2]
    out = tile.call.buffer(b * g * t * m * n, name).view(b * g * t, m, n)
    rows = (rows if scale == 1.0 else rows * scale).reshape(b * g * t, m, -1)
    torch.bmm(rows, cols.reshape(b * g * t, n, -1).transpose(-1, -2), out=out)
    return out.view(tile.shape)


def softmax_forward(tile: TileFrame, scale: float, need_lse: bool) -> tuple[Tensor, Tensor | None]:
    """The weighted sum [b, g, tiles, r, rows, Dv] and lse [.., rows] for exp(score) / sum."""
    q, k, v = tile_tensors(tile)
    s = products_in_place(tile, q, k, scale)
    function = tile.call.module.score
    run = None if function is None else tile.run_by_rows(function, s)
    hidden = [(lo, hi, ~m) for lo, hi, m in tile.masks()]
    may_be_dead = need_lse or _may_be_dead(tile)
    rows = tile.shape[4]
    slabs = _slabs(tile)
    lse = s.new_empty(tile.shape[:5]) if need_lse else None
    for lo, hi in slabs:
        part = s if len(slabs) == 1 else s[..., lo:hi, :]
        score = part if run is None else full(run(lo, hi), tuple(part.shape))
        weights, top = _softmax(score, hidden, (lo, hi, rows), may_be_dead, None if len(slabs) == 1 else part)
        s = weights if len(slabs) == 1 else s
        if lse is not None and top is not None:
            # the largest weight is 1 / sum(exp(score - top))
            rest = weights.amax(-1).log_()
            lse[..., lo:hi] = torch.where(top.squeeze(-1) == NEVER, NEVER, top.squeeze(-1) - rest)
    return mixed(s, v), lse


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
        tile.own.clear()
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
    weights = softmax_rows(tile, s)
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
    return with_vectors(TileGradients(mixed(grad_s, k) * scale, gathered(grad_s, q) * scale, grad_v), vectors)


def with_vectors(grads: TileGradients, vectors: dict[str, Tensor]) -> TileGradients:
    """The same with the gradients of a tile's own vectors added."""
    grad_q, grad_k, grad_v = grads.q, grads.k, grads.v
    if "Q" in vectors:
        grad_q = grad_q + vectors["Q"].squeeze(-2)
    if "K" in vectors:
        grad_k = grad_k + vectors["K"].squeeze(3).squeeze(3)
    if "V" in vectors:
        grad_v = grad_v + vectors["V"].squeeze(3).squeeze(3)
    return TileGradients(grad_q, grad_k, grad_v)
