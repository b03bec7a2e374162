"""Tiles of weights other than softmax, and the output clause."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import torch
from torch import Tensor

from attndsl.runtime.cpu.frame import TileFrame
from attndsl.runtime.cpu.rows import (
    NEVER,
    Recording,
    TileGradients,
    full,
    gathered,
    mixed,
    outer_gradients,
    products,
    scores,
    tile_tensors,
)
from attndsl.runtime.cpu.source import Pairs
from attndsl.runtime.cpu.support import steady


def general_forward(tile: TileFrame, scale: float, need_lse: bool) -> tuple[Tensor, Tensor | None]:
    """The weighted sum [b, g, tiles, r, rows, Dv], and lse [.., rows] if asked for."""
    q, k, v = tile_tensors(tile)
    weights, lse = _weights(tile, products(q, k, scale), need_lse)
    return mixed(weights, v), lse


def general_backward(tile: TileFrame, scale: float, grad_out: Tensor, grad_lse: Tensor | None) -> TileGradients:
    """Gradients of a tile, by recomputing it; what its expressions read is collected by the call's sources."""
    q, k, v = tile_tensors(tile)
    recording = Recording.start(tile, products(q, k, scale))
    with torch.enable_grad():
        weights, lse = _weights(tile, recording.s, grad_lse is not None)
    outputs, grads = [weights], [products(grad_out, v)]
    if lse is not None and grad_lse is not None:
        outputs.append(lse)
        grads.append(grad_lse)
    grad_s, vectors = recording.pull(outputs, grads)
    return outer_gradients(tile, scale, grad_s, vectors, gathered(weights.detach(), grad_out), q, k)


def _weights(tile: TileFrame, s: Tensor, need_lse: bool) -> tuple[Tensor, Tensor | None]:
    """The weights [b, g, tiles, r, rows, columns] from scaled dot products, 0 on invisible pairs, and lse."""
    module = tile.call.module
    assert module.weight is not None
    score, alive, count = _alive(tile, scores(tile, s))
    weights = tile.run(module.weight, s=score, alive=alive, count=count).to(tile.call.dtype)
    if alive.mask is not None:
        weights = torch.where(alive.mask, weights, 0.0)
    lse = None
    if need_lse:
        assert module.logit is not None, "lse of a weight without an exponential"
        logit = full(tile.run(module.logit, s=score, alive=alive, count=count), tile.shape)
        lse = _log_sum_exp(logit if alive.mask is None else torch.where(alive.mask, logit, NEVER))
    return full(weights, tile.shape), lse


def _alive(tile: TileFrame, score: Tensor) -> tuple[Tensor, Pairs, Tensor]:
    """The score, the pairs that have a weight (visible, and not of score -inf), and the visible keys by row."""
    seen = tile.pairs()
    count = seen.count()
    if not tile.call.module.may_be_infinite:
        if seen.mask is not None and tile.call.module.score is not None:
            # where it is no number, sqrt(q - k) above the diagonal, neither is the gradient of a weight of nothing
            score = torch.where(seen.mask, score, 0.0)
        return score, seen, count
    finite = score.detach() > NEVER
    mask = finite if seen.mask is None else finite & seen.mask
    return torch.where(mask, score, 0.0), Pairs(mask, seen.columns), count


def _log_sum_exp(logit: Tensor) -> Tensor:
    top = steady(logit.amax(-1, keepdim=True))
    total = torch.exp(logit - top).sum(-1)
    dead = total == 0
    return torch.where(dead, NEVER, top.squeeze(-1) + torch.log(torch.where(dead, 1.0, total)))


def output_forward(tile: TileFrame, raw: Tensor) -> Tensor:
    """The output clause on weighted sums [b, g, tiles, r, rows, Dv]."""
    function = tile.call.module.output
    if function is None:
        return raw
    values = _output_values(tile)
    return tile.run(function, o=raw.unsqueeze(-2), **values).squeeze(-2).expand(raw.shape)


def output_backward(tile: TileFrame, raw: Tensor, grad_out: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The gradient of the weighted sums, and of the row's Q where the clause read it."""
    recording = Recording.start(tile, raw)
    with torch.enable_grad():
        out = output_forward(tile, recording.s)
    found = recording.pull([out], [grad_out])
    tile.own.clear()
    return found


def _output_values(tile: TileFrame) -> dict[str, object]:
    function = tile.call.module.output
    assert function is not None
    if not function.reads("value"):
        return {}
    names = {a.name for a in function.arguments if a.source == "value"}
    if not names & {"alive", "count"}:
        return {}
    seen = tile.pairs()
    return {"alive": seen, "count": seen.count()}
