"""Polynomials of `templates/cpu/elementary.c.j2`, with the largest error of each (relative to the function).

    python benchmarks/fit_elementary.py

A minimax fit by C. L. Lawson's iteration: weighted least squares, the weights multiplied by the errors until these are
even. Functions are evaluated by mpmath to 60 digits.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportMissingTypeStubs=false, reportUnknownParameterType=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath as mp
import numpy as np

POINTS, STEPS = 4000, 300


def fit(function: Callable[[Any], Any], low: float, high: float, degree: int, weight: Callable[[float], float]) -> Any:
    """(error, coefficients from the constant up) of the polynomial with the least max |weight (function - p)|."""
    x = (low + high) / 2 + (high - low) / 2 * np.cos(np.linspace(0, np.pi, POINTS))
    scale = max(abs(low), abs(high))
    w = np.array([weight(v) for v in x])
    wanted = np.array([float(function(mp.mpf(v))) for v in x]) * w
    powers = (x[:, None] / scale) ** np.arange(degree + 1) * w[:, None]
    share = np.ones(POINTS) / POINTS
    best: Any = (np.inf, None)
    for _ in range(STEPS):
        root = np.sqrt(share)
        found = np.linalg.lstsq(powers * root[:, None], wanted * root, rcond=None)[0]
        error = np.abs(powers @ found - wanted)
        if error.max() < best[0]:
            best = (error.max(), found / scale ** np.arange(degree + 1))
        share = share * error
        share /= share.sum()
    return best


def show(name: str, found: Any) -> None:
    print(f"{name}: error {found[0]:.2g}")
    for i, c in enumerate(found[1]):
        print(f"    x^{i}: {np.float32(c):.9g}")


def main() -> None:
    mp.mp.dps = 60
    half = float(mp.log(2) / 2) * 1.0001
    show("exp(r) = 1 + r + r^2 p(r), |r| <= log(2) / 2", fit(
        lambda r: (mp.exp(r) - 1 - r) / r**2 if abs(r) > 1e-12 else mp.mpf(1) / 2, -half, half, 4,
        lambda r: r * r / np.exp(r)))  # fmt: skip
    show("tanh(x) = x + x^3 p(x^2), |x| <= 0.8", fit(
        lambda u: (mp.tanh(mp.sqrt(u)) - mp.sqrt(u)) / mp.sqrt(u) ** 3, 1e-12, 0.64, 5,
        lambda u: u * np.sqrt(u) / np.tanh(np.sqrt(u))))  # fmt: skip
    show("log(1 + f) = f - f^2 / 2 + f^3 p(f), sqrt(1/2) <= 1 + f <= sqrt(2)", fit(
        lambda f: (mp.log1p(f) - f + f * f / 2) / f**3 if abs(f) > 1e-12 else mp.mpf(1) / 3,
        float(mp.sqrt(0.5)) - 1, float(mp.sqrt(2)) - 1, 7, lambda f: abs(f**3 / np.log1p(f))))  # fmt: skip
    show("erf(x) = x + x p(x^2), |x| <= 1", fit(
        lambda u: mp.erf(mp.sqrt(u)) / mp.sqrt(u) - 1, 1e-12, 1.0, 6,
        lambda u: np.sqrt(u) / float(mp.erf(mp.sqrt(u)))))  # fmt: skip
    show("erf(x) = 1 - exp(p(x)), 1 <= x <= 4", fit(
        lambda x: mp.log(mp.erfc(x)), 0.99, 4.0, 7, lambda x: float(mp.erfc(x)) / float(mp.erf(x))))  # fmt: skip


if __name__ == "__main__":
    main()
