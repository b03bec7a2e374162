"""Fit the cost model's weights to committed measurements, and judge it on workloads that it was not fitted on.

    python benchmarks/fit_model.py [--write]

Judged by leaving out one workload after another: the weights are fitted on the rest, the candidates of the one that was
left out are ranked, and the first choice's measured time is compared with the best one's. `forward`, `dq` and `dkdv`
are fitted on the H200; `decode` and scans, of which fewer candidates were measured, on every GPU that has results.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from attndsl.runtime.triton.config import Pass
from attndsl.runtime.triton.labels import label
from attndsl.tune.machines import gpu_of
from attndsl.tune.model import DECODE_USUAL, FILE, TERMS, operations_of, terms, work_of
from attndsl.tune.scan_terms import SCAN_USUAL
from benchmarks.fit_decode import read_decode
from benchmarks.fit_rows import Data, Row
from benchmarks.fit_scan import read_scans
from benchmarks.measured import RESULTS, Measured, files, plan_of, problem_of, read

USUAL = {
    "tensor": 1.1, "narrow": 1.0, "exponentials": 0.5, "masks": 2.0, "switched": 0.3, "loads": 0.2,
    "memory": 0.2, "alone": 0.1, "serial": 0.1, "pressure": 1.0, "starts": 0.3, "tiles": 5.0, "stages": 0.4,
    "last wave": 0.5,
}  # fmt: skip
"""Weights where measurements say nothing."""
GPU = "h200"
EVERY = ("h200", "h100")
"""GPUs that have results."""


def folder_of(target: str) -> str:
    """Where a GPU's results are."""
    return gpu_of(target).machine.name.lower().replace(" ", "-")


def row_of(found: Measured) -> Row:
    """A measurement of a pass over tiles with its terms."""
    name, step, machine = found.workload.name, found.step, gpu_of(GPU)
    f, problem = problem_of(name)
    work = work_of(plan_of(name, step, found.config), problem, step, operations_of(f.simplified.mask))
    values = 1e3 * terms(step, found.config, work, problem, "bf16", machine)
    return Row(name, machine.machine.name, label(found.config), found.ms, values)


def every_data() -> dict[str, Data]:
    """Measurements by pass; those of `scan` stand for all scans."""
    steps: tuple[Pass, ...] = ("forward", "dq", "dkdv")
    rows = read(files(folder_of(GPU)))
    usual: Mapping[str, float] = {t: USUAL[t] for t in TERMS}
    found = {step: Data([row_of(r) for r in rows if r.step == step], usual) for step in steps}
    decode = [r for gpu in EVERY for r in read_decode(RESULTS / folder_of(gpu), gpu)]
    scans = [s for gpu in EVERY for s in read_scans(RESULTS / folder_of(gpu), gpu)]
    every = [Row(s.name, s.gpu.machine.name, label(s.config), s.ms, s.terms()) for s in scans]
    return {**found, "decode": Data(decode, DECODE_USUAL), "scan": Data(every, SCAN_USUAL)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"write {FILE.name}")
    given = parser.parse_args()
    weights: dict[str, Any] = {}
    judged: dict[str, Any] = {}
    for step, data in every_data().items():
        weights[step], judged[step] = data.weights(), data.judged()
        print(f"{step}: {weights[step]}")
        for r in judged[step]["held out"]:
            print(f"  {r['workload']:46s} {r['first choice']:22s} {r['over best']:.3f}  best {r['best']}")
        print(f"  median {judged[step]['median over best']}, worst {judged[step]['worst over best']}")
    if given.write:
        fitted = {gpu: [p.name for p in files(folder_of(gpu))] for gpu in EVERY}
        text = {"gpu": GPU, "fitted on": fitted, "weights": weights, "judged": judged}
        FILE.write_text(json.dumps(text, indent=1) + "\n")
        print(f"written to {FILE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
