"""A kernel that computes densely with the oracle's code, in q's own element type: the operator tested without tiles."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from attndsl.reference import reference
from attndsl.runtime.call import Call, Kept, Saved
from attndsl.schedule.plan import Plan


class DenseKernel:
    """Counts its calls, and notes what it was asked for."""

    def __init__(self) -> None:
        self.forwards = 0
        self.needs: frozenset[str] = frozenset()
        self.dtypes: set[torch.dtype] = set()

    def tiling(self, call: Call) -> None:
        """Boxes do not matter."""

    def settings(self) -> None:
        """Nothing but the call decides."""

    def saves(self, q: Tensor, k: Tensor, v: Tensor, need_lse: bool) -> tuple[Saved, ...]:
        """Both results."""
        lse = Kept((*q.shape[:3],), q.dtype)
        return "out", "lse" if need_lse else lse

    def forward(
        self, call: Call, plan: Plan, need_lse: bool, save: bool
    ) -> tuple[Tensor, Tensor | None, tuple[Tensor, ...]]:
        assert not torch.is_grad_enabled()
        assert not torch.is_autocast_enabled(call.q.device.type)
        self.forwards += 1
        self.dtypes.add(call.q.dtype)
        out, lse = self._run(call)
        assert lse is not None
        return out, lse if need_lse else None, (out, lse) if save else ()

    def backward(
        self,
        call: Call,
        plan: Plan,
        saved: tuple[Tensor, ...],
        grad_out: Tensor | None,
        grad_lse: Tensor | None,
        needs: frozenset[str],
    ) -> Mapping[str, Tensor]:
        assert not torch.is_grad_enabled()
        self.needs = needs
        tensors = {"q": call.q, "k": call.k, "v": call.v, **call.inputs}
        live = {n: t.detach().requires_grad_(n in needs) for n, t in tensors.items()}
        inputs = {n: live[n] for n in call.inputs}
        with torch.enable_grad():
            results = self._run(call.with_tensors(live["q"], live["k"], live["v"], inputs))
        assert torch.equal(saved[0], results[0])
        pairs = [(r, g) for r, g in zip(results, (grad_out, grad_lse), strict=True) if g is not None and r is not None]
        names = sorted(needs)
        found = torch.autograd.grad(
            [r for r, _ in pairs], [live[n] for n in names], [g for _, g in pairs], allow_unused=True
        )
        return {n: g for n, g in zip(names, found, strict=True) if g is not None}

    def _run(self, call: Call) -> tuple[Tensor, Tensor | None]:
        out, lse = reference(
            call.attention, call.q, call.k, call.v, inputs=call.inputs, scalars=call.scalars, scale=call.scale,
            q_offset=call.q_offset, dtype=call.q.dtype,
        )  # fmt: skip
        return out, lse
