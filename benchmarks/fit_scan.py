"""Measurements of scans for `fit_model.py`: which workload, which passes, which configuration, how long.

Rows are those of `gpu_linear.py`: a forward pass is one scan, a backward pass the three of the gradients. What a run
chose itself is known by its commit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

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


def read_scans(folder: Path, target: str) -> Iterator[MeasuredScan]:
    """The rows of a GPU's results."""
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
