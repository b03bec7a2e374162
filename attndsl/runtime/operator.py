"""The attention operator of torch: a kernel's forward and backward under autograd.

The kernel sees plain tensors with gradient mode and autocast off. Nothing but q, k, v, the inputs and what the kernel
asks for is kept for backward, through `save_for_backward`, so that checkpointing and saved-tensor hooks work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from attndsl.runtime.call import Call, Kernel
from attndsl.schedule.plan import Plan


def attend(kernel: Kernel, call: Call, plan: Plan, need_lse: bool) -> tuple[Tensor, Tensor | None]:
    """Output [B, H, Lq, Dv] in q's dtype, and lse [B, H, Lq] if asked for; differentiable in q, k, v, float inputs."""
    names = tuple(call.inputs)
    tensors = (call.q, call.k, call.v, *call.inputs.values())
    if not torch.is_grad_enabled() or not any(t.requires_grad for t in tensors):
        with torch.no_grad(), _full_precision(call.q):
            out, lse, _ = kernel.forward(call, plan, need_lse, save=False)
        return out, lse
    # Backward needs no host copies: they made the plan, which is kept.
    frame = _Frame(kernel, replace(call, tables={}), plan, names, need_lse)
    results = _apply(_Attend, frame, *tensors)
    return results[0], results[1] if need_lse else None


@dataclass(eq=False)
class _Frame:
    """What a call is beside its differentiable tensors. The tensors of `call` are dropped once it has run.

    `saved` says which results of the operator are what the kernel saved; forward fills it.
    """

    kernel: Kernel
    call: Call
    plan: Plan
    names: tuple[str, ...]
    need_lse: bool
    saved: list[int] = field(default_factory=list[int])

    def on(self, tensors: tuple[Tensor, ...]) -> Call:
        """The call on q, k, v and the inputs."""
        q, k, v, *inputs = tensors
        return self.call.with_tensors(q, k, v, dict(zip(self.names, inputs, strict=True)))

    def without_tensors(self) -> _Frame:
        empty: Any = None
        return replace(self, call=self.call.with_tensors(empty, empty, empty, {}))


class _Attend(torch.autograd.Function):
    """Results: output, lse (empty unless asked for), and what the kernel saves (hidden from the caller)."""

    @staticmethod
    def forward(frame: _Frame, *tensors: Tensor) -> tuple[Tensor, ...]:
        call = frame.on(tensors)
        with _full_precision(call.q):
            out, lse, saved = frame.kernel.forward(call, frame.plan, frame.need_lse, save=True)
        results = [out, out.new_empty(0) if lse is None else lse]
        for tensor in saved:
            # one tensor may not be two results
            place = next((i for i, r in enumerate(results) if r is tensor), len(results))
            results += [tensor] if place == len(results) else []
            frame.saved.append(place)
        return tuple(results)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        frame, *tensors = inputs
        ctx.frame = frame.without_tensors()
        ctx.count = len(tensors)
        hidden = output[2:] if frame.need_lse else output[1:]
        ctx.mark_non_differentiable(*hidden)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, *(output[i] for i in frame.saved))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        grad_out, grad_lse = grads[0], grads[1]
        nothing = (None,) * (ctx.count + 1)
        wanted: tuple[bool, ...] = ctx.needs_input_grad[1:]
        if (grad_out is None and grad_lse is None) or not any(wanted):
            return nothing
        frame: _Frame = ctx.frame
        names = ("q", "k", "v", *frame.names)
        needs = frozenset(n for n, w in zip(names, wanted, strict=True) if w)
        count: int = ctx.count

        def run(*given: Tensor | None) -> tuple[Tensor, ...]:
            tensors: Any = given[2 : 2 + count]
            saved: Any = given[2 + count :]
            call = frame.on(tensors)
            with _full_precision(call.q):
                found = frame.kernel.backward(call, frame.plan, saved, given[0], given[1], needs)
            pairs = [(n, t) for n, t in zip(names, tensors, strict=True) if n in needs]
            return tuple(found[n] if n in found else torch.zeros_like(t) for n, t in pairs)

        operands = (grad_out, grad_lse, *ctx.saved_tensors)
        name = frame.call.attention.name
        results = iter(_apply(_Gradient, run, name, *operands))
        return (None, *(next(results) if w else None for w in wanted))


class _Gradient(torch.autograd.Function):
    """The backward pass as an operation of its own, which has no derivative and says so."""

    @staticmethod
    def forward(run: Callable[..., tuple[Tensor, ...]], name: str, *operands: Tensor | None) -> tuple[Tensor, ...]:
        return run(*operands)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.name = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        raise RuntimeError(
            f"{ctx.name}: second derivatives of an attention are not supported; "
            "the gradient of this call can be taken once (create_graph=False)"
        )


def _apply(function: Any, *operands: object) -> Any:
    return function.apply(*operands)


def _full_precision(tensor: Tensor) -> torch.autocast:
    """Kernels choose their own precisions."""
    return torch.autocast(tensor.device.type, enabled=False)
