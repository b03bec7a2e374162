"""Gradients of decays, from what rows and columns of the weights' gradients sum to."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import torch
from torch import Tensor

from attndsl.runtime.triton.scan import Carried, Segments


def log_gradient(
    docs: Tensor | None,
    empty: bool,
    local: Tensor,
    before: Segments,
    after: Segments,
    final: Carried | None,
    grad_final: Carried | None,
) -> Tensor:
    """The gradient of the logarithm of every row's decay: fp32 [B, H, L], or per channel [B, H, L, F].

    `local` (of that shape) is phi(q).dphi(q) - psi(k).dpsi(k), componentwise if per channel; `before` and `after` are
    the states that enter segments and the gradients of those that leave them. `empty`: no state enters the first row.
    """
    L, channel = local.shape[2], local.ndim == 4
    segments = before.state.shape[2]

    def product(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(-1 if channel else (-1, -2))

    def of_columns(a: Tensor, b: Tensor) -> Tensor:
        return a * b if channel else (a * b).sum(-1)

    across = torch.zeros((*local.shape[:2], segments, *local.shape[3:]), dtype=torch.float32, device=local.device)
    across[:, :, :-1] = product(before.state[:, :, 1:], after.state[:, :, :-1])
    if before.column is not None and after.column is not None:
        across[:, :, :-1] += of_columns(before.column[:, :, 1:], after.column[:, :, :-1])
    if grad_final is not None:
        assert final is not None
        across[:, :, -1] = product(final.state, grad_final.state)
        if final.column is not None and grad_final.column is not None:
            across[:, :, -1] += of_columns(final.column, grad_final.column)
    if docs is not None and segments > 1:
        ends = torch.arange(1, segments, device=local.device) * before.length
        across[:, :, :-1] *= docs[:, :, ends - 1] == docs[:, :, ends]
    behind = segments * before.length - L
    padded = torch.nn.functional.pad(local, (0, 0, 0, behind) if channel else (0, behind)).unflatten(2, (segments, -1))
    summed = (padded.flip(3).cumsum(3).flip(3) + across.unsqueeze(3)).flatten(2, 3)[:, :, :L]
    # no pair reaches over the first row of all, nor over that of a document
    if empty:
        summed[:, :, 0] = 0.0
    if docs is not None:
        new = docs[..., 1:] != docs[..., :-1]
        summed[..., 1:] = torch.where(new, 0.0, summed[..., 1:])
    return summed
