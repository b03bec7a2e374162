"""What the package ships for the H200: written by the tool, readable, and used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import attndsl
from attndsl.runtime.cache.lookup import data_file, shipped_entries
from attndsl.runtime.triton.choices import Facts, decide, facts_of
from attndsl.runtime.triton.labels import config_of, label, scan_config_of
from attndsl.runtime.triton.scan_config import SCAN_PASSES
from attndsl.tune.machines import gpu_of
from benchmarks.measured import files, problem_of, read, workloads

H200 = gpu_of("h200").machine


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNDSL_CACHE_DIR", str(tmp_path))


def test_entries_are_whole() -> None:
    entries = shipped_entries(H200.name)
    assert len(entries) >= 20
    for entry in entries:
        assert entry.key.machine == H200
        assert entry.measured
        for name, timing in entry.timings.items():
            made: Any = (scan_config_of if entry.key.step in SCAN_PASSES else config_of)(timing.config)
            assert label(made) == name
    assert set(json.loads(data_file(H200.name).read_text())["from"]) <= {p.name for p in files()}


def test_every_measured_workload_has_one() -> None:
    """Those of which several candidates were compared."""
    shipped = shipped_entries(H200.name)
    by_workload: dict[str, int] = {}
    for row in read(files()):
        if row.step == "forward":
            by_workload[row.workload.name] = by_workload.get(row.workload.name, 0) + 1
    compared = [n for n, count in by_workload.items() if count >= 2 and n in workloads()]
    assert len(compared) >= 20
    for name in compared:
        f, problem = problem_of(name)
        found = decide(f.simplified, "forward", facts_of(f.simplified, problem, "bf16", H200))
        assert found.origin in ("shipped", "default"), name
        assert any(e.name == f.attention.name for e in shipped)


def test_masks_of_the_library_profit_from_their_family() -> None:
    text = "use masks (sliding_window)\nattention mine(const wide: int) { mask sliding_window(q, k, wide) }"
    f = attndsl.load(text, wide=777)
    sizes = f.problem(L=20000, H=16, D=128).sizes
    found = decide(f.simplified, "forward", Facts(H200, "bf16", sizes, {}, {}))
    assert found.origin in ("near", "default")
    if found.origin == "near":
        assert "NVIDIA H200" in found.why
