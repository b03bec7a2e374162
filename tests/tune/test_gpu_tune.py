"""The script that tunes on a GPU, as far as it goes without one: what comes first, what the next run leaves out."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from attndsl.tune.machines import gpu_of
from benchmarks import gpu_tune
from benchmarks.measured import workloads
from benchmarks.tables import gains
from benchmarks.tune_run import TIMES, Record, candidates_of, chosen
from benchmarks.tune_specs import GROUPS, LIBRARY, LINEAR, items


def dry(out: Path, *more: str) -> dict[str, object]:
    gpu_tune.main(["--dry", "--out", str(out), *more])
    return json.loads(out.read_text())


def test_a_dry_run_predicts_and_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    found = dry(out, "--only", "swa1024 causal", "--passes", "forward", "--budget", "60")
    (row,) = found["rows"]
    assert (row["workload"], row["group"], row["pass"]) == ("mask32k D128 H16 swa1024 causal", "masks", "forward")
    assert row["ms"] <= row["default_ms"]
    assert row["gain"] == pytest.approx(row["default_ms"] / row["ms"])
    assert row["note"] == "predicted"
    again = dry(out, "--only", "swa1024 causal", "--passes", "forward,dq", "--budget", "60")
    assert [r["pass"] for r in again["rows"]] == ["forward", "dq"]
    assert again["rows"][0] == row
    linear = dry(
        tmp_path / "linear.json", "--groups", "linear attention", "--only", "S32768 B1 gate", "--passes", "scan,step"
    )
    assert [(r["pass"], r["gain"] >= 1) for r in linear["rows"]] == [*[("scan", True)] * 2, *[("step", True)] * 2]
    nothing = dry(tmp_path / "none.json", "--only", "swa", "--budget", "-1")
    assert nothing["rows"] == []


def test_what_is_most_used_comes_first() -> None:
    every = items("cpu")
    assert len({i.place for i in every}) == len(every)
    assert {i.workload.name for i in every} == set(workloads())
    groups = [i.group for i in every]
    assert list(dict.fromkeys(groups)) == list(GROUPS)
    assert groups == sorted(groups, key=GROUPS.index)
    for group in ("grids", LIBRARY):
        steps = [i.step for i in every if i.group == group]
        assert steps == sorted(steps, key=("forward", "dkdv", "dq").index)
    functions = (
        "causal sliding_window prefix document block_diagonal dilated strided sink_window neighborhood swin axial"
    )
    names = {i.workload.name for i in every if i.group == LIBRARY}
    assert names == {f"std {n}" for n in [*functions.split(), "halo", "radial", "power", "alibi", "t5", "softcap"]}
    assert {i.step for i in every if i.group == LINEAR} == {"scan", "scan_dq", "scan_dk", "scan_dv", "step"}
    for group in ("dense", "masks", "scores", "grids", LIBRARY):
        assert {i.step for i in every if i.group == group} == {"forward", "dq", "dkdv"}


@pytest.mark.parametrize("name", [i.workload.name for i in items("cpu") if i.group == LIBRARY and i.step == "forward"])
def test_every_spec_of_the_library_has_candidates(name: str) -> None:
    item = next(i for i in items("cpu") if i.place == (name, "forward"))
    found = candidates_of(item, gpu_of("h200"), 4)
    assert len(set(found)) == 4


def test_what_processes_died_over_is_tried_again_and_then_given_up(tmp_path: Path) -> None:
    first, second, *_ = items("cpu")
    given = gpu_tune.parsed([])
    for attempt in range(TIMES):
        assert chosen(given, Record.at(tmp_path / "rows.json").done, "cpu")[0] == first
        Record.at(tmp_path / "rows.json").begin(first)
        again = Record.at(tmp_path / "rows.json")
        assert again.lose(f"its process ended with {attempt}").startswith(first.workload.name)
    assert chosen(given, Record.at(tmp_path / "rows.json").done, "cpu")[0] == second
    assert again.lose("nothing ran") == ""
    (row,) = again.data["rows"]
    assert row["note"] == "ERR its process ended with 0; its process ended with 1; its process ended with 2"
    (tmp_path / "rows.json").write_text("{half")
    assert Record.at(tmp_path / "rows.json").data == {"rows": [], "entries": []}


def test_silence_ends_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "child.py"
    script.write_text("import time; time.sleep(60)")
    out = tmp_path / "rows.json"
    record = Record.at(out)
    record.begin(items("cpu")[0])
    monkeypatch.setattr(gpu_tune, "__file__", str(script))
    monkeypatch.setattr(gpu_tune, "QUIET", 0.5)
    monkeypatch.setattr(gpu_tune, "RESTARTS", 1)
    monkeypatch.setattr(gpu_tune.sys, "argv", ["gpu_tune.py"])
    start = time.time()
    gpu_tune.supervise(gpu_tune.parsed([]), out, tmp_path / "cache", start + 30)
    assert time.time() - start < 20
    (notes,) = Record.at(out).data["lost"].values()
    assert "attempt 1" in notes[0]


def test_gains_of_groups() -> None:
    rows = [{"workload": w, "group": g, "pass": "forward", "gain": x} for w, g, x in
            (("a", "masks", 2.0), ("b", "masks", 0.5), ("c", "dense", 1.2), ("d", "dense", None))]  # fmt: skip
    assert gains(rows) == [
        {"group": "masks", "pass": "forward", "workloads": 2, "gain": 1.0, "least": 0.5, "most": 2.0},
        {"group": "dense", "pass": "forward", "workloads": 1, "gain": 1.2, "least": 1.2, "most": 1.2},
    ]
