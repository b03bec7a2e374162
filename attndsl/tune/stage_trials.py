"""Trials of a part of a call, on its GPU: those of what runs last, and those of the sums that are added up before."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from attndsl.ir.attention import Attention
from attndsl.ir.expr import Expr, Literal, Size, rewrite
from attndsl.ir.many_products import spelled
from attndsl.ir.statistics import GIVEN
from attndsl.ir.types import INT
from attndsl.runtime.call import Call
from attndsl.runtime.triton.config import Config, Pass, configured
from attndsl.runtime.triton.projected import AnyKernel, summing_of, tiles_of
from attndsl.runtime.triton.staged import StagedKernel
from attndsl.schedule.plan import Plan
from attndsl.tune.machines import Gpu
from attndsl.tune.oracle import Subject, subject_of
from attndsl.tune.parts import Part
from attndsl.tune.trials import CallTrials
from attndsl.tune.workers import Workers

if TYPE_CHECKING:
    from torch import Tensor


def trials_of(
    kernel: AnyKernel,
    subject: Subject,
    part: Part,
    step: Pass,
    safe: Config,
    gpu: Gpu,
    workers: Workers,
) -> CallTrials:
    """The trials of a part of a call: `subject` is the whole, `kernel` runs it."""
    with torch.no_grad():
        if part.stage is None:
            tiles, inner = tiles_of(kernel, subject.call)
            if inner is not subject.call:
                subject = subject_of(tiles.attention, inner, subject.grid, subject.grad)
            return CallTrials(tiles, subject, step, safe, gpu, workers)
        summing, call = summing_of(kernel, subject.call)
        assert isinstance(summing, StagedKernel)
        own, given, grad = summing.part(call, step, part.stage, part.nth)
    described = Subject(_sized(spelled(own.attention), given), given, subject.grid, grad)
    return StageTrials(own, described, step, safe, gpu, workers)


class StageTrials(CallTrials):
    """Trials of sums: each of them is compared with the safe configuration's, and with the oracle the number of keys
    over all of them, which is what the output of values of one is; gradients as those of any attention."""

    def _judged(self, found: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return {n: t for n, t in found.items() if n != "sums"}

    def _needs(self) -> frozenset[str]:
        return frozenset("q" if self.step == "dq" else "qk")

    def _run(self, config: Config, grad: Tensor | None) -> Mapping[str, Tensor]:
        if self.step != "forward":
            return super()._run(config, grad)
        call = self.subject.call
        with torch.no_grad(), configured(config, decode=None):
            plan = None if self.kernel.locates(call) else self.plan(config)
            out, _, saved = self.kernel.forward(call, plan, False, save=True)
        return {"out": out, "sums": saved[-1]}

    def _forward(self) -> tuple[Plan | None, tuple[Tensor, ...]]:
        # nothing of it is read: neither values nor an lse
        call, grad = replace(self.subject.call, differentiated=True), self.subject.grad
        assert grad is not None
        saved = grad, torch.zeros(call.q.shape[:3], dtype=torch.float32, device=call.q.device)
        return None if self.kernel.locates(call) else self._plan_of(call), saved


def _sized(attention: Attention, call: Call) -> Attention:
    """The attention with the sizes that only kernels of stages are given as numbers."""

    def rule(node: Expr) -> Expr | None:
        given = isinstance(node, Size) and node.name in GIVEN.values()
        return Literal(INT, call.sizes[node.name]) if given and isinstance(node, Size) else None

    def sized(e: Expr | None) -> Expr | None:
        return None if e is None else rewrite(e, rule)

    return replace(
        attention, mask=rewrite(attention.mask, rule), score=rewrite(attention.score, rule),
        weight=sized(attention.weight), output=sized(attention.output),
    )  # fmt: skip
