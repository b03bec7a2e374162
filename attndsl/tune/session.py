"""Tuning one key: under its lock, from what is known, into the cache."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol

import attndsl
from attndsl.runtime.cache.entry import Entry, Timing
from attndsl.runtime.cache.key import Key
from attndsl.runtime.cache.store import Store
from attndsl.runtime.triton.labels import label
from attndsl.tune.failures import AGAIN, ENDED, ENDED_TWICE, CrashedError
from attndsl.tune.search import AHEAD, CAREFUL, C, Report, Search, Trials, settled
from attndsl.tune.workers import Job, ScanJob, Workers


@dataclass(frozen=True)
class Task(Generic[C]):
    """What is tuned: a key, the name and sizes that people know it by, and the candidates, the default first."""

    key: Key
    name: str
    shape: Mapping[str, Any]
    configs: Sequence[C]


def tune(
    task: Task[C],
    trials: Trials[C],
    *,
    budget: float,
    report: Report | None = None,
    store: Store | None = None,
    careful: float = CAREFUL,
) -> Entry:
    """The entry of a key, searched for at most `budget` seconds (the default is always measured), finalists measured
    for `careful` seconds each. Who comes while another process searches waits, and takes what that found."""
    store = store or Store()
    known = store.read(task.key)
    if known is not None and settled(known, task.configs):
        return known
    with store.lock(task.key):
        known = store.read(task.key)
        if known is not None and settled(known, task.configs):
            return known
        fresh = Entry(task.key, task.name, task.shape, {}, label(task.configs[0]), made_now())
        entry = fresh if known is None else _reread(fresh, known)
        search = Search(entry, task.configs, trials, budget=budget, report=report, keep=store.write, careful=careful)
        return search.run()


Searched = tuple[Task[Any], "AheadTrials"]
"""A task and its trials."""


class AheadTrials(Trials[Any], Protocol):
    """Trials whose candidates can be compiled before they are asked for."""

    def jobs(self, configs: Sequence[Any]) -> Sequence[Job | ScanJob]: ...


def tune_all(
    searches: Sequence[Searched],
    workers: Workers,
    *,
    budget: float,
    report: Report | None = None,
    store: Store | None = None,
    careful: float = CAREFUL,
) -> list[Entry]:
    """The entries of tasks, one after another; while one is measured the likely candidates of the next are compiled."""
    found: list[Entry] = []
    for (task, trials), following in zip(searches, [*searches[1:], None], strict=True):
        if following is not None:
            later, its_trials = following
            default, *rest = later.configs
            first = sorted(rest, key=lambda c, t=its_trials: _first(t.predict(c)))[: AHEAD - 1]
            workers.ahead(its_trials.jobs([default, *first]))
        try:
            found.append(tune(task, trials, budget=budget, report=report, store=store, careful=careful))
        except CrashedError as error:
            error.job = next(iter(trials.jobs([error.config])), None)
            raise
    return found


def _first(ms: float | None) -> float:
    return float("inf") if ms is None else ms


def _reread(fresh: Entry, known: Entry) -> Entry:
    """What was measured before; predictions are made again. What still runs, although nobody holds the key, ended the
    process that ran it."""
    timings = {n: _ended(t) for n, t in known.timings.items() if t.state != "predicted"}
    made = {n: v for n, v in known.made.items() if n != "space"}
    return Entry(fresh.key, fresh.name, fresh.shape, timings, fresh.default, made | made_now())


def _ended(timing: Timing) -> Timing:
    if timing.state != "running":
        return timing
    return replace(timing, state="failed", note=ENDED_TWICE if timing.note.startswith(AGAIN) else ENDED)


def made_now() -> dict[str, str]:
    """What an entry says of its making."""
    from attndsl.runtime.triton.machine import driver_version

    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    found = {"when": now, "attndsl": attndsl.__version__, "torch": _torch_version(), "driver": driver_version()}
    return {n: v for n, v in found.items() if v}


def _torch_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("torch")
    except PackageNotFoundError:
        return ""
