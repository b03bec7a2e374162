"""Tuning linear attention: which passes a call has, and their searches, on its GPU or for one that is not here."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from attndsl.ir.attention import Attention
from attndsl.runtime.cache.entry import Entry
from attndsl.runtime.cache.store import Store
from attndsl.runtime.triton.config import Pass
from attndsl.runtime.triton.labels import label
from attndsl.runtime.triton.scan_choices import ScanFacts, scan_facts, scan_key, untuned_scan
from attndsl.runtime.triton.scan_config import ScanConfig, ScanPass
from attndsl.schedule.legalise import ScanForm, legalise
from attndsl.schedule.problem import Problem
from attndsl.tune.failures import CrashedError, crashed
from attndsl.tune.machines import Gpu, like
from attndsl.tune.offline import compiled_best, kept
from attndsl.tune.scan_candidates import scan_candidates, shape_of
from attndsl.tune.search import CAREFUL, Report
from attndsl.tune.session import Searched, Task, made_now, tune_all
from attndsl.tune.workers import Workers

if TYPE_CHECKING:
    from attndsl.runtime.triton.scan_kernel import LinearKernel
    from attndsl.tune.oracle import Subject

PASSES: dict[Pass, tuple[ScanPass, ...]] = {
    "forward": ("scan",), "dq": ("scan_dq",), "dkdv": ("scan_dk", "scan_dv"), "decode": ("step",),
}  # fmt: skip
"""The passes of a scan that stand for those over tiles."""


def scan_of(attention: Attention, problem: Problem) -> ScanForm | None:
    """How calls of these sizes run as a scan on backend 'triton'; None for those that run over tiles. `attention` has
    its consts bound and is simplified."""
    form = legalise(attention, problem).form
    if form is None:
        return None
    from attndsl.runtime.triton.scan_kernel import gap_of

    return None if gap_of(form, tuple(problem.sizes.items())) is not None else form


def scan_passes(form: ScanForm, steps: Iterable[Pass]) -> tuple[ScanPass, ...]:
    """The passes of a scan for those that were asked for. A reduction has kernels of its own forward alone, what sees
    keys on both sides no step."""
    found: dict[ScanPass, None] = dict.fromkeys(p for step in steps for p in PASSES[step])
    if form.kind == "reduction":
        return ("scan",) if "scan" in found else ()
    if form.stateless is not None:
        found.pop("step", None)
    return tuple(found)


def asked_passes(name: str, form: ScanForm, steps: Sequence[Pass]) -> tuple[ScanPass, ...]:
    """As `scan_passes`; ValueError where nothing is left to tune."""
    found = scan_passes(form, steps)
    if not found:
        has = ", ".join(step for step in PASSES if scan_passes(form, (step,)))
        raise ValueError(f"{name}: as a {form.kind} it has no pass {' or '.join(map(repr, steps))}; it has {has}")
    return found


def scan_space(step: ScanPass, facts: ScanFacts, form: ScanForm, gpu: Gpu) -> tuple[ScanConfig, ...]:
    """The candidates of a pass, the default first."""
    return scan_candidates(step, facts, form, gpu, untuned_scan(step, facts))


def shown(step: ScanPass, facts: ScanFacts) -> dict[str, Any]:
    """The sizes of a call as entries tell them: the length, which is in no key, is that of the call that was tuned."""
    s = facts.sizes
    found: dict[str, Any] = {"B": s["B"], "H": s["H"]} | ({"Hkv": s["Hkv"]} if s["Hkv"] != s["H"] else {})
    found |= {} if step == "step" else {"L": s["Lk"]}
    found |= {"D": s["D"]} | ({"Dv": s["Dv"]} if s["Dv"] != s["D"] else {})
    return found | ({"features": facts.features} if facts.features != s["D"] else {})


def predict_scan_passes(
    attention: Attention,
    name: str,
    problem: Problem,
    form: ScanForm,
    dtype: str,
    steps: Sequence[ScanPass],
    gpu: Gpu,
    budget: float,
    report: Report | None = None,
    store: Store | None = None,
) -> list[Entry]:
    """As `offline.predict_passes`, for a linear attention."""
    from attndsl.tune.scan_trials import ScanPredictions

    facts = scan_facts(form, problem.sizes, dtype, gpu.machine)
    found: list[Entry] = []
    workers = Workers()
    try:
        for step in steps:
            configs = scan_space(step, facts, form, gpu)
            shape = shape_of(step, facts, form)
            trials = ScanPredictions(attention, problem, shape, step, gpu, workers, configs[0])
            timings = compiled_best(trials, configs, budget, report)
            key = scan_key(attention, step, facts)
            entry = Entry(key, name, shown(step, facts), timings, label(configs[0]), made_now())
            found.append(kept(store or Store(), entry))
    finally:
        workers.close()
    return found


def tune_scan_passes(
    kernel: LinearKernel,
    subject: Subject,
    form: ScanForm,
    facts: ScanFacts,
    steps: Sequence[ScanPass],
    budget: float,
    report: Report | None = None,
    workers: Workers | None = None,
    among: Mapping[ScanPass, Sequence[ScanConfig]] | None = None,
    careful: float = CAREFUL,
) -> list[Entry]:
    """As `online.tune_passes`, for a linear attention. `subject.grad` is the gradient of the output."""
    from attndsl.tune.scan_trials import ScanTrials

    if not steps:
        return []
    assert facts.machine is not None
    gpu = like(facts.machine)
    subject = replace(subject, width=max(facts.features, facts.sizes["D"]))
    own = workers is None
    workers = workers or Workers()
    tasks: list[Searched] = []
    try:
        for step in steps:
            configs = (among or {}).get(step) or scan_space(step, facts, form, gpu)
            shape = shape_of(step, facts, form)
            task = Task(scan_key(kernel.attention, step, facts), subject.attention.name, shown(step, facts), configs)
            tasks.append((task, ScanTrials(kernel, subject, form, shape, step, configs[0], gpu, workers)))
        return tune_all(tasks, workers, budget=budget, report=report, careful=careful)
    except CrashedError as error:
        raise crashed(error, subject.attention) from error
    finally:
        if own:
            workers.close()
