"""The work of `gpu_tune.py`: one item after another, as soon as its candidates are compiled."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attndsl.runtime.cache.entry import Entry, entry_data
from attndsl.runtime.cache.key import Machine
from attndsl.runtime.triton.choices import facts_of
from attndsl.runtime.triton.labels import label
from attndsl.runtime.triton.scan_choices import ScanFacts, scan_facts
from attndsl.schedule.legalise import ScanForm
from attndsl.tune.candidates import spread
from attndsl.tune.failures import CRASHED
from attndsl.tune.machines import Gpu, gpu_of, like
from attndsl.tune.model import predict_scan
from attndsl.tune.offline import ranked
from attndsl.tune.scan_candidates import shape_of
from attndsl.tune.scans import scan_of, scan_space
from attndsl.tune.trials import CostModel
from attndsl.tune.workers import Compiled, ScanJob, Task, Workers, job_of
from benchmarks.tune_specs import LIBRARY, LINEAR, Item, items, problem_of

LOST = 3
"""Exit code of a process whose GPU context is lost."""
QUIET = 45.0
"""Seconds without a row after which a process counts as hung."""
FINALISTS = 0.08
"""Seconds that each finalist is measured."""
TIMES = 3
"""Processes that may be lost over an item."""
AT_ONCE = 4
"""Items that are ranked before it is looked again whether one can be measured."""
COMPILE = 30.0
"""Seconds that a kernel may take to compile."""
MOST = {
    "forward": 6, "decode": 8, "dq": 4, "dkdv": 4, "scan": 8, "scan_dq": 6, "scan_dk": 6, "scan_dv": 6, "step": 6,
}  # fmt: skip
MOST_OF_LIBRARY = {"forward": 4, "dq": 3, "dkdv": 3}
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
        """Count what a process was at when it died, and give it up after so many times: which candidate it was at is in
        the cache, and the next process goes on with the others. What that was."""
        running = self.data.pop("running", None)
        if running is None:
            return ""
        name = " ".join(running)
        lost = self.data.setdefault("lost", {})
        lost[name] = [*lost.get(name, []), note]
        if len(lost[name]) < TIMES:
            self.write()
            return name
        known = next(i for i in items("cpu") if list(i.place) == running)
        self.add(known, {"note": f"ERR {'; '.join(lost[name])}"[:300]})
        return name

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
            yield from (f"{row['workload']} {row['pass']}: {text}" for text in row.get("crashed", []))
            if row.get("note"):
                yield f"{row['workload']} {row['pass']}: {row['note']}"


def chosen(given: argparse.Namespace, done: set[tuple[str, str]], device: str) -> list[Item]:
    """What is to be tuned and is not yet, in order."""
    passes, groups = given.passes.split(","), given.groups.split(",")
    found = [
        i for i in items(device)
        if i.place not in done and i.step in passes and i.group in groups
        and (given.only in i.workload.name or given.only == i.group)
    ]  # fmt: skip
    return sorted(found, key=lambda i: groups.index(i.group))


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
    workers = Workers(given.workers, limit=COMPILE) if given.workers else None
    begun: list[tuple[Item, Row, list[Future[Any]]]] = []
    wrong = 0
    try:
        for item in chosen(given, record.done, "cpu"):
            if time.time() > deadline:
                break
            record.begin(item)
            configs = candidates_of(item, gpu, most_of(given, item))
            ms = {c: predicted(item, c, gpu) for c in configs}
            default, best = configs[0], min(configs, key=lambda c: ms[c])
            row: Row = {"default": label(default), "default_ms": ms[default], "tuned": label(best), "ms": ms[best],
                        "gain": ms[default] / ms[best], "tried": len(configs), "note": "predicted"}  # fmt: skip
            jobs = [] if workers is None else [workers.ask(j) for j in jobs_of(item, configs, gpu)]
            begun.append((item, row, jobs))
            if workers is None:
                record.add(item, row)
            print(f"{item.workload.name:48s} {item.step:8s} {label(best):30s} {ms[best]:9.4f} ms predicted", flush=True)
        for item, row, jobs in begun if workers is not None else ():
            built: list[Compiled] = [j.result() for j in jobs]
            bad = [b.error for b in built if b.error]
            # a candidate may not compile; the default must
            wrong += bool(built[0].error)
            right = len(built) - len(bad)
            record.add(item, {**row, "compiled": right, "note": f"predicted; {'; '.join(bad)}"[:300]})
            print(f"{item.workload.name:48s} {item.step:8s} {right} of {len(built)} compiled", flush=True)
    finally:
        if workers is not None:
            workers.close()
    return 1 if wrong else 0


def candidates_of(item: Item, gpu: Gpu, most: int) -> list[Any]:
    """The default and the candidates that are likely to be better."""
    f, problem = problem_of(item.workload)
    if item.group != LINEAR:
        step: Any = item.step
        facts = facts_of(f.simplified, problem, "bf16", gpu.machine)
        return spread(ranked(f.simplified, problem, facts, step, gpu), most)
    form, facts_ = scan_of_item(item, gpu)
    pass_: Any = item.step
    default, *rest = scan_space(pass_, facts_, form, gpu)
    rest.sort(key=lambda c: predicted(item, c, gpu))
    kinds: dict[tuple[int, ...], int] = {}
    found = [default]
    for config in rest:
        # a model that is wrong about a tile is wrong about all of its variants
        kind = config.chunk, config.columns, config.warps
        kinds[kind] = kinds.get(kind, 0) + 1
        if kinds[kind] <= max(most // 2, 1) and len(found) < most:
            found.append(config)
    return found


def scan_of_item(item: Item, gpu: Gpu) -> tuple[ScanForm, ScanFacts]:
    """How a linear attention runs."""
    f, problem = problem_of(item.workload)
    form = scan_of(f.simplified, problem)
    assert form is not None
    return form, scan_facts(form, problem.sizes, "bf16", gpu.machine)


def predicted(item: Item, config: Any, gpu: Gpu) -> float:
    """Milliseconds by the cost model."""
    step: Any = item.step
    if item.group == LINEAR:
        form, facts = scan_of_item(item, gpu)
        return predict_scan(step, config, shape_of(step, facts, form), gpu)
    f, problem = problem_of(item.workload)
    return CostModel(f.simplified, problem, "bf16", step, gpu).predict(config)


def jobs_of(item: Item, configs: Sequence[Any], gpu: Gpu) -> list[Task]:
    """What workers compile for an item."""
    f, problem = problem_of(item.workload)
    step: Any = item.step
    make: Any = ScanJob.of if item.group == LINEAR else job_of
    return [make(f.simplified, problem, "bf16", gpu, step, c) for c in configs]


class Ahead:
    """Candidates that are compiled while others are measured."""

    def __init__(self, workers: Workers, gpu: Gpu) -> None:
        self.workers, self.gpu = workers, gpu
        self.configs: dict[tuple[str, str], list[Any]] = {}
        self.answers: dict[tuple[str, str], list[Future[Any]]] = {}

    def add(self, item: Item, most: int) -> None:
        """Rank an item's candidates and have them compiled."""
        configs = self.configs[item.place] = candidates_of(item, self.gpu, most)
        self.answers[item.place] = [self.workers.ask(j) for j in jobs_of(item, configs, self.gpu)]

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
    from attndsl.tune.failures import CandidateError, lost
    from attndsl.tune.online import tune_passes
    from attndsl.tune.oracle import Subject
    from attndsl.tune.scans import tune_scan_passes
    from attndsl.tune.trials import alive

    begin, w = time.time(), item.workload
    try:
        f, _ = problem_of(w)
        q, k, v = w.tensors()
        g = torch.Generator(device="cuda").manual_seed(3)
        grad = torch.randn((*q.shape[:3], v.shape[-1]), device="cuda", dtype=q.dtype, generator=g)
        call = bind_call(f.attention, f.simplified, q, k, v, dict(w.inputs), grid=w.grid)
        kernel = TritonKernel(f.simplified)
        step: Any = item.step
        among: Any = {step: ahead.configs[item.place]}
        options: dict[str, Any] = {"workers": ahead.workers, "among": among, "careful": FINALISTS}
        if item.group == LINEAR:
            form, facts = scan_of_item(item, ahead.gpu)
            subject = Subject(f.attention, call, None, grad)
            (entry,) = tune_scan_passes(kernel, subject, form, facts, [step], max(seconds, 0.5), **options)
        else:
            subject = Subject(f.attention, call, w.grid, grad if step in ("dq", "dkdv") else None)
            (entry,) = tune_passes(kernel, subject, kernel.facts(call), [step], max(seconds, 0.5), **options)
    except CandidateError as error:
        # the next process goes on with the other candidates
        print(f"{w.name:48s} {item.step:8s} {error.config}: {error.words}", flush=True)
        record.lose(f"{error.config}: {error.words}")
        os._exit(LOST)
    except Exception as error:
        note = f"ERR {type(error).__name__}: {' '.join(str(error).split())}"[:300]
        print(f"{w.name:48s} {item.step:8s} {note}", flush=True)
        if lost(error) or not alive(torch.device("cuda", torch.cuda.current_device())):
            record.lose(note)
            os._exit(LOST)
        record.add(item, {"note": note})
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
        "seconds": round(seconds, 2), **({"crashed": crashed} if (crashed := crashes(entry)) else {}),
    }  # fmt: skip


def crashes(entry: Entry) -> list[str]:
    """The candidates that took a process with them, and what was said."""
    return [f"{n}: {t.note}" for n, t in entry.timings.items() if t.note.startswith(CRASHED)]


def counts(entry: Entry) -> str:
    """How many candidates were tried, and what became of those that were not measured."""
    states = [t.state for t in entry.timings.values()]
    some = [f"{states.count(s)} {s}" for s in ("wrong", "failed", "unfit") if s in states]
    return f"({', '.join([f'{len(states)} tried', *some])})"
