"""Trials of candidates: predicted and compiled anywhere, checked and measured on a GPU."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attndsl.ir.attention import Attention
from attndsl.runtime.triton.config import Config, Pass, configured
from attndsl.schedule.build import build
from attndsl.schedule.plan import Plan
from attndsl.schedule.problem import Problem
from attndsl.schedule.tiling import Tiling
from attndsl.tune.machines import Gpu
from attndsl.tune.model import predict
from attndsl.tune.search import Sample
from attndsl.tune.workers import Compiled, Workers, job_of

if TYPE_CHECKING:
    from torch import Tensor

    from attndsl.runtime.triton.kernel import TritonKernel
    from attndsl.tune.oracle import Subject

SPILLS = 128
"""Bytes of spilled registers a thread may have and still be measured."""


class Predictions:
    """What can be said of candidates without running them."""

    def __init__(
        self, attention: Attention, problem: Problem, dtype: str, step: Pass, gpu: Gpu, workers: Workers
    ) -> None:
        """`attention` has its consts bound and is simplified."""
        self.attention, self.problem, self.dtype, self.gpu = attention, problem, dtype, gpu
        self.step: Pass = step
        self._workers = workers
        self._plans: dict[tuple[object, ...], Plan] = {}
        self.compiled: dict[Config, Compiled] = {}

    def plan(self, config: Config) -> Plan:
        """The plan that a candidate runs."""
        rows, columns = (config.columns, config.rows) if self.step == "dkdv" else (config.rows, config.columns)
        tiling = Tiling(rows, columns, config.q_box, config.k_box)
        key = rows, columns, config.q_box, config.k_box
        if key not in self._plans:
            self._plans[key] = build(self.attention, self.problem, tiling.tile(self.attention, self.problem))
        return self._plans[key]

    def predict(self, config: Config) -> float | None:
        """Milliseconds by the cost model, which does not know `decode`."""
        if self.step == "decode":
            return None
        return predict(self.step, config, self.plan(config), self.problem, self.dtype, self.gpu)

    def compile(self, configs: Sequence[Config]) -> Mapping[Config, str]:
        """Compile forward candidates side by side and read what they take; other passes are compiled as they run."""
        if self.step != "forward":
            return {}
        capability = self.gpu.machine.capability
        jobs = [job_of(self.attention, self.problem, self.dtype, capability, self.step, c) for c in configs]
        found = dict(zip(configs, self._workers.compile(jobs), strict=True))
        self.compiled |= found
        return {c: self._unfit(c, built) for c, built in found.items()}

    def resources(self, config: Config) -> str:
        """What a compiled candidate takes, in words; empty for one that was not compiled."""
        built = self.compiled.get(config)
        if built is None:
            return ""
        spills = f", {built.spills} bytes spilled" if built.spills else ""
        return f"{built.registers} registers{spills}, {built.shared >> 10} KiB shared"

    def _unfit(self, config: Config, built: Compiled) -> str:
        if built.error:
            return built.error
        if built.stages < config.stages:
            return f"shared memory holds {built.stages} stages"
        if built.shared > self.gpu.machine.shared_memory:
            return f"takes {built.shared >> 10} KiB of shared memory, {self.gpu.machine.shared_memory >> 10} are there"
        return f"spills {built.spills} bytes" if built.spills > SPILLS else ""


class CallTrials(Predictions):
    """Trials that run one call on its GPU."""

    def __init__(self, kernel: TritonKernel, subject: Subject, step: Pass, safe: Config, gpu: Gpu, workers: Workers):
        """`safe` is the configuration that others are compared with. Gradients need `subject.grad`."""
        from attndsl.tune.oracle import Oracle

        call = subject.call
        super().__init__(kernel.attention, call.problem, kernel.facts(call).dtype, step, gpu, workers)
        self.kernel, self.subject, self._safe = kernel, subject, safe
        self._oracle = Oracle(subject, step)
        self._expected: Mapping[str, Tensor] | None = None
        self._tiled: dict[Tiling, Plan] = {}
        self._saved: tuple[Plan, tuple[Tensor, ...]] | None = None

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
        if config.specialize and self.step == "forward" and self.kernel.refused(config):
            return f"warps are not specialised: {self.kernel.refused(config)}"
        wrong = self._oracle.wrong(found)
        if wrong:
            return wrong
        if self._expected is None:
            self._expected = found if config == self._safe else self._run(self._safe, grad)
        return apart(found, self._expected)

    def measure(self, config: Config, seconds: float) -> Sample:
        """The median of runs by the GPU's own clock, with caches swept between them."""
        import triton

        found: Any = triton.testing.do_bench(
            lambda: self._run(config, self.subject.grad),
            warmup=10,
            rep=round(1e3 * seconds),
            quantiles=[0.25, 0.5, 0.75],
        )
        low, middle, high = (float(ms) for ms in found)
        return Sample(middle, (high - low) / middle)

    def _run(self, config: Config, grad: Tensor | None) -> Mapping[str, Tensor]:
        import torch

        call = self.subject.call
        with torch.no_grad():
            if self.step in ("forward", "decode"):
                asked = configured(config, decode=None) if self.step == "forward" else configured(decode=config)
                with asked:
                    out, _, _ = self.kernel.forward(call, self.plan(config), False, save=False)
                return {"out": out}
            plan, saved = self._forward()
            needs = frozenset({"q"} if self.step == "dq" else {"k", "v"})
            with configured(**{self.step: config}):
                return self.kernel.backward(call, plan, saved, grad, None, needs)

    def _forward(self) -> tuple[Plan, tuple[Tensor, ...]]:
        """What forward keeps for backward, once."""
        if self._saved is None:
            call = self.subject.call
            tiling = self.kernel.tiling(call)
            problem = tiling.problem(self.attention, self.problem)
            plan = build(self.attention, problem, tiling.tile(self.attention, problem))
            _, _, saved = self.kernel.forward(call, plan, False, save=True)
            self._saved = plan, saved
        return self._saved
