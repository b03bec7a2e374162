"""Measurements of scans for `fit_model.py`: which workload, which passes, which configuration, how long.

Rows are those of `gpu_linear.py`: a forward pass is one scan, a backward pass the three of the gradients; what a run
chose itself is known by its commit. Entries are those of `gpu_tune.py`, every pass apart; with a decay per channel they
say more of what comes before scans, and are left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attndsl.runtime.cache.entry import entry_of
from attndsl.runtime.triton.labels import scan_config_of
from attndsl.runtime.triton.scan_config import ScanConfig, ScanPass
from attndsl.tune.machines import Gpu, gpu_of
from attndsl.tune.scan_candidates import Shape
from attndsl.tune.scan_terms import Floats, scan_terms

WORKLOAD = re.compile(r"linear S(?P<S>\d+) B(?P<B>\d+) H(?P<H>\d+) D(?P<D>\d+)")
SHOWN = re.compile(
    r"(?P<chunk>\d+)x(?P<columns>\d+) w(?P<warps>\d+) s(?P<stages>\d+) r(?P<resident>\d+) "
    r"states (?P<state_columns>\d+)x(?P<state_warps>\d+) s(?P<state_stages>\d+)"
)
"""A configuration as `gpu_linear.words` tells it."""
KINDS = {"retention": True, "linear": False, "simplegla": True}
"""Mechanisms without maps of their own, and whether their rows have factors."""
CHOSEN = {
    "1f01f80e433435f1207fa2a33e04b2cba147204b": ScanConfig(64, 64, 4, 3, state_stages=4),
    "82a76a1f48e5a215a8ebd4cefc59fee55cb02212": ScanConfig(64, 64, 4, 4),
}
"""What `choose_scan` gave heads of 128 components, by the commit that was measured."""
PASSES: dict[str, tuple[ScanPass, ...]] = {"fwd": ("scan",), "bwd": ("scan_dq", "scan_dk", "scan_dv")}


@dataclass(frozen=True)
class MeasuredScan:
    """The kernels of one pass in milliseconds; `name` is the workload's, on whatever GPU."""

    name: str
    gpu: Gpu
    shapes: tuple[Shape, ...]
    config: ScanConfig
    ms: float

    def terms(self) -> Floats:
        """Milliseconds of the terms of all scans of the pass. The sums of values' states serve two of the three."""
        return 1e3 * np.sum([scan_terms(self.config, shape, self.gpu) for shape in self.shapes], axis=0)


TUNED = {"retention": (True, False), "elu + 1": (False, True), "gate per token": (True, False)}
"""By the end of a workload's name: whether rows have factors, and whether features are maps of components."""


def read_tuned(folder: Path, target: str) -> Iterator[MeasuredScan]:
    """The entries of a GPU's tuning."""
    steps = {step for steps in PASSES.values() for step in steps}
    for path in sorted(folder.glob("*-tune*.json")):
        for data in json.loads(path.read_text()).get("entries", []):
            entry = entry_of(data)
            name, key = entry.made.get("workload", ""), entry.key
            kind = next((k for k in TUNED if name.endswith(k)), None)
            if kind is None or key.step not in steps:
                continue
            decays, mapped = TUNED[kind]
            turned = key.step in ("scan_dq", "scan_dk")
            B, H, L = (int(entry.shape[n]) for n in "BHL")
            keys, values = (key.Dv, key.D) if turned else (key.D, key.Dv)
            shape = Shape(B, H, H // key.group, L, keys, values, key.dtype, decays, turned and mapped)
            for timing in entry.timings.values():
                if timing.state == "measured" and timing.ms:
                    yield MeasuredScan(
                        f"{name} {key.step}", gpu_of(target), (shape,), scan_config_of(timing.config), timing.ms
                    )


def read_scans(folder: Path, target: str) -> Iterator[MeasuredScan]:
    """The rows of a GPU's results."""
    yield from read_tuned(folder, target)
    for path in sorted(folder.glob("*-linear.json")):
        data: dict[str, Any] = json.loads(path.read_text())
        for row in data["rows"]:
            system, _, kind = str(row.get("sys", "")).partition(" ")
            sizes, shown = WORKLOAD.match(str(row.get("wl"))), SHOWN.search(str(row.get("note")))
            chosen = CHOSEN.get(str(data["commit"]))
            if system not in ("attndsl-triton", "attndsl-config") or kind not in KINDS or not row["ms"]:
                continue
            assert sizes is not None
            numbers: dict[str, Any] = {} if shown is None else {n: int(x) for n, x in shown.groupdict().items()}
            config = ScanConfig(**numbers) if numbers else chosen
            if config is None:
                continue
            alone = re.search(r"graph ([\d.]+)", row["note"])
            B, H, S, D = (int(sizes[n]) for n in "BHSD")
            shape = Shape(B, H, H, S, D, D, "bf16", decays=KINDS[kind])
            name = f"{kind} S{S} B{B} {row['pas']}"
            shapes = (shape,) * len(PASSES[row["pas"]])
            yield MeasuredScan(name, gpu_of(target), shapes, config, float(alone[1] if alone else row["ms"]))
