"""`build` from the outside: files that a GPU machine takes, written whole or not at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from attndsl.cli.folder import check_folder, write_folder
from attndsl.cli.main import main
from attndsl.cli.output import CallError
from tests.cli.shell import EXAMPLES, attndsl, one_line

pytest.importorskip("triton")

WINDOW, GNA = EXAMPLES / "alibi_window.attn", EXAMPLES / "gna.attn"
SMALL = ("--shape", "H=2,L=50,D=16", "--dtype", "fp32", "--set", "window=9")


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("build") / "window"
    os.environ.setdefault("ATTNDSL_CACHE_DIR", str(folder.parent / "cache"))
    assert main(["build", str(WINDOW), "-o", str(folder), "--target", "sm_80", *SMALL]) == 0
    return folder


def test_a_build_is_complete(built: Path) -> None:
    manifest: dict[str, Any] = json.loads((built / "manifest.json").read_text())
    assert files(built) == {*manifest["files"], "manifest.json"}
    assert {"alibi_window.py", "tables.json", "plan.txt"} <= files(built)
    assert (manifest["attention"], manifest["target"], manifest["dtype"]) == ("alibi_window", "sm_80", "fp32")
    assert manifest["call"]["consts"] == {"window": 9}
    assert [k["pass"] for k in manifest["kernels"]] == ["forward", "prepare", "dq", "dkdv", "prepare", "dq"]
    names = [k["name"] for k in manifest["kernels"]]
    assert len(set(names)) == 6
    assert [n.split("_")[1] for n in names[4:]] == ["inputs", "inputs"]
    assert manifest["route"] == "tiles of pairs"
    kernel = manifest["kernels"][0]
    assert kernel["name"].startswith("forward_32x32_w4_s1")
    assert (kernel["tile"], kernel["warps"], kernel["stages"], kernel["target"]) == ([32, 32], 4, 1, "sm_80")
    for k in manifest["kernels"]:
        assert 16 <= k["registers"] <= 255
        assert k["spills"] <= 32
        assert 0 < k["shared"] < 163 << 10
    assert ".target sm_80" in (built / kernel["ptx"]).read_text()
    assert (built / kernel["cubin"]).read_bytes().startswith(b"\x7fELF")
    assert "def forward(" in (built / kernel["source"]).read_text()
    plan = (built / "plan.txt").read_text()
    for words in ("tiles visited", "const window: int", "registers", "pass forward"):
        assert words in plan, words
    assert "attndsl" not in [line.split()[1] for line in _imports(built)]


def _imports(folder: Path) -> list[str]:
    text = "\n".join(p.read_text() for p in folder.rglob("*.py"))
    return [line for line in text.splitlines() if line.startswith(("import ", "from "))]


def test_the_module_runs_by_itself(built: Path) -> None:
    code = f"""
import sys
sys.modules["attndsl"] = None
sys.path.insert(0, {str(built)!r})
import torch
from alibi_window import alibi_window
q = torch.ones(1, 2, 50, 16, requires_grad=True)
v = torch.arange(50.0).reshape(1, 1, 50, 1).expand(1, 2, 50, 16)
slope = torch.zeros(2, requires_grad=True)
out = alibi_window(q, q, v, slope=slope)
out.sum().backward()
assert q.grad.shape == q.shape and q.grad.isfinite().all()
assert slope.grad.shape == (2,) and (slope.grad > 100).all()
print(out[0, 1, :, 3].tolist())
"""
    environment = {n: x for n, x in os.environ.items() if n != "PYTHONPATH"} | {"TRITON_INTERPRET": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd="/", env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    # the mean of the last nine positions
    expected = [(max(0, i - 8) + i) / 2 for i in range(50)]
    assert json.loads(ran.stdout) == pytest.approx(expected, abs=1e-4)


def test_a_scan_is_built_as_one(tmp_path: Path) -> None:
    folder = tmp_path / "step"
    shape = ("--shape", "H=2,L=1,D=16", "--dtype", "fp32", "--target", "sm_80", "--forward")
    assert main(["build", str(EXAMPLES / "simple_gla.attn"), "-o", str(folder), *shape]) == 0
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    assert files(folder) == {*manifest["files"], "manifest.json"}
    assert manifest["route"] == "a scan over chunks: linear in L"
    assert [k["pass"] for k in manifest["kernels"]] == ["step", "step"]
    for k in manifest["kernels"]:
        assert (k["target"], k["tile"], k["warps"], k["stages"]) == ("sm_80", [1, 16], 4, 1)
        assert 16 <= k["registers"] <= 255
        assert "def step(" in (folder / k["source"]).read_text()
        assert ".target sm_80" in (folder / k["ptx"]).read_text()
        assert (folder / k["cubin"]).read_bytes().startswith(b"\x7fELF")
    assert "decay: per token" in (folder / "plan.txt").read_text()
    assert "attndsl" not in [line.split()[1] for line in _imports(folder)]


def test_a_build_replaces_a_build_and_nothing_else(built: Path, tmp_path: Path) -> None:
    old = {n: (built / n).read_bytes() for n in files(built)}
    assert main(["build", str(WINDOW), "-o", str(built), "--target", "sm_80", *SMALL]) == 0
    assert {n: (built / n).read_bytes() for n in files(built)} == old
    for make, words in (
        (lambda p: (p / "mine.txt").write_text("mine"), "not empty, and no build made it"),
        (lambda p: (p / "manifest.json").write_text('{"made_by": "me", "files": []}'), "no build made it"),
        (
            lambda p: write_folder(p, {"a.txt": "a"}, {}) or (p / "b.txt").write_text("b"),
            "b.txt in it is not of a build",
        ),
    ):
        folder = tmp_path / words[:8].strip()
        folder.mkdir(exist_ok=True)
        for p in folder.iterdir():
            p.unlink()
        make(folder)
        before = files(folder)
        said = one_line(attndsl("build", WINDOW, "-o", folder, *SMALL))
        assert words in said
        assert files(folder) == before


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CallError, match="it is a file"):
        check_folder(tmp_path / "file")
    with pytest.raises(CallError, match="no folder that can be written"):
        check_folder(tmp_path / "file" / "deeper")
    write_folder(tmp_path / "new" / "deep", {"a/b.txt": "one", "c.bin": b"\0"}, {"x": 1})
    assert files(tmp_path / "new" / "deep") == {"a/b.txt", "c.bin", "manifest.json"}
    (tmp_path / "new" / "deep" / "__pycache__").mkdir()
    (tmp_path / "new" / "deep" / "__pycache__" / "a.pyc").write_bytes(b"")

    def fail(self: Path, target: Path) -> Path:
        if self.name == "made":
            raise OSError(28, "No space left on device")
        return original(self, target)

    original = Path.rename
    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(CallError, match="No space left"):
        write_folder(tmp_path / "new" / "deep", {"other.txt": "two"}, {})
    with pytest.raises(CallError, match="No space left"):
        write_folder(tmp_path / "never", {"other.txt": "two"}, {})
    monkeypatch.undo()
    assert (tmp_path / "new" / "deep" / "a" / "b.txt").read_text() == "one"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "new"]
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["deep"]
    write_folder(tmp_path / "new" / "deep", {"other.txt": "two"}, {})
    assert files(tmp_path / "new" / "deep") == {"other.txt", "manifest.json"}


def test_a_kernel_that_does_not_compile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from attndsl.runtime.triton import lowering

    def spoil(*arguments: Any) -> Any:
        module = generate(*arguments)
        return replace(
            module, source=module.source.replace("tl.zeros([BM], tl.float32)", "tl.zeros([BM + 1], tl.float32)")
        )

    generate = lowering.generate
    monkeypatch.setattr(lowering, "generate", spoil)
    monkeypatch.setenv("ATTNDSL_CACHE_DIR", str(tmp_path / "cache"))
    code = main(["build", str(WINDOW), "-o", str(tmp_path / "out"), "--forward", *SMALL])
    assert code == 3
    said = capsys.readouterr().err
    for words in ("a generated kernel did not compile", "alibi_window.attn:", "tile 32x32", "BM + 1", "failures"):
        assert words in said
    assert not (tmp_path / "out").exists()
    assert list((tmp_path / "cache" / "failures").glob("*.py"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["build", WINDOW], "Missing option '-o'"),
        (["build", WINDOW, "-o", "x", "--target", "sm_9"], "--target: there is no 'sm_9' (did you mean sm_90?)"),
        (["build", WINDOW, "-o", "x", "--backend", "cpu"], "--backend: kernels of 'cpu' cannot be built; it is triton"),
        (["build", WINDOW, "-o", "x", "--dtype", "fp8"], "--dtype: there is no 'fp8'"),
        (["build", GNA, "-o", "x", "--grid", "2x3x4", "--set", "window=3,3,3"], "the window exceeds the axis"),
        (["build", "-", "-o", "x"], "backend 'triton' does not have `tanh(Q[b, h, row] + K["),
        (["build", WINDOW, "-o", "x", "--shape", "D=512"], "heads of at most 256 components"),
    ],
)
def test_wrong_calls(arguments: list[object], says: str, tmp_path: Path) -> None:
    spec = "attention arc { weight relu(s - norm(sum(tanh(Q + K)))) }"
    assert says in one_line(attndsl(*arguments, cwd=tmp_path, stdin=spec))
    assert not (tmp_path / "x").exists()


def test_sums_before_the_pairs_are_parts(tmp_path: Path) -> None:
    """Their kernels lie in folders of their own, and the manifest has them all."""
    stdin = "attention centred { weight tanh(s - mean(s)) }"
    manifest = attndsl("build", "-", "-o", "x", *SMALL[:4], "--json", cwd=tmp_path, stdin=stdin).json
    names = [k["name"] for k in manifest["kernels"]]
    assert any(n.startswith("sums0/forward") for n in names) and any(n.startswith("gradients0/dq") for n in names)
    for kernel in manifest["kernels"]:
        assert kernel["spills"] <= 32, kernel["name"]
        assert all((tmp_path / "x" / kernel[kind]).stat().st_size for kind in ("source", "ptx", "cubin"))
    assert (tmp_path / "x" / "parts" / "sums0" / "sums0.py").exists()
    assert "after sums over rows" in manifest["route"]
