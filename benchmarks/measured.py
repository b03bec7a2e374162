"""Committed measurements of configurations: which workload, which pass, which configuration, how long."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import attndsl
from attndsl.bench.workloads import Workload
from attndsl.runtime.cache.entry import Entry, entry_of
from attndsl.runtime.triton.config import Config, Pass
from attndsl.runtime.triton.labels import config_of
from attndsl.runtime.triton.scan_config import SCAN_PASSES, ScanConfig
from attndsl.schedule.plan import Plan
from attndsl.schedule.problem import Problem
from attndsl.tune.machines import GPUS
from attndsl.tune.trials import CostModel
from benchmarks.tune_specs import items
from benchmarks.tune_specs import problem_of as problem_of_workload

RESULTS = Path(__file__).parent / "results"
PASSES: dict[str, Pass] = {"attndsl-config": "forward", "attndsl-dq": "dq", "attndsl-dkdv": "dkdv"}
"""Passes by the `sys` of a row."""
SHOWN = re.compile(
    r"(?P<rows>\d+)x(?P<columns>\d+) w(?P<warps>\d+) s(?P<stages>\d+)(?P<special> (?:ws|specialize))?"
    r"(?: q_box=(?P<q_box>[\dx]+))?(?: k_box=(?P<k_box>[\dx]+))?"
    r"(?: splits=(?P<splits>\d+))?(?: registers=(?P<registers>\d+))?(?P<mixed> mixed)?(?: fused=(?P<fused>\w+))?"
    r"(?=[;,: ]|$)"
)
"""A configuration as rows tell it."""


@dataclass(frozen=True)
class Measured:
    """The median of the runs of one configuration in milliseconds; `problem` is None for what has no workload here."""

    workload: Workload
    step: Pass
    config: Config
    ms: float
    runs: int


@cache
def workloads() -> dict[str, Workload]:
    """The workloads of the benchmarks by name."""
    return {i.workload.name: i.workload for i in items("cpu")}


def files(gpu: str = "nvidia-h200") -> list[Path]:
    """The committed results of a GPU."""
    return sorted((RESULTS / gpu).glob("*.json"))


def current(entry: Entry) -> Entry:
    """An entry without configurations that kernels do not have any more."""
    kind = ScanConfig if entry.key.step in SCAN_PASSES else Config
    fields = {f.name for f in dataclasses.fields(kind)}
    return replace(entry, timings={n: t for n, t in entry.timings.items() if t.config.keys() <= fields})


def read(paths: Iterable[Path]) -> list[Measured]:
    """Every configuration that was measured, runs of one joined by their median. Rows of other systems, of results
    that were wrong, and of workloads that are not here are left out."""
    times: dict[tuple[str, Pass, Config], list[float]] = {}
    for path in paths:
        for key, ms in _rows(json.loads(path.read_text())):
            times.setdefault(key, []).append(ms)
    return [Measured(workloads()[w], step, c, median(ms), len(ms)) for (w, step, c), ms in times.items()]


def _rows(record: dict[str, Any]) -> Iterator[tuple[tuple[str, Pass, Config], float]]:
    entries = [current(entry_of(data)) for data in record.get("entries", [])]
    queries = {e.made.get("workload", ""): e.timings[e.default].ms for e in entries if _has_queries(e)}
    for entry in entries:
        name = entry.made.get("workload", "")
        step: Any = entry.key.step
        if name not in workloads() or step in SCAN_PASSES or (step == "dkdv" and name not in queries):
            continue
        # the gradients of keys are tuned by the time of the whole backward pass
        beside = queries[name] or 0.0 if step == "dkdv" else 0.0
        for timing in entry.timings.values():
            config: Any = config_of(timing.config)
            if timing.state == "measured" and timing.ms and timing.ms > beside and not config.fused:
                yield (name, step, config), timing.ms - beside
    rows: list[dict[str, Any]] = record.get("rows", [])
    for row in rows:
        step, shown = PASSES.get(str(row.get("sys"))), SHOWN.match(str(row.get("note")))
        if step is None or shown is None or not row["ms"] or "WRONG" in row["note"] or row["wl"] not in workloads():
            continue
        numbers = [int(shown[n]) for n in ("rows", "columns", "warps", "stages")]
        more = {n: int(shown[n] or 0) for n in ("splits", "registers")}
        if shown["fused"] or shown["mixed"]:
            # two passes in one; exponentials that no kernel has any more
            continue
        boxes = {n: tuple(map(int, shown[n].split("x"))) for n in ("q_box", "k_box") if shown[n]}
        config = Config(*numbers, specialize=shown["special"] is not None, **boxes, **more)
        yield (str(row["wl"]), step, config), float(row["ms"])


def _has_queries(entry: Entry) -> bool:
    """Whether it says what the gradients of queries take as they run beside those of keys."""
    return entry.key.step == "dq" and entry.default in entry.timings and bool(entry.timings[entry.default].ms)


@cache
def problem_of(name: str) -> tuple[attndsl.AttentionFunction, Problem]:
    """A workload's attention, and what its plans depend on."""
    return problem_of_workload(workloads()[name])


@cache
def plan_of(name: str, step: Pass, config: Config) -> Plan:
    """The plan that a configuration of a pass runs."""
    f, problem = problem_of(name)
    return CostModel(f.simplified, problem, "bf16", step, GPUS["h200"]).plan(config)
