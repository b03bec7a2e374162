"""Eager calls, run without the operator; those that repeat an earlier one find what they share by one look.

A call is repeated where its tensors have the same shapes, strides, element types, devices, alignments and keys of
torch's dispatcher, and its options are the same. Compilers, transforms, dispatch modes, tracers and `checked` calls see
the operator.
"""
# pyright: reportPrivateUsage=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUntypedBaseClass=false

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from attndsl.ir.attention import Attention
from attndsl.ir.expr import Literal, Size, walk
from attndsl.ir.types import Kind
from attndsl.runtime.binding import unit_stride
from attndsl.runtime.context import in_context
from attndsl.runtime.given import Given, Signature
from attndsl.runtime.host import meaning
from attndsl.runtime.operator import Gradient, alone
from attndsl.runtime.registry import runner_of
from attndsl.runtime.runner import Binding, Bound, Runner, Scalars

CAPACITY = 64
"""Different calls of an attention that are kept."""

_C: Any = torch._C
_PLAIN = frozenset((Tensor, torch.nn.Parameter))
_TYPES = {Kind.FLOAT: float, Kind.INT: int, Kind.BOOL: bool}
_STRANGE: tuple[Any, ...] = tuple(
    getattr(_C.DispatchKey, name)
    for name in ("Python", "Negative", "Conjugate", "ZeroTensor", "Functionalize", "FuncTorchBatched",
                 "FuncTorchGradWrapper")
)  # fmt: skip
_interpreter = _C._functorch.peek_interpreter_stack
_modes = _C._len_torch_dispatch_stack
_tracer = _C._get_tracing_state
_keys = _C._dispatch_keys


@dataclass(frozen=True, eq=False)
class Repeated:
    """What repeated calls share: the binding that the operator made, and the settings that it was made under."""

    runner: Runner
    binding: Binding
    settings: Hashable
    differentiated: bool
    given: Given
    facts: tuple[Hashable, ...]

    @property
    def valid(self) -> bool:
        """Whether the same kernel would run in the same way."""
        kernel = self.binding.kernel
        return self.runner.kernels.get(self.binding.backend) is kernel and kernel.settings() == self.settings

    def bound(self, tensors: Sequence[Tensor], scalars: Scalars, offset: int | Tensor) -> Bound:
        """The call on these tensors (q, k, v, then inputs)."""
        return self.runner.repeated(self.binding, tensors, scalars, offset)


@dataclass(eq=False, slots=True)
class Asked:
    """A call in a form that repetitions are found by."""

    key: tuple[Any, ...]
    tensors: tuple[Tensor, ...]
    scalars: Scalars
    offset: int | Tensor
    differentiated: bool

    @property
    def longer(self) -> Hashable:
        """Equal for calls that differ in the number of keys and the offset alone; None for layouts where strides tell
        the number."""
        wants, need_lse, layout, scale, _, grid, backend, deciding, (q, k, v, *rest) = self.key
        at = 1 if layout == "bshd" else 2
        k, v = ((*t[0][:at], *t[0][at + 1 :], *t[1:]) for t in (k, v))
        return "longer", wants, need_lse, layout, scale, grid, backend, deciding, q, k, v, *rest


@dataclass(frozen=True, eq=False)
class Growing:
    """Calls with one plan whatever the number of their keys, up to a multiple of the tiling's step."""

    known: Repeated
    keys: int
    first: int
    stop: int

    @staticmethod
    def of(known: Repeated) -> Growing | None:
        """None where a call with more keys could mean another plan or an error."""
        binding = known.binding
        planned = binding.plan is not None or binding.located
        if binding.tiling is None or not binding.tiling.step or not planned or known.differentiated:
            return None
        if not _lengths_are_free(known.runner.attention):
            return None
        return Growing(known, *_rounded(binding.call.sizes, binding.call.q_offset, binding.tiling.step))

    def bound(self, tensors: Sequence[Tensor], scalars: Scalars, offset: int | Tensor) -> Bound | None:
        """The call on these tensors; None where it has another plan."""
        binding = self.known.binding
        if not isinstance(offset, int):
            return None
        assert binding.tiling is not None
        sizes = binding.call.sizes
        rows, keys = sizes["Lq"], tensors[1].shape[2]
        sizes = {**sizes, "Lk": keys, "L": max(rows, keys) if offset == 0 else keys}
        if _rounded(sizes, offset, binding.tiling.step) != (self.keys, self.first, self.stop):
            return None
        found = self.known.bound(tensors, scalars, offset)
        found.call.__dict__["sizes"] = sizes
        return found


def _rounded(sizes: Mapping[str, int], offset: Any, step: int) -> tuple[int, int, int]:
    first = offset // step * step
    return -(-sizes["Lk"] // step), first, -(-(offset + sizes["Lq"] - first) // step)


@lru_cache(maxsize=256)
def _lengths_are_free(attention: Attention) -> bool:
    """Whether nothing that is checked or bound depends on lengths."""
    if attention.q_space is not None or attention.k_space is not None:
        return False
    dims = [d for i in attention.inputs for d in i.shape]
    fixed = ("B", "H", "Hkv", "D", "Dv")
    if not all(isinstance(d, Literal) or (isinstance(d, Size) and d.name in fixed) for d in dims):
        return False
    return not any(
        isinstance(n, Size) and n.name not in fixed
        for e in (*meaning(attention), *(r.condition for r in attention.requires))
        for n in walk(e)
    )


def asked(
    signature: Signature,
    q: Any,
    k: Any,
    v: Any,
    arguments: Mapping[str, Any],
    layout: str,
    need_lse: bool,
    scale: Any,
    q_offset: Any,
    grid: Any,
    backend: str | None,
) -> Asked | None:
    """The call as it is looked for; None where the operator is to see it."""
    if _interpreter() is not None or _modes() or _tracer() is not None:
        return None
    kinds = type(q), type(k), type(v)
    if not (kinds[0] in _PLAIN and kinds[1] in _PLAIN and kinds[2] in _PLAIN):
        return None
    tensors: tuple[Tensor, ...] = (q, k, v)
    count = 0
    if signature.inputs:
        more: list[Any] = [arguments.get(name) for name in signature.inputs]
        if not all(type(t) in _PLAIN for t in more):
            return None
        count = len(more)
        tensors = (q, k, v, *more)
    scalars: Scalars = {}
    deciding: tuple[Hashable, ...] = ()
    for name, kind, default, decides in signature.kinds:
        value = arguments.get(name, default)
        count += name in arguments
        if type(value) is Tensor and value.ndim == 0 and not value.requires_grad:
            scalars[name] = value
            deciding = (*deciding, (value.dtype, value.device, value.data_ptr() & 15, _keys(value).raw_repr()))
            continue
        if type(value) is not _TYPES[kind] or (kind is Kind.INT and not -(2**31) <= value < 2**31):
            return None
        scalars[name] = value
        if decides:
            # -0.0 is not 0.0, and nan is nan
            deciding = (*deciding, repr(value))
    if count != len(arguments) or not (scale is None or type(scale) is float):
        return None
    offset: Any = q_offset
    place: Hashable = q_offset
    if isinstance(q_offset, Tensor):
        if type(q_offset) is not Tensor or q_offset.ndim != 1:
            return None
        place = q_offset.shape, q_offset.dtype, q_offset.device, _keys(q_offset).raw_repr()
    elif not (type(q_offset) is int or (type(q_offset) is str and q_offset == "end")):
        return None
    if not (grid is None or type(grid) is tuple):
        return None
    try:
        facts = tuple([
            (t.shape, t.stride(), t.dtype, t.device, t.data_ptr() & 15, _keys(t).raw_repr()) for t in tensors
        ])  # fmt: skip
        if _C._is_any_autocast_enabled() and not _lowered(tensors):
            return None
        wants = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
        if wants and _C._dispatch_tls_is_dispatch_key_excluded(_C.DispatchKey.AutogradOther):
            return None
        key = (wants, need_lse, layout, scale, place, grid, backend, deciding, facts)
        hash(key)
    except (RuntimeError, TypeError):
        # no dense tensor, or what is no extent
        return None
    if type(q_offset) is str:
        rows = 1 if layout == "bshd" else 2
        offset = k.shape[rows] - q.shape[rows]
    return Asked(key, tensors, scalars, offset, wants)


def run(signature: Signature, call: Asked, layout: str, need_lse: bool) -> list[Tensor] | None:
    """The results of a call that repeats one; None where none is known."""
    recent = signature.recent
    known: Repeated | None = recent.get(call.key)
    longer: Growing | None = recent.get(call.longer) if known is None and recent else None
    valid = known.valid if known is not None else longer is not None and longer.known.valid
    if not valid:
        return None
    tensors = call.tensors
    if layout == "bshd":
        q, k, v = (t.transpose(1, 2) for t in tensors[:3])
        tensors = (q, k, v, *tensors[3:])
    if known is None:
        assert longer is not None
        bound = longer.bound(tensors, call.scalars, call.offset)
        if bound is None:
            return None
    elif call.differentiated:
        return _differentiated(known, call, need_lse, tensors)
    else:
        bound = known.bound(tensors, call.scalars, call.offset)
    graded = torch.is_grad_enabled()
    _C._set_grad_enabled(False)
    try:
        return _results(bound, need_lse)
    finally:
        _C._set_grad_enabled(graded)


def _forward(bound: Bound, need_lse: bool, save: bool) -> tuple[Tensor, Tensor | None, tuple[Tensor, ...]]:
    """As `Bound.forward`, with autocast off."""
    if not _C._is_any_autocast_enabled():
        return bound.forward(need_lse, save)
    with alone(bound.call.q.device.type):
        return bound.forward(need_lse, save)


def first(signature: Signature, call: Asked, given: Given, need_lse: bool) -> list[Tensor] | None:
    """The results of a call, `given` in this form, that repeats none, and may be repeated from now on; None where the
    operator is to see it."""
    if any(_keys(t).has(key) for t in call.tensors for key in _STRANGE):
        return None
    runner = runner_of(given.spec)
    kept = runner.scalars(given) if given.numbers else call.scalars
    if any(isinstance(x, Tensor) and not isinstance(kept[n], Tensor) for n, x in call.scalars.items()):
        # a number that the host reads of a tensor may be another the next time
        return None
    graded = torch.is_grad_enabled()
    _C._set_grad_enabled(False)
    try:
        bound, binding = runner.first(given, kept, call.differentiated)
        if binding is None:
            return None
        nothing: Any = None
        bare = given._replace(q=nothing, k=nothing, v=nothing, inputs=[])
        facts = tuple([_facts(t) for t in given.tensors])
        made = Repeated(runner, binding, binding.kernel.settings(), call.differentiated, bare, facts)
        results = None if call.differentiated else _results(bound, need_lse)
    finally:
        _C._set_grad_enabled(graded)
    if results is None:
        results = _differentiated(made, call, need_lse, given.tensors)
    growing = Growing.of(made)
    if len(signature.recent) >= CAPACITY:
        signature.recent.clear()
    if growing is None:
        signature.recent[call.key] = made
    else:
        signature.recent[call.longer] = growing
    return results


def _differentiated(known: Repeated, call: Asked, need_lse: bool, tensors: Sequence[Tensor]) -> list[Tensor]:
    results = _apply(known, call.scalars, call.offset, need_lse, *tensors)
    return list(results) if need_lse else [results]


def _results(bound: Bound, need_lse: bool) -> list[Tensor]:
    out, lse, _ = _forward(bound, need_lse, False)
    return [out] if lse is None else [out, lse]


def _facts(t: Tensor) -> Hashable:
    return t.shape, t.stride(), t.dtype, t.device, t.data_ptr() & 15


def _lowered(tensors: Sequence[Tensor]) -> bool:
    """Whether autocast would leave q, k and v as they are, and what runs then."""
    device = tensors[0].device.type
    if device == "cpu":
        return False
    low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    return low is None or all(t.dtype == low for t in tensors[:3])


class _Attend(torch.autograd.function._SingleLevelFunction):
    """A repeated call with gradients."""

    @staticmethod
    def forward(
        ctx: Any, known: Repeated, scalars: Scalars, offset: int | Tensor, need_lse: bool, *tensors: Tensor
    ) -> Tensor | tuple[Tensor, Tensor]:
        out, lse, saved = _forward(known.bound(tensors, scalars, offset), need_lse, True)
        # as much an operand as others, though without a gradient: a later change in place is an error
        moved = offset if isinstance(offset, Tensor) else None
        ctx.known, ctx.scalars, ctx.offset = known, scalars, None if moved is not None else offset
        ctx.context = copy_context()
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, *saved, *(() if moved is None else (moved,)))
        return out if lse is None else (out, lse)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        known: Repeated = ctx.known
        grad_out, grad_lse = gradients if len(gradients) == 2 else (gradients[0], None)
        needs: tuple[bool, ...] = ctx.needs_input_grad[4:]
        if (grad_out is None and grad_lse is None) or True not in needs:
            return (None,) * (4 + len(needs))
        grads = [g for g in (grad_out, grad_lse) if g is not None]
        *kept, last = ctx.saved_tensors
        offset: int | Tensor = last if ctx.offset is None else ctx.offset
        operands = (*kept, *(() if ctx.offset is None else (last,)), *grads)
        names = [n for n, w in zip(known.runner.differentiable, needs, strict=True) if w]

        def run(operands: tuple[Tensor, ...]) -> list[Tensor]:
            tensors, saved = operands[: len(needs)], operands[len(needs) : len(operands) - len(grads)]
            given = iter(operands[len(operands) - len(grads) :])
            out, lse = (None if g is None else unit_stride(next(given)) for g in (grad_out, grad_lse))
            bound = _again(known, tensors, ctx.scalars, offset)
            found = bound.backward(saved, out, lse, frozenset(names))
            wanted = zip(known.runner.differentiable, tensors, needs, strict=True)
            return [
                found[n].contiguous() if n in found else t.new_zeros(t.shape) for n, t, w in wanted if w
            ]  # fmt: skip

        if torch.is_grad_enabled():
            # it has no derivative and says so
            found: Any = in_context(ctx.context, _gradient, run, known.runner.attention.name, *operands)
        elif _C._is_any_autocast_enabled():
            with alone(operands[0].device.type):
                found = in_context(ctx.context, run, operands)
        else:
            found = in_context(ctx.context, run, operands)
        each = iter(found)
        return None, None, None, None, *(next(each) if w else None for w in needs)


_attend: Any = _Attend
_apply = _attend.apply
_once: Any = Gradient
_gradient = _once.apply


def _again(known: Repeated, tensors: Sequence[Tensor], scalars: Scalars, offset: int | Tensor) -> Bound:
    """The call of a backward, whose tensors may have been moved, or settings changed, since."""
    if known.valid and all(_facts(t) == f for t, f in zip(tensors, known.facts, strict=True)):
        return known.bound(tensors, scalars, offset)
    q, k, v, *inputs = tensors
    floats: list[float] = []
    ints: list[int] = []
    numbers: list[Tensor] = []
    for s in known.runner.attention.scalars:
        value = scalars[s.name]
        if isinstance(value, Tensor):
            numbers.append(value)
            value = 0
        if s.kind is Kind.FLOAT:
            floats.append(float(value))
        else:
            ints.append(int(value))
    if isinstance(offset, Tensor):
        numbers.append(offset)
        offset = 0
    # in the places that they had
    given = known.given._replace(
        q=q, k=k, v=v, inputs=inputs, floats=floats, ints=ints, numbers=numbers, q_offset=offset
    )  # fmt: skip
    return known.runner.bound(given, differentiated=True)
