"""The dense definition of a whole call."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from attndsl.ir.attention import Attention
from attndsl.reference.evaluate import Evaluator
from attndsl.reference.grids import GridArgument
from attndsl.reference.pairs import cut, expand, log_sum_exp, softmax

if TYPE_CHECKING:
    from torch import Tensor


def reference(
    attention: Attention,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    inputs: Mapping[str, Tensor] | None = None,
    scalars: Mapping[str, bool | int | float] | None = None,
    grid: GridArgument = None,
    scale: float | None = None,
    q_offset: int | str | Tensor = 0,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor | None]:
    """The output [B, H, Lq, Dv] and lse [B, H, Lq] of an attention, both in `dtype`.

    q is [B, H, Lq, D], k [B, Hkv, Lk, D], v [B, Hkv, Lk, Dv]; consts of the attention must have values. lse is
    the natural logarithm of the sum of exponentials over visible keys, None where the weight has no
    exponential. Differentiable in q, k, v and the float inputs. Memory grows with Lq * Lk.
    """
    B, H, Lq, D = q.shape
    Hkv, Lk, Dv = k.shape[1], k.shape[2], v.shape[3]
    sizes = {"B": B, "H": H, "Hkv": Hkv, "Lq": Lq, "Lk": Lk, "D": D, "Dv": Dv}
    e = Evaluator(attention, sizes, inputs or {}, scalars or {}, grid, q_offset, dtype, q.device)
    e.tensors |= {"Q": q.to(dtype), "K": k.to(dtype), "V": v.to(dtype)}
    key_of_head = torch.arange(H, device=q.device) // max(1, H // max(1, Hkv))
    keys, values = e.tensors["K"][:, key_of_head], e.tensors["V"][:, key_of_head]

    visible = e.visible()
    dots = (e.tensors["Q"] @ keys.transpose(2, 3)) * (D**-0.5 if scale is None else scale)

    e.start(keys=visible, s=dots)
    with torch.no_grad():
        alive = visible & (e.value(attention.score, visible) != -math.inf)
    score = cut(e.value(attention.score, alive), alive)

    e.start(keys=alive, s=score, count=visible)
    if attention.weight is None:
        logit = score
        weight = softmax(score, alive)
    else:
        logit = e.logit(attention.weight, alive)
        weight = cut(e.value(attention.weight, alive), alive)
    o = expand(weight, alive) @ values
    lse = None if logit is None else log_sum_exp(logit, alive)

    if attention.output is not None:
        e.o = o[:, :, :, None]
        o = e.value(attention.output, torch.ones((1, 1, 1, 1), dtype=torch.bool, device=q.device))
        o = o.expand(B, H, Lq, 1, Dv)[:, :, :, 0]
    return o, lse


def visible(
    attention: Attention,
    sizes: Mapping[str, int],
    *,
    inputs: Mapping[str, Tensor] | None = None,
    scalars: Mapping[str, bool | int | float] | None = None,
    grid: GridArgument = None,
    q_offset: int | str | Tensor = 0,
) -> Tensor:
    """Which pairs the mask lets see each other: bool [B, H, Lq, Lk]. `sizes` has B, H, Hkv, Lq, Lk, D, Dv."""
    device = torch.device("cpu")
    e = Evaluator(attention, sizes, inputs or {}, scalars or {}, grid, q_offset, torch.float64, device)
    return e.visible()
