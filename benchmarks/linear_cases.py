"""Scans against the definition: small linear attentions of every kind, forward and backward, on any device."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from attndsl.codegen.triton_scan import COMPONENT, DecayKind
from attndsl.ir.expr import number, op
from attndsl.runtime.triton.scan import Carried
from attndsl.runtime.triton.scan_config import ScanConfig, scan_configured
from attndsl.runtime.triton.scan_passes import Maps, ScanCall, backward, forward
from tests.accuracy import GRADIENT_FACTOR, OUTPUT_FACTOR, assert_right

ELU1 = op("add", op("elu", COMPONENT), number(1.0))
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class LinearCase:
    """A linear attention on random tensors. `state`: it starts from one, and the final one has a gradient."""

    dtype: str
    L: int
    D: int
    Dv: int
    decay: DecayKind = "none"
    normalised: bool = False
    mapped: bool = False
    docs: bool = False
    state: bool = False
    strict: bool = False
    B: int = 2
    H: int = 4
    Hkv: int = 2
    speed: float = 3.0
    """How fast channels decay, at most; every other key head decays slowly."""

    def call(self, device: str, seed: int = 0) -> ScanCall:
        """Its tensors."""
        made = torch.Generator(device=device).manual_seed(1000 * seed + self.L + self.D)
        dtype = DTYPES[self.dtype]

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, device=device, generator=made)

        def features(heads: int) -> Tensor:
            x = draw(self.B, heads, self.L, self.D)
            x = x if self.mapped else x.abs() + 0.1 if self.normalised else x / self.D**0.25
            return x.to(dtype)

        q, k = features(self.H), features(self.Hkv)
        v = draw(self.B, self.Hkv, self.L, self.Dv).to(dtype)
        gamma = g = docs = None
        bases = torch.tensor([[0.99, 0.9, 0.5, 0.999 if self.normalised else -0.7]], device=device)[:, : self.H]
        if self.decay == "head":
            gamma = bases
        elif self.decay == "log":
            gamma = bases.abs().log()
        elif self.decay == "token":
            speed = torch.tensor([0.02, 0.1, 0.5, 2.0], device=device)[: self.H, None]
            g = -torch.rand((self.B, self.H, self.L), device=device, generator=made) * speed
        elif self.decay == "channel":
            speed = torch.tensor([0.02, self.speed], device=device).repeat(self.Hkv)[: self.Hkv, None, None]
            g = -torch.rand((self.B, self.Hkv, self.L, self.D), device=device, generator=made) * speed
        if self.docs:
            new = torch.rand((self.B, 1, self.L), device=device, generator=made) < 0.03
            docs = new.cumsum(-1).to(torch.int32)
        first = None
        if self.state:
            z = draw(self.B, self.H, self.D).abs() if self.normalised else None
            first = Carried(draw(self.B, self.H, self.D, self.Dv).abs(), z)
        kind = ELU1 if self.mapped else None
        return ScanCall(Maps(kind, kind, self.decay, self.normalised, self.strict), q, k, v, gamma, g, docs, first)


def dense(call: ScanCall, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Output, final state and final sum of keys by the definition, computed in `dtype`."""
    maps = call.maps
    q, k, v = (x.to(dtype) for x in (call.q, call.k, call.v))
    if maps.query is not None:
        q, k = torch.nn.functional.elu(q) + 1, torch.nn.functional.elu(k) + 1
    H, L = q.shape[1], q.shape[2]
    k, v = (x.repeat_interleave(H // x.shape[1], 1) for x in (k, v))
    at = torch.arange(L, device=q.device)
    apart = at[:, None] - at[None, :]
    visible = (apart >= int(maps.strict))[None, None]
    decay = torch.ones((1, 1, L, L), dtype=dtype, device=q.device)
    enter = leave = torch.ones((1, 1, L), dtype=dtype, device=q.device)
    if call.gamma is not None:
        gamma = call.gamma.to(dtype)[:, :, None]
        gamma = gamma.exp() if maps.decay == "log" else gamma
        decay = gamma[..., None] ** apart.clamp(min=0)
        enter, leave = gamma ** (at + 1), gamma ** (L - 1 - at)
    if maps.decay == "channel":
        return _dense_channel(call, q, k, v, visible)
    if call.g is not None:
        total = call.g.to(dtype).cumsum(-1)
        decay = torch.where(visible, total[..., :, None] - total[..., None, :], 0).exp()
        enter, leave = total.exp(), (total[..., -1:] - total).exp()
    if call.docs is not None:
        docs = call.docs
        visible = visible & (docs[..., :, None] == docs[..., None, :])
        enter, leave = enter * (docs == docs[..., :1]), leave * (docs == docs[..., -1:])
    w = torch.where(visible, (q @ k.transpose(-1, -2)) * decay, 0)
    out, z = w @ v, w.sum(-1)
    state = (k * leave[..., None]).transpose(-1, -2) @ v
    column = (k * leave[..., None]).sum(2)
    if call.initial is not None:
        first = call.initial.state.to(dtype)
        out, state = out + enter[..., None] * (q @ first), state + enter[:, :, -1:, None] * first
        if call.initial.column is not None:
            sums = call.initial.column.to(dtype)
            z, column = z + enter * (q @ sums[..., None])[..., 0], column + enter[:, :, -1:] * sums
    if maps.normalised:
        dead = (z == 0)[..., None]
        out = torch.where(dead, 0, out / torch.where(dead, 1, z[..., None]))
    return out, state, column


def _dense_channel(call: ScanCall, q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `dense`, with a decay per channel."""
    assert call.g is not None
    total = call.g.to(q.dtype).cumsum(2)
    total = total.repeat_interleave(q.shape[1] // total.shape[1], 1)
    apart = torch.where(visible[..., None], total[:, :, :, None] - total[:, :, None], 0)
    w = torch.where(visible, (q[:, :, :, None] * k[:, :, None] * apart.exp()).sum(-1), 0)
    leave = (total[:, :, -1:] - total).exp() * k
    out, z, state, column = w @ v, w.sum(-1), leave.transpose(-1, -2) @ v, leave.sum(2)
    if call.initial is not None:
        enter, whole = total.exp() * q, total[:, :, -1].exp()
        first = call.initial.state.to(q.dtype)
        out, state = out + enter @ first, state + whole[..., None] * first
        if call.initial.column is not None:
            sums = call.initial.column.to(q.dtype)
            z, column = z + (enter @ sums[..., None])[..., 0], column + whole * sums
    if call.maps.normalised:
        dead = (z == 0)[..., None]
        out = torch.where(dead, 0, out / torch.where(dead, 1, z[..., None]))
    return out, state, column


def _leaves(call: ScanCall) -> dict[str, Tensor]:
    """What gradients are asked for."""
    found: dict[str, Tensor] = {"q": call.q, "k": call.k, "v": call.v}
    found |= {n: t for n, t in (("gamma", call.gamma), ("g", call.g)) if t is not None}
    if call.initial is not None:
        found["state"] = call.initial.state
        if call.initial.column is not None:
            found["column"] = call.initial.column
    return found


def compare(case: LinearCase, config: ScanConfig, device: str) -> str:
    """What is wrong with a case, empty if nothing is: errors against fp64, judged by those of the eager computation."""
    call = case.call(device)
    dtype = DTYPES[case.dtype]
    made = torch.Generator(device=device).manual_seed(7)
    shape = (case.B, case.H, case.L, case.Dv)
    grad = torch.randn(shape, device=device, generator=made).to(dtype)
    after = Carried(
        torch.randn((case.B, case.H, case.D, case.Dv), device=device, generator=made),
        torch.randn((case.B, case.H, case.D), device=device, generator=made) if case.normalised else None,
    )

    def by_definition(call: ScanCall, precision: torch.dtype) -> dict[str, Tensor]:
        own = {n: t.detach().to(precision).requires_grad_() for n, t in _leaves(call).items()}
        first = None if call.initial is None else Carried(own["state"], own.get("column"))
        given = replace(
            call, q=own["q"], k=own["k"], v=own["v"], gamma=own.get("gamma"), g=own.get("g"), initial=first
        )  # fmt: skip
        out, state, column = dense(given, precision)
        parts = [(out, grad)]
        if case.state:
            parts.append((state, after.state))
            if after.column is not None:
                parts.append((column, after.column))
        parts = [(t, g.to(precision)) for t, g in parts if t.requires_grad]
        found = torch.autograd.grad([t for t, _ in parts], list(own.values()), [g for _, g in parts])
        grads = {f"d{n}": g for n, g in zip(own, found, strict=True)}
        return {"out": out.detach(), "state": state.detach(), "column": column.detach(), **grads}

    exact, eager = by_definition(call, torch.float64), by_definition(call, dtype)
    needs = {"q", "k", "v"} | ({"log"} if case.decay != "none" else set()) | ({"initial"} if case.state else set())
    with scan_configured(config), torch.no_grad():
        out, shares, final = forward(call, want_final=True)
        given = after if case.state else None
        found = backward(call, out, shares, grad, frozenset(needs), given, final)
    assert final is not None
    mine: dict[str, Any] = {"out": out, "state": final.state, "column": final.column}
    mine |= {"dq": found.q, "dk": found.k, "dv": found.v, "dg": found.log}
    if case.decay == "channel" and found.log is not None:
        mine["dg"] = found.log.unflatten(1, (case.Hkv, -1)).sum(2)
    if call.gamma is not None and found.log is not None:
        by_head = found.log.sum(-1)
        mine["dgamma"] = (by_head if case.decay == "log" else by_head / call.gamma).sum(0, keepdim=True)
    if found.initial is not None:
        mine |= {"dstate": found.initial.state, "dcolumn": found.initial.column}
    wrong: list[str] = []
    draws: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []

    def others(name: str) -> Iterator[tuple[Tensor, Tensor]]:
        if not draws:
            drawn = [case.call(device, seed) for seed in (1, 2, 3)]
            draws.extend((by_definition(c, dtype), by_definition(c, torch.float64)) for c in drawn)
        for plain, true in draws:
            yield plain[name], true[name]

    for name, expected in exact.items():
        if name == "column" and not case.normalised:
            continue
        factor = GRADIENT_FACTOR if name.startswith("d") else OUTPUT_FACTOR
        if float(expected.abs().max()) < 1e-12 and float(mine[name].abs().max()) < 32 * torch.finfo(dtype).eps:
            continue  # terms that cancel
        try:
            assert_right(name, mine[name], eager[name], expected, dtype, factor, lambda name=name: others(name))
        except AssertionError as error:
            wrong.append(str(error))
    return "; ".join(wrong)
