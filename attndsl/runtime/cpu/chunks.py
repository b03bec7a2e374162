"""The arithmetic of a block of chunks: decays, products of features within a chunk, states between chunks.

All in differentiable torch operations. A block has the dimensions [b, g, t, r, C, ..]: batch, key head, chunk, query
head of the key head (1 where a key looks the same to all), position in the chunk. A state is [b, g, r, F, E]: the sum
over the keys before the chunk of features [F] times values [E], decayed up to the position before the chunk.

With c the sum of the logarithms of the decay from the chunk's first position to one of it (both included):
S' = exp(c_last) S + sum_j exp(c_last - c_j) k_j v_j^T,
o_i = exp(c_i) q_i S + sum_{j <= i} exp(c_i - c_j) (q_i k_j) v_j.
Differences are formed before exp, and 0 is selected where a pair is masked. A decay per feature does not factor safely
over a chunk: pairs of different sub-chunks are centred on the later one's start, where both factors are at most 1, and
pairs of one sub-chunk are formed one by one. Yang et al., Gated linear attention, 2024.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal as Lit

import torch
from torch import Tensor

SUB = 16
"""Positions of a sub-chunk."""

Sees = Lit["up to", "before", "all"]
"""What a position sees of its own chunk."""


def times(a: Tensor, b: Tensor) -> Tensor:
    """Matrix products [.., r, m, n] by [.., r or 1, n, p], without copies of a shared right side."""
    r, m = a.shape[-3:-1]
    if b.shape[-3] == 1 and r > 1:
        return (a.flatten(-3, -2) @ b.squeeze(-3)).unflatten(-2, (r, m))
    return a @ b


@dataclass(frozen=True)
class Decays:
    """What the decay does in a block; None where it does nothing.

    `pair [.., C, C]` multiplies the products of a chunk and holds its mask; `row [.., C, 1]` what a row keeps of the
    state, `key [.., C, 1]` what is left of a key at the chunk's end, `total [.., 1, 1]` of the state there. `channel
    [.., C, F]` are sums of logarithms by feature.
    """

    pair: Tensor
    row: Tensor | None
    key: Tensor | None
    total: Tensor | None
    channel: Tensor | None


def decays(
    size: int,
    sees: Sees,
    dtype: torch.dtype,
    base: Tensor | None = None,
    log: Tensor | None = None,
    token: Tensor | None = None,
    channel: Tensor | None = None,
    segment: Tensor | None = None,
    before: Tensor | None = None,
) -> Decays:
    """The decays of chunks of `size` positions.

    `base` and `log` are [.., 1] by head, `token` [.., C], `channel` [.., C, F] by position; `segment [.., C, n]` are
    the segments of positions, `before [.., 1, n]` those of the position before each chunk.
    """
    at = torch.arange(size)
    apart = at[:, None] - at
    visible = {"up to": apart >= 0, "before": apart > 0, "all": apart >= -size}[sees]
    steps = torch.where(visible, apart.abs(), 0)
    exponent: Tensor | None = None
    pair = torch.ones((), dtype=dtype)
    row: Tensor | None = None
    key: Tensor | None = None
    total: Tensor | None = None
    sums = None if token is None else token.cumsum(-1)
    if log is not None:
        each = log.unsqueeze(-1)
        exponent = each * steps.to(dtype)
        row, key, total = log * (at + 1), log * (size - 1 - at), log * size
    if sums is not None:
        difference = torch.where(visible, sums.unsqueeze(-1) - sums.unsqueeze(-2), 0.0)
        exponent = difference if exponent is None else exponent + difference
        last = sums[..., -1:]
        row = _plus(row, sums)
        key = _plus(key, last - sums)
        total = _plus(total, last)
    if exponent is not None:
        assert row is not None and key is not None and total is not None
        pair, row, key, total = exponent.exp(), row.exp(), key.exp(), total.exp()
    if base is not None:
        pair = pair * base.unsqueeze(-1).pow(steps)
        row, key, total = (
            _times(x, base.pow(n)) for x, n in ((row, at + 1), (key, size - 1 - at), (total, torch.tensor(size)))
        )
    if segment is not None:
        assert before is not None
        end = segment[..., -1:, :]
        visible = visible & (segment.unsqueeze(-2) == segment.unsqueeze(-3)).all(-1)
        row, key, total = (
            _times(x, (a == b).all(-1).to(dtype))
            for x, a, b in ((row, segment, before), (key, segment, end), (total, end, before))
        )
    pair = torch.where(visible, pair, 0.0)
    row, key, total = (None if x is None else x.unsqueeze(-1) for x in (row, key, total))
    return Decays(pair, row, key, total, None if channel is None else channel.cumsum(-2))


def _plus(a: Tensor | None, b: Tensor) -> Tensor:
    return b if a is None else a + b


def _times(a: Tensor | None, b: Tensor) -> Tensor:
    return b if a is None else a * b


def from_state(query: Tensor, decay: Decays, before: Tensor) -> Tensor:
    """What rows [.., C, F] get of the states before their chunks [.., F, E]."""
    if decay.row is not None:
        query = query * decay.row
    if decay.channel is not None:
        query = query * decay.channel.exp()
    return times(query, before)


def within(query: Tensor, key: Tensor, value: Tensor, decay: Decays) -> Tensor:
    """What rows get of the keys [.., C, F] and values [.., C, E] of their own chunk."""
    products = times(query, key.transpose(-1, -2)) if decay.channel is None else _by_channel(query, key, decay.channel)
    return times(products * decay.pair, value)


def _by_channel(query: Tensor, key: Tensor, sums: Tensor) -> Tensor:
    """sum_f q_if k_jf exp(c_if - c_jf) [.., C, C] for j <= i, 0 elsewhere."""
    size = query.shape[-2]
    rows: list[Tensor] = []
    for lo in range(0, size, SUB):
        hi = min(size, lo + SUB)
        q, c = query[..., lo:hi, :], sums[..., lo:hi, :]
        parts: list[Tensor] = []
        if lo:
            start = sums[..., lo - 1 : lo, :]
            earlier = key[..., :lo, :] * (start - sums[..., :lo, :]).exp()
            parts.append(times(q * (c - start).exp(), earlier.transpose(-1, -2)))
        visible = torch.ones((hi - lo, hi - lo), dtype=torch.bool).tril().unsqueeze(-1)
        difference = torch.where(visible, c.unsqueeze(-2) - c.unsqueeze(-3), 0.0)
        pairs = torch.where(visible, difference.exp(), 0.0) * key[..., lo:hi, :].unsqueeze(-3)
        if pairs.shape[3] == 1:
            parts.append(torch.einsum("bgtijf,bgtrif->bgtrij", pairs.squeeze(3), q))
        else:
            parts.append(torch.einsum("bgtrijf,bgtrif->bgtrij", pairs, q))
        if hi < size:
            parts.append(parts[-1].new_zeros((*parts[-1].shape[:-1], size - hi)))
        rows.append(torch.cat(parts, -1))
    return torch.cat(rows, -2)


def advance(key: Tensor, value: Tensor, decay: Decays, state: Tensor) -> tuple[Tensor, Tensor]:
    """The states before each chunk [b, g, t, r, F, E], and the one after the last, from the one before the first."""
    if decay.key is not None:
        key = key * decay.key
    keeps = decay.total
    if decay.channel is not None:
        end = decay.channel[..., -1:, :]
        key = key * (end - decay.channel).exp()
        whole = end.exp().transpose(-1, -2)
        keeps = whole if keeps is None else keeps * whole
    added = key.transpose(-1, -2) @ value
    if keeps is None:
        sums = torch.cat([state.unsqueeze(2), added], 2).cumsum(2)
        return sums[:, :, :-1], sums[:, :, -1]
    keeps = keeps.expand(*added.shape[:4], *keeps.shape[4:])
    before: list[Tensor] = []
    for t in range(added.shape[2]):
        before.append(state)
        state = state * keeps[:, :, t] + added[:, :, t]
    return torch.stack(before, 2), state
