"""Compiling from texts and files: what comes back, what is raised, and how light it is."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from attndsl.diagnostics.report import SpecError
from attndsl.frontend.compile import compile_file, compile_text

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.attn")), ids=lambda p: p.stem)
def test_examples_compile_quickly(path: Path):
    compile_file(path)
    start = time.perf_counter()
    assert compile_file(path)
    assert time.perf_counter() - start < 0.2


def test_files_use_each_other(tmp_path: Path):
    (tmp_path / "mine.attn").write_text("use masks (causal)\nfn near(q, k, w) = causal(q, k) and q - k < w\n")
    (tmp_path / "main.attn").write_text('use "./mine.attn" (near)\nattention a { mask near(q, k, 4) }\n')
    (made,) = compile_file(tmp_path / "main.attn")
    text = 'use "./mine.attn" (near)\nattention a { mask near(q, k, 4) }'
    assert compile_text(text, folder=tmp_path) == (made,)
    (direct,) = compile_text("attention a { mask k <= q and q - k < 4 }")
    assert direct == made


def test_errors_of_used_files_point_there(tmp_path: Path):
    (tmp_path / "mine.attn").write_text("fn near(q, k) = q - k < w\n")
    (tmp_path / "main.attn").write_text('use "./mine.attn" (near)\nattention a { mask near(q, k) }\n')
    with pytest.raises(SpecError) as caught:
        compile_file(tmp_path / "main.attn")
    (one,) = caught.value.diagnostics
    assert one.span.source.name.endswith("mine.attn") and one.span.text == "w"


def test_functions_alone_are_a_fine_file():
    assert compile_text("fn near(i, j) = i == j") == ()


def test_a_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(OSError):
        compile_file(tmp_path / "nothing.attn")


def test_reading_and_checking_need_no_large_library():
    code = (
        "import sys; from attndsl.frontend.compile import compile_file; compile_file('examples/gna.attn');"
        "import attndsl.lang; print([m for m in ('torch', 'numpy', 'sympy', 'jinja2', 'rich') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
