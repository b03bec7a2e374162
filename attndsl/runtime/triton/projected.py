"""Attentions whose scores read vectors of one position: those are computed first, by torch, and the kernels of an
attention without them run on the result (`attndsl.ir.projection`)."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from attndsl.ir.attention import Attention
from attndsl.ir.expr import Expr, Index, Load, ParamRef, mentions, walk
from attndsl.ir.finished import finished
from attndsl.ir.one_product import SCALE
from attndsl.ir.projection import Number, Prefix, Projection, Table, projection
from attndsl.ir.statistics import GIVEN, lse_alone
from attndsl.runtime.call import Call, Saved
from attndsl.runtime.sides import Sides
from attndsl.runtime.triton.finished import FinishedKernel
from attndsl.runtime.triton.kernel import TritonKernel
from attndsl.runtime.triton.scan_choices import ScanChoices
from attndsl.runtime.triton.scan_kernel import narrowed
from attndsl.runtime.triton.staged import WIDTH, StagedKernel, tile_kernel
from attndsl.runtime.triton.wrapping import Wrapping
from attndsl.runtime.vectors import prefix_sums
from attndsl.schedule.plan import Plan


def kernel_for(attention: Attention) -> AnyKernel:
    """The kernel of an attention on this backend."""
    found = finished(attention)
    inner = _projected(attention if found is None else found.inner)
    return inner if found is None else FinishedKernel(attention, found, inner)


def _projected(attention: Attention) -> TritonKernel | StagedKernel | ProjectedKernel:
    found = projection(attention)
    return ProjectedKernel(attention, found) if isinstance(found, Projection) else tile_kernel(attention)


def summing_of(kernel: AnyKernel, call: Call) -> tuple[TritonKernel | StagedKernel, Call]:
    """The kernel that torch computes nothing before or after, and its call."""
    if isinstance(kernel, FinishedKernel):
        kernel, call = kernel.inner, kernel.shaped(call)
    if isinstance(kernel, ProjectedKernel):
        kernel, call = kernel.inner, kernel.projected(call)
    return kernel, call


def tiles_of(kernel: AnyKernel, call: Call, *, shaped: bool = False) -> tuple[TritonKernel, Call]:
    """The kernel that runs tiles at last, and its call; `shaped`: of the right shapes, with nothing computed for it."""
    with torch.no_grad():
        if isinstance(kernel, FinishedKernel):
            kernel, call = kernel.inner, kernel.shaped(call)
        if isinstance(kernel, ProjectedKernel):
            kernel, call = kernel.inner, kernel.shaped(call) if shaped else kernel.projected(call)
        if isinstance(kernel, StagedKernel):
            kernel, call = kernel.inner, kernel.shaped(call) if shaped else kernel.final(call)
        return kernel, call


class ProjectedKernel(Wrapping[TritonKernel | StagedKernel]):
    """Computes vectors, numbers and prefix sums of positions, linear in the lengths, and runs `inner` on them.

    Vectors are rounded to q's type. Gradients go through torch."""

    def __init__(self, attention: Attention, found: Projection) -> None:
        self.attention, self.projection = attention, found
        self.inner = tile_kernel(found.inner)
        self.scan_choices = ScanChoices(attention)
        self._read = _expressions(found)
        self._scaled = any(mentions(e, lambda n: n == SCALE) for e in self._read)
        self._kept = frozenset(i.name for i in found.inner.inputs)

    def saves(self, q: Tensor, k: Tensor, v: Tensor, need_lse: bool) -> tuple[Saved, ...]:
        """As `Kernel.saves`."""
        if need_lse and self.projection.moved_lse:
            return (*self.inner.saves(q, k, v, False), "lse")
        return self.inner.saves(q, k, v, need_lse)

    def locates(self, call: Call) -> bool:
        """As `LocatingKernel.locates`; whether a mask admits a decay is seen by planning."""
        return not self.projection.prefixes and super().locates(call)

    def loads(self, scalar: str) -> bool:
        """As `LocatingKernel.loads`; torch computes with what the host knows."""
        read = {n.name for e in self._read for n in walk(e) if isinstance(n, ParamRef)}
        return scalar not in read and self.inner.loads(scalar)

    def forward(
        self, call: Call, plan: Plan | None, need_lse: bool, save: bool
    ) -> tuple[Tensor, Tensor | None, tuple[Tensor, ...]]:
        """As `TritonKernel.forward`."""
        if not need_lse or not self.projection.moved_lse:
            return self.inner.forward(self.projected(call), plan, need_lse, save)
        out, _, saved = self.inner.forward(self.projected(call), plan, False, save)
        lse = self._lse.forward(self._lse_call(call), None, True, False)[1]
        assert lse is not None
        return out, lse, (*saved, lse) if save else ()

    def backward(
        self,
        call: Call,
        plan: Plan | None,
        saved: tuple[Tensor, ...],
        grad_out: Tensor | None,
        grad_lse: Tensor | None,
        needs: frozenset[str],
    ) -> Mapping[str, Tensor]:
        """As `Kernel.backward`."""
        if not self.projection.moved_lse or len(saved) == len(self.inner.saves(call.q, call.k, call.v, False)):
            return self._backward(call, plan, saved, grad_out, grad_lse, needs)
        found: dict[str, Tensor] = {}
        if grad_out is not None:
            found |= self._backward(call, plan, saved[:-1], grad_out, None, needs)
        if grad_lse is not None:
            own = self._lse_call(call)
            none = own.q.new_zeros((*own.q.shape[:3], own.v.shape[-1]))
            wanted = needs & {"q", "k", *own.inputs, *(["v"] if self._lse_reads_v else [])}
            for name, g in self._lse.backward(own, None, (none, saved[-1]), None, grad_lse, wanted).items():
                found[name] = found[name] + g if name in found else g
        return found

    def _backward(
        self,
        call: Call,
        plan: Plan | None,
        saved: tuple[Tensor, ...],
        grad_out: Tensor | None,
        grad_lse: Tensor | None,
        needs: frozenset[str],
    ) -> Mapping[str, Tensor]:
        given: dict[str, Tensor] = {"q": call.q, "k": call.k, "v": call.v, **call.inputs}
        leaves = {n: t.detach().requires_grad_(n in needs) for n, t in given.items()}
        own = call.with_tensors(leaves["q"], leaves["k"], leaves["v"], {n: leaves[n] for n in call.inputs})
        with torch.enable_grad():
            inner = self.projected(own)
        live = {"q": inner.q, "k": inner.k, "v": inner.v, **inner.inputs}
        wanted = frozenset(n for n, t in live.items() if t.requires_grad)
        bare = inner.with_tensors(
            inner.q.detach(), inner.k.detach(), inner.v.detach(), {n: t.detach() for n, t in inner.inputs.items()}
        )
        found = self.inner.backward(bare, plan, saved, grad_out, grad_lse, wanted)
        pairs = [(live[n], g.to(live[n].dtype)) for n, g in found.items() if live[n].requires_grad]
        names = [n for n in leaves if n in needs]
        if not pairs or not names:
            return {}
        grads: Any = torch.autograd.grad(
            [t for t, _ in pairs], [leaves[n] for n in names], [g for _, g in pairs], allow_unused=True
        )
        return {n: g for n, g in zip(names, grads, strict=True) if g is not None}

    # The lse of an exponential that a decay multiplies, which is not that of the exponent they are joined to

    @cached_property
    def _lse(self) -> TritonKernel | StagedKernel | ProjectedKernel:
        return _projected(lse_alone(self.attention))

    def _lse_call(self, call: Call) -> Call:
        attention = self._lse.attention
        inputs = {i.name: call.inputs[i.name] for i in attention.inputs}
        sizes = {**call.sizes, **{given: call.sizes[n] for n, given in GIVEN.items()}}
        if self._lse_reads_v:
            return call.within("lse", attention=attention, inputs=inputs, sizes=sizes)
        sizes["Dv"] = WIDTH
        v = call.k.new_zeros((*call.k.shape[:3], WIDTH))
        return call.within("lse", attention=attention, v=v, inputs=inputs, sizes=sizes)

    @cached_property
    def _lse_reads_v(self) -> bool:
        a = self._lse.attention
        return any(mentions(e, _is_v) for e in (a.mask, a.score, a.weight) if e is not None)

    # What the kernels are given

    def projected(self, call: Call) -> Call:
        """The call of `inner`."""
        found = self.projection
        H = call.sizes["H"]
        known: dict[Expr, Tensor] = {}
        if self._scaled:
            known[SCALE] = torch.full((1, 1, 1), call.scale, dtype=torch.float32, device=call.q.device)
        rows = Sides(call, H, offset=call.q_offset, values=known)
        keys = {h: Sides(call, h, length=call.sizes["Lk"], values=known) for h in {H, call.sizes["Hkv"]}}
        inputs = {n: t for n, t in call.inputs.items() if n in self._kept}
        for number in found.numbers:
            inputs[number.name] = _number(call, number, rows, keys)
        for table in found.tables:
            inputs[table.name] = _table(call, table, rows, keys)
        for channels in found.channels:
            side = rows if channels.of_row else keys[H if channels.by_head else call.sizes["Hkv"]]
            inputs[channels.name] = _channels(call, side, side.value(channels.value))
        for gate in found.gates:
            vectors = rows.value(gate.value)
            inputs[gate.name] = vectors.expand(call.sizes["B"], H, rows.length, vectors.shape[-1]).contiguous()
        for prefix in found.prefixes:
            inputs |= _prefix_sums(call, prefix)
        sizes = self._sizes(call)
        own = keys[H if found.by_head else call.sizes["Hkv"]]
        for product in found.products:
            inputs[product.query] = _vector(call, product.vectors.query, rows, sizes[product.size])
            inputs[product.key] = _vector(call, product.vectors.key, own, sizes[product.size])
        q, k, v, scale_ = call.q, call.k, call.v, call.scale
        if (vectors := found.vectors) is not None:
            size = sizes["D"]
            q, k = _vector(call, vectors.query, rows, size), _vector(call, vectors.key, own, size)
            scale_ = 1.0
        if found.by_head:
            k, v = (t if t.shape[1] == H else t.repeat_interleave(H // max(t.shape[1], 1), 1) for t in (k, v))
        return self._call(call, q, k, v, inputs, scale_)

    def _call(self, call: Call, q: Tensor, k: Tensor, v: Tensor, inputs: Mapping[str, Tensor], scale: float) -> Call:
        return call.within(
            "projected", attention=self.projection.inner, q=q, k=k, v=v, inputs=inputs, sizes=self._sizes(call),
            scale=scale,
        )  # fmt: skip

    def _sizes(self, call: Call) -> Mapping[str, int]:
        """The sizes of the call of `inner`."""
        found: Mapping[str, int] | None = call.memo.get("sizes of vectors")
        if found is None:
            found = call.memo["sizes of vectors"] = self.projection.sizes(call.sizes)
        return found

    def shaped(self, call: Call) -> Call:
        """As `Wrapping.shaped`: with tensors of the right shapes, whatever their elements."""
        if self.projection.vectors is None and not self.projection.by_head:
            return self._call(call, call.q, call.k, call.v, call.inputs, call.scale)
        sizes = self._sizes(call)
        B, H, heads, Lq, Lk, F = (sizes[n] for n in ("B", "H", "Hkv", "Lq", "Lk", "D"))
        q, k = call.q.new_empty((B, H, Lq, F)), call.k.new_empty((B, heads, Lk, F))
        v = call.v if call.v.shape[1] == heads else call.v.new_empty((B, heads, Lk, call.v.shape[-1]))
        return self._call(call, q, k, v, call.inputs, 1.0 if self.projection.vectors else call.scale)


def _is_v(node: Expr) -> bool:
    return isinstance(node, Load) and node.tensor == "V"


def _expressions(found: Projection) -> tuple[Expr, ...]:
    several = [*([found.vectors] if found.vectors else []), *(p.vectors for p in found.products)]
    vectors = [e for v in several for e in (v.query, v.key)]
    numbers = (n.value for n in (*found.numbers, *found.channels, *found.gates))
    return (*vectors, *numbers, *(t.vector for t in found.tables))


def _channels(call: Call, side: Sides, vectors: Tensor) -> Tensor:
    """Vectors [B, heads, places, components] with each component of all places side by side in memory."""
    whole = vectors.expand(call.sizes["B"], side.heads, side.length, vectors.shape[-1])
    return whole.transpose(-1, -2).contiguous().transpose(-1, -2)


def _vector(call: Call, e: Expr, sides: Sides, size: int) -> Tensor:
    found = narrowed(sides, e, call.q.dtype)
    found = found.expand(call.sizes["B"], sides.heads, sides.length, found.shape[-1])
    missing = size - found.shape[-1]
    return torch.nn.functional.pad(found, (0, missing)) if missing else found.contiguous()


def _number(call: Call, number: Number, rows: Sides, keys: Mapping[int, Sides]) -> Tensor:
    sides = rows if number.of_row else keys[call.sizes["H" if number.by_head else "Hkv"]]
    return sides.value(number.value).expand(call.sizes["B"], sides.heads, sides.length).contiguous()


def _table(call: Call, table: Table, rows: Sides, keys: Mapping[int, Sides]) -> Tensor:
    sides = rows if table.of_row else keys[call.sizes["H" if table.by_head else "Hkv"]]
    vectors = sides.value(table.vector).expand(call.sizes["B"], sides.heads, sides.length, -1)
    chosen = call.inputs[table.tensor].to(sides.dtype)
    lead = [i.name for i in table.lead if isinstance(i, Index)]
    if "b" not in lead:
        chosen = chosen.unsqueeze(0)
    if "h" not in lead and "hkv" not in lead:
        chosen = chosen.unsqueeze(1)
    elif chosen.shape[1] != sides.heads:
        chosen = chosen.repeat_interleave(sides.heads // max(chosen.shape[1], 1), 1)
    return (vectors @ chosen.transpose(-1, -2)).contiguous()


def _prefix_sums(call: Call, prefix: Prefix) -> dict[str, Tensor]:
    """Sums up to each position, each in two floats: a difference has the precision of one that is as small."""
    steps = call.inputs[prefix.tensor]
    sums = prefix_sums(steps.transpose(-1, -2)).transpose(-1, -2) if prefix.size else prefix_sums(steps)
    given = replace(call, inputs={**call.inputs, prefix.tensor: sums})
    H = call.sizes["H"]
    sides = Sides(given, H, offset=call.q_offset, dtype=torch.float64)
    at_row, at_key = sides.value(prefix.at_row), sums
    if prefix.size:
        own = Sides(given, H if prefix.by_head else call.sizes["Hkv"], length=call.sizes["Lk"], dtype=torch.float64)
        at_row, at_key = _channels(call, sides, at_row), _channels(call, own, own.value(prefix.at_key))
    else:
        at_row = at_row.expand(call.sizes["B"], H, sides.length)
    found: dict[str, Tensor] = {}
    for (name, rest), x in ((prefix.rows, at_row), (prefix.keys, at_key)):
        found[name] = x.float() if prefix.size else x.float().contiguous()
        found[rest] = (x.detach() - found[name].detach()).float()
    return found


AnyKernel = TritonKernel | StagedKernel | ProjectedKernel | FinishedKernel
"""What runs an attention on this backend."""
