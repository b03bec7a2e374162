"""Trials of configurations of linear attention: predicted and compiled anywhere, checked and measured on a GPU."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attndsl.ir.attention import Attention
from attndsl.ir.expr import Size
from attndsl.runtime.call import Call
from attndsl.runtime.state import State
from attndsl.runtime.triton.scan_config import ScanConfig, ScanPass, scan_configured
from attndsl.runtime.triton.scan_lowering import GRADIENTS, run_pass
from attndsl.schedule.legalise import ScanForm
from attndsl.schedule.problem import Problem
from attndsl.tune.machines import Gpu
from attndsl.tune.model import predict_scan
from attndsl.tune.oracle import Oracle, Subject, apart
from attndsl.tune.scan_candidates import Shape
from attndsl.tune.search import Sample
from attndsl.tune.trials import alive, timed
from attndsl.tune.workers import Compiled, ScanJob, Workers

if TYPE_CHECKING:
    from attndsl.runtime.triton.scan_kernel import LinearKernel

SPILLS = 512
"""Bytes of spilled registers a thread may have and still be measured: wide states spill in every configuration."""
BEFORE = 64
"""Rows before the one of a step that is checked."""
LENGTHS = frozenset(("L", "Lq", "Lk"))


class ScanPredictions:
    """What can be said of configurations of a pass without running them. `attention` has its consts bound and is
    simplified; `safe` is what runs untuned, whatever it takes."""

    def __init__(
        self,
        attention: Attention,
        problem: Problem,
        shape: Shape,
        step: ScanPass,
        gpu: Gpu,
        workers: Workers,
        safe: ScanConfig,
    ) -> None:
        self.attention, self.problem, self.shape, self.gpu = attention, problem, shape, gpu
        self.step: ScanPass = step
        self._workers, self._safe = workers, safe
        self.compiled: dict[ScanConfig, Compiled] = {}

    def predict(self, config: ScanConfig) -> float:
        """Milliseconds."""
        return predict_scan(self.step, config, self.shape, self.gpu)

    def compile(self, configs: Sequence[ScanConfig]) -> Mapping[ScanConfig, str]:
        """Compile candidates side by side and read what they take."""
        answers = [self._workers.ask(j) for j in self.jobs(configs)]
        found: dict[ScanConfig, Compiled] = dict(zip(configs, (a.result() for a in answers), strict=True))
        self.compiled |= found
        return {c: self._unfit(c, built) for c, built in found.items()}

    def jobs(self, configs: Sequence[ScanConfig]) -> list[ScanJob]:
        """What workers are asked for candidates."""
        return [ScanJob.of(self.attention, self.problem, self.shape.dtype, self.gpu, self.step, c) for c in configs]

    def resources(self, config: ScanConfig) -> str:
        """What a compiled candidate takes, in words; empty for one that was not compiled."""
        built = self.compiled.get(config)
        return "" if built is None else built.words

    def _unfit(self, config: ScanConfig, built: Compiled) -> str:
        if built.error or config == self._safe:
            return built.error
        limit = self.gpu.machine.shared_memory
        if built.shared > limit:
            return f"takes {built.shared >> 10} KiB of shared memory, {limit >> 10} are there"
        return f"spills {built.spills} bytes" if built.spills > SPILLS else ""


class ScanTrials(ScanPredictions):
    """Trials that run one call on its GPU, in this process."""

    apart = False

    def __init__(
        self,
        kernel: LinearKernel,
        subject: Subject,
        form: ScanForm,
        shape: Shape,
        step: ScanPass,
        safe: ScanConfig,
        gpu: Gpu,
        workers: Workers,
    ) -> None:
        """`safe` is the configuration that others are compared with. Gradients need `subject.grad`."""
        super().__init__(kernel.attention, subject.call.problem, shape, step, gpu, workers, safe)
        self.kernel, self.form = kernel, form
        self.whole = subject if step != "step" else replace(subject, call=rows_of(subject, 0, BEFORE + 1))
        self.call = self.whole.call if step != "step" else rows_of(subject, BEFORE, BEFORE + 1)
        rows = ((BEFORE, BEFORE + 1),) if step == "step" else None
        self._oracle = Oracle(self.whole, step, rows)
        self._expected: Mapping[str, Tensor] | None = None
        self._state: State | None = None
        self._saved: tuple[Tensor, ...] | None = None
        self._given = subject
        self._safe_fails = False

    def skip_safe(self) -> None:
        """As `Trials.skip_safe`."""
        self._safe_fails = True

    def alive(self) -> bool:
        """As `Trials.alive`."""
        return alive(self.call.q.device)

    def check(self, config: ScanConfig) -> str:
        """Against the oracle on sampled rows, and against the safe configuration everywhere."""
        grad = self._oracle.grad() if self.step in GRADIENTS and self._oracle.rows else self._given.grad
        found = self._run(config, grad)
        wrong = self._oracle.wrong(self._seen(found))
        if wrong:
            return wrong
        if self._safe_fails:
            return "" if self._oracle.rows else "there is nothing to compare it with: what runs untuned fails"
        if self._expected is None:
            self._expected = found if config == self._safe else self._run(self._safe, grad)
        return apart(found, self._expected)

    def measure(self, config: ScanConfig, seconds: float) -> Sample:
        """The median of runs by the GPU's own clock."""
        return timed(lambda: self._run(config, self._given.grad), seconds)

    def _seen(self, found: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """What the oracle has: rows of a step are those of the whole sequence, states are compared elsewhere."""
        if self.step != "step":
            return found
        return {"out": torch.nn.functional.pad(found["out"], (0, 0, BEFORE, 0))}

    def _run(self, config: ScanConfig, grad: Tensor | None) -> Mapping[str, Tensor]:
        with torch.no_grad():
            if self.step == "step" and self._state is None:
                prefix = rows_of(self.whole, 0, BEFORE)
                self._state = self.kernel.scan(prefix, self.form, None, True, save=False)[1]
            if self.step in GRADIENTS and self._saved is None:
                self._saved = self.kernel.scan(self.call, self.form, None, False, save=True)[2]
            with scan_configured(**{self.step: config}):
                return run_pass(self.kernel, self.call, self.form, self.step, self._saved or (), grad, self._state)


def rows_of(subject: Subject, start: int, stop: int) -> Call:
    """The call on some of its rows alone; a call of fewer has its last row repeated. Inputs along the length hold the
    values of these rows."""
    call = subject.call
    size = stop - start
    at = torch.arange(start, stop, device=call.q.device).clamp(max=call.q.shape[2] - 1)

    def picked(t: Tensor, axis: int) -> Tensor:
        return t.index_select(axis, at)

    inputs = dict(call.inputs)
    for p in subject.attention.inputs:
        for axis, dim in enumerate(p.shape):
            if isinstance(dim, Size) and dim.name in LENGTHS:
                inputs[p.name] = picked(inputs[p.name], axis)
    sizes = {**call.sizes, **dict.fromkeys(LENGTHS, size)}
    made = replace(call, sizes=sizes, memo={}, alike={}, tables={})
    return made.with_tensors(picked(call.q, 2), picked(call.k, 2), picked(call.v, 2), inputs)
