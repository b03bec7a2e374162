"""Runs the calls of one attention: binds them, plans them, and hands them to a backend's kernel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from attndsl.ir.attention import Attention
from attndsl.ir.weights import weight_form
from attndsl.runtime.binding import bind_call
from attndsl.runtime.call import Call, Kernel, ScanKernel
from attndsl.runtime.checked import check_promises
from attndsl.runtime.dispatch import choose_backend, kernel_of
from attndsl.runtime.operator import attend
from attndsl.runtime.plans import PlanCache
from attndsl.runtime.scan_operator import scan
from attndsl.runtime.state import State
from attndsl.runtime.states import check_state, check_states
from attndsl.schedule.legalise import legalise
from attndsl.schedule.plan import Plan
from attndsl.schedule.problem import Problem
from attndsl.schedule.tiling import Tiling


class Runner:
    """An attention with its kernels and recent plans: `attention` is what it means, `simplified` what kernels run."""

    def __init__(self, attention: Attention, simplified: Attention) -> None:
        self.attention = attention
        self.simplified = simplified
        self._plans = PlanCache(simplified)
        self._kernels: dict[str, Kernel] = {}

    def __call__(
        self,
        q: Any,
        k: Any,
        v: Any,
        arguments: Mapping[str, object],
        *,
        layout: str = "bhsd",
        return_lse: bool = False,
        scale: Any = None,
        q_offset: Any = 0,
        grid: Any = None,
        backend: str | None = None,
        checked: bool = False,
        initial_state: State | None = None,
        return_state: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor | State]:
        """The output in q's dtype and layout, and lse [B, H, Lq] or the state after the last row if asked for."""
        attention = self.attention
        if return_lse and not weight_form(attention).has_lse:
            raise ValueError(
                f"{attention.name}: return_lse needs a weight with an exponential of s, and this one has none"
            )
        # before anything reads an element: some devices have none
        name = choose_backend(attention.name, backend, q.device.type if isinstance(q, Tensor) else "cpu")
        call = bind_call(
            attention, self.simplified, q, k, v, arguments, layout=layout, scale=scale, q_offset=q_offset, grid=grid
        )
        if checked:
            check_promises(attention, call)
        kernel = self.kernel(name)
        found = legalise(self.simplified, call.problem)
        form = found.form
        stateful = initial_state is not None or return_state
        if stateful:
            form = check_states(call, found, q_offset)
            initial_state = None if initial_state is None else check_state(call, form, initial_state)
        gap = "it has no scan" if form is None or not isinstance(kernel, ScanKernel) else kernel.scan_gap(call, form)
        if stateful and gap is not None:
            raise ValueError(f"{attention.name}: backend {name!r} cannot start from a state or return one: {gap}")
        lse: Tensor | State | None
        if gap is None and form is not None and isinstance(kernel, ScanKernel):
            out, lse = scan(kernel, call, form, initial_state, return_state)
        else:
            out, lse = attend(kernel, call, self.plan(call, kernel.tiling(call)), return_lse)
        if layout == "bshd":
            out = out.transpose(1, 2)
        return out if lse is None else (out, lse)

    def kernel(self, backend: str) -> Kernel:
        """The kernel of a backend, made once."""
        if backend not in self._kernels:
            self._kernels[backend] = kernel_of(self.simplified, backend)
        return self._kernels[backend]

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
