"""A kernel's scan under autograd: from q, k, v, the inputs and a state to the output and the next state."""
# pyright: reportPrivateUsage=false, reportUntypedBaseClass=false

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from attndsl.runtime.call import Call, ScanKernel
from attndsl.runtime.context import in_context
from attndsl.runtime.state import State
from attndsl.schedule.legalise import ScanForm

_C: Any = torch._C
_interpreter = _C._functorch.peek_interpreter_stack
_single_level: Any = torch.autograd.function._SingleLevelFunction


def scan(
    kernel: ScanKernel, call: Call, form: ScanForm, state: State | None, need_state: bool
) -> tuple[Tensor, State | None]:
    """Output [B, H, Lq, Dv] in q's dtype and, with `need_state`, the state after the last row; differentiable in q, k,
    v, float inputs, and S and z of the state given."""
    names = tuple(call.inputs)
    held = [] if state is None else [t for t in (state.S, state.z) if t is not None]
    tensors = (call.q, call.k, call.v, *call.inputs.values(), *held)
    if not torch.is_grad_enabled() or not any(t.requires_grad for t in tensors):
        with torch.no_grad(), _full_precision(call.q):
            out, after, _ = kernel.scan(call, form, state, need_state, save=False)
        return out, after
    bare = None if state is None else (state.position, state.segment, state.z is not None)
    frame = _Frame(kernel, replace(call, tables={}), form, bare, names, need_state)
    plain = _interpreter() is None
    results: Any = _apply(_Eager if plain else _Scan, frame, *tensors)
    if not need_state:
        return results[0], None
    assert frame.after is not None
    z = results[2] if frame.after.z is not None else None
    return results[0], replace(frame.after, S=results[1], z=z)


@dataclass(eq=False)
class _Frame:
    """What a scan is beside its differentiable tensors. `state` is (position, segment, whether there is a z)."""

    kernel: ScanKernel
    call: Call
    form: ScanForm
    state: tuple[int, Tensor | None, bool] | None
    names: tuple[str, ...]
    need_state: bool
    after: State | None = None
    saved: list[int] = field(default_factory=list[int])

    @property
    def every(self) -> tuple[str, ...]:
        """Names of the operator's tensors."""
        held = () if self.state is None else ("state.S", "state.z")[: 2 if self.state[2] else 1]
        return ("q", "k", "v", *self.names, *held)

    def on(self, tensors: tuple[Tensor, ...]) -> tuple[Call, State | None]:
        """The call and the state on these tensors."""
        given = dict(zip(self.every, tensors, strict=True))
        inputs = {n: given[n] for n in self.names}
        state = None
        if self.state is not None:
            position, segment, _ = self.state
            state = State(given["state.S"], given.get("state.z"), position, segment)
        return self.call.with_tensors(given["q"], given["k"], given["v"], inputs), state

    def without_tensors(self) -> _Frame:
        empty: Any = None
        return replace(self, call=self.call.with_tensors(empty, empty, empty, {}), after=None)


class _Scan(torch.autograd.Function):
    """Results: output, S and z of the next state (empty unless asked for), and what the kernel saves (hidden)."""

    @staticmethod
    def forward(frame: _Frame, *tensors: Tensor) -> tuple[Tensor, ...]:
        call, state = frame.on(tensors)
        with _full_precision(call.q):
            out, after, saved = frame.kernel.scan(call, frame.form, state, frame.need_state, save=True)
        frame.after = after
        S = out.new_empty(0) if after is None else after.S
        z = out.new_empty(0) if after is None or after.z is None else after.z
        results = [out, S, z]
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
        ctx.count, ctx.context = len(tensors), copy_context()
        hidden = output[3:] if frame.need_state else output[1:]
        ctx.mark_non_differentiable(*hidden)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, *(output[i] for i in frame.saved))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        given = grads[:3]
        wanted: tuple[bool, ...] = ctx.needs_input_grad[1:]
        if all(g is None for g in given) or not any(wanted):
            return (None,) * (ctx.count + 1)
        frame: _Frame = ctx.frame
        names = frame.every
        needs = frozenset(n for n, w in zip(names, wanted, strict=True) if w)
        operands = (frame, needs, ctx.count, *given, *ctx.saved_tensors)
        # with a graph of its own where one is asked for, to say that it has no derivative
        run: Any = partial(_apply, _Gradient) if torch.is_grad_enabled() else _Gradient.forward
        results: Any = in_context(ctx.context, run, *operands)
        found = iter(results)
        return (None, *(next(found) if w else None for w in wanted))


class _Eager(_single_level):
    """As `_Scan` where no transform of torch looks: without its look at the arguments."""

    @staticmethod
    def forward(ctx: Any, frame: _Frame, *tensors: Tensor) -> tuple[Tensor, ...]:
        results = _Scan.forward(frame, *tensors)
        _Scan.setup_context(ctx, (frame, *tensors), results)
        return results

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return _Scan.backward(ctx, *grads)


class _Gradient(torch.autograd.Function):
    """The backward pass as an operation of its own, which has no derivative and says so."""

    @staticmethod
    def forward(frame: _Frame, needs: frozenset[str], count: int, *operands: Tensor | None) -> tuple[Tensor, ...]:
        grad_out, grad_S, grad_z = operands[:3]
        rest: Any = operands[3:]
        call, state = frame.on(rest[:count])
        with _full_precision(call.q):
            found = frame.kernel.scan_backward(call, frame.form, state, rest[count:], grad_out, (grad_S, grad_z), needs)
        pairs = [(n, t) for n, t in zip(frame.every, rest[:count], strict=True) if n in needs]
        return tuple(found[n] if n in found else torch.zeros_like(t) for n, t in pairs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.name = inputs[0].call.attention.name

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        raise RuntimeError(
            f"{ctx.name}: second derivatives of an attention are not supported; "
            "the gradient of this call can be taken once (create_graph=False)"
        )


def _apply(function: Any, *operands: object) -> Any:
    return function.apply(*operands)


def _full_precision(tensor: Tensor) -> AbstractContextManager[Any]:
    """Kernels choose their own precisions."""
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()
