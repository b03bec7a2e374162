"""The driver of everything that is measured on a GPU: order, parts that fail or hang, results without folders."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_all
from benchmarks.gpu_all import PARTS, STAGES, Part
from benchmarks.raw import Raw, bare

WRITES = """
import json, sys, time
out = sys.argv[sys.argv.index("--out") + 1]
json.dump({"said": "in /home/someone/attndsl/api.py", "argv": sys.argv[1:]}, open(out, "w"))
"""


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> int:
    monkeypatch.setattr(gpu_all.sys, "argv", ["gpu_all.py", "--out", str(folder), *arguments])
    return gpu_all.main()


def test_a_part_that_fails_or_hangs_costs_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = {"good.py": WRITES, "bad.py": WRITES + "sys.exit(3)", "slow.py": WRITES + "time.sleep(60)", "none.py": ""}
    for name, text in scripts.items():
        (tmp_path / name).write_text(text)
    parts = (
        Part("good", "compile", "good.py", (), 20, ("--dry",), workers=True),
        Part("bad", "check", "bad.py", ("--only", "check"), 20),
        Part("slow", "check", "slow.py", (), 2, budget=True),
        Part("none", "time", "none.py", (), 20),
        Part("last", "tune", "good.py", (), 20),
    )
    monkeypatch.setattr(gpu_all, "PARTS", parts)
    monkeypatch.setattr(gpu_all, "HERE", tmp_path)
    out = tmp_path / "out"
    start = time.time()
    assert run(monkeypatch, out, "--workers", "6", "--commit", "abc") == 1
    assert time.time() - start < 50
    told = {p["part"]: p for p in json.loads((out / "all.json").read_text())["parts"]}
    assert list(told) == ["good", "bad", "slow", "none", "last"]
    assert [told[n]["exit"] for n in told] == [0, 3, None, 0, 0]
    assert told["slow"]["note"] == "not done in 2 s"
    assert told["none"]["note"] == "it wrote nothing"
    found: dict[str, Any] = json.loads((out / "good.json").read_text())
    assert found["said"] == "in attndsl/api.py"
    assert found["argv"][-4:] == ["--workers", "6", "--commit", "abc"]
    assert run(monkeypatch, tmp_path / "late", "--budget", "1") == 1
    late = json.loads((tmp_path / "late" / "all.json").read_text())["parts"]
    assert {p["note"] for p in late} == {"no time left"}
    assert run(monkeypatch, tmp_path / "dry", "--dry", "--parts", "compile") == 0
    with pytest.raises(SystemExit, match="there is no 'goot'"):
        run(monkeypatch, out, "--parts", "goot")


def test_parts_stand_in_the_order_of_their_stages() -> None:
    order = [STAGES.index(p.stage) for p in PARTS]
    assert order == sorted(order)
    assert len({p.name for p in PARTS}) == len(PARTS)
    for part in PARTS:
        assert (gpu_all.HERE / part.script).exists()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("at /home/a/main/attndsl/runtime/x.py:3", "at attndsl/runtime/x.py:3"),
        ("File '/usr/lib/python3/site-packages/torch/nn.py'", "File 'torch/nn.py'"),
        ("no /tmp/cache/key.json", "no key.json"),
        ("4.1 TB/s, a/b, q // 64", "4.1 TB/s, a/b, q // 64"),
    ],
)
def test_texts_lose_the_folders_of_a_machine(text: str, found: str) -> None:
    assert bare(text) == found


def test_raw_files_are_whole_after_each_check(tmp_path: Path) -> None:
    raw = Raw("x", tmp_path / "x.json", "abc", "a GPU")
    assert json.loads((tmp_path / "x.json").read_text())["checks"] == []
    raw.check("one", "")
    raw.check("two", "bad at /home/me/attndsl/a.py", times=3)
    data = json.loads((tmp_path / "x.json").read_text())
    assert data["checks"][1] == {"case": "two", "wrong": "bad at attndsl/a.py", "times": 3}
    assert (data["gpu"], data["commit"], raw.end()) == ("a GPU", "abc", 1)
