"""Fit the cost model's weights to committed measurements, and judge it on workloads that it was not fitted on.

    python benchmarks/fit_model.py [--gpu h200] [--write]

Judged by leaving out one workload after another: the weights are fitted on the rest, the candidates of the one that was
left out are ranked, and the first choice's measured time is compared with the best one's.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import numpy.typing as npt

from attndsl.runtime.triton.config import Pass
from attndsl.runtime.triton.labels import label
from attndsl.tune.machines import gpu_of
from attndsl.tune.model import DECODE_USUAL, FILE, terms, terms_of, work_of
from benchmarks.measured import Measured, files, plan_of, problem_of, read

USUAL = {
    "tensor": 1.1, "narrow": 1.0, "exponentials": 0.5, "masks": 2.0, "switched": 0.3, "loads": 0.2,
    "memory": 0.2, "alone": 0.1, "serial": 0.1, "pressure": 1.0, "starts": 0.3, "tiles": 5.0, "stages": 0.4,
    "last wave": 0.5,
}  # fmt: skip
"""Weights where measurements say nothing."""
PULL, FLOOR = 0.05, 0.05
"""How strongly weights are drawn there, for a term whose share of the time is its mean share or the floor."""
Floats = npt.NDArray[np.float64]
SCALE_WEIGHT = 0.3
"""What the absolute time of a workload counts beside the times of its candidates to one another."""


def non_negative(a: Floats, b: Floats) -> Floats:
    """The x >= 0 that makes |a x - b| least (Lawson and Hanson, Solving Least Squares Problems, 1974, chapter 23)."""
    n = a.shape[1]
    x, free = np.zeros(n), np.zeros(n, np.bool_)
    for _ in range(10 * n):
        gradient = a.T @ (b - a @ x)
        gradient[free] = -np.inf
        j = int(np.argmax(gradient))
        if free.all() or gradient[j] <= 1e-10:
            break
        free[j] = True
        while True:
            trial = np.zeros(n)
            trial[free] = np.linalg.lstsq(a[:, free], b, rcond=None)[0]
            if (trial[free] > 0).all():
                x = trial
                break
            falls = free & (trial <= 0)
            step = float(np.min(x[falls] / np.maximum(x[falls] - trial[falls], 1e-300)))
            x = x + step * (trial - x)
            free &= x > 1e-14
            x[~free] = 0.0
            if not free.any():
                break
    return x


FEWEST_WORKLOADS = 3


class Data:
    """Measurements of one pass with their terms."""

    def __init__(self, rows: list[Measured], step: Pass, gpu: str) -> None:
        self.rows = [r for r in rows if r.step == step]
        machine = gpu_of(gpu)
        self.ms = np.array([r.ms for r in self.rows])
        self.names = [r.workload.name for r in self.rows]
        self.names_of_terms = terms_of(step)
        self.usual = np.array([(DECODE_USUAL if step == "decode" else USUAL)[t] for t in self.names_of_terms])
        self.terms = np.zeros((len(self.rows), len(self.names_of_terms)))
        for i, r in enumerate(self.rows):
            _, problem = problem_of(r.workload.name)
            work = work_of(plan_of(r.workload.name, step, r.config), problem, step)
            self.terms[i] = 1e3 * terms(step, r.config, work, problem, "bf16", machine)

    def fit(self, chosen: npt.NDArray[np.bool_]) -> Floats:
        """Weights from some rows: relative errors, those between candidates of a workload counting most."""
        a, b = self.terms[chosen] / self.ms[chosen, None], np.ones(int(chosen.sum()))
        names = [n for n, c in zip(self.names, chosen, strict=True) if c]
        parts, wanted = [SCALE_WEIGHT * a], [SCALE_WEIGHT * b]
        for name in dict.fromkeys(names):
            mine = np.array([n == name for n in names])
            if mine.sum() > 1:
                # errors that a common factor would explain say nothing of the order
                parts.append(a[mine] - a[mine].mean(axis=0))
                wanted.append(b[mine] - b[mine].mean())
        pull = PULL * np.sqrt(len(b)) * np.maximum(a.mean(axis=0), FLOOR)
        parts.append(np.diag(pull))
        wanted.append(pull * self.usual)
        return non_negative(np.concatenate(parts), np.concatenate(wanted))

    def held_out(self) -> list[dict[str, Any]]:
        """For every workload of three candidates or more: how far the first choice of a model that has not seen it is
        from the best, and how far the time it predicts is from the measured one."""
        found: list[dict[str, Any]] = []
        for name in dict.fromkeys(self.names):
            mine = np.array([n == name for n in self.names])
            if mine.sum() < 3:
                continue
            weights = self.fit(~mine)
            guess, ms = self.terms[mine] @ weights, self.ms[mine]
            first, best = int(np.argmin(guess)), int(np.argmin(ms))
            rows = [r for r, m in zip(self.rows, mine, strict=True) if m]
            found.append(
                {
                    "workload": name, "candidates": len(rows), "first choice": label(rows[first].config),
                    "best": label(rows[best].config), "over best": round(float(ms[first] / ms[best]), 4),
                    "predicted over measured": round(float(guess[first] / ms[first]), 4),
                }
            )  # fmt: skip
        return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", default="h200")
    parser.add_argument("--write", action="store_true", help=f"write {FILE.name}")
    given = parser.parse_args()
    folder = gpu_of(given.gpu).machine.name.lower().replace(" ", "-")
    rows = read(files(folder))
    weights: dict[str, Any] = {}
    judged: dict[str, Any] = {}
    steps: tuple[Pass, ...] = ("forward", "dq", "dkdv", "decode")
    for step in steps:
        data = Data(rows, step, given.gpu)
        if len(set(data.names)) < FEWEST_WORKLOADS:
            # a model of one shape says nothing of others
            continue
        every = data.fit(np.ones(len(data.rows), np.bool_))
        weights[step] = {t: round(float(w), 6) for t, w in zip(data.names_of_terms, every, strict=True) if w > 0}
        out = data.held_out()
        over = [r["over best"] for r in out]
        judged[step] = {
            "workloads": len(out), "measurements": len(data.rows), "median over best": median(over) if over else None,
            "worst over best": max(over, default=None), "held out": out,
        }  # fmt: skip
        print(f"{step}: {weights[step]}")
        for r in out:
            print(f"  {r['workload']:46s} {r['first choice']:22s} {r['over best']:.3f}  best {r['best']}")
        print(f"  median {judged[step]['median over best']}, worst {judged[step]['worst over best']}")
    if given.write:
        text = {"gpu": given.gpu, "fitted on": [p.name for p in files(folder)], "weights": weights, "judged": judged}
        FILE.write_text(json.dumps(text, indent=1) + "\n")
        print(f"written to {FILE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
