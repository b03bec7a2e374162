"""Write what the package ships for a GPU, from committed measurements.

    python benchmarks/ship_tuned.py [--gpu h200]

Takes every configuration of every workload in `benchmarks/results/<gpu>/`, and the entries that `gpu_tune.py` kept
there; where an entry and rows of the benchmarks are about the same key, the times of the entry count, which were taken
side by side.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from attndsl.runtime.cache.entry import Entry, Timing, entry_data, entry_of
from attndsl.runtime.cache.lookup import data_file
from attndsl.runtime.triton.choices import facts_of, key_for, untuned
from attndsl.runtime.triton.config import Pass
from attndsl.runtime.triton.labels import config_data, label
from attndsl.tune.machines import gpu_of
from attndsl.tune.shape import shape_of
from benchmarks.measured import Measured, current, files, problem_of, read

FEWEST = 2
"""Candidates that must have been compared."""


def from_rows(rows: list[Measured], target: str, kernels: str, triton: str) -> list[Entry]:
    """An entry for each workload and pass."""
    by_task: dict[tuple[str, Pass], list[Measured]] = {}
    for row in rows:
        by_task.setdefault((row.workload.name, row.step), []).append(row)
    found: list[Entry] = []
    for (name, step), some in by_task.items():
        if len(some) < FEWEST:
            continue
        f, problem = problem_of(name)
        facts = facts_of(f.simplified, problem, "bf16", gpu_of(target).machine)
        key = key_for(f.simplified, step, facts)
        timings = {
            label(m.config): Timing(config_data(m.config), "measured", round(m.ms, 5), note=f"{m.runs} runs")
            for m in some
        }
        made = {"origin": "benchmarks", "workload": name}
        measured = replace(key, kernels=kernels, triton=triton)
        found.append(Entry(measured, f.attention.name, shape_of(facts), timings, label(untuned(step, facts)), made))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", default="h200")
    given = parser.parse_args()
    name = gpu_of(given.gpu).machine.name
    paths = files(name.lower().replace(" ", "-"))
    entries: dict[str, Entry] = {}
    for path in paths:
        record: dict[str, Any] = json.loads(path.read_text())
        kernels, triton = f"commit {record.get('commit') or 'unknown'}", str(record["versions"]["triton"])
        for entry in from_rows(read([path]), given.gpu, kernels, triton):
            _join(entries, entry)
    for path in paths:
        for data in json.loads(path.read_text()).get("entries", []):
            entry = current(entry_of(data))
            if entry.key.machine.name == name and entry.best is not None:
                entries[_place(entry)] = entry
    chosen = sorted(entries.values(), key=lambda e: (e.name, e.key.step, e.key.D, e.key.bucket.Lk, e.key.name))
    target = data_file(name)
    target.parent.mkdir(exist_ok=True)
    text = {"gpu": name, "from": [p.name for p in paths], "entries": [entry_data(e) for e in chosen]}
    target.write_text(json.dumps(text, indent=1, sort_keys=True) + "\n")
    print(f"{len(chosen)} entries written to {target}")
    return 0


def _join(entries: dict[str, Entry], entry: Entry) -> None:
    """Later results of a key replace times of the same candidates."""
    known = entries.get(_place(entry))
    entries[_place(entry)] = entry if known is None else entry.with_timings({**known.timings, **entry.timings})


def _place(entry: Entry) -> str:
    """Where an entry stands whatever the versions."""
    data = {**entry.key.data(), "kernels": "", "triton": ""}
    return json.dumps(data, sort_keys=True)


if __name__ == "__main__":
    sys.exit(main())
