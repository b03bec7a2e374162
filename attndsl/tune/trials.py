"""Trials of candidates: predicted and compiled anywhere, checked and measured on a GPU."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from attndsl.ir.attention import Attention
from attndsl.runtime.triton.config import Config, Pass, configured
from attndsl.runtime.triton.several import depth
from attndsl.schedule.build import build
from attndsl.schedule.plan import Plan
from attndsl.schedule.problem import Problem
from attndsl.schedule.tiling import Tiling
from attndsl.tune.failures import short
from attndsl.tune.machines import Gpu
from attndsl.tune.model import operations_of, predict, tiling_of
from attndsl.tune.search import Sample
from attndsl.tune.workers import UNSPECIALISED, Compiled, Job, Workers, job_of

if TYPE_CHECKING:
    from torch import Tensor

    from attndsl.runtime.call import Call
    from attndsl.runtime.triton.kernel import TritonKernel
    from attndsl.tune.oracle import Subject

SHORT = 1.0
"""Milliseconds of a call, below which what the host does may take longer than the kernels."""
SPILLS: dict[Pass, int] = {"forward": 128, "decode": 128, "dq": 256, "dkdv": 320}
"""Bytes of spilled registers a thread may have and still be measured: of two accumulators and two tiles of pairs the
fastest kernels spill some."""


class CostModel:
    """What the cost model says of candidates of one pass of a call."""

    def __init__(self, attention: Attention, problem: Problem, dtype: str, step: Pass, gpu: Gpu) -> None:
        """`attention` has its consts bound and is simplified."""
        self.attention, self.problem, self.dtype, self.gpu = attention, problem, dtype, gpu
        self.step: Pass = step
        self._plans: dict[Tiling, Plan] = {}

    def plan(self, config: Config) -> Plan:
        """The plan that a candidate runs."""
        tiling = tiling_of(self.step, config, self.problem)
        if tiling not in self._plans:
            problem = tiling.problem(self.attention, self.problem)
            self._plans[tiling] = build(self.attention, problem, tiling.tile(self.attention, problem))
        return self._plans[tiling]

    def predict(self, config: Config) -> float:
        """Milliseconds."""
        problem = self.problem
        if self.attention.products:
            problem = replace(problem, sizes={**problem.sizes, "D": depth(self.attention, problem.sizes)})
        operations = operations_of(self.attention.mask)
        return predict(self.step, config, self.plan(config), problem, self.dtype, self.gpu, operations)


class Predictions(CostModel):
    """What can be said of candidates without running them."""

    def __init__(
        self, attention: Attention, problem: Problem, dtype: str, step: Pass, gpu: Gpu, workers: Workers, safe: Config
    ) -> None:
        """`safe` is what runs untuned, whatever it takes."""
        super().__init__(attention, problem, dtype, step, gpu)
        self._workers, self._safe = workers, safe
        self.compiled: dict[Config, Compiled] = {}

    def compile(self, configs: Sequence[Config]) -> Mapping[Config, str]:
        """Compile candidates side by side and read what they take."""
        found = dict(zip(configs, self._workers.compile(self.jobs(configs)), strict=True))
        self.compiled |= found
        return {c: self._unfit(c, built) for c, built in found.items()}

    def jobs(self, configs: Sequence[Config]) -> list[Job]:
        """What workers are asked for candidates."""
        return [job_of(self.attention, self.problem, self.dtype, self.gpu, self.step, c) for c in configs]

    def resources(self, config: Config) -> str:
        """What a compiled candidate takes, in words; empty for one that was not compiled."""
        built = self.compiled.get(config)
        return "" if built is None else built.words

    def _unfit(self, config: Config, built: Compiled) -> str:
        if config == self._safe:
            # what runs untuned runs in two loops where it cannot have specialised warps, and is taken so
            return "" if built.error.startswith(UNSPECIALISED) else built.error
        if built.error:
            return built.error
        if built.stages < config.stages:
            return f"shared memory holds {built.stages} stages"
        if built.shared > self.gpu.machine.shared_memory:
            return f"takes {built.shared >> 10} KiB of shared memory, {self.gpu.machine.shared_memory >> 10} are there"
        return f"spills {built.spills} bytes" if built.spills > SPILLS[self.step] else ""


class CallTrials(Predictions):
    """Trials that run one call on its GPU, in this process, as calls run it: without a plan where the kernel finds what
    is visible by itself."""

    apart = False

    def __init__(self, kernel: TritonKernel, subject: Subject, step: Pass, safe: Config, gpu: Gpu, workers: Workers):
        """`safe` is the configuration that others are compared with. Gradients need `subject.grad`."""
        from attndsl.tune.oracle import Oracle

        call = subject.call
        super().__init__(kernel.attention, call.problem, kernel.facts(call).dtype, step, gpu, workers, safe)
        self.kernel, self.subject = kernel, subject
        self._oracle = Oracle(subject, step)
        self._expected: Mapping[str, Tensor] | None = None
        self._tiled: dict[Tiling, Plan] = {}
        self._saved: tuple[Plan | None, tuple[Tensor, ...]] | None = None
        self._safe_fails = False

    def skip_safe(self) -> None:
        """As `Trials.skip_safe`."""
        self._safe_fails = True

    def alive(self) -> bool:
        """As `Trials.alive`."""
        return alive(self.subject.call.q.device)

    def plan(self, config: Config) -> Plan:
        """The plan that a candidate runs."""
        if self.step in ("dq", "dkdv"):
            return super().plan(config)
        call, asked = self.subject.call, configured(config, decode=None)
        if self.step == "decode":
            asked = configured(decode=config)
        with asked:
            tiling = self.kernel.tiling(call)
        if tiling not in self._tiled:
            problem = tiling.problem(self.attention, self.problem)
            self._tiled[tiling] = build(self.attention, problem, tiling.tile(self.attention, problem))
        return self._tiled[tiling]

    def check(self, config: Config) -> str:
        """Against the oracle on sampled rows, and against the safe configuration everywhere."""
        from attndsl.tune.oracle import apart

        grad = self._oracle.grad() if self.step in ("dq", "dkdv") and self._oracle.rows else self.subject.grad
        found = self._run(config, grad)
        refused = config.specialize and self.step == "forward" and config != self._safe
        if refused and self.kernel.refused(config):
            return f"{UNSPECIALISED}{self.kernel.refused(config)}"
        wrong = self._oracle.wrong(self._judged(found))
        if wrong:
            return wrong
        if self._safe_fails:
            return "" if self._oracle.rows else "there is nothing to compare it with: what runs untuned fails"
        if self._expected is None:
            self._expected = found if config == self._safe else self._run(self._safe, grad)
        return apart(found, self._expected)

    def _judged(self, found: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The results that the oracle knows."""
        return found

    def _needs(self) -> frozenset[str]:
        """The gradients that are compared: a sweep for dk and dv may find dq too, so that it is of the whole backward
        pass."""
        return frozenset("q" if self.step == "dq" else "qkv")

    def measure(self, config: Config, seconds: float) -> Sample:
        """The median of runs by the GPU's own clock."""
        return timed(lambda: self._run(config, self.subject.grad), seconds)

    def _run(self, config: Config, grad: Tensor | None) -> Mapping[str, Tensor]:
        import torch

        call = self.subject.call
        with torch.no_grad():
            if self.step in ("forward", "decode"):
                asked = configured(config, decode=None) if self.step == "forward" else configured(decode=config)
                with asked:
                    plan = None if self.kernel.locates(call) else self.plan(config)
                    out, _, _ = self.kernel.forward(call, plan, False, save=False)
                return {"out": out}
            call = replace(call, differentiated=True)
            plan, saved = self._forward()
            with configured(**{self.step: config}):
                return self.kernel.backward(call, plan, saved, grad, None, self._needs())

    def _forward(self) -> tuple[Plan | None, tuple[Tensor, ...]]:
        """What forward keeps for backward, once."""
        if self._saved is None:
            call = replace(self.subject.call, differentiated=True)
            plan = None
            if not self.kernel.locates(call):
                plan = self._plan_of(call)
            _, _, saved = self.kernel.forward(call, plan, False, save=True)
            self._saved = plan, saved
        return self._saved

    def _plan_of(self, call: Call) -> Plan:
        tiling = self.kernel.tiling(call)
        problem = tiling.problem(self.attention, self.problem)
        return build(self.attention, problem, tiling.tile(self.attention, problem))


def alive(device: Any) -> bool:
    """Whether the GPU's context of this process still works."""
    import torch

    if device.type != "cuda":
        return True
    try:
        torch.cuda.synchronize(device)
        return bool((torch.zeros(1, device=device) == 0).all())
    except RuntimeError as error:
        return short(error)


def timed(run: Callable[[], object], seconds: float) -> Sample:
    """The median of runs by the GPU's own clock: with caches swept between them, and short ones in a graph, so that the
    host's time for a launch is not theirs."""
    import triton

    spread = [0.25, 0.5, 0.75]
    found: Any = triton.testing.do_bench(run, warmup=10, rep=round(1e3 * seconds), quantiles=spread)
    if found[1] < SHORT:
        try:
            found = triton.testing.do_bench_cudagraph(run, rep=max(round(0.5e3 * seconds), 10), quantiles=spread)
        except RuntimeError as error:
            # what cannot be captured is measured as it is called
            if "captur" not in str(error):
                raise
    low, middle, high = (float(ms) for ms in found)
    return Sample(middle, (high - low) / middle)
