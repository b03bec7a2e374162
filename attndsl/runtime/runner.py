"""Runs the calls of one attention: binds them, plans them, and knows the kernels of its backends.

A call that repeats an earlier one (see `Runner.bound`) is neither checked nor planned again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from attndsl.ir.attention import Attention, Scalar
from attndsl.ir.expr import ParamRef, walk
from attndsl.ir.free import tensors as tensors_read
from attndsl.ir.types import Kind
from attndsl.runtime.binding import HostTables, bind_call
from attndsl.runtime.call import Call, Kernel, LocatingKernel, Saved, ScanKernel
from attndsl.runtime.checked import check_promises
from attndsl.runtime.dispatch import choose_backend, kernel_of
from attndsl.runtime.given import Given
from attndsl.runtime.host import decided_by
from attndsl.runtime.lengths import Lengths
from attndsl.runtime.plans import PlanCache
from attndsl.runtime.scalars import scalar_value
from attndsl.schedule.legalise import ScanForm, legalise, scan_form
from attndsl.schedule.plan import Plan
from attndsl.schedule.problem import Problem
from attndsl.schedule.tiling import Tiling

CAPACITY = 64
"""Different calls whose bindings are kept."""

Scalars = dict[str, Any]


@dataclass(eq=False, slots=True)
class Bound:
    """A call that is checked, and who runs it: by a plan, or with `form` as a scan.

    `saves` is false where backward runs forward again: for attentions that may scan, as what a scan saves depends on
    lengths, which graphs do not know. `located`: the kernel finds boxes on the device, without a plan.
    """

    kernel: Kernel
    call: Call
    plan: Plan | None
    form: ScanForm | None = None
    saves: bool = True
    located: bool = False

    def forward(self, need_lse: bool, save: bool) -> tuple[Tensor, Tensor | None, tuple[Tensor, ...]]:
        """As `Kernel.forward`."""
        return self._forward(need_lse, save and self.saves)

    def backward(
        self,
        saved: tuple[Tensor, ...],
        grad_out: Tensor | None,
        grad_lse: Tensor | None,
        needs: frozenset[str],
    ) -> Mapping[str, Tensor]:
        """As `Kernel.backward`."""
        if not self.saves:
            saved = self._forward(grad_lse is not None, True)[2]
        if self.form is not None:
            scan = self._scan
            return scan.scan_backward(self.call, self.form, None, saved, grad_out, (None, None), needs)
        return self.kernel.backward(self.call, self._given, saved, grad_out, grad_lse, needs)

    def _forward(self, need_lse: bool, save: bool) -> tuple[Tensor, Tensor | None, tuple[Tensor, ...]]:
        if self.form is not None:
            out, _, saved = self._scan.scan(self.call, self.form, None, False, save)
            return out, None, saved
        return self.kernel.forward(self.call, self._given, need_lse, save)

    @property
    def _given(self) -> Any:
        """The plan, which only kernels that find boxes on the device can do without."""
        assert self.plan is not None or self.located
        return self.plan

    @property
    def _scan(self) -> ScanKernel:
        assert isinstance(self.kernel, ScanKernel)
        return self.kernel


@dataclass(frozen=True)
class Binding:
    """What repeated calls share. `call` has no tensors; `copied` are those of q, k and v that need a unit stride.
    `plan` is None where elements of tensors decide it, with a `form`, and where boxes are `located` on the device."""

    backend: str
    kernel: Kernel
    call: Call
    copied: tuple[bool, bool, bool]
    plan: Plan | None
    tiling: Tiling | None
    form: ScanForm | None
    located: bool = False


class Runner:
    """An attention with its kernels and recent plans: `attention` is what it means, `simplified` what kernels run."""

    def __init__(self, attention: Attention, simplified: Attention) -> None:
        self.attention = attention
        self.simplified = simplified
        self._plans = PlanCache(simplified)
        self.kernels: dict[str, Kernel] = {}
        """By backend."""
        self._bindings: OrderedDict[Hashable, Binding] = OrderedDict()
        self._locating: dict[type, bool] = {}
        self._lock = Lock()
        self._masked = tuple(i.name for i in attention.inputs if i.name in tensors_read(simplified.mask))
        self._scans = scan_form(simplified).form is not None
        self._inputs = tuple(i.name for i in attention.inputs)
        deciding = decided_by(attention) | {n.name for n in walk(simplified.mask) if isinstance(n, ParamRef)}
        self._decided = decided_by(attention)
        self.deciding = tuple(s.name for s in attention.scalars if s.name in deciding)
        """Scalars whose values decide what a call may be, or its plan."""
        self._lengths = Lengths(attention, simplified, self.deciding)

    @property
    def differentiable(self) -> tuple[str, ...]:
        """Names of `Given.tensors`."""
        return "q", "k", "v", *self._inputs

    def kernel(self, backend: str) -> Kernel:
        """The kernel of a backend, made once."""
        found = self.kernels.get(backend)
        if found is None:
            found = kernel_of(self.simplified, backend)
            self.use(backend, found)
        return found

    def use(self, backend: str, kernel: Kernel) -> None:
        """Run calls of a backend with this kernel."""
        self.kernels[backend] = kernel

    def kernel_for(self, given: Given) -> Kernel:
        """The kernel that runs a call. ValueError for a backend that does not run on q's device."""
        return self.kernel(choose_backend(self.attention.name, given.backend, given.q.device.type))

    def saves(self, given: Given, need_lse: bool) -> tuple[Saved, ...]:
        """What the kernel of a call saves for its backward."""
        if self._scans:
            return ()
        return self.kernel_for(given).saves(given.q, given.k, given.v, need_lse)

    def bound(self, given: Given, *, checked: bool = False, differentiated: bool = False) -> Bound:
        """A call with nothing left to check; `differentiated` as in `Call`. Raises TypeError and ValueError that name
        the argument.

        Calls of equal tensors' shapes, strides, element types, devices and alignments, of equal options and equal
        scalars where they decide something, share their binding, and their plan unless the mask reads a tensor.
        """
        scalars = self.scalars(given, checked)
        offset, scale = self._numbers(given)
        key = self._key(given, scalars, offset, scale, differentiated)
        binding = self._bindings.get(key)
        if binding is None:
            found = self._bind(given, scalars, offset, scale, key, differentiated)[0]
        else:
            found = self.repeated(binding, given.tensors, scalars, offset)
            with self._lock:
                if key in self._bindings:
                    self._bindings.move_to_end(key)
        if checked:
            check_promises(self.attention, found.call)
        return found

    def first(self, given: Given, scalars: Scalars, differentiated: bool) -> tuple[Bound, Binding | None]:
        """As `bound`, and what calls that repeat this one share; None where nothing is kept of it. `scalars` are those
        of the call as `scalars` finds them."""
        offset, scale = self._numbers(given)
        key = self._key(given, scalars, offset, scale, differentiated)
        binding = self._bindings.get(key)
        if binding is None:
            return self._bind(given, scalars, offset, scale, key, differentiated)
        return self.repeated(binding, given.tensors, scalars, offset), binding

    def repeated(self, binding: Binding, tensors: Sequence[Tensor], scalars: Scalars, offset: int | Tensor) -> Bound:
        """A call on q, k, v and inputs that repeats the one of a binding."""
        first, second, third = binding.copied
        q = tensors[0].contiguous() if first else tensors[0]
        k = tensors[1].contiguous() if second else tensors[1]
        v = tensors[2].contiguous() if third else tensors[2]
        inputs = dict(zip(self._inputs, tensors[3:], strict=True))
        if not isinstance(offset, int):
            offset = offset.to(torch.int64)
        call = binding.call.repeated(q, k, v, inputs, scalars, offset)
        if binding.plan is not None or binding.form is not None or binding.located:
            return Bound(binding.kernel, call, binding.plan, binding.form, not self._scans, binding.located)
        call = call.replanned(HostTables({n: inputs[n] for n in self._masked}))
        return Bound(binding.kernel, call, self.plan(call, binding.tiling), None, not self._scans)

    def plan(self, call: Call, tiling: Tiling | None = None) -> Plan:
        """The plan of a call, from the recent ones if its problem is among them. ValueError for a `decay` whose mask
        does not imply k <= q."""
        from attndsl.schedule.build import build
        from attndsl.schedule.causal import check_decay

        def checked(problem: Problem) -> Plan:
            check_decay(self.simplified, problem)
            return build(self.simplified, problem, None if tiling is None else tiling.tile(self.simplified, problem))

        problem = call.problem if tiling is None else tiling.problem(self.simplified, call.problem)
        return self._plans.get(problem, checked, tiling)

    # Binding

    def scalars(self, given: Given, checked: bool = False) -> Scalars:
        """The scalars of a call, as numbers; tensors where the kernel reads them on the device, unless `checked`."""
        found: dict[str, Any] = {}
        floats, ints = iter(given.floats), iter(given.ints)
        for s in self.attention.scalars:
            match s.kind:
                case Kind.FLOAT:
                    found[s.name] = next(floats)
                case Kind.INT:
                    found[s.name] = next(ints)
                case Kind.BOOL:
                    found[s.name] = bool(next(ints))
        for place, number in zip(given.places, given.numbers, strict=True):
            if place < len(self.attention.scalars):
                s = self.attention.scalars[place]
                stays = not checked and self._stays(given, s, number)
                found[s.name] = number if stays else scalar_value(self.attention.name, s, number)
        return found

    def _stays(self, given: Given, scalar: Scalar, number: Tensor) -> bool:
        """Whether a tensor in the place of a scalar is left to the kernel: the host would wait for the device."""
        if self._scans or scalar.name in self._decided or number.device != given.q.device:
            return False
        fits = {
            Kind.BOOL: number.dtype == torch.bool,
            Kind.INT: number.dtype in (torch.int8, torch.int16, torch.int32, torch.int64),
            Kind.FLOAT: number.dtype.is_floating_point,
        }[scalar.kind]
        kernel: Any = self.kernel_for(given)
        return fits and self._is_locating(kernel) and bool(kernel.loads(scalar.name))

    def _numbers(self, given: Given) -> tuple[int | Tensor, float | Tensor | None]:
        """The offset and the scale."""
        offset: int | Tensor = given.q_offset
        scale: float | Tensor | None = given.scale
        count = len(self.attention.scalars)
        for place, number in zip(given.places, given.numbers, strict=True):
            if place == count:
                scale = number.item()
            elif place == count + 1:
                offset = number if number.ndim or _device_alone(number) else _whole(number)
                if isinstance(offset, Tensor) and not offset.ndim:
                    offset = offset.expand(given.q.shape[0]).contiguous()
        return offset, scale

    def _key(
        self,
        given: Given,
        scalars: Scalars,
        offset: int | Tensor,
        scale: float | Tensor | None,
        differentiated: bool,
    ) -> tuple[Hashable, ...]:
        kernel = self.kernel_for(given)
        parts: list[Hashable] = [
            differentiated, kernel, kernel.settings(), scale, None if given.grid is None else tuple(given.grid),
            (offset.shape, offset.dtype, offset.device) if isinstance(offset, Tensor) else offset,
        ]  # fmt: skip
        # -0.0 is not 0.0, and nan is nan
        parts += [repr(scalars[n]) for n in self.deciding if not isinstance(scalars[n], Tensor)]
        for name, t in scalars.items():
            if isinstance(t, Tensor):
                parts += (name, t.dtype, t.data_ptr() & 15)
        for t in given.tensors:
            parts += (t.shape, t.stride(), t.dtype, t.device, t.data_ptr() & 15)
        return tuple(parts)

    def _bind(
        self,
        given: Given,
        scalars: Scalars,
        offset: int | Tensor,
        scale: Any,
        key: Hashable,
        differentiated: bool,
    ) -> tuple[Bound, Binding | None]:
        kernel = self.kernel_for(given)
        place = self._lengths.place(given, scalars, offset, (scale, differentiated, kernel, kernel.settings()))
        call = None if place is None else self._lengths.call(place, given, scalars)
        if call is None:
            arguments: dict[str, object] = {**scalars, **dict(zip(self._inputs, given.inputs, strict=True))}
            call = bind_call(
                self.attention, self.simplified, given.q, given.k, given.v, arguments,
                scale=scale, q_offset=offset, grid=given.grid,
                stay=[n for n, x in scalars.items() if isinstance(x, Tensor)],
            )  # fmt: skip
            call = replace(call, differentiated=differentiated)
            if place is not None:
                self._lengths.keep(place, call)
        form = self._form(kernel, call)
        located = form is None and self._locates(kernel, call)
        tiling = None if form is not None else kernel.tiling(call)
        plan = None if form is not None or located else self.plan(call, tiling)
        bound = Bound(kernel, call, plan, form, not self._scans, located)
        if not isinstance(offset, int) and self.attention.gridded:
            return bound, None
        empty: Any = None
        fixed = located or (isinstance(offset, int) and not self._masked)
        template = call.repeated(empty, empty, empty, {}, {}, offset if isinstance(offset, int) else 0)
        template = template if fixed else template.replanned({})
        binding = Binding(
            choose_backend(self.attention.name, given.backend, given.q.device.type),
            kernel,
            template,
            (given.q is not call.q, given.k is not call.k, given.v is not call.v),
            plan if fixed else None,
            tiling,
            form,
            located,
        )
        with self._lock:
            self._bindings[key] = binding
            while len(self._bindings) > CAPACITY:
                self._bindings.popitem(last=False)
        return bound, binding

    def _locates(self, kernel: Kernel, call: Call) -> bool:
        """Whether the kernel needs no plan for a call."""
        asked: Any = kernel
        return self._is_locating(kernel) and bool(asked.locates(call))

    def _is_locating(self, kernel: Kernel) -> bool:
        # once for a kind of kernel: asking a protocol takes longer than the answer
        known = self._locating.get(type(kernel))
        if known is None:
            known = self._locating[type(kernel)] = isinstance(kernel, LocatingKernel)
        return known

    def _form(self, kernel: Kernel, call: Call) -> ScanForm | None:
        """How the kernel scans a call, None if it does not."""
        if not self._scans or not isinstance(kernel, ScanKernel):
            return None
        form = legalise(self.simplified, call.problem).form
        return None if form is None or kernel.scan_gap(call, form) is not None else form


def _device_alone(number: Tensor) -> bool:
    """Whether a number is not to be read by the host: it would wait for the device."""
    return number.device.type == "cuda" and not number.dtype.is_floating_point and number.dtype != torch.bool


def _whole(number: Tensor) -> Any:
    """A 0-d tensor as a number; `bind_call` refuses what is no int."""
    return number.item()


def lse_dtype(dtype: torch.dtype) -> torch.dtype:
    """The element type of lse for q's."""
    return torch.float64 if dtype == torch.float64 else torch.float32
