"""Processes that compile: answers in order, the compiler's words, and a compiler that crashes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import attndsl
from attndsl.runtime.cache import folder, tidy
from attndsl.runtime.cache.store import Store
from attndsl.runtime.triton.config import Config
from attndsl.tune.machines import gpu_of
from attndsl.tune.offline import predict_passes
from attndsl.tune.trials import Predictions
from attndsl.tune.workers import Job, Workers, job_of

pytest.importorskip("triton")

SPEC = "attention causal { mask k <= q }"


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATTNDSL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    monkeypatch.setattr(folder, "_warned", set())
    monkeypatch.setattr(tidy, "_cleaned", set())
    return tmp_path / "cache"


@pytest.fixture
def workers() -> Iterator[Workers]:
    made = Workers(1)
    yield made
    made.close()


def job(config: Config, D: int = 16) -> Job:
    f = attndsl.load(SPEC)
    return job_of(f.simplified, f.problem(L=256, D=D), "bf16", 90, "forward", config)


def test_answers(workers: Workers) -> None:
    good, wrong, gone = workers.compile(
        [job(Config(16, 16, 1, 1)), replace(job(Config(16, 16, 1, 1)), attention="(nothing"), job(Config(16, 16, 1, 2))]
    )
    assert good.error == ""
    assert 0 < good.registers <= 255
    assert good.stages == 1
    assert wrong.error
    assert gone.error == ""
    process = workers._every[0]  # pyright: ignore[reportPrivateUsage]
    process.kill()
    process.wait()
    crashed, again = workers.compile([job(Config(16, 16, 1, 1)), job(Config(16, 16, 1, 1))])
    assert crashed.error == "the compiler crashed"
    assert again == good


def test_what_does_not_fit_is_said(workers: Workers) -> None:
    f = attndsl.load(SPEC)
    gpu = gpu_of("sm_89")
    made = Predictions(f.simplified, f.problem(L=512, D=256), "bf16", "forward", gpu, workers)
    large = Config(64, 64, 4, 4)
    assert made.compile([large])[large] == "shared memory holds 1 stages"


def test_a_prediction_for_a_gpu_that_is_not_here(root: Path) -> None:
    f = attndsl.load(SPEC)
    problem = f.problem(L=64, D=16)
    (entry,) = predict_passes(f.simplified, "causal", problem, "bf16", ["forward"], gpu_of("sm_80"), 0.0)
    assert entry.best is not None
    assert not entry.measured
    assert entry.key.machine.name == "NVIDIA A100-SXM4-80GB"
    assert "registers" in entry.timings[entry.best].note
    assert Store().read(entry.key) == entry
    with pytest.raises(ValueError, match="decode"):
        predict_passes(f.simplified, "causal", problem, "bf16", ["decode"], gpu_of("sm_80"), 0.0)
