"""Attentions whose weight needs sums over a row before its pairs: kernels of their own add those up first, and the
kernels of an attention that reads the results run after them (`attndsl.ir.statistics`)."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from attndsl.ir.attention import Attention
from attndsl.ir.expr import ParamRef, walk
from attndsl.ir.statistics import GIVEN, Stage, Staged, gradient_of, staged
from attndsl.runtime.call import Call, Kept, Saved
from attndsl.runtime.sides import Sides
from attndsl.runtime.triton.config import Pass
from attndsl.runtime.triton.kernel import TritonKernel
from attndsl.runtime.triton.scan_choices import ScanChoices
from attndsl.runtime.triton.several import STAGE_WIDTH
from attndsl.runtime.triton.wrapping import Wrapping
from attndsl.schedule.plan import Plan
from attndsl.schedule.tiling import Tiling

WIDTH = STAGE_WIDTH


def tile_kernel(attention: Attention, *, exact_output: bool = False) -> TritonKernel | StagedKernel:
    """The kernel of an attention without vectors of one position; `exact_output`: its output is fp32."""
    found = staged(attention)
    if isinstance(found, Staged):
        return StagedKernel(attention, found, exact_output=exact_output)
    return TritonKernel(attention, exact_output=exact_output)


class StagedKernel(Wrapping[TritonKernel]):
    """Runs the stages of an attention, one after another, and then `inner`.

    Sums are fp32. Numbers of rows are computed from them by torch, linear in the length. A backward pass goes the other
    way: what `inner` leaves as gradients of numbers becomes those of sums, and a sweep of each stage adds what follows
    for q, k and inputs."""

    def __init__(self, attention: Attention, found: Staged, *, exact_output: bool = False) -> None:
        self.attention, self.staged = attention, found
        self.inner = TritonKernel(found.inner, exact_gradients=True, exact_output=exact_output)
        self.stages = tuple(map(_StageKernel, found.stages))
        self.scan_choices = ScanChoices(attention)
        values = [n.computed for stage in found.stages for n in stage.numbers]
        self._scalars = {n.name for e in values for n in walk(e) if isinstance(n, ParamRef)}
        self._kept = frozenset(i.name for i in found.inner.inputs)

    def saves(self, q: Tensor, k: Tensor, v: Tensor, need_lse: bool) -> tuple[Saved, ...]:
        """What `inner` saves, and the sums of every stage."""
        self._check_lse(need_lse)
        sums = [Kept((s.count, *q.shape[:3]), torch.float32, batch=1) for s in self.stages]
        return (*self.inner.saves(q, k, v, need_lse), *sums)

    def loads(self, scalar: str) -> bool:
        """As `LocatingKernel.loads`; torch computes with what the host knows."""
        return scalar not in self._scalars

    def forward(
        self, call: Call, plan: Plan | None, need_lse: bool, save: bool
    ) -> tuple[Tensor, Tensor | None, tuple[Tensor, ...]]:
        """As `TritonKernel.forward`."""
        self._check_lse(need_lse)
        rows = self._summed(call, plan)
        out, lse, saved = self.inner.forward(self.given_rows(call, rows), plan, need_lse, save)
        return out, lse, (*saved, *rows.sums) if save else ()

    def final(self, call: Call) -> Call:
        """The call of `inner`, with numbers of rows computed for it."""
        return self.given_rows(call, self._summed(call, None))

    def shaped(self, call: Call) -> Call:
        """As `Wrapping.shaped`."""
        return self._call(call, call.inputs)

    def part(self, call: Call, step: Pass, stage: int, nth: int) -> tuple[TritonKernel, Call, Tensor | None]:
        """A kernel of a stage, a call of it with values of one, and for a gradient that of its output; `nth` of the
        sums where each has a kernel. Gradients of sums are random numbers."""
        rows = _Rows(call)
        for before in self.stages[:stage]:
            rows.take(before.stage, before.sums(call, None, rows))
        return self.stages[stage].part(call, rows, step, nth)

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
        first = len(saved) - len(self.stages)
        rows = _Rows(call)
        for stage, sums in zip(self.stages, saved[first:], strict=True):
            rows.take(stage.stage, sums)
        moving = frozenset(rows.numbers)
        gradients = _Gradients(rows)
        gradients.add(
            self.inner.backward(self.given_rows(call, rows), plan, saved[:first], grad_out, grad_lse, needs | moving)
        )
        floats = [n for n, t in call.inputs.items() if n in needs and t.is_floating_point()]
        for i in reversed(range(len(self.stages))):
            stage = self.stages[i]
            gradients.pull([s.stage for s in self.stages[: i + 1]], floats)
            into = gradients.of_sums[i]
            if stage.backward is not None and into is not None:
                gradients.add(stage.pulled(call, plan, rows, into, needs | moving))
        given = {"q": call.q, "k": call.k, "v": call.v, **call.inputs}
        return {n: t.to(given[n].dtype) for n, t in gradients.found.items() if n in needs}

    def _check_lse(self, need_lse: bool) -> None:
        if need_lse and self.staged.moved_lse:
            raise ValueError(
                f"{self.attention.name}: backend 'triton' does not have the lse of a weight with an exponential of "
                "sums alone; backend 'cpu' does"
            )

    def given_rows(self, call: Call, rows: _Rows) -> Call:
        """The call of `inner` that reads these numbers."""
        return self._call(call, {**call.inputs, **rows.detached()})

    def _summed(self, call: Call, plan: Plan | None) -> _Rows:
        rows, few = _Rows(call), self.few(call)
        for stage in self.stages:
            sums = stage.sums_of_few(call, plan, rows) if few else stage.sums(call, plan, rows)
            rows.take(stage.stage, sums)
        return rows

    def _call(self, call: Call, inputs: Mapping[str, Tensor]) -> Call:
        own = {n: t for n, t in inputs.items() if n in self._kept}
        return call.within("inner", attention=self.staged.inner, inputs=own)


@dataclass
class _Rows:
    """What is known of the rows of a call: raw sums by stage, and numbers by name, [B, H, Lq] each."""

    call: Call
    sums: list[Tensor] = field(default_factory=list[Tensor])
    numbers: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    counts: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    raw: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    def take(self, stage: Stage, sums: Tensor) -> None:
        """Compute what the sums [n, B, H, Lq] of a stage make known."""
        call = self.call
        self.sums.append(sums)
        self.raw |= {name: sums[i] for i, (name, _) in enumerate(stage.sums)}
        if stage.count:
            self.counts[stage.count] = sums[-1].detach().to(torch.int32)
        known = {**call.inputs, **self.raw, **self.counts, **self.numbers}
        shape = call.sizes["B"], call.sizes["H"], call.q.shape[2]
        sides = Sides(replace(call, inputs=known), call.sizes["H"], offset=call.q_offset)
        for number in stage.numbers:
            made = _aligned(sides.value(number.computed).expand(shape))
            self.numbers[number.name] = made
            sides.call = replace(call, inputs={**sides.call.inputs, number.name: made})

    def detached(self) -> dict[str, Tensor]:
        """Numbers and counts, for kernels."""
        return {n: t.detach() for n, t in self.numbers.items()} | self.counts


class _Gradients:
    """Gradients that come in one after another: those of the call's tensors in `found`, of numbers, of sums."""

    def __init__(self, rows: _Rows) -> None:
        self.rows = rows
        self.found: dict[str, Tensor] = {}
        self.of_numbers: dict[str, Tensor] = {}
        self.of_sums: list[Tensor | None] = [None] * len(rows.sums)

    def add(self, more: Mapping[str, Tensor]) -> None:
        """Gradients of the call's tensors and of numbers."""
        for name, gradient in more.items():
            into = self.of_numbers if name in self.rows.numbers else self.found
            into[name] = into[name] + gradient if name in into else gradient

    def pull(self, stages: Sequence[Stage], inputs: Sequence[str]) -> None:
        """Through torch, from the numbers of the last of the first stages to the sums and inputs they come from."""
        rows = self.rows
        into = {n.name: self.of_numbers[n.name] for n in stages[-1].numbers if n.name in self.of_numbers}
        if not into:
            return
        # where nothing comes in nothing goes out, whatever the slope: that of sqrt(0) is infinite
        idle = torch.stack([g == 0 for g in into.values()]).all(0)
        sums = [t.detach().requires_grad_() for t in rows.sums[: len(stages)]]
        given = {n: t.detach().requires_grad_(n in inputs) for n, t in rows.call.inputs.items()}
        with torch.enable_grad():
            again = _Rows(rows.call.with_tensors(rows.call.q, rows.call.k, rows.call.v, given))
            for stage, t in zip(stages, sums, strict=True):
                again.take(stage, torch.where(idle, 1.0, t))
        live = {n: t for n in into if (t := again.numbers[n]).requires_grad}
        leaves = [*sums, *(given[n] for n in inputs)]
        if not live:
            return
        found: Any = torch.autograd.grad(
            list(live.values()), leaves, [into[n].to(torch.float32) for n in live], allow_unused=True
        )
        for i, gradient in enumerate(found[: len(sums)]):
            if gradient is not None:
                known = self.of_sums[i]
                self.of_sums[i] = gradient if known is None else known + gradient
        self.add({n: g for n, g in zip(inputs, found[len(sums) :], strict=True) if g is not None})


class _StageKernel:
    """The kernels of one stage."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.forward = TritonKernel(stage.forward)
        self.backward = None if stage.backward is None else TritonKernel(stage.backward, exact_gradients=True)
        self.alone = [TritonKernel(a, exact_output=True) for a in stage.alone]
        self.count = len(stage.sums) + bool(stage.count)

    def sums(self, call: Call, plan: Plan | None, rows: _Rows) -> Tensor:
        """The sums, and the count behind them: [n, B, H, Lq]."""
        own = self._call(call, self.stage.forward, rows, {}, torch.zeros)
        if not own.q.numel():
            return own.q.new_zeros((self.count, *own.q.shape[:3]), dtype=torch.float32)
        *_, sums = self.forward.forward(own, self._plan(self.forward, own, plan), False, True)[2]
        return sums

    def part(self, call: Call, rows: _Rows, step: Pass, nth: int) -> tuple[TritonKernel, Call, Tensor | None]:
        """As `StagedKernel.part`."""
        if step in ("forward", "decode"):
            kernel = self.forward if step == "forward" else self.alone[nth]
            return kernel, self._call(call, kernel.attention, rows, {}, torch.ones), None
        kernel = self.backward
        assert kernel is not None
        slopes = {gradient_of(n): torch.randn_like(call.q[..., 0], dtype=torch.float32) for n, _ in self.stage.sums}
        own = self._call(call, kernel.attention, rows, slopes, torch.ones)
        return kernel, own, _one(own)

    def sums_of_few(self, call: Call, plan: Plan | None, rows: _Rows) -> Tensor:
        """The same where the keys of few rows are split over programs, whose kernels leave outputs and no sums."""
        found: list[Tensor] = []
        for kernel in self.alone:
            own = self._call(call, kernel.attention, rows, {}, torch.ones)
            found.append(kernel.forward(own, plan, False, False)[0][..., 0])
        *shares, counts = found
        sums = [torch.where(share == 0, 0.0, counts / torch.where(share == 0, 1.0, share)) for share in shares]
        return torch.stack([*sums, *([counts] if self.stage.count else [])])

    def pulled(
        self, call: Call, plan: Plan | None, rows: _Rows, gradient: Tensor, needs: frozenset[str]
    ) -> Mapping[str, Tensor]:
        """The gradients of q, k, inputs and numbers that follow from one of the sums."""
        kernel = self.backward
        assert kernel is not None
        slopes = {gradient_of(name): _aligned(gradient[i]) for i, (name, _) in enumerate(self.stage.sums)}
        own = self._call(call, kernel.attention, rows, slopes, torch.ones)
        known = {i.name for i in kernel.attention.inputs} - slopes.keys()
        wanted = frozenset(n for n in needs if n in known or (n in ("q", "k") and self.stage.of_score))
        if not wanted or not own.q.numel():
            return {}
        # the gradient of every pair's weight is one
        one = _one(own)
        # an exponential that nothing is divided by has an lse, of which nothing is read
        saved = one, torch.zeros(own.q.shape[:3], dtype=torch.float32, device=own.q.device)
        return kernel.backward(own, self._plan(kernel, own, plan), saved, one, None, wanted)

    def _plan(self, kernel: TritonKernel, call: Call, plan: Plan | None) -> Plan | None:
        """The plan in this kernel's own boxes."""
        if plan is None:
            return None
        config = kernel.config("forward", call)
        return plan.tiled(Tiling(config.rows, config.columns, config.q_box, config.k_box))

    def _call(self, call: Call, attention: Attention, rows: _Rows, more: Mapping[str, Tensor], fill: Any) -> Call:
        known = {**call.inputs, **rows.detached(), **more}
        inputs = {i.name: known[i.name] for i in attention.inputs}
        like: dict[str, Any] = {"dtype": call.q.dtype, "device": call.q.device}
        sizes = {**call.sizes, **{given: call.sizes[n] for n, given in GIVEN.items()}, "Dv": WIDTH}
        q, k = call.q, call.k
        v = fill((*k.shape[:3], WIDTH), **like)
        if not self.stage.of_score:
            # nothing is multiplied: as little as a kernel can load
            sizes["D"] = WIDTH
            nothing = torch.zeros(WIDTH, **like)
            q, k = (nothing.expand(*t.shape[:3], WIDTH) for t in (q, k))
        # an attention lives as long as its kernel
        place = "stage", id(attention)
        return call.within(place, attention=attention, q=q, k=k, v=v, inputs=inputs, sizes=sizes)


def _one(call: Call) -> Tensor:
    """The gradient of an output whose first component is the sum of weights."""
    one = torch.zeros((*call.q.shape[:3], WIDTH), dtype=call.q.dtype, device=call.q.device)
    one[..., 0] = 1.0
    return one


def _aligned(t: Tensor) -> Tensor:
    """Contiguous, from a multiple of 16 bytes on: repeated launches take equal alignments for granted."""
    t = t.contiguous()
    return t if t.data_ptr() % 16 == 0 else t.clone()
