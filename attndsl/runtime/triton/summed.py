"""Attentions whose weight needs sums of vectors over a row: kernels of their own sum those first, and the kernels of an
attention that reads them run after (`attndsl.ir.vector_sums`)."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from attndsl.ir.attention import Attention
from attndsl.ir.evaluate import Env, evaluate
from attndsl.ir.expr import Load, ParamRef, Size, walk
from attndsl.ir.types import INT
from attndsl.ir.vector_sums import GIVEN, VALUES, VectorSum, VectorSums
from attndsl.runtime.call import Call, Saved
from attndsl.runtime.sides import Sides
from attndsl.runtime.triton.kernel import TritonKernel
from attndsl.runtime.triton.projected import ProjectedKernel, projected_kernel
from attndsl.runtime.triton.scan_choices import ScanChoices
from attndsl.runtime.triton.scan_kernel import narrowed
from attndsl.runtime.triton.several import LARGEST_HEAD, STAGE_WIDTH
from attndsl.runtime.triton.staged import StagedKernel
from attndsl.runtime.triton.wrapping import Wrapping
from attndsl.schedule.plan import Plan

MULTIPLE = 16
"""Summed vectors have a multiple of so many components."""


class SummedKernel(Wrapping[TritonKernel | StagedKernel | ProjectedKernel]):
    """Sums vectors by kernels whose output they are, in fp32, and runs `inner` on the sums.

    A backward pass sums them again. What `inner` leaves as their gradients is the gradient of the output of those
    kernels, the last first; torch takes those of values to the tensors that they are made of."""

    def __init__(self, attention: Attention, found: VectorSums) -> None:
        self.attention, self.found = attention, found
        self.inner = projected_kernel(found.inner)
        self.sums = tuple(map(_SumKernel, found.sums))
        self.scan_choices = ScanChoices(attention)
        self._scalars = {n.name for s in found.sums for n in walk(s.value) if isinstance(n, ParamRef)}
        self._kept = frozenset(i.name for i in found.inner.inputs)

    @cached_property
    def _seen(self) -> _SumKernel | None:
        return None if self.found.seen is None else _SumKernel(self.found.seen)

    def saves(self, q: Tensor, k: Tensor, v: Tensor, need_lse: bool) -> tuple[Saved, ...]:
        """As `Kernel.saves`."""
        self._check_lse(need_lse)
        return self.inner.saves(q, k, v, need_lse)

    def locates(self, call: Call) -> bool:
        """As `LocatingKernel.locates`."""
        return super().locates(call) and all(s.kernel.locates(s.shaped(call)) for s in self.sums)

    def loads(self, scalar: str) -> bool:
        """As `LocatingKernel.loads`; torch computes with what the host knows."""
        kernels = (self.inner, *(s.kernel for s in self.sums))
        return scalar not in self._scalars and all(kernel.loads(scalar) for kernel in kernels)

    def shaped(self, call: Call) -> Call:
        """As `Wrapping.shaped`."""
        return self._call(call, {s.name: s.room(call) for s in self.sums})

    def final(self, call: Call) -> Call:
        """The call of `inner`, with sums computed for it."""
        return self._call(call, self._summed(call, None))

    def forward(
        self, call: Call, plan: Plan | None, need_lse: bool, save: bool
    ) -> tuple[Tensor, Tensor | None, tuple[Tensor, ...]]:
        """As `TritonKernel.forward`."""
        self._check_lse(need_lse)
        return self.inner.forward(self._call(call, self._summed(call, plan)), plan, need_lse, save)

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
        call = replace(call, differentiated=True)
        seen = self._counted(call, plan)
        given: dict[str, Tensor] = {}
        kept: list[_Passed] = []
        for s in self.sums:
            passed = s.passed(call, plan, given, needs)
            kept.append(passed)
            given[s.name] = passed.sums if seen is None else _where(seen, passed.sums)
        moving = frozenset(given)
        found: dict[str, Tensor] = {}

        def add(more: Mapping[str, Tensor]) -> None:
            for name, gradient in more.items():
                gradient = gradient.to(torch.float32)
                found[name] = found[name] + gradient if name in found else gradient

        add(self.inner.backward(self._call(call, given), plan, saved, grad_out, grad_lse, needs | moving))
        for s, passed in zip(reversed(self.sums), reversed(kept), strict=True):
            gradient = found.pop(s.name, None)
            if gradient is not None:
                add(s.pulled(call, passed, gradient, needs, moving))
        like = {"q": call.q, "k": call.k, "v": call.v, **call.inputs}
        return {n: t.to(like[n].dtype) for n, t in found.items() if n in needs}

    def _check_lse(self, need_lse: bool) -> None:
        if need_lse and self.found.moved_lse:
            raise ValueError(
                f"{self.attention.name}: backend 'triton' does not have the lse of a weight with an exponential whose "
                "score only sums of vectors read; backend 'cpu' does"
            )

    def _counted(self, call: Call, plan: Plan | None) -> Tensor | None:
        """Which rows see a key, None where all do. Sums of the others have no gradient, and a one in their place has
        no slope that is infinite: that of sqrt(0) is."""
        if self._seen is None or not call.q.numel():
            return None
        return self._seen.summed(call, plan, {}, False) > 0

    def _summed(self, call: Call, plan: Plan | None) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        few = self.few(call)
        for s in self.sums:
            found[s.name] = s.summed(call, plan, found, few)
        return found

    def _call(self, call: Call, sums: Mapping[str, Tensor]) -> Call:
        inputs = {n: t for n, t in {**call.inputs, **sums}.items() if n in self._kept}
        return call.within("inner", attention=self.found.inner, inputs=inputs)


class _Passed:
    """A forward pass of the kernel of a sum, for its backward pass: its call, with `values` as torch knows them and
    the `leaves` that they are made of."""

    def __init__(
        self,
        call: Call,
        plan: Plan | None,
        sums: Tensor,
        saved: tuple[Tensor, ...],
        values: Tensor,
        leaves: Mapping[str, Tensor],
    ) -> None:
        self.call, self.plan, self.sums, self.saved = call, plan, sums, saved
        self.values, self.leaves = values, leaves


class _SumKernel:
    """The kernel of one sum."""

    def __init__(self, found: VectorSum) -> None:
        self.found, self.name = found, found.name
        self.kernel = projected_kernel(found.attention, exact_output=True)
        self._kept = tuple(i.name for i in found.attention.inputs)
        self._read = {n.tensor for n in walk(found.value) if isinstance(n, Load)}

    def size(self, call: Call) -> int:
        """How many components a sum has; 1 of a number."""
        extent = self.found.extent
        if extent is None:
            return 1
        size = int(evaluate(extent, Env({Size(INT, n): v for n, v in call.sizes.items()})))
        if size > LARGEST_HEAD:
            raise ValueError(
                f"{call.attention.name}: backend 'triton' sums vectors of at most {LARGEST_HEAD} components in a "
                f"weight, got {size}; backend 'cpu' has no limit"
            )
        return size

    def room(self, call: Call) -> Tensor:
        """The sums, with any elements."""
        shape = (*call.q.shape[:3], *([] if self.found.extent is None else [self.size(call)]))
        return call.q.new_empty(shape, dtype=torch.float32)

    def shaped(self, call: Call) -> Call:
        """The call of the kernel with nothing computed for it."""
        own = (*call.inputs, VALUES)
        sums = {n: call.q.new_empty((1,), dtype=torch.float32) for n in self._kept if n not in own}
        B, Lk, heads = call.k.shape[0], call.k.shape[2], self._heads(call)
        return self._call(call, call.k.new_empty((B, heads, Lk, self._width(call))), sums)

    def summed(self, call: Call, plan: Plan | None, given: Mapping[str, Tensor], few: bool) -> Tensor:
        """The sums of a call; `few`: its plan is one of few rows."""
        own = self._call(call, self._values(call), given)
        few_here = self.kernel.few(own)
        if few_here and few and not self.found.by_head:
            return self._cut(call, self.kernel.forward(own, plan, False, False)[0])
        if few_here and plan is None and self.kernel.locates(own):
            return self._cut(call, self.kernel.forward(own, None, False, False)[0])
        own, plan = self._in_tiles(own, None if few else plan)
        return self._cut(call, self.kernel.forward(own, plan, False, True)[0])

    def passed(self, call: Call, plan: Plan | None, given: Mapping[str, Tensor], needs: frozenset[str]) -> _Passed:
        """The sums of a differentiated call, and what its backward pass needs."""
        tensors: dict[str, Tensor] = {"q": call.q, "k": call.k, "v": call.v, **call.inputs}
        leaves = {n: t.detach().requires_grad_(n in needs) for n, t in tensors.items()}
        own = call.with_tensors(leaves["q"], leaves["k"], leaves["v"], {n: leaves[n] for n in call.inputs})
        with torch.enable_grad():
            values = self._values(own)
        own, plan = self._in_tiles(self._call(call, values.detach(), given), plan)
        out, _, saved = self.kernel.forward(own, plan, False, True)
        return _Passed(own, plan, self._cut(call, out), saved, values, leaves)

    def pulled(
        self, call: Call, passed: _Passed, gradient: Tensor, needs: frozenset[str], moving: frozenset[str]
    ) -> Mapping[str, Tensor]:
        """The gradients of the call's tensors, and of earlier sums, that follow from one of the sums."""
        own, H = passed.call, call.sizes["H"]
        if not own.q.numel() or not own.v.numel():
            return {}
        whole = own.q.new_zeros((*own.q.shape[:3], own.v.shape[-1]))
        if self.found.extent is None:
            whole[..., 0] = gradient
        else:
            whole[..., : gradient.shape[-1]] = gradient
        wanted = {n for n in self._kept if n in needs | moving}
        wanted |= {n for n in ("q", "k") if n in needs and self.found.multiplies}
        wanted |= {VALUES} & set(self._kept) if "v" in needs else set[str]()
        wanted |= {"v"} if passed.values.requires_grad else set[str]()
        if not wanted:
            return {}
        found = dict(self.kernel.backward(own, passed.plan, passed.saved, whole, None, frozenset(wanted)))
        values = found.pop("v", None)
        if self.found.by_head:
            for n in ("k", VALUES):
                if n in found:
                    found[n] = found[n].unflatten(1, (-1, H // call.sizes["Hkv"])).float().sum(2)
        result = {"v" if n == VALUES else n: t.to(torch.float32) for n, t in found.items()}
        names = [n for n in passed.leaves if n in needs]
        if values is not None and passed.values.requires_grad:
            grads: Any = torch.autograd.grad(
                passed.values, [passed.leaves[n] for n in names], values.to(passed.values.dtype), allow_unused=True
            )
            for n, g in zip(names, grads, strict=True):
                if g is not None:
                    result[n] = result[n] + g if n in result else g
        return result

    # The call of the kernel

    def _heads(self, call: Call) -> int:
        return call.sizes["H" if self.found.by_head else "Hkv"]

    def _width(self, call: Call) -> int:
        return -(-self.size(call) // MULTIPLE) * MULTIPLE

    def _values(self, call: Call) -> Tensor:
        """The values [B, heads, Lk, width], zeros behind the vectors."""
        found, heads = self.found, self._heads(call)
        shape = call.sizes["B"], heads, call.sizes["Lk"]
        if found.extent is None:
            return call.k.new_ones((*shape, STAGE_WIDTH))
        sides = Sides(call, heads, length=call.sizes["Lk"])
        made = narrowed(sides, found.value, call.q.dtype)
        made = made.expand(*shape, made.shape[-1])
        missing = self._width(call) - made.shape[-1]
        return torch.nn.functional.pad(made, (0, missing)) if missing else made.contiguous()

    def _call(self, call: Call, values: Tensor, given: Mapping[str, Tensor]) -> Call:
        found, H = self.found, call.sizes["H"]
        known = {**call.inputs, VALUES: call.v, **given}
        inputs = {n: known[n] for n in self._kept}
        sizes = {**call.sizes, **{own: call.sizes[n] for n, own in GIVEN.items()}, "Dv": values.shape[-1]}
        q, k = call.q, call.k
        if not found.multiplies:
            # as little as a kernel can load
            sizes["D"] = STAGE_WIDTH
            nothing = torch.zeros(STAGE_WIDTH, dtype=q.dtype, device=q.device)
            q, k = (nothing.expand(*t.shape[:3], STAGE_WIDTH) for t in (q, k))
        if found.by_head:
            sizes["Hkv"] = H
            k = _by_head(k, H)
            if VALUES in inputs:
                inputs[VALUES] = _by_head(inputs[VALUES], H)
        # an attention lives as long as its kernel
        place = "vectors", id(found.attention)
        return call.within(place, attention=found.attention, q=q, k=k, v=values, inputs=inputs, sizes=sizes)

    def _in_tiles(self, own: Call, plan: Plan | None) -> tuple[Call, Plan | None]:
        """The call as one that kernels of many rows run, and the plan in their boxes."""
        own = own.within("tiles", differentiated=True)
        tiling = None if plan is None else self.kernel.tiling(own)
        return own, plan if plan is None or tiling is None else plan.tiled(tiling)

    def _cut(self, call: Call, out: Tensor) -> Tensor:
        found = out[..., 0] if self.found.extent is None else out[..., : self.size(call)]
        found = found.to(torch.float32).contiguous()
        # repeated launches take equal alignments for granted
        return found if found.data_ptr() % 16 == 0 else found.clone()


def _by_head(t: Tensor, H: int) -> Tensor:
    return t if t.shape[1] == H else t.repeat_interleave(H // max(t.shape[1], 1), 1)


def _where(seen: Tensor, sums: Tensor) -> Tensor:
    return torch.where(seen if sums.ndim == seen.ndim else seen[..., None], sums, 1.0)
