"""Scans under autograd."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from contextvars import copy_context
from typing import Any

import torch
from torch import Tensor

from attndsl.codegen.triton_scan import Operand, Walk
from attndsl.runtime.context import in_context
from attndsl.runtime.triton.launch import interpreting
from attndsl.runtime.triton.scan import DTYPES, Carried, Operands, Scan, aligned, config_of, has_tma
from attndsl.runtime.triton.scan_config import ScanConfig
from attndsl.runtime.triton.scan_passes import ScanCall, backward, forward


def spread(x: Tensor | None, shape: tuple[int, ...], group: int, like: Tensor) -> Tensor:
    """A gradient of the state as one of the first query head of each group."""
    if x is not None and group == 1:
        return x.contiguous()
    made = torch.zeros(shape, dtype=torch.float32, device=like.device)
    if x is not None:
        made[:, ::group] = x
    return made


def run_forward(call: ScanCall, want_final: bool, wide: bool = False) -> tuple[Tensor, Tensor | None, Carried | None]:
    B, H, L = call.shape
    if B * H * L and call.v.shape[-1] and call.k.shape[-1]:
        return forward(call, want_final, wide)
    made = torch.zeros((B, H, L, call.v.shape[-1]), dtype=call.q.dtype, device=call.q.device)
    final = call.initial
    if want_final and final is None:
        F, Dv = call.k.shape[-1], call.v.shape[-1]
        z = torch.zeros((B, H, F), device=made.device) if call.maps.normalised else None
        final = Carried(torch.zeros((B, H, F, Dv), device=made.device), z)
    return made, torch.zeros((B, H, L), device=made.device) if call.maps.normalised else None, final


class _Scan(torch.autograd.Function):
    """A scan under autograd, of the tensors of a call: q, k, v, gamma, g and the two of its initial state."""

    @staticmethod
    def forward(ctx: Any, call: ScanCall, want_final: bool, wide: bool, *tensors: Tensor | None) -> Any:
        out, shares, final = run_forward(call.detach(), want_final, wide)
        ctx.call, ctx.context = call.detach(), copy_context()
        ctx.needs = [t is not None and t.requires_grad for t in tensors]
        ctx.save_for_backward(out, *(() if shares is None else (shares,)))
        ctx.set_materialize_grads(False)
        return out, None if final is None else final.state, None if final is None else final.column

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        call: ScanCall = ctx.call
        out, *shares = ctx.saved_tensors
        tensors = _tensors(call)
        for t, n in zip(tensors, ctx.needs, strict=True):
            if t is not None:
                t.requires_grad_(n)
        final = None
        if grads[1] is not None or grads[2] is not None:
            B, H, _ = call.shape
            F, Dv = call.k.shape[-1], call.v.shape[-1]
            z = spread(grads[2], (B, H, F), 1, out) if call.maps.normalised else None
            final = Carried(spread(grads[1], (B, H, F, Dv), 1, out), z)
        pairs = in_context(ctx.context, gradients, call, out, shares[0] if shares else None, grads[0], final)
        found = {id(t): g for t, g in pairs}
        return (None, None, None, *(None if t is None else found.get(id(t)) for t in tensors))


def _tensors(call: ScanCall) -> list[Tensor | None]:
    first = call.initial
    held = [None, None] if first is None else [first.state, first.column]
    return [call.q, call.k, call.v, call.gamma, call.g, *held]


def run_scan(call: ScanCall, want_final: bool, wide: bool = False) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Output, final state and final sum of keys of a scan, differentiable."""
    found: Any = _Scan.apply(call, want_final, wide, *_tensors(call))
    return found


def gradients(
    scan: ScanCall, out: Tensor, shares: Tensor | None, grad_out: Tensor | None, grad_final: Carried | None
) -> list[tuple[Tensor, Tensor]]:
    """Pairs of a tensor of a scan and its gradient, for those that need one."""
    given: dict[str, Tensor | None] = {"q": scan.q, "k": scan.k, "v": scan.v}
    needs = {n for n, t in given.items() if t is not None and t.requires_grad}
    decay = scan.gamma if scan.gamma is not None else scan.g
    if decay is not None and decay.requires_grad:
        needs.add("log")
    first = scan.initial
    if first is not None and (first.state.requires_grad or (first.column is not None and first.column.requires_grad)):
        needs.add("initial")
    B, H, L = scan.shape
    if not needs or not B * H * L:
        return []
    bare = scan.detach()
    with torch.no_grad():
        if grad_out is None:
            grad_out = torch.zeros_like(out)
        final = forward(bare, True)[2] if "log" in needs and grad_final is not None else None
        found = backward(bare, out, shares, grad_out, frozenset(needs), grad_final, final)
        made: list[tuple[Tensor | None, Tensor | None]] = [(scan.q, found.q), (scan.k, found.k), (scan.v, found.v)]
        if found.log is not None and scan.gamma is not None:
            by_head = found.log.sum(-1)
            if scan.maps.decay == "head":
                if bool((scan.gamma == 0).any()):
                    raise ValueError("the gradient of a decay that is 0 has no kernel; backend 'cpu' has one")
                by_head = by_head / scan.gamma
            made.append((scan.gamma, by_head.sum_to_size(scan.gamma.shape)))
        elif found.log is not None and scan.g is not None:
            log, heads = found.log, scan.g.shape[1]
            if heads not in (1, H):
                log = log.unflatten(1, (heads, -1)).sum(2)
            made.append((scan.g, log.sum_to_size(scan.g.shape)))
        if found.initial is not None and first is not None:
            made += [(first.state, found.initial.state), (first.column, found.initial.column)]
    return [(t, g.to(t.dtype)) for t, g in made if t is not None and g is not None and t.requires_grad]


class _Sum(torch.autograd.Function):
    """Sums of keys^T values over all rows: keys [B, G, L, F], values [B, G, L, E] to fp32 [B, G, F, E]."""

    @staticmethod
    def forward(ctx: Any, keys: Tensor, values: Tensor, config: ScanConfig | None) -> Tensor:
        ctx.save_for_backward(keys, values)
        B, G, L, F = keys.shape
        E = values.shape[-1]
        if not B * G * L * F * E:
            return torch.zeros((B, G, F, E), dtype=torch.float32, device=keys.device)
        dtype: Any = "fp32" if interpreting() and keys.dtype is torch.bfloat16 else DTYPES[keys.dtype]
        walk = Walk(
            dtype, Operand(F), Operand(F), Operand(E),
            tma=has_tma(keys, values, columns=values), aligned=aligned(keys, values),
        )  # fmt: skip
        return Scan(walk, Operands(keys, keys, values), B, G, config or config_of(keys, F, E)).total()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        keys, values = ctx.saved_tensors
        (grad,) = grads
        return product(values, grad.transpose(-1, -2)).to(keys.dtype), product(keys, grad).to(values.dtype), None


def summed(keys: Tensor, values: Tensor, config: ScanConfig | None = None) -> Tensor:
    """Sums of keys^T values over all rows, fp32, differentiable; in a configuration, the usual one unless given."""
    found: Any = _Sum.apply(keys, values, config)
    return found


def product(rows: Tensor, state: Tensor) -> Tensor:
    """rows [.., L, F] of any dtype with fp32 sums [.., F, E], in fp32: the sums are scaled into the rows' range."""
    if rows.dtype is torch.float32:
        return rows @ state
    top = state.detach().abs().amax((-1, -2), keepdim=True)
    top = torch.where(top == 0, 1.0, top)
    return (rows @ (state / top).to(rows.dtype)).float() * top
