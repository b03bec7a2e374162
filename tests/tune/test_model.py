"""The cost model: what it was judged by, and that it says what its parts say."""

from __future__ import annotations

import numpy as np
import pytest

import attndsl
from attndsl.runtime.triton.config import Config
from attndsl.schedule.build import build
from attndsl.tune.machines import gpu_of
from attndsl.tune.model import TERMS, model, predict, terms, work_of
from benchmarks.fit_model import non_negative


def plan(text: str, config: Config, L: int = 8192):
    f = attndsl.load(text)
    problem = f.problem(L=L, H=16, D=128)
    return build(f.simplified, problem, (config.rows, config.columns)), problem


def test_it_was_judged_on_workloads_that_it_had_not_seen() -> None:
    judged = model().about["judged"]["forward"]
    assert judged["workloads"] >= 15
    assert judged["median over best"] <= 1.10
    assert judged["worst over best"] <= 1.30
    over = [r["over best"] for r in judged["held out"]]
    assert np.median(over) == pytest.approx(judged["median over best"])
    assert max(over) == judged["worst over best"]


def test_weights_are_not_negative() -> None:
    for weights in model().weights.values():
        assert (weights >= 0).all()
        assert weights[TERMS.index("tensor")] > 0


def test_more_work_takes_longer() -> None:
    config, gpu = Config(128, 128, 8, 3), gpu_of("h200")
    times: list[float] = []
    for text in ("attention w { mask k <= q and q - k < 1024 }", "attention c { mask k <= q }", "attention d {}"):
        made, problem = plan(text, config)
        times.append(predict("forward", config, made, problem, "bf16", gpu))
    assert times == sorted(times)
    made, problem = plan("attention d {}", config)
    assert predict("forward", config, made, problem, "bf16", gpu_of("a100")) > 2 * times[-1]


def test_work_counts_pairs_once_for_each_head() -> None:
    made, problem = plan("attention d {}", Config(128, 64, 8, 3), L=1024)
    work = work_of(made, problem, "forward")
    assert work.pairs == 16 * 1024 * 1024
    assert (work.partial, work.boxes, work.tiles) == (0, 16 * 8 * 16, 16 * 8)
    assert (work.rows, work.columns) == (128, 64)
    found = terms("forward", Config(128, 64, 8, 3), work, problem, "bf16", gpu_of("h200"))
    assert len(found) == len(TERMS)
    assert (found >= 0).all()


def test_non_negative_least_squares() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        a, x = rng.standard_normal((30, 6)), np.maximum(rng.standard_normal(6), 0)
        assert np.allclose(non_negative(a, a @ x), x, atol=1e-8)
        b = rng.standard_normal(30)
        found = non_negative(a, b)
        gradient = a.T @ (a @ found - b)
        assert (found >= 0).all()
        assert (gradient >= -1e-6).all()
        assert np.allclose(gradient[found > 1e-12], 0, atol=1e-6)
