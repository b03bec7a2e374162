"""Calls that run as a scan and have no need of the operator: eager ones, and those that start from a state or return
one. The operator runs scans too; what a scan saves for backward depends on lengths, so that in a graph backward runs
forward again."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from torch import Tensor

from attndsl.runtime.binding import bind_call
from attndsl.runtime.call import Call, Kernel, ScanKernel
from attndsl.runtime.checked import check_promises
from attndsl.runtime.dispatch import choose_backend
from attndsl.runtime.given import Signature
from attndsl.runtime.quick import CAPACITY, Asked, Repeated
from attndsl.runtime.registry import runner_of
from attndsl.runtime.runner import Binding, Runner
from attndsl.runtime.scan_operator import scan
from attndsl.runtime.state import State
from attndsl.runtime.states import check_state, check_states
from attndsl.schedule.legalise import ScanForm, legalise


def traced() -> bool:
    """Whether a compiler or a transform of torch looks at this call."""
    c: Any = torch._C  # pyright: ignore[reportPrivateUsage]
    return torch.compiler.is_compiling() or c._functorch.peek_interpreter_stack() is not None


def scanned(*call: Any, **options: Any) -> tuple[Tensor, State | None] | None:
    """The output, and the state after the last row if asked for; None for a call that does not scan. ValueError for one
    that has a state and does not. Takes what `_scanned` does; not traced by a compiler, which is imported for nobody
    else: it takes seconds."""
    compiler: Any = torch.compiler
    run = compiler.disable(_scanned) if torch.compiler.is_compiling() else _scanned
    return run(*call, **options)


def _scanned(
    spec: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    arguments: Mapping[str, object],
    state: State | None,
    return_state: bool,
    *,
    layout: str,
    scale: Any,
    q_offset: Any,
    grid: Any,
    backend: str | None,
    checked: bool,
    again: tuple[Signature, Asked] | None = None,
) -> tuple[Tensor, State | None] | None:
    runner = runner_of(spec)
    attention = runner.attention
    name = choose_backend(attention.name, backend, q.device.type)
    call = bind_call(
        attention, runner.simplified, q, k, v, arguments, layout=layout, scale=scale, q_offset=q_offset, grid=grid
    )
    if checked:
        check_promises(attention, call)
    kernel = runner.kernel(name)
    found = legalise(runner.simplified, call.problem)
    form = found.form
    stateful = state is not None or return_state
    if stateful:
        form = check_states(call, found, q_offset)
        state = None if state is None else check_state(call, form, state)
    gap = "it has no scan" if form is None or not isinstance(kernel, ScanKernel) else kernel.scan_gap(call, form)
    if stateful and gap is not None:
        raise ValueError(f"{attention.name}: backend {name!r} cannot start from a state or return one: {gap}")
    if gap is not None or form is None or not isinstance(kernel, ScanKernel):
        return None
    if again is not None and not checked and state is None and not return_state:
        _remember(again, runner, name, kernel, call, form, (q, k, v), layout)
    out, after = scan(kernel, call, form, state, return_state)
    return out.transpose(1, 2) if layout == "bshd" else out, after


def repeated(signature: Signature, call: Asked, layout: str) -> Tensor | None:
    """The output of a call that repeats one that was scanned; None where none is known."""
    known: Repeated | None = signature.recent.get(_place(call))
    if known is None or not known.valid:
        return None
    tensors = call.tensors
    if layout == "bshd":
        q, k, v = (t.transpose(1, 2) for t in tensors[:3])
        tensors = (q, k, v, *tensors[3:])
    bound = known.bound(tensors, call.scalars, call.offset)
    assert bound.form is not None
    kernel: Any = bound.kernel
    out, _ = scan(kernel, bound.call, bound.form, None, False)
    return out.transpose(1, 2) if layout == "bshd" else out


def _place(call: Asked) -> Hashable:
    return "scan", call.key


def _remember(
    again: tuple[Signature, Asked],
    runner: Runner,
    backend: str,
    kernel: Kernel,
    call: Call,
    form: ScanForm,
    given: tuple[Tensor, ...],
    layout: str,
) -> None:
    """Have a call that is scanned repeated without a look at its arguments."""
    signature, asked_for = again
    if any(isinstance(x, Tensor) for x in asked_for.scalars.values()) or not isinstance(call.q_offset, int):
        # a number that the host reads of a tensor may be another the next time
        return
    if layout == "bshd":
        given = tuple(t.transpose(1, 2) for t in given)
    first, second, third = (
        a.stride() != b.stride() for a, b in zip(given, (call.q, call.k, call.v), strict=True)
    )  # fmt: skip
    nothing: Any = None
    template = call.repeated(nothing, nothing, nothing, {}, {}, call.q_offset).replanned({})
    binding = Binding(backend, kernel, template, (first, second, third), None, None, form)
    if len(signature.recent) >= CAPACITY:
        signature.recent.clear()
    signature.recent[_place(asked_for)] = Repeated(
        runner, binding, kernel.settings(), asked_for.differentiated, nothing, ()
    )  # fmt: skip
