"""The attention operator of torch: `attndsl::attend` and its backward, for eager mode, compilers and transforms.

Both are opaque to compilers. They know an attention by its printed text, so that a graph that was exported runs in
another process. Binding, planning and dispatch happen inside: a graph holds neither a length nor a plan. Kernels see
plain tensors with gradient mode and autocast off.
"""
# pyright: reportPrivateUsage=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUntypedBaseClass=false

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.library import Library

from attndsl.runtime.batching import attend_batched, backward_batched, saves_of
from attndsl.runtime.binding import unit_stride
from attndsl.runtime.call import Kept
from attndsl.runtime.context import in_context
from attndsl.runtime.given import Given
from attndsl.runtime.registry import runner_of
from attndsl.runtime.runner import lse_dtype

_CALL = (
    "Tensor q, Tensor k, Tensor v, Tensor[] inputs, Tensor[] numbers, int[] places, float[] floats, SymInt[] ints, "
    "SymInt q_offset, float? scale, SymInt[]? grid, str spec, str? backend"
)
"""The fields of `Given`, in its order."""

_library = Library("attndsl", "DEF")
for _schema in (
    f"attend({_CALL}, bool lse, bool checked, bool save) -> (Tensor[] results, Tensor[] kept)",
    f"attend_backward({_CALL}, Tensor[] saved, Tensor[] grads, int[] given, bool[] needs) -> Tensor[]",
):
    _library.define(_schema, tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order))
ATTEND: Any = torch.ops.attndsl.attend.default
"""Results (output, and lse if asked for), and with `save` what only backward needs."""
BACKWARD: Any = torch.ops.attndsl.attend_backward.default
"""Gradients of those of q, k, v and the inputs whose `needs` is set. `grads` are those of the results at `given`."""

_FIELDS = len(Given._fields)
_BELOW: Any = torch._C._after_autograd_keyset


def attend(given: Given, need_lse: bool, checked: bool = False) -> list[Tensor]:
    """Output [B, H, Lq, Dv] in q's dtype, and lse [B, H, Lq] if asked for; differentiable in q, k, v, float inputs."""
    return ATTEND(*given, need_lse, checked, False)[0]


# Forward


def _run(*args: Any) -> tuple[list[Tensor], list[Tensor]]:
    given, (need_lse, checked, save) = Given(*args[:_FIELDS]), args[_FIELDS:]
    with alone(given.q.device.type):
        bound = runner_of(given.spec).bound(given, checked=checked, differentiated=save)
        out, lse, saved = bound.forward(need_lse, save)
    # no tensor may be two results
    return [out] if lse is None else [out, lse], [t for t in saved if t is not out and t is not lse]


def _fake(*args: Any) -> tuple[list[Tensor], list[Tensor]]:
    given, (need_lse, _, save) = Given(*args[:_FIELDS]), args[_FIELDS:]
    q = given.q
    results = [q.new_empty((*q.shape[:3], given.v.shape[3]))]
    if need_lse:
        results.append(q.new_empty(q.shape[:3], dtype=lse_dtype(q.dtype)))
    saves = saves_of(given, need_lse) if save else ()
    return results, [q.new_empty(s.shape, dtype=s.dtype) for s in saves if isinstance(s, Kept)]


def _differentiable(keys: Any, *args: Any) -> tuple[list[Tensor], list[Tensor]]:
    given, (need_lse, checked, save) = Given(*args[:_FIELDS]), args[_FIELDS:]
    below = keys & _BELOW
    if not torch.is_grad_enabled() or not any(t.requires_grad for t in given.tensors):
        return ATTEND.redispatch(below, *args)
    frame = _Frame.of(given, need_lse, checked, below)
    with _single_level():
        results = _apply(_Attend, frame, *given.tensors, *given.numbers)
    count = 1 + need_lse
    return list(results[:count]), list(results[count:]) if save else []


@dataclass(eq=False)
class _Frame:
    """What a call is beside its tensors."""

    rest: tuple[Any, ...]
    inputs: int
    need_lse: bool
    checked: bool
    below: Any

    @staticmethod
    def of(given: Given, need_lse: bool, checked: bool, below: Any) -> _Frame:
        return _Frame(tuple(given[5:]), len(given.inputs), need_lse, checked, below)

    def on(self, tensors: Sequence[Tensor]) -> Given:
        """The arguments with q, k, v, inputs and numbers."""
        q, k, v, *more = tensors
        return Given(q, k, v, more[: self.inputs], more[self.inputs :], *self.rest)


class _Attend(torch.autograd.function._SingleLevelFunction):
    """Results: those of the operator, then what it keeps."""

    @staticmethod
    def forward(ctx: Any, frame: _Frame, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = frame.on(tensors)
        results, kept = ATTEND.redispatch(frame.below, *given, frame.need_lse, frame.checked, True)
        named = dict(zip(("out", "lse"), results, strict=False))
        own = iter(kept)
        saved = [named[s] if isinstance(s, str) else next(own) for s in saves_of(given, frame.need_lse)]
        ctx.frame, ctx.context = frame, copy_context()
        ctx.count = len(tensors)
        ctx.mark_non_differentiable(*kept)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, *saved)
        return (*results, *kept)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        frame: _Frame = ctx.frame
        count: int = ctx.count
        given = [i for i, g in enumerate(grads[: 1 + frame.need_lse]) if g is not None]
        tensors = 3 + frame.inputs
        needs = list(ctx.needs_input_grad[1 : 1 + tensors])
        if not given or not any(needs):
            return (None,) * (1 + count)
        saved = ctx.saved_tensors
        operands = (*frame.on(saved[:count]), list(saved[count:]), [grads[i] for i in given], given, needs)
        found = iter(in_context(ctx.context, BACKWARD, *operands))
        return None, *(next(found) if n else None for n in needs), *(None,) * (count - tensors)


# Backward


def _run_backward(*args: Any) -> list[Tensor]:
    given, (saved, grads, places, needs) = Given(*args[:_FIELDS]), args[_FIELDS:]
    with alone(given.q.device.type):
        runner = runner_of(given.spec)
        bound = runner.bound(given, differentiated=True)
        by_place = {i: unit_stride(g) for i, g in zip(places, grads, strict=True)}
        wanted = [(n, t) for n, t, w in zip(runner.differentiable, given.tensors, needs, strict=True) if w]
        names = frozenset(n for n, _ in wanted)
        found = bound.backward(tuple(saved), by_place.get(0), by_place.get(1), names)
        return [found[n].contiguous() if n in found else t.new_zeros(t.shape) for n, t in wanted]


def _fake_backward(*args: Any) -> list[Tensor]:
    given, needs = Given(*args[:_FIELDS]), args[-1]
    return [t.new_empty(t.shape) for t, w in zip(given.tensors, needs, strict=True) if w]


def _once_differentiable(keys: Any, *args: Any) -> list[Tensor]:
    given, (saved, grads, places, needs) = Given(*args[:_FIELDS]), args[_FIELDS:]
    below = keys & _BELOW
    operands = (*given.tensors, *saved, *grads)
    if not torch.is_grad_enabled() or not any(t.requires_grad for t in operands):
        return BACKWARD.redispatch(below, *args)

    def run(tensors: tuple[Tensor, ...]) -> list[Tensor]:
        q, k, v, *more = tensors
        inputs, more = more[: len(given.inputs)], more[len(given.inputs) :]
        again = given._replace(q=q, k=k, v=v, inputs=inputs)
        return BACKWARD.redispatch(below, *again, more[: len(saved)], more[len(saved) :], places, needs)

    with _single_level():
        return list(_apply(Gradient, run, runner_of(given.spec).attention.name, *operands))


class Gradient(torch.autograd.function._SingleLevelFunction):
    """The backward pass as an operation of its own, which has no derivative and says so."""

    @staticmethod
    def forward(ctx: Any, run: Callable[..., list[Tensor]], name: str, *operands: Tensor) -> tuple[Tensor, ...]:
        ctx.name = name
        return tuple(run(operands))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        raise RuntimeError(
            f"{ctx.name}: second derivatives of an attention are not supported; "
            "the gradient of this call can be taken once (create_graph=False)"
        )


# Registration


def _apply(function: Any, *operands: object) -> Any:
    return function.apply(*operands)


def _single_level() -> AbstractContextManager[Any]:
    """Within torch.func the dispatcher has chosen the level of a transform, and this is its autograd."""
    functorch: Any = torch._C
    if functorch._functorch.peek_interpreter_stack() is None:
        return nullcontext()
    from torch._functorch.utils import enable_single_level_autograd_function

    return enable_single_level_autograd_function()


@contextmanager
def alone(device: str) -> Generator[None]:
    """Gradient mode and autocast are off, and a kernel that turns gradient mode on within gets gradients, although a
    compiled graph calls operators below autograd."""
    lowered = torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()
    with torch.no_grad(), lowered, _autograd_within():
        yield


def _autograd_within() -> AbstractContextManager[Any]:
    if not torch._C._dispatch_tls_is_dispatch_key_excluded(torch._C.DispatchKey.AutogradOther):
        return nullcontext()
    excluded: Any = torch._C._dispatch_tls_local_exclude_set()
    for key in ("AutogradFunctionality", "AutogradOther", "AutogradNestedTensor", "ADInplaceOrView"):
        excluded = excluded.remove(getattr(torch._C.DispatchKey, key))
    return torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), excluded)


for _name, _kernel, _shapes, _autograd, _vmap in (
    ("attend", _run, _fake, _differentiable, attend_batched),
    ("attend_backward", _run_backward, _fake_backward, _once_differentiable, backward_batched),
):
    _library.impl(_name, _kernel, "CompositeExplicitAutograd")
    _library.impl(_name, _autograd, "Autograd", with_keyset=True)
    torch.library.register_fake(f"attndsl::{_name}", _shapes, lib=_library)
    torch.library.register_vmap(f"attndsl::{_name}", _vmap, lib=_library)
