"""The cost model: what it was judged by, and that it says what its parts say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import attndsl
from attndsl.runtime.cache.entry import Entry, Timing, entry_data
from attndsl.runtime.triton.config import Config
from attndsl.runtime.triton.labels import config_data, label
from attndsl.runtime.triton.scan_choices import scan_facts, scan_key
from attndsl.runtime.triton.scan_config import SCAN_PASSES, ScanConfig
from attndsl.schedule.build import build
from attndsl.tune.machines import gpu_of
from attndsl.tune.model import TERMS, model, predict, terms, terms_of, work_of
from attndsl.tune.scan_candidates import shape_of
from attndsl.tune.scans import scan_of, shown
from benchmarks.fit_rows import Data, Row, non_negative
from benchmarks.fit_scan import read_scans
from benchmarks.measured import read


def plan(text: str, config: Config, L: int = 8192):
    f = attndsl.load(text)
    problem = f.problem(L=L, H=16, D=128)
    return build(f.simplified, problem, (config.rows, config.columns)), problem


@pytest.mark.parametrize(("step", "least"), [("forward", 10), ("dq", 10), ("dkdv", 10), ("decode", 3), ("scan", 10)])
def test_it_was_judged_on_workloads_that_it_had_not_seen(step: str, least: int) -> None:
    judged = model().about["judged"][step]
    assert judged["workloads"] >= least
    assert judged["median over best"] <= 1.10
    assert judged["worst over best"] <= 1.30
    over = [r["over best"] for r in judged["held out"]]
    assert np.median(over) == pytest.approx(judged["median over best"])
    assert max(over) == judged["worst over best"]


def test_weights_are_not_negative() -> None:
    for step, weights in model().weights.items():
        assert (weights >= 0).all()
        assert weights[terms_of(step).index("memory" if step == "decode" else "tensor")] > 0
    for weights in model().scans.values():
        assert (weights >= 0).all()
        assert weights.any()


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


def test_rows_tell_their_configuration(tmp_path: Path) -> None:
    configs = [
        Config(128, 64, 8, 3), Config(128, 128, 4, 2, specialize=True), Config(128, 64, 8, 2, registers=128),
        Config(64, 64, 4, 3, q_box=(8, 8), k_box=(4, 16)),
    ]  # fmt: skip
    name = "mask32k D128 H16 swa1024 causal"
    rows = [{"wl": name, "sys": "attndsl-config", "ms": 1.0 + i, "note": f"{label(c)}; plan 2.0 ms, boxes 7"}
            for i, c in enumerate(configs)]  # fmt: skip
    rows += [{"wl": name, "sys": "attndsl-dq", "ms": 9.0, "note": f"{label(configs[0])} q 1.3e-03"}]
    rows += [{"wl": name, "sys": "attndsl-dkdv", "ms": 9.0, "note": "64x64 w4 s2 fused=boxes k 1e-3"}]
    rows += [{"wl": name, "sys": "flex", "ms": 2.0, "note": label(configs[0])}, {"workload": name, "gain": 1.0}]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"rows": rows}))
    found = read([path])
    assert [(m.step, m.config, m.ms) for m in found] == [
        *(("forward", c, 1.0 + i) for i, c in enumerate(configs)), ("dq", configs[0], 9.0)
    ]  # fmt: skip


def test_what_is_tuned_of_scans_is_fitted(tmp_path: Path) -> None:
    """Entries as `gpu_tune.py` keeps them; those of other passes and of decays per channel are left out."""
    f = attndsl.load("attention retention(input gamma: f32[H]) { mask k <= q weight dot(Q, K) * gamma[h]^(q - k) }")
    problem = f.problem(L=8192, B=4, H=16, D=128)
    form = scan_of(f.simplified, problem)
    assert form is not None
    facts = scan_facts(form, problem.sizes, "bf16", gpu_of("h100").machine)
    configs = (ScanConfig(64, 64, 4, 4), ScanConfig(64, 64, 4, 3, resident=2))
    entries: list[object] = []
    for step in SCAN_PASSES:
        timings = {label(c): Timing(config_data(c), "measured", 0.2 + i) for i, c in enumerate(configs)}
        for kind in ("retention", "gate per channel"):
            made = {"workload": f"linear S8192 B4 {kind}"}
            key = scan_key(f.simplified, step, facts)
            entries.append(entry_data(Entry(key, "retention", shown(step, facts), timings, "", made)))
    (tmp_path / "2027-01-01-tune.json").write_text(json.dumps({"entries": entries}))
    found = list(read_scans(tmp_path, "h100"))
    assert {r.name for r in found} == {f"linear S8192 B4 retention {s}" for s in SCAN_PASSES if s != "step"}
    assert [r.config for r in found[:2]] == list(configs)
    assert found[0].shapes == (shape_of("scan", facts, form),)
    assert (found[0].terms() >= 0).all()


def test_a_model_is_judged_by_what_it_has_not_seen() -> None:
    """One that is right about every workload chooses the best everywhere; one term that lies about one, not there."""
    rng = np.random.default_rng(0)
    rows: list[Row] = []
    for name in "abcd":
        for i in range(4):
            terms = rng.random(2) + 0.1
            rows.append(Row(name, "gpu", f"{i}", float(terms @ [2.0, 1.0]), terms))
    judged = Data(rows, {"x": 1.0, "y": 1.0}).judged()
    assert (judged["workloads"], judged["worst over best"]) == (4, 1.0)
    assert judged["median error of times"] < 0.05
    lies = [replace(r, terms=2.0 - r.terms) if r.workload == "a" else r for r in rows]
    assert Data(lies, {"x": 1.0, "y": 1.0}).judged()["worst over best"] > 1.0
