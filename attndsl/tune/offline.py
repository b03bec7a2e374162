"""Tuning for a GPU that is not here: candidates are compiled for it and ranked by the cost model."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from attndsl.ir.attention import Attention
from attndsl.runtime.cache.entry import Entry, Timing
from attndsl.runtime.cache.store import Store
from attndsl.runtime.triton.choices import Facts, facts_of, key_for, untuned
from attndsl.runtime.triton.config import Config, Pass
from attndsl.runtime.triton.labels import config_data, label
from attndsl.schedule.problem import Problem
from attndsl.tune.candidates import candidates
from attndsl.tune.machines import Gpu
from attndsl.tune.parts import Part, parts_of
from attndsl.tune.search import AHEAD, C, Progress, Report
from attndsl.tune.session import made_now
from attndsl.tune.shape import shape_of
from attndsl.tune.spaces import with_boxes
from attndsl.tune.trials import CostModel, Predictions
from attndsl.tune.workers import Workers

COMPILED = 16
"""Candidates that are compiled, the fastest by the cost model: what is further down does not win."""


def predict_passes(
    attention: Attention,
    name: str,
    problem: Problem,
    dtype: str,
    steps: Sequence[Pass],
    gpu: Gpu,
    budget: float,
    report: Report | None = None,
    store: Store | None = None,
) -> list[Entry]:
    """Predicted entries of passes of calls of these sizes, each for at most `budget` seconds of compiling; kept beside
    what was measured. `attention` has its consts bound and is simplified. ValueError names a feature that the Triton
    backend does not have."""
    from attndsl.tune.scans import asked_passes, predict_scan_passes, scan_of

    form = scan_of(attention, problem)
    if form is not None:
        chosen = asked_passes(name, form, steps)
        return predict_scan_passes(attention, name, problem, form, dtype, chosen, gpu, budget, report, store)
    found: list[Entry] = []
    workers = Workers()
    try:
        for step in steps:
            found += [
                _predicted(part, name, dtype, step, gpu, workers, budget, report, store or Store())
                for part in parts_of(attention, problem, step)
            ]
    finally:
        workers.close()
    return found


def _predicted(
    part: Part,
    name: str,
    dtype: str,
    step: Pass,
    gpu: Gpu,
    workers: Workers,
    budget: float,
    report: Report | None,
    store: Store,
) -> Entry:
    from attndsl.codegen.triton import supported

    attention, problem = part.attention, part.problem
    supported(attention)
    if step == "decode" and attention.gridded and not problem.moved:
        raise ValueError(f"{name}: pass 'decode' is of calls whose rows are not a whole grid")
    facts = facts_of(attention, problem, dtype, gpu.machine)
    default = untuned(step, facts)
    configs = space(attention, problem, facts, step, gpu)
    trials = Predictions(attention, problem, dtype, step, gpu, workers, default)
    timings = compiled_best(trials, configs, budget, report)
    key = key_for(attention, step, facts)
    return kept(store, Entry(key, part.name(name), shape_of(facts), timings, label(default), made_now()))


def space(attention: Attention, problem: Problem, facts: Facts, step: Pass, gpu: Gpu) -> tuple[Config, ...]:
    """The candidates of a pass, the default first."""
    return with_boxes(candidates(step, facts, gpu, untuned(step, facts)), attention, problem, step)


def ranked(attention: Attention, problem: Problem, facts: Facts, step: Pass, gpu: Gpu) -> list[Config]:
    """The candidates of a pass as the cost model ranks them, after the default."""
    model = CostModel(attention, problem, facts.dtype, step, gpu)
    default, *rest = space(attention, problem, facts, step, gpu)
    return [default, *sorted(rest, key=model.predict)]


class Guesses(Protocol[C]):
    """What is said of candidates that are not run."""

    def predict(self, config: C) -> float: ...

    def compile(self, configs: Sequence[C]) -> Mapping[C, str]: ...

    def resources(self, config: C) -> str: ...


def compiled_best(trials: Guesses[C], configs: Sequence[C], budget: float, report: Report | None) -> dict[str, Timing]:
    """Predictions of all candidates, those that would win compiled and checked."""
    start = time.monotonic()
    guess = {c: trials.predict(c) for c in configs}
    order = sorted(configs, key=lambda c: guess[c])
    # the default, whatever its place
    order = [configs[0], *(c for c in order if c != configs[0])]
    timings: dict[str, Timing] = {}
    fitting = 0
    for at in range(0, len(order), AHEAD):
        some = order[at : at + AHEAD]
        used = time.monotonic() - start
        if fitting >= COMPILED or (at and used > budget):
            break
        reasons = trials.compile(some)
        for config in some:
            reason, ms = reasons.get(config, ""), guess[config]
            state, note = ("unfit", reason) if reason else ("predicted", trials.resources(config))
            fitting += not reason
            timings[label(config)] = Timing(config_data(config), state, None if reason else ms, note=note)
        if report is not None:
            report(_progress(timings, len(order), time.monotonic() - start, budget))
    return timings


def _progress(timings: dict[str, Timing], total: int, used: float, budget: float) -> Progress:
    timed = {n: t.ms for n, t in timings.items() if t.ms is not None}
    best = min(timed, key=lambda n: timed[n], default="")
    out = sum(t.state == "unfit" for t in timings.values())
    return Progress(total, len(timings), out, best, timed.get(best), used, max(budget - used, 0.0))


def kept(store: Store, entry: Entry) -> Entry:
    """Kept, unless the key was measured: a measurement is worth more."""
    with store.lock(entry.key):
        known = store.read(entry.key)
        if known is not None and known.measured:
            return known
        store.write(entry)
    return entry
