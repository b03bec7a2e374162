"""Trials on Triton's interpreter (TRITON_INTERPRET=1): `python -m tests.tune.interpreted`. Nothing is timed."""
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

import attndsl
from attndsl.ir.attention import Attention
from attndsl.runtime.binding import bind_call
from attndsl.runtime.cache.key import Key, Machine
from attndsl.runtime.call import Call
from attndsl.runtime.triton.choices import Facts, facts_of, key_for
from attndsl.runtime.triton.config import Config, Pass
from attndsl.runtime.triton.finished import FinishedKernel
from attndsl.runtime.triton.kernel import TritonKernel
from attndsl.runtime.triton.projected import ProjectedKernel, kernel_for
from attndsl.runtime.triton.scan_config import SCAN_PASSES, ScanConfig, choose_step
from attndsl.tune.apart import Asked, Recipe
from attndsl.tune.machines import gpu_of
from attndsl.tune.measurer import Candidates
from attndsl.tune.oracle import Subject
from attndsl.tune.parts import parts_of
from attndsl.tune.scan_candidates import shape_of
from attndsl.tune.scan_trials import ScanTrials
from attndsl.tune.scans import scan_of
from attndsl.tune.stage_trials import trials_of
from attndsl.tune.trials import CallTrials
from attndsl.tune.workers import Workers
from tests.runtime.triton import guard

SPEC = "attention window(input slope: f32[H]) { score s - slope[h] * (q - k) mask k <= q and q - k < 30 }"
SAFE, OTHER = Config(32, 32, 4, 1), Config(16, 32, 4, 1)


def main() -> None:
    f = attndsl.load(SPEC)
    torch.manual_seed(0)
    for step, length in (("forward", 50), ("dq", 50), ("dkdv", 50), ("decode", 2)):
        q = torch.randn(1, 2, length, 16, dtype=torch.float16)
        k, v = (torch.randn(1, 1, 70, 16, dtype=torch.float16) for _ in range(2))
        slope = torch.tensor([0.5, 0.25])
        offset = 0 if step != "decode" else 68
        call = bind_call(f.attention, f.simplified, q, k, v, {"slope": slope}, q_offset=offset)
        kernel = TritonKernel(f.simplified)
        name: Pass = step  # type: ignore[assignment]
        trials = CallTrials(kernel, Subject(f.attention, call, None, torch.randn_like(q)), name, SAFE, gpu_of("h200"),
                            Workers())  # fmt: skip
        for config in (SAFE, OTHER):
            wrong = trials.check(config)
            assert wrong == "", (step, config, wrong)
        run = trials._run  # pyright: ignore[reportPrivateUsage]

        def spoiled(config: Config, grad: torch.Tensor | None, run=run):  # type: ignore[no-untyped-def]
            found = {n: t.clone() for n, t in run(config, grad).items()}
            next(iter(found.values()))[0, 0, 1] += 1
            return found

        trials._run = spoiled  # type: ignore[method-assign]
        assert trials.check(OTHER) != "", step
        print(step, "right")


DOCUMENTS = "attention documents(input doc: i32[L] sorted) { mask doc[q] == doc[k] and k <= q }"


def told(plans: list[object], run: Callable[..., Any], call: Call, plan: object, *rest: Any, **more: Any) -> Any:
    """Run what a call runs, and say which plan it was given."""
    plans.append(plan)
    return run(call, plan, *rest, **more)


def documents() -> None:
    """Where the device finds what is visible, in trials as in calls: none is given a plan."""
    f = attndsl.load(DOCUMENTS)
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 1, 70, 16, dtype=torch.float16) for _ in range(3))
    doc = torch.repeat_interleave(torch.arange(3), torch.tensor([21, 30, 19])).int()
    call = bind_call(f.attention, f.simplified, q, k, v, {"doc": doc})
    for step in ("forward", "dkdv"):
        kernel = TritonKernel(f.simplified)
        name: Pass = step  # type: ignore[assignment]
        trials = CallTrials(kernel, Subject(f.attention, call, None, torch.randn_like(q)), name, SAFE, gpu_of("h200"),
                            Workers())  # fmt: skip
        given: list[object] = []
        for run in ("forward", "backward"):
            setattr(kernel, run, partial(told, given, getattr(kernel, run)))
        wrong = trials.check(SAFE)
        assert wrong == "", (step, wrong)
        assert given == [None] * (1 if step == "forward" else 2), given
    print("documents right")


class Here(Candidates):
    """What the process that measures does, in this one."""

    @staticmethod
    def _device(recipe: Recipe) -> Any:
        return torch.device("cpu")

    @staticmethod
    def _machine(device: Any) -> Machine:
        return gpu_of("h200").machine


def apart() -> None:
    """A process that is given a recipe has what calls of it run: tiles, and a scan."""
    doc = torch.repeat_interleave(torch.arange(3), torch.tensor([21, 30, 19])).int()
    sizes = {"B": 1, "H": 2, "Hkv": 2, "Lq": 70, "Lk": 70, "D": 16, "Dv": 16}
    made = Here(Recipe(attndsl.load(DOCUMENTS).attention, sizes, "fp16", {"doc": doc}, {}, token_major=True))
    assert not made.ready.scans
    assert made.subject.call.q.stride() == (70 * 2 * 16, 16, 2 * 16, 1)
    (part,) = parts_of(made.subject.call.attention, made.subject.call.problem, "dkdv")
    asked = Asked("dkdv", OTHER, SAFE, part=part)
    assert made(asked) == ""
    assert made(replace(asked, safe_fails=True)) == ""
    gamma = torch.tensor([0.9, 0.99])
    made = Here(Recipe(attndsl.load(LINEAR).attention, sizes, "fp16", {"gamma": gamma}, {}))
    assert made.ready.scans
    assert made(Asked("scan", ScanConfig(16, 16, 4, 1), ScanConfig(32, 16, 4, 1))) == ""
    print("apart right")


SUMS = "attention sums(input w: f32[H, D, Dv]) { mask k <= q weight relu(s - mean(s)) / sum CLAUSE }"
CLAUSES = "output rmsnorm(o) * sigmoid(Q @ w[h])", "output o * sigmoid(Q @ w[h])"
"""Of torch after the kernels, and of kernels with what torch computes before them."""


def sums() -> None:
    """The kernels that add up what a weight needs first are checked by their sums, and their gradients."""
    torch.manual_seed(0)
    for clause, length, steps in ((0, 40, ("forward", "dkdv")), (1, 2, ("decode",))):
        f = attndsl.load(SUMS.replace("CLAUSE", CLAUSES[clause]))
        w = {"w": torch.randn(2, 16, 16)}
        q = torch.randn(1, 2, length, 16, dtype=torch.float16)
        k, v = (torch.randn(1, 2, 40, 16, dtype=torch.float16) for _ in range(2))
        call = bind_call(f.attention, f.simplified, q, k, v, w, q_offset=40 - length)
        kernel = kernel_for(f.simplified)
        assert isinstance(kernel, FinishedKernel if clause == 0 else ProjectedKernel)
        subject = Subject(f.attention, call, None, torch.randn_like(q))
        for step in steps:
            name: Pass = step  # type: ignore[assignment]
            first, *_, last = parts_of(f.simplified, call.problem, name)
            assert (first.stage, last.stage) == (0, None)
            for part in (first, last):
                trials = trials_of(kernel, subject, part, name, SAFE, gpu_of("h200"), Workers())
                own = trials.kernel.facts(trials.subject.call)
                assert key_of(trials.attention, name, own) == key_of(
                    part.attention, name, facts_of(part.attention, part.problem, "fp16", None)
                )
                for config in (SAFE, OTHER):
                    wrong = trials.check(config)
                    assert wrong == "", (step, part.stage, config, wrong)
            trials = trials_of(kernel, subject, first, name, SAFE, gpu_of("h200"), Workers())
            run = trials._run  # pyright: ignore[reportPrivateUsage]
            trials._run = partial(doubled, run)  # type: ignore[method-assign]
            assert trials.check(SAFE) != "", step
    print("sums right")


def key_of(attention: Attention, step: Pass, facts: Facts) -> Key:
    """The key that calls look up, on some GPU."""
    return key_for(attention, step, replace(facts, machine=gpu_of("h200").machine))


def doubled(run: Callable[..., Any], *given: Any) -> dict[str, torch.Tensor]:
    """Twice the results."""
    return {n: 2 * t for n, t in run(*given).items()}


LINEAR = """
attention linear(input gamma: f32[H]) {
    mask k <= q
    weight dot(exp(Q), exp(K)) * gamma[h]^(q - k) / sum
}
"""


def linear() -> None:
    """The passes of a scan."""
    f = attndsl.load(LINEAR)
    torch.manual_seed(0)
    q = torch.randn(1, 2, 70, 16, dtype=torch.float16)
    k, v = (torch.randn(1, 1, 70, 16, dtype=torch.float16) for _ in range(2))
    call = bind_call(f.attention, f.simplified, q, k, v, {"gamma": torch.tensor([0.9, 0.99])})
    kernel = TritonKernel(f.simplified)
    form = scan_of(f.simplified, call.problem)
    assert form is not None
    facts = kernel.scan_facts(call, form)
    subject = Subject(f.attention, call, None, torch.randn_like(q), width=16)
    safe, other = ScanConfig(16, 16, 4, 1), ScanConfig(32, 16, 4, 1, segments=2)
    for step in SCAN_PASSES:
        if step == "step":
            safe, other = choose_step(16, 16), ScanConfig(1, 4, 4, 1)
        shape = shape_of(step, facts, form)
        trials = ScanTrials(kernel, subject, form, shape, step, safe, gpu_of("h200"), Workers())
        for config in (safe, other):
            wrong = trials.check(config)
            assert wrong == "", (step, config, wrong)
        run = trials._run  # pyright: ignore[reportPrivateUsage]

        def spoiled(config: ScanConfig, grad: torch.Tensor | None, run=run):  # type: ignore[no-untyped-def]
            found = {n: t.clone() for n, t in run(config, grad).items()}
            next(iter(found.values()))[0, 0, 0] += 1
            return found

        trials._run = spoiled  # type: ignore[method-assign]
        assert trials.check(other) != "", step
        print(step, "right")


if __name__ == "__main__":
    guard.install()
    main()
    documents()
    sums()
    apart()
    linear()
