"""Measurements of `decode` for `fit_model.py`: what `gpu_decode.py` measured as it was chosen, and candidates of
`gpu_tune.py`, on every GPU that has results."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attndsl
from attndsl.runtime.triton.config import Config, choose
from attndsl.runtime.triton.labels import label
from attndsl.schedule.problem import Problem
from attndsl.tune.machines import Gpu, gpu_of
from attndsl.tune.model import terms, work_of
from attndsl.tune.trials import CostModel
from benchmarks.fit_rows import Row
from benchmarks.measured import problem_of, read

ALONE = re.compile(r"device alone ([\d.]+) ms")


def read_decode(folder: Path, target: str) -> Iterator[Row]:
    """The rows of a GPU's results. Of what was chosen the time of the device alone counts, as for candidates."""
    from benchmarks.gpu_decode import SHAPES

    gpu, shapes = gpu_of(target), {s.name: s for s in SHAPES}
    for path in sorted(folder.glob("*-decode.json")):
        rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"]
        for row in rows:
            shape, alone = shapes.get(row["wl"]), ALONE.search(row["note"])
            if row["sys"] != "attndsl-triton" or shape is None or alone is None:
                continue
            f = attndsl.load(shape.text)
            problem = f.problem(
                B=shape.B, H=shape.H, Hkv=shape.Hkv, Lq=shape.Lq, Lk=shape.kv, D=shape.D, q_offset=shape.kv - shape.Lq
            )
            config = choose("decode", "bf16", shape.D, shape.D, gpu.machine.capability)
            yield _row(shape.name, gpu, f, problem, config, float(alone[1]))
    for found in read(sorted(folder.glob("*-tune.json"))):
        if found.step == "decode":
            f, problem = problem_of(found.workload.name)
            yield _row(found.workload.name, gpu, f, problem, found.config, found.ms)


def _row(name: str, gpu: Gpu, f: attndsl.AttentionFunction, problem: Problem, config: Config, ms: float) -> Row:
    plan = CostModel(f.simplified, problem, "bf16", "decode", gpu).plan(config)
    found = 1e3 * terms("decode", config, work_of(plan, problem, "decode"), problem, "bf16", gpu)
    return Row(name, gpu.machine.name, label(config), ms, found)
