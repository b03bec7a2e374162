"""One random call, forward and backward, against the dense definition."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, cast

import torch

from attndsl.api import AttentionFunction
from attndsl.cli.draws import Draw
from attndsl.cli.trial import DTYPES, Tensors, make_tensors
from attndsl.ir.weights import weight_form
from attndsl.reference import reference
from attndsl.reference.accuracy import GRADIENT_FACTOR, LSE_FACTOR, OUTPUT_FACTOR, Verdict, judge

if TYPE_CHECKING:
    from torch import Tensor

OTHER_DRAWS = 8
Results = dict[str, "Tensor"]


def verdicts(draw: Draw, backend: str, device: str, backward: bool) -> dict[str, Verdict]:
    """Verdicts on the output, lse and every gradient of a call. TypeError and ValueError are the call's own."""
    dtype = DTYPES[draw.dtype]
    tensors = _tensors(draw, dtype, draw.seed, device)
    found = _compiled(draw, tensors, backend, backward)
    exact, eager = (_dense(draw, tensors, d, backward) for d in (torch.float64, dtype))

    @cache
    def on_other_numbers() -> list[tuple[Results, Results]]:
        others = [_tensors(draw, dtype, draw.seed + 10_007 * (i + 1), device) for i in range(OTHER_DRAWS)]
        return [(_dense(draw, t, dtype, backward), _dense(draw, t, torch.float64, backward)) for t in others]

    factors = {"out": OUTPUT_FACTOR, "lse": LSE_FACTOR if backend == "triton" else OUTPUT_FACTOR}
    return {
        name: judge(
            result, eager[name], exact[name], dtype, factors.get(name, GRADIENT_FACTOR),
            lambda name=name: [(e[name], x[name]) for e, x in on_other_numbers()],
        )
        for name, result in found.items()
    }  # fmt: skip


def _tensors(draw: Draw, dtype: torch.dtype, seed: int, device: str) -> Tensors:
    t = make_tensors(draw.setup, dtype, seed)
    inputs = {n: x.to(device) for n, x in t.inputs.items()}
    return Tensors(t.q.to(device), t.k.to(device), t.v.to(device), inputs, t.grad.to(device), t.rows)


def _offset(draw: Draw, device: torch.device) -> Any:
    return torch.tensor(draw.q_offset, device=device) if isinstance(draw.q_offset, tuple) else draw.q_offset


def _compiled(draw: Draw, t: Tensors, backend: str, backward: bool) -> Results:
    leaves = {n: x.detach().clone().requires_grad_(backward) for n, x in t.floats().items()}
    q, k, v = (_laid_out(leaves[n], draw.layout) for n in ("q", "k", "v"))
    arguments: dict[str, Any] = {**draw.setup.scalars, **{n: leaves.get(n, x) for n, x in t.inputs.items()}}
    if draw.setup.grid is not None:
        arguments["grid"] = draw.setup.grid
    with_lse = weight_form(draw.setup.attention).has_lse
    found = AttentionFunction(draw.setup.attention)(
        q, k, v, backend=backend, scale=draw.scale, q_offset=_offset(draw, t.q.device), return_lse=with_lse,
        layout="bshd" if draw.layout == "bshd" else "bhsd", **arguments,
    )  # fmt: skip
    out, lse = found if with_lse else (found, None)
    out = out.transpose(1, 2) if draw.layout == "bshd" else out
    return _results(draw, t, leaves, out, lse, backward)


def _dense(draw: Draw, t: Tensors, dtype: torch.dtype, backward: bool) -> Results:
    leaves = {n: x.detach().to(dtype).requires_grad_(backward) for n, x in t.floats().items()}
    out, lse = reference(
        draw.setup.attention, leaves["q"], leaves["k"], leaves["v"],
        inputs={n: leaves.get(n, x) for n, x in t.inputs.items()}, scalars=draw.setup.scalars, grid=draw.setup.grid,
        scale=draw.scale, q_offset=_offset(draw, t.q.device), dtype=dtype,
    )  # fmt: skip
    return _results(draw, t, leaves, out, lse, backward)


def _results(
    draw: Draw, t: Tensors, leaves: Results, out: Tensor, lse: Tensor | None, backward: bool
) -> Results:  # fmt: skip
    """The results, and the gradients of a random functional of out and, where it is finite, lse."""
    results = {"out": out.detach()} | ({} if lse is None else {"lse": lse.detach()})
    if not backward:
        return results
    generator = torch.Generator().manual_seed(draw.seed)
    total = (out * t.grad.to(out.dtype)).sum()
    if lse is not None:
        # numbers that every dtype has
        weights = torch.randn(lse.shape, generator=generator).to(torch.bfloat16).to(lse.device, lse.dtype)
        total = total + torch.where(lse.isfinite(), lse, 0).mul(weights).sum()
    if not total.requires_grad:
        return results
    gradients = cast("tuple[Tensor | None, ...]", torch.autograd.grad(total, list(leaves.values()), allow_unused=True))
    for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
        results[f"d{name}"] = torch.zeros_like(leaf) if gradient is None else gradient
    return results


def _laid_out(x: Tensor, layout: str) -> Tensor:
    """The same numbers, as a call takes them: positions before heads, or inside a larger tensor."""
    if layout == "bshd":
        return x.transpose(1, 2)
    if layout == "strided":
        return torch.nn.functional.pad(x, (3, 5, 1, 2))[..., 1 : 1 + x.shape[2], 3 : 3 + x.shape[3]]
    return x
