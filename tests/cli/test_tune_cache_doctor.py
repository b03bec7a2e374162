"""`tune`, `cache` and `doctor` as a user has them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attndsl.runtime.cache.entry import Timing
from attndsl.runtime.cache.key import kernels_version
from attndsl.runtime.cache.store import Store
from tests.cli.shell import EXAMPLES, attndsl, one_line
from tests.runtime.cache.facts import make_entry, make_key

WINDOW = EXAMPLES / "alibi_window.attn"


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATTNDSL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return tmp_path / "cache"


def test_an_empty_cache() -> None:
    assert attndsl("cache", "ls").out.startswith("0 entries in ")
    assert attndsl("cache", "verify").code == 0
    assert "no entry 'x'" in one_line(attndsl("cache", "show", "x"))
    assert "Missing command" in one_line(attndsl("cache"))


def test_list_show_and_verify(root: Path) -> None:
    Store().write(make_entry(make_key(kernels=kernels_version())))
    Store().write(make_entry(make_key(1), name="other"))
    listed = attndsl("cache", "ls").out.splitlines()
    assert len(listed) == 4
    row = next(line for line in listed if " window " in line)
    assert "128x64 w8 s4" in row
    assert "2.00x" in row
    assert "other version" in next(line for line in listed if " other " in line)
    shown = attndsl("cache", "show", row.split()[0]).out
    assert "128x64 w8 s4 is 2x as fast as the default 64x64 w4 s2" in shown
    assert "wrong: not a number" in shown
    rows = attndsl("cache", "ls", "--json").json
    assert {r["attention"] for r in rows} == {"window", "other"}
    assert attndsl("cache", "ls", "--gpu", "a100", "--json").json == []
    path = Store().paths()[0]
    path.write_bytes(path.read_bytes()[:100])
    (root / "tuned" / "x.lock").write_text("")
    assert attndsl("cache", "ls", "--json").json != rows
    broken = attndsl("cache", "verify")
    assert broken.code == 3
    assert str(path) in broken.out
    assert attndsl("cache", "prune").out.startswith("2 files removed")
    assert attndsl("cache", "verify").code == 0
    assert [e.name for e in Store().entries()] in (["window"], [])


def test_export_and_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = make_entry(fast=1.0)
    Store().write(entry.with_timings({"32x32 w4 s1": Timing({"rows": 32}, "running")}))
    assert attndsl("cache", "export", tmp_path / "all.json").out.startswith("1 entry written")
    monkeypatch.setenv("ATTNDSL_CACHE_DIR", str(tmp_path / "elsewhere"))
    assert attndsl("cache", "import", tmp_path / "all.json").code == 0
    found = Store().read(entry.key)
    assert found is not None
    assert found.timings == entry.timings
    assert found.made["origin"] == "imported from all.json"
    # times of this machine stay
    Store().write(make_entry(fast=0.5))
    attndsl("cache", "import", tmp_path / "all.json")
    found = Store().read(entry.key)
    assert found is not None
    assert found.timings["128x64 w8 s4"].ms == 0.5
    (tmp_path / "bad.json").write_text('{"entries": [{}]}')
    assert "is not a file that `attndsl cache export` wrote" in one_line(
        attndsl("cache", "import", tmp_path / "bad.json")
    )
    assert "cannot read" in one_line(attndsl("cache", "import", tmp_path / "none.json"))


def test_doctor(root: Path) -> None:
    found = attndsl("doctor", WINDOW, "--json").json
    assert found["calls"]["passes"] == {}
    assert found["gpus"] == []
    assert found["cache"]["usable"]
    assert found["cpu"]["from_pairs"] == 1 << 23
    assert (found["cpu"]["compiler"] is None) == (not found["cpu"]["usable"])
    assert found["versions"]["kernels"] == kernels_version()
    text = attndsl("doctor", WINDOW, "--target", "sm_90", "--shape", "L=32768,H=16,D=128").out
    assert "on NVIDIA H200" in text
    assert "  forward  " in text
    assert "there is no GPU 'h20'" in one_line(attndsl("doctor", WINDOW, "--target", "h20"))
    root.mkdir(exist_ok=True)
    root.chmod(0o777)
    assert "is not used: it can be written by other users" in attndsl("doctor").out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "there is no GPU here; --target names one"),
        (("--budget", "soon"), "'soon' is not a time such as 120s or 2m"),
        (("--passes", "foward"), "there is no 'foward' (did you mean forward?)"),
        (("--target", "sm_91"), "there is no GPU 'sm_91'"),
        (("--dtype", "fp8"), "there is no 'fp8'"),
    ],
)
def test_wrong_calls(arguments: tuple[str, ...], words: str) -> None:
    assert words in one_line(attndsl("tune", WINDOW, *arguments))


def test_whole_grids_are_not_decoded() -> None:
    pytest.importorskip("triton")
    grid = WINDOW.with_name("neighborhood_2d.attn")
    how = ("--target", "sm_90", "--passes", "decode", "--grid", "16x16")
    assert "pass 'decode' is of calls whose rows are not a whole grid" in one_line(attndsl("tune", grid, *how))


def test_a_prediction_is_kept_and_used() -> None:
    pytest.importorskip("triton")
    how = ("--target", "sm_90", "--shape", "L=64,H=1,D=16", "--set", "window=16")
    found = attndsl("tune", WINDOW, *how, "--budget", "0.1s", "--json")
    assert found.code == 0, found.err
    (entry,) = found.json["entries"]
    assert entry["payload"]["best"] in entry["payload"]["timings"]
    assert entry["key"]["machine"]["name"] == "NVIDIA H200"
    used = attndsl("doctor", WINDOW, *how, "--json").json["calls"]["passes"]["forward"]
    assert used["config"] == entry["payload"]["best"]
    assert "predicted for alibi_window" in used["why"]
    assert "predicted" in attndsl("cache", "ls").out
    assert json.loads(attndsl("cache", "show", "alibi_window", "--json").out)[0] == entry


def test_cache_commands_do_without_torch() -> None:
    code = "import sys; from attndsl.cli.main import main; main(['cache', 'ls']); print('torch' in sys.modules)"
    import subprocess
    import sys

    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "False"
