"""Softmax tiles through torch's own CPU flash kernel, where its private operator is there and right.

It takes one floating mask that is added to the scores; it gives lse 0 for rows that see nothing and wants D == Dv.
Query heads of one key head become rows of one problem, so that grouped heads need no copies of k and v.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from attndsl.codegen.names import Function
from attndsl.runtime.cpu.frame import CallFrame, TileFrame
from attndsl.runtime.cpu.part import Batch
from attndsl.runtime.cpu.rows import NEVER, Recording, TileGradients


def _forward_op() -> Any:
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default


def _backward_op() -> Any:
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default


@lru_cache(maxsize=8)
def available(dtype: torch.dtype) -> bool:
    """Whether the operator exists and gives right numbers, with a mask and a dead row, forward and backward."""
    try:
        return _probe(dtype)
    except (AttributeError, RuntimeError, TypeError):
        return False


def _probe(dtype: torch.dtype) -> bool:
    made = torch.Generator().manual_seed(7)
    q, k, v, g = (torch.randn(2, 2, n, 8, generator=made).to(dtype) for n in (5, 9, 9, 5))
    added = torch.randn(2, 2, 5, 9, generator=made)
    added[:, :, 1, 3:] = NEVER
    added[:, :, 2] = NEVER
    added = added.double() if dtype == torch.float64 else added
    out, lse = _forward_op()(q, k, v, 0.0, False, attn_mask=added, scale=0.3)
    grads = _backward_op()(g, q, k, v, out, lse, 0.0, False, attn_mask=added, scale=0.3)
    leaves = [x.double().requires_grad_() for x in (q, k, v)]
    with torch.enable_grad():
        score = leaves[0] @ leaves[1].transpose(-1, -2) * 0.3 + added
        dead = (score == NEVER).all(-1, keepdim=True)
        want = torch.softmax(score.masked_fill(dead, 0.0), -1).masked_fill(dead, 0.0) @ leaves[2]
        want_lse = torch.logsumexp(score.detach(), -1).masked_fill(dead.squeeze(-1), 0.0)
    want_grads = torch.autograd.grad(want, leaves, g.double())
    limit = {torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, 5e-2)
    pairs = [(out, want.detach()), (lse, want_lse), *zip(grads, want_grads, strict=True)]
    return all(bool(((a.double() - b).abs() <= limit * (1 + b.abs())).all()) for a, b in pairs)


def flash_forward(tile: TileFrame, scale: float) -> tuple[Tensor, Tensor]:
    """The weighted sum [b, g, tiles, r, rows, D] in the inputs' dtype, and lse [b, g, tiles, r, rows]."""
    added = _added(tile)
    q, k, v = _tensors(tile)
    found = [_forward_op()(q[at], k[at], v[at], 0.0, False, attn_mask=_at(added, at), scale=scale) for at in _calls(q)]
    out, lse = (_united(q, list(parts)) for parts in zip(*found, strict=True))
    return _back(tile, out), _mark_dead(_back(tile, lse), added, tile)


def sink_forward(tile: TileFrame, out: Tensor, lse: Tensor) -> Tensor:
    """The weighted sum with exp(sink) in the denominator, from that without: like a key of value 0."""
    function = tile.call.module.sink
    if function is None:
        return out
    return out.to(lse.dtype) * torch.sigmoid(lse.unsqueeze(-1) - _sink(tile, function, lse))


def sink_backward(tile: TileFrame, grad: Tensor, out: Tensor, lse: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """lse with the sink, from which `flash_backward` gives the gradients of q, k, v, and the gradient of the row's Q
    where the sink read it; other gradients of the sink are collected."""
    function = tile.call.module.sink
    if function is None:
        return lse, {}
    recording = Recording.start(tile, torch.zeros(()))
    with torch.enable_grad():
        sink = tile.run(function)
    at = sink.detach().to(lse.dtype).expand(*lse.shape, 1).squeeze(-1)
    share = torch.sigmoid(at - lse)
    along = (grad.to(lse.dtype) * out.to(lse.dtype)).sum(-1)
    by_row = -(share * along).unsqueeze(-1)
    _, vectors = recording.pull([sink], [by_row.sum_to_size(sink.shape).to(sink.dtype)])
    tile.own.clear()
    return torch.where(lse == NEVER, NEVER, torch.logaddexp(lse, at)), vectors


def _sink(tile: TileFrame, function: Function, like: Tensor) -> Tensor:
    return tile.run(function).to(like.dtype)


def _tensors(tile: TileFrame) -> tuple[Tensor, Tensor, Tensor]:
    """q [b, tiles, g, r * rows, D], k and v [b, tiles, g, columns, D]."""
    b = tile.batch
    q = b.take_rows(tile.q).transpose(1, 2).flatten(3, 4)
    return q, b.take_cols(tile.k).transpose(1, 2), b.take_cols(tile.v).transpose(1, 2)


def _back(tile: TileFrame, x: Tensor) -> Tensor:
    """[b, tiles, g, r * rows, ..] as [b, g, tiles, r, rows, ..]."""
    return x.unflatten(3, (tile.shape[3], tile.shape[4])).transpose(1, 2)


def _calls(q: Tensor) -> list[Any]:
    """Which slices of [b, tiles, ..] make one call each."""
    if q.shape[1] == 1:
        return [(slice(None), 0)]
    return [(b,) for b in range(q.shape[0])]


def _at(added: Tensor | None, at: Any) -> Tensor | None:
    if added is None:
        return None
    return added[tuple(i if isinstance(i, slice) or added.shape[d] > 1 else 0 for d, i in enumerate(at))]


def _added(tile: TileFrame) -> Tensor | None:
    """What is added to scores [b or 1, tiles or 1, g or 1, r * rows, columns]: the bias, -inf on invisible pairs."""
    bias = tile.call.module.bias
    *_, r, m, n = tile.shape
    known = tile.batch.added
    if bias is None and known is not None:
        return known if r == 1 else known.unsqueeze(3).expand(*known.shape[:3], r, m, n).flatten(3, 4)
    masks = tile.masks()
    if bias is None and not masks:
        return None
    parts = [x for _, _, x in masks]
    if bias is not None:
        parts.append(tile.run(bias, **tile.common, **tile.pair_values(bias)).to(tile.call.dtype))
    lead = torch.broadcast_shapes(*[x.shape[:4] for x in parts])
    shape = (*lead, m, n)
    if bias is None:
        added = torch.zeros(shape, dtype=tile.call.dtype)
    else:
        added = parts[-1].expand(shape).contiguous()
    for lo, hi, x in masks:
        added[..., lo:hi].masked_fill_(~x, NEVER)
    if lead[3] != r:
        added = added.expand(*lead[:3], r, m, n)
    return added.transpose(1, 2).flatten(3, 4)


def _mark_dead(lse: Tensor, added: Tensor | None, tile: TileFrame) -> Tensor:
    """-inf for rows that see nothing, where the operator gives 0."""
    if added is None:
        return lse
    suspects = lse == 0
    if not bool(suspects.any()):
        return lse
    dead = (added == NEVER).all(-1).unflatten(3, (tile.shape[3], tile.shape[4])).transpose(1, 2)
    return lse.masked_fill(dead, NEVER)


def accurate(lse: Tensor | None) -> bool:
    """Whether a backward from lse is accurate: its rounding is a relative error of every weight."""
    if lse is None or not lse.numel():
        return lse is not None
    return bool((lse.masked_fill(lse == NEVER, 0.0).abs() < 100).all())


def flash_backward(tile: TileFrame, scale: float, grad: Tensor, out: Tensor, lse: Tensor) -> TileGradients:
    """Gradients from those of the weighted sums, the sums and lse, all as `flash_forward` gives them."""
    added = _added(tile)
    q, k, v = _tensors(tile)
    grad, out = (x.transpose(1, 2).flatten(3, 4) for x in (grad, out))
    lse = lse.masked_fill(lse == NEVER, 0.0).transpose(1, 2).flatten(3, 4)
    found = [
        _backward_op()(
            grad[at], q[at], k[at], v[at], out[at], lse[at], 0.0, False, attn_mask=_at(added, at), scale=scale
        )
        for at in _calls(q)
    ]
    grad_q, grad_k, grad_v = (_united(q, list(parts)) for parts in zip(*found, strict=True))
    return TileGradients(_back(tile, grad_q), grad_k.transpose(1, 2), grad_v.transpose(1, 2))


def _united(q: Tensor, parts: list[Tensor]) -> Tensor:
    """The results of `_calls` as one."""
    if q.shape[1] == 1:
        return parts[0].unsqueeze(1)
    return parts[0].unsqueeze(0) if len(parts) == 1 else torch.stack(parts)


def mask_added(call: CallFrame, batch: Batch) -> Tensor | None:
    """A mask that depends on positions alone as 0 and -inf, [1, 1 or tiles, 1, rows, columns]: one for all tiles
    where they are equal."""
    shape = (1, 1, batch.tiles, 1, batch.row_count)
    masks = [(lo, hi, m.expand(*shape, hi - lo)[:, 0, :]) for lo, hi, m in TileFrame.bare(call, batch).masks()]
    if not masks:
        return None
    if all(bool((m == m[:, :1]).all()) for _, _, m in masks):
        masks = [(lo, hi, m[:, :1]) for lo, hi, m in masks]
    added = torch.zeros((1, masks[0][2].shape[1], 1, batch.row_count, batch.col_count), dtype=call.dtype)
    for lo, hi, m in masks:
        added[..., lo:hi].masked_fill_(~m, NEVER)
    return added
