"""Searches whose candidates run in a process of their own (`attndsl.tune.apart`); this one needs no GPU."""

from __future__ import annotations

from collections.abc import Sequence

from attndsl.codegen.triton import supported
from attndsl.ir.attention import Attention
from attndsl.ir.simplify import simplify
from attndsl.runtime.cache.entry import Entry
from attndsl.runtime.cache.store import Store
from attndsl.runtime.triton.choices import facts_of, key_for, untuned
from attndsl.runtime.triton.config import Config, Pass
from attndsl.runtime.triton.scan_choices import scan_facts, scan_key
from attndsl.runtime.triton.scan_config import ScanConfig, ScanPass
from attndsl.schedule.legalise import ScanForm
from attndsl.schedule.problem import Problem
from attndsl.tune.apart import Asked, Measurer, Recipe
from attndsl.tune.machines import Gpu, like
from attndsl.tune.offline import space
from attndsl.tune.parts import Part, parts_of
from attndsl.tune.scan_candidates import Shape
from attndsl.tune.scan_candidates import shape_of as scan_shape
from attndsl.tune.scan_trials import ScanPredictions
from attndsl.tune.scans import asked_passes, scan_of, scan_space, shown
from attndsl.tune.search import Report, Sample
from attndsl.tune.session import Searched, Task, tune_all
from attndsl.tune.shape import shape_of
from attndsl.tune.trials import Predictions
from attndsl.tune.workers import Workers


def tune_apart(
    recipe: Recipe,
    problem: Problem,
    steps: Sequence[Pass],
    budget: float,
    report: Report | None = None,
    store: Store | None = None,
    measurer: Measurer | None = None,
) -> list[Entry]:
    """Tune passes of a call that a recipe describes on the GPU that is here, each for at most `budget` seconds.
    `problem` is that of the call, with the tables that its mask reads.

    MeasurerError where no process can be started that measures, ShortOfMemoryError where none has the memory for the
    call, ValueError for a pass that the call does not have."""
    workers, own = Workers(), measurer is None
    measurer = measurer or Measurer(recipe)
    try:
        searches: list[Searched] = []
        attention = simplify(recipe.attention)
        form = scan_of(attention, problem)
        if form is not None and measurer.ready.scans:
            chosen = asked_passes(recipe.attention.name, form, steps)
            searches += [_scan(recipe, attention, problem, form, step, workers, measurer) for step in chosen]
        else:
            parts: list[tuple[Pass, Part]] = [
                (step, part) for step in steps for part in parts_of(attention, problem, step)
            ]
            searches += [_tiles(recipe, part, step, workers, measurer) for step, part in parts]
        return tune_all(searches, workers, budget=budget, report=report, store=store)
    finally:
        workers.close()
        if own:
            measurer.close()


def _scan(
    recipe: Recipe, attention: Attention, problem: Problem, form: ScanForm, step: ScanPass, workers: Workers,
    measurer: Measurer,
) -> Searched:  # fmt: skip
    machine = measurer.ready.machine
    gpu, facts = like(machine), scan_facts(form, problem.sizes, recipe.dtype, machine)
    configs = scan_space(step, facts, form, gpu)
    task = Task(scan_key(attention, step, facts), recipe.attention.name, shown(step, facts), configs)
    shape = scan_shape(step, facts, form)
    return task, ApartScanTrials(attention, problem, shape, step, gpu, workers, configs[0], measurer)


def _tiles(recipe: Recipe, part: Part, step: Pass, workers: Workers, measurer: Measurer) -> Searched:
    attention, problem, name = part.attention, part.problem, recipe.attention.name
    supported(attention)
    if step == "decode" and attention.gridded and not problem.moved:
        raise ValueError(f"{name}: pass 'decode' is of calls whose rows are not a whole grid")
    machine = measurer.ready.machine
    facts, gpu = facts_of(attention, problem, recipe.dtype, machine), like(machine)
    configs = space(attention, problem, facts, step, gpu)
    task = Task(key_for(attention, step, facts), part.name(name), shape_of(facts), configs)
    default = untuned(step, facts)
    return task, ApartTrials(attention, problem, recipe.dtype, step, gpu, workers, default, measurer, part)


class ApartTrials(Predictions):
    """Trials of a pass over tiles, predicted and compiled here, checked and measured apart."""

    apart = True

    def __init__(
        self,
        attention: Attention,
        problem: Problem,
        dtype: str,
        step: Pass,
        gpu: Gpu,
        workers: Workers,
        safe: Config,
        measurer: Measurer,
        part: Part,
    ) -> None:
        super().__init__(attention, problem, dtype, step, gpu, workers, safe)
        self._measurer, self._part, self._safe_fails = measurer, part, False

    def skip_safe(self) -> None:
        """As `Trials.skip_safe`."""
        self._safe_fails = True

    def alive(self) -> bool:
        """As `Trials.alive`."""
        return True

    def check(self, config: Config) -> str:
        """As `Trials.check`."""
        return self._measurer.ask(Asked(self.step, config, self._safe, self._safe_fails, part=self._part))

    def measure(self, config: Config, seconds: float) -> Sample:
        """As `Trials.measure`."""
        return self._measurer.ask(Asked(self.step, config, self._safe, self._safe_fails, seconds, self._part))


class ApartScanTrials(ScanPredictions):
    """The same for a pass of a scan."""

    apart = True

    def __init__(
        self,
        attention: Attention,
        problem: Problem,
        shape: Shape,
        step: ScanPass,
        gpu: Gpu,
        workers: Workers,
        safe: ScanConfig,
        measurer: Measurer,
    ) -> None:
        super().__init__(attention, problem, shape, step, gpu, workers, safe)
        self._measurer, self._safe_fails = measurer, False

    def skip_safe(self) -> None:
        """As `Trials.skip_safe`."""
        self._safe_fails = True

    def alive(self) -> bool:
        """As `Trials.alive`."""
        return True

    def check(self, config: ScanConfig) -> str:
        """As `Trials.check`."""
        return self._measurer.ask(Asked(self.step, config, self._safe, self._safe_fails))

    def measure(self, config: ScanConfig, seconds: float) -> Sample:
        """As `Trials.measure`."""
        return self._measurer.ask(Asked(self.step, config, self._safe, self._safe_fails, seconds))
