"""The work of `gpu_tune.py`: one item after another, as soon as its candidates are compiled."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import time
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attndsl.runtime.cache.entry import Entry, entry_data
from attndsl.runtime.cache.key import Machine
from attndsl.runtime.triton.choices import facts_of
from attndsl.runtime.triton.config import Config, Pass
from attndsl.runtime.triton.labels import label
from attndsl.tune.candidates import spread
from attndsl.tune.machines import Gpu, gpu_of, like
from attndsl.tune.offline import ranked
from attndsl.tune.trials import CostModel
from attndsl.tune.workers import Workers, job_of
from benchmarks.tune_specs import LIBRARY, Item, items, problem_of

QUIET = 45.0
"""Seconds without a row after which a process counts as hung."""
FINALISTS = 0.08
"""Seconds that each finalist is measured."""
AT_ONCE = 4
"""Items that are ranked before it is looked again whether one can be measured."""
COMPILE = 30.0
"""Seconds that a kernel may take to compile."""
MOST: dict[Pass, int] = {"forward": 6, "decode": 8, "dq": 4, "dkdv": 4}
MOST_OF_LIBRARY: dict[Pass, int] = {"forward": 4, "decode": 4, "dq": 3, "dkdv": 3}
Row = dict[str, Any]


@dataclass
class Record:
    """The file of results."""

    path: Path
    data: dict[str, Any]

    @staticmethod
    def at(path: Path) -> Record:
        """What a file holds; what is no result is begun anew."""
        data: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            data = json.loads(path.read_text())
        return Record(path, {"rows": [], "entries": [], **data})

    def describe(self, **facts: Any) -> None:
        """Say what holds for all rows."""
        self.data |= facts
        self.write()

    def write(self) -> None:
        """Whole or not at all."""
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        temporary.write_text(json.dumps(self.data, indent=1) + "\n")
        temporary.replace(self.path)

    def begin(self, item: Item) -> None:
        """Say what is being tuned, for who comes after this process."""
        self.data["running"] = list(item.place)
        self.write()

    def add(self, item: Item, row: Row, entry: Entry | None = None) -> None:
        """Keep a row, and the entry it tells of."""
        self.data.pop("running", None)
        self.data["rows"].append({"workload": item.workload.name, "group": item.group, "pass": item.step, **row})
        if entry is not None:
            found = entry_data(entry)
            found["payload"]["made"]["workload"] = item.workload.name
            self.data["entries"].append(found)
        self.write()

    def lose(self, note: str) -> str:
        """Give up what a process was at when it died; what that was."""
        running = self.data.pop("running", None)
        if running is None:
            return ""
        known = next(i for i in items("cpu") if list(i.place) == running)
        self.add(known, {"note": f"ERR {note}"})
        return " ".join(running)

    @property
    def done(self) -> set[tuple[str, str]]:
        return {(r["workload"], r["pass"]) for r in self.data["rows"]}

    def summary(self) -> Iterable[str]:
        """Gains by group and pass, and what is missing."""
        by_group: dict[str, list[float]] = {}
        for row in self.data["rows"]:
            if row.get("gain"):
                by_group.setdefault(f"{row['group']}, {row['pass']}", []).append(row["gain"])
        for name, found in by_group.items():
            mean = math.exp(sum(map(math.log, found)) / len(found))
            yield f"gain of {name}: {mean:.3f}x ({min(found):.3f} to {max(found):.3f}, {len(found)} workloads)"
        for row in self.data["rows"]:
            if row.get("note"):
                yield f"{row['workload']} {row['pass']}: {row['note']}"


def chosen(given: argparse.Namespace, done: set[tuple[str, str]], device: str) -> list[Item]:
    """What is to be tuned and is not yet, in order."""
    passes = given.passes.split(",")
    return [
        i for i in items(device)
        if i.place not in done and i.step in passes and (given.only in i.workload.name or given.only == i.group)
    ]  # fmt: skip


def most_of(given: argparse.Namespace, item: Item) -> int:
    """How many candidates an item has."""
    return given.most or (MOST_OF_LIBRARY if item.group == LIBRARY else MOST)[item.step]


def run(
    given: argparse.Namespace, out: Path | None = None, cache: Path | None = None, deadline: float | None = None
) -> int:
    """Tune until the deadline."""
    out, cache = out or given.out, cache or given.cache
    assert out is not None
    assert cache is not None
    os.environ["ATTNDSL_CACHE_DIR"] = str(cache)
    record = Record.at(out)
    if given.dry:
        return predict_all(given, record, deadline or given.deadline)
    return measure_all(given, record, deadline or given.deadline)


def predict_all(given: argparse.Namespace, record: Record, deadline: float) -> int:
    """Rows without a GPU: what the cost model says of the default and of its first choice."""
    gpu = gpu_of(given.target)
    for item in chosen(given, record.done, "cpu"):
        if time.time() > deadline:
            break
        record.begin(item)
        configs = candidates_of(item, gpu, most_of(given, item))
        f, problem = problem_of(item.workload)
        model = CostModel(f.simplified, problem, "bf16", item.step, gpu)
        ms = {c: model.predict(c) for c in configs}
        default, best = configs[0], min(configs, key=lambda c: ms[c])
        row = {"default": label(default), "default_ms": ms[default], "tuned": label(best), "ms": ms[best],
               "gain": ms[default] / ms[best], "tried": len(configs), "note": "predicted"}  # fmt: skip
        record.add(item, row)
        print(f"{item.workload.name:48s} {item.step:8s} {label(best):30s} {ms[best]:9.4f} ms predicted", flush=True)
    return 0


def candidates_of(item: Item, gpu: Gpu, most: int) -> list[Config]:
    """The default and the candidates that are likely to be better."""
    f, problem = problem_of(item.workload)
    facts = facts_of(f.simplified, problem, "bf16", gpu.machine)
    return spread(ranked(f.simplified, problem, facts, item.step, gpu), most)


class Ahead:
    """Candidates that are compiled while others are measured."""

    def __init__(self, workers: Workers, gpu: Gpu) -> None:
        self.workers, self.gpu = workers, gpu
        self.configs: dict[tuple[str, str], list[Config]] = {}
        self.answers: dict[tuple[str, str], list[Future[Any]]] = {}

    def add(self, item: Item, most: int) -> None:
        """Rank an item's candidates and have them compiled."""
        f, problem = problem_of(item.workload)
        configs = self.configs[item.place] = candidates_of(item, self.gpu, most)
        jobs = [job_of(f.simplified, problem, "bf16", self.gpu, item.step, c) for c in configs]
        self.answers[item.place] = [self.workers.ask(j) for j in jobs]

    def ready(self, item: Item) -> bool:
        """Whether all candidates of an item are compiled, or known not to compile."""
        return all(a.done() for a in self.answers[item.place])


def measure_all(given: argparse.Namespace, record: Record, deadline: float) -> int:
    """Rank and compile everything in the background, and measure what is ready, in order."""
    import torch

    from attndsl.runtime.triton.machine import machine_of

    machine = machine_of(torch.device("cuda", torch.cuda.current_device()))
    assert isinstance(machine, Machine)
    gpu = like(machine)
    workers = Workers(given.workers, limit=COMPILE)
    ahead = Ahead(workers, gpu)
    waiting: list[Item] = []
    coming = chosen(given, record.done, "cuda")
    try:
        while (waiting or coming) and time.time() < deadline - 3:
            # this process is alive
            record.path.touch()
            for item in coming[:AT_ONCE]:
                ahead.add(item, most_of(given, item))
            waiting, coming = [*waiting, *coming[:AT_ONCE]], coming[AT_ONCE:]
            ready = next((i for i in waiting if ahead.ready(i)), None)
            if ready is not None:
                waiting.remove(ready)
                record.begin(ready)
                tune_one(ready, ahead, record, min(given.each, deadline - time.time() - 1))
            elif not coming:
                time.sleep(0.05)
    finally:
        workers.close()
    for item in [*waiting, *coming]:
        print(f"no time for {item.workload.name} {item.step}", flush=True)
    return 0


def tune_one(item: Item, ahead: Ahead, record: Record, seconds: float) -> None:
    """Search an item's candidates by measuring. What takes the GPU's context with it ends the process: the next one
    has its own."""
    import torch

    from attndsl.runtime.binding import bind_call
    from attndsl.runtime.triton.kernel import TritonKernel
    from attndsl.tune.online import tune_passes
    from attndsl.tune.oracle import Subject

    begin, w = time.time(), item.workload
    try:
        f, _ = problem_of(w)
        q, k, v = w.tensors()
        g = torch.Generator(device="cuda").manual_seed(3)
        grad = torch.randn((*q.shape[:3], v.shape[-1]), device="cuda", dtype=q.dtype, generator=g)
        call = bind_call(f.attention, f.simplified, q, k, v, dict(w.inputs), grid=w.grid)
        kernel = TritonKernel(f.simplified)
        subject = Subject(f.attention, call, w.grid, grad if item.step in ("dq", "dkdv") else None)
        (entry,) = tune_passes(
            kernel, subject, kernel.facts(call), [item.step], max(seconds, 0.5), workers=ahead.workers,
            among={item.step: ahead.configs[item.place]}, careful=FINALISTS,
        )  # fmt: skip
    except Exception as error:
        note = f"ERR {type(error).__name__}: {' '.join(str(error).split())}"[:300]
        print(f"{w.name:48s} {item.step:8s} {note}", flush=True)
        record.add(item, {"note": note})
        if "CUDA" in note or "illegal" in note:
            os._exit(3)
        return
    row = row_of(entry, time.time() - begin)
    record.add(item, row, entry)
    shown = "none" if row["ms"] is None else f"{row['ms']:9.4f} ms"
    gain = "" if row["gain"] is None else f"{row['gain']:.3f}x {entry.default}"
    print(f"{w.name:48s} {item.step:8s} {entry.best or 'none':32s} {shown} {gain} {counts(entry)}", flush=True)


def row_of(entry: Entry, seconds: float) -> Row:
    """What a table says of an entry."""
    best = entry.timings[entry.best] if entry.best else None
    default = entry.timings.get(entry.default)
    return {
        "default": entry.default, "default_ms": None if default is None else default.ms, "tuned": entry.best,
        "ms": None if best is None else best.ms, "gain": entry.gain, "tried": len(entry.timings),
        "seconds": round(seconds, 2),
    }  # fmt: skip


def counts(entry: Entry) -> str:
    """How many candidates were tried, and what became of those that were not measured."""
    states = [t.state for t in entry.timings.values()]
    some = [f"{states.count(s)} {s}" for s in ("wrong", "failed", "unfit") if s in states]
    return f"({', '.join([f'{len(states)} tried', *some])})"
