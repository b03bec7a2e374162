"""Attentions whose output clause no kernel computes: torch does, once a row, on what the kernels leave
(`attndsl.ir.finished`)."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attndsl.codegen.triton_sides import linear_coordinates
from attndsl.ir.attention import Attention
from attndsl.ir.expr import Expr, Extent, Load, ParamRef, walk
from attndsl.ir.finished import Finished, is_o
from attndsl.runtime.call import Call, Kept, Saved
from attndsl.runtime.sides import Sides
from attndsl.runtime.triton.scan_choices import ScanChoices
from attndsl.runtime.triton.wrapping import Wrapping
from attndsl.schedule.plan import Plan

if TYPE_CHECKING:
    from attndsl.runtime.triton.kernel import TritonKernel
    from attndsl.runtime.triton.projected import ProjectedKernel
    from attndsl.runtime.triton.staged import StagedKernel


class FinishedKernel(Wrapping["TritonKernel | StagedKernel | ProjectedKernel"]):
    """Runs `inner`, and what the output clause makes of its output, linear in the length.

    The clause is computed in fp32 from an output in q's type. Gradients of q and inputs by the clause go through torch
    and are added to those of `inner`."""

    def __init__(
        self, attention: Attention, found: Finished, inner: TritonKernel | StagedKernel | ProjectedKernel
    ) -> None:
        self.attention, self.inner = attention, inner
        self.output = linear_coordinates(attention, found.output)
        self.scan_choices = ScanChoices(attention)
        self._kept = frozenset(i.name for i in found.inner.inputs)
        nodes = list(walk(self.output))
        self._scalars = frozenset(n.name for n in nodes if isinstance(n, ParamRef))
        tensors = {n.tensor for n in nodes if isinstance(n, Load)}
        self._read = frozenset({"q"} if "Q" in tensors else ()) | {
            i.name for i in attention.inputs if i.name in tensors
        }
        self._o = [n for n in nodes if is_o(n)]
        self._extents = [n for n in nodes if isinstance(n, Extent)]

    def saves(self, q: Tensor, k: Tensor, v: Tensor, need_lse: bool) -> tuple[Saved, ...]:
        """What `inner` saves, whose output is not that of the call."""
        kept = Kept((*q.shape[:3], v.shape[3]), q.dtype)
        return tuple(kept if s == "out" else s for s in self.inner.saves(q, k, v, need_lse))

    def loads(self, scalar: str) -> bool:
        """As `LocatingKernel.loads`; torch computes with what the host knows."""
        return scalar not in self._scalars and self.inner.loads(scalar)

    def forward(
        self, call: Call, plan: Plan | None, need_lse: bool, save: bool
    ) -> tuple[Tensor, Tensor | None, tuple[Tensor, ...]]:
        """As `TritonKernel.forward`."""
        o, lse, saved = self.inner.forward(self.shaped(call), plan, need_lse, save)
        return self._finished(call, o).to(call.q.dtype).contiguous(), lse, saved

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
        found: dict[str, Tensor] = {}
        grad_o: Tensor | None = None
        if grad_out is not None:
            place = self.inner.saves(call.q, call.k, call.v, grad_lse is not None).index("out")
            o = saved[place].detach().requires_grad_()
            given: dict[str, Tensor] = {"q": call.q, **call.inputs}
            leaves = {n: t.detach().requires_grad_(n in needs and n in self._read) for n, t in given.items()}
            own = call.with_tensors(leaves["q"], call.k, call.v, {n: leaves[n] for n in call.inputs})
            names = [n for n, t in leaves.items() if t.requires_grad]
            with torch.enable_grad():
                out = self._finished(own, o)
            if out.requires_grad:
                grads: Any = torch.autograd.grad(
                    out, [o, *(leaves[n] for n in names)], grad_out.to(out.dtype), allow_unused=True
                )
                grad_o = None if grads[0] is None else grads[0].contiguous()
                found = {n: g for n, g in zip(names, grads[1:], strict=True) if g is not None}
        if grad_o is not None or grad_lse is not None:
            inner = self.shaped(call)
            wanted = needs & {"q", "k", "v", *inner.inputs}
            for name, g in self.inner.backward(inner, plan, saved, grad_o, grad_lse, wanted).items():
                found[name] = found[name] + g if name in found else g
        return found

    def shaped(self, call: Call) -> Call:
        """The call of `inner`."""
        own = {n: t for n, t in call.inputs.items() if n in self._kept}
        return call.within("finished", attention=self.inner.attention, inputs=own)

    def _finished(self, call: Call, o: Tensor) -> Tensor:
        """The clause in fp32, of an output [B, H, Lq, Dv]."""
        values: dict[Expr, Tensor] = dict.fromkeys(self._o, o.to(torch.float32))
        for e in self._extents:
            space, given = (
                (self.attention.q_space, call.q_extents) if e.side == "q" else (self.attention.k_space, call.k_extents)
            )
            assert space is not None
            axes = next(s.axes for s in space.segments if s.name == e.segment)
            values[e] = torch.full((1, 1, 1), given[e.segment][axes.index(e.axis)], device=o.device)
        sides = Sides(call, call.sizes["H"], offset=call.q_offset, values=values)
        return sides.value(self.output).expand(o.shape)
