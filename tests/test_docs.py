"""Every code block of the documentation does what it says.

`attn` blocks compile, `python` blocks run, `bash` blocks run in a shell that stops at the first failure. All blocks of
a page share one folder with `examples/` in it. `make` is only rehearsed (`make -n`): the tests run inside it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from attndsl.frontend.compile import compile_text
from benchmarks import tables

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LANGUAGES = {"python", "bash", "attn", "text"}


def blocks(page: Path) -> list[tuple[str, str]]:
    return [(m[1], m[2]) for m in BLOCK.finditer(page.read_text())]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_code_blocks_run(page: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    found = blocks(page)
    assert found
    for language, code in found:
        assert language in LANGUAGES, f"{page.name}: a block of {language or 'no language'} is not run"
        if language == "attn":
            assert compile_text(code, f"{page.name}")
        elif language == "python":
            (tmp_path / "block.py").write_text(code)
            run([sys.executable, "block.py"], tmp_path)
        elif language == "bash":
            script = re.sub(r"^make ", "make -n ", code, flags=re.MULTILINE)
            run(["bash", "-euo", "pipefail", "-c", script], tmp_path)


def run(command: list[str], folder: Path) -> None:
    path = f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    script = folder / "bin" / "attndsl"
    script.parent.mkdir(exist_ok=True)
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m attndsl "$@"\n')
    script.chmod(0o755)
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_and_pictures_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} points to {target}"


def test_tables_are_generated() -> None:
    for path in tables.documents():
        text = path.read_text()
        assert tables.filled(text) == text, f"{path.name}: run `make docs`"


def test_tables_from_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    results = tmp_path / "benchmarks" / "results" / "cpu"
    results.mkdir(parents=True)
    text = "before\n<!-- table: cpu -->\nold\n<!-- end -->\nafter\n"
    assert "No results" in tables.filled(text)
    (results / "a.json").write_text(
        '{"machine": "small", "rows": [{"case": "window", "ms": {"ours": 1234.5}, "raw": [1]}]}'
    )
    new = tables.filled(text)
    assert "| case | ms, ours |\n| --- | --- |\n| window | 1,234 |\n\nmachine: small\n<!-- end -->" in new
    assert tables.filled(new) == new


def test_make_lists_its_targets() -> None:
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("setup", "demo", "test", "lint", "fuzz", "bench", "docs"):
        assert f"make {target}" in listed
