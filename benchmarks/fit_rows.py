"""Weights of a cost model from measurements, and how good it is on workloads that it has not seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
PULL, FLOOR = 0.05, 0.05
"""How strongly weights are drawn to the usual ones, for a term whose share of the time is its mean share or the floor.
"""
SCALE_WEIGHT = 0.3
"""What the absolute time of a workload counts beside the times of its candidates to one another."""
FEWEST = 3
"""Candidates of a workload that say something of a first choice."""


@dataclass(frozen=True, eq=False)
class Row:
    """One configuration of a workload on a GPU, its milliseconds, and those of the model's terms."""

    workload: str
    gpu: str
    config: str
    ms: float
    terms: Floats


class Data:
    """Measurements of one pass with their terms."""

    def __init__(self, rows: Sequence[Row], usual: Mapping[str, float]) -> None:
        """`usual` are the weights where measurements say nothing, by term."""
        self.rows, self.names, self.usual = list(rows), tuple(usual), np.array(list(usual.values()))
        self.ms = np.array([r.ms for r in rows])
        self.terms = np.array([r.terms for r in rows]).reshape(len(rows), len(usual))
        self.workloads = list(dict.fromkeys(r.workload for r in rows))

    def fit(self, chosen: npt.NDArray[np.bool_] | None = None) -> Floats:
        """Weights from some rows, all unless given: relative errors, those between candidates of a workload on a GPU
        counting most."""
        chosen = np.ones(len(self.rows), np.bool_) if chosen is None else chosen
        a, b = self.terms[chosen] / self.ms[chosen, None], np.ones(int(chosen.sum()))
        places = [(r.workload, r.gpu) for r, c in zip(self.rows, chosen, strict=True) if c]
        parts, wanted = [SCALE_WEIGHT * a], [SCALE_WEIGHT * b]
        for place in dict.fromkeys(places):
            mine = np.array([p == place for p in places])
            if mine.sum() > 1:
                # errors that a common factor would explain say nothing of the order
                parts.append(a[mine] - a[mine].mean(axis=0))
                wanted.append(b[mine] - b[mine].mean())
        pull = PULL * np.sqrt(len(b)) * np.maximum(a.mean(axis=0), FLOOR)
        parts.append(np.diag(pull))
        wanted.append(pull * self.usual)
        return non_negative(np.concatenate(parts), np.concatenate(wanted))

    def weights(self) -> dict[str, float]:
        """Those of all rows, by term; zeros are left out."""
        return {t: round(float(w), 6) for t, w in zip(self.names, self.fit(), strict=True) if w > 0}

    def judged(self) -> dict[str, Any]:
        """For every workload of three candidates or more: how far the first choice of a model that has not seen it is
        from the best; and how far the time it predicts is from the measured one, there and of single rows."""
        found: list[dict[str, Any]] = []
        off: list[float] = []
        for name in self.workloads:
            same = np.array([r.workload == name for r in self.rows])
            weights = self.fit(~same)
            for gpu in dict.fromkeys(r.gpu for r in self.rows if r.workload == name):
                mine = same & np.array([r.gpu == gpu for r in self.rows])
                guess, ms = self.terms[mine] @ weights, self.ms[mine]
                rows = [r for r, m in zip(self.rows, mine, strict=True) if m]
                first, best = int(np.argmin(guess)), int(np.argmin(ms))
                off.append(abs(float(guess[first] / ms[first]) - 1.0))
                if len(rows) >= FEWEST:
                    found.append(
                        {
                            "workload": name, "gpu": gpu, "candidates": len(rows),
                            "first choice": rows[first].config, "best": rows[best].config,
                            "over best": round(float(ms[first] / ms[best]), 4),
                            "predicted over measured": round(float(guess[first] / ms[first]), 4),
                        }
                    )  # fmt: skip
        over = [r["over best"] for r in found]
        return {
            "workloads": len(found), "measurements": len(self.rows), "median over best": median(over) if over else None,
            "worst over best": max(over, default=None), "median error of times": round(median(off), 4),
            "held out": found,
        }  # fmt: skip


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
