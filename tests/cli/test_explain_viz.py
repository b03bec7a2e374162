"""`explain` and `viz` from the outside."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import pytest

from attndsl.cli.main import main
from attndsl.diagnostics.codes import CODES
from tests.cli.shell import EXAMPLES, attndsl, one_line

WINDOW, GNA = EXAMPLES / "alibi_window.attn", EXAMPLES / "gna.attn"


def test_explain_says_why() -> None:
    result = attndsl("explain", WINDOW, "--shape", "L=1048576")
    assert result.code == 0, result.err
    assert "L=1048576" in result.out
    for word in ("score s - strength * slope[h] * d", "full", "partial", "pairs", "tiles", "on average", "ranges"):
        assert word in result.out, word


def test_explain_json() -> None:
    data = attndsl("explain", GNA, "--grid", "30x48x80", "--set", "window=18,24,24", "--json").json
    plan = data["plan"]
    assert plan["visited"] == plan["full"] + plan["partial"] <= 117_876
    assert plan["exact"] is True
    assert plan["bounds"]["dense_over_pairs"] == pytest.approx(11.11, abs=0.01)
    assert data["call"]["consts"]["window"] == [18, 24, 24]
    assert data["call"]["sizes"]["Lq"] == 115_200
    assert data["forms"]["weight"]


def test_explain_an_error_code() -> None:
    code = next(iter(CODES))
    result = attndsl("explain", code)
    assert result.code == 0
    assert result.out.startswith(f"{code}: {CODES[code].title}")
    assert attndsl("explain", code.lower()).out == result.out
    assert attndsl("explain", code, "--json").json["title"] == CODES[code].title


def test_dump_prints_every_stage() -> None:
    out = attndsl("explain", WINDOW, "--dump").out
    places = [out.index(f"-- {stage} --") for stage in ("tree", "ir", "simplified", "plan", "source")]
    assert places == sorted(places)
    data = attndsl("explain", WINDOW, "--dump", "--json").json
    assert list(data) == ["tree", "ir", "simplified", "plan", "source"]
    assert all(data.values())


@pytest.mark.parametrize("arguments", [["check", GNA], ["explain", WINDOW, "--shape", "L=1048576"], ["explain", GNA]])
def test_answers_in_under_half_a_second(arguments: list[object]) -> None:
    """Processor time; the best of several, since the first fills caches and a shared core runs slower."""
    taken: list[float] = []
    while len(taken) < 12 and not (taken and min(taken) < 0.5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert attndsl(*arguments).code == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        time.sleep(0.2 * len(taken))
    assert min(taken) < 0.5, taken


def test_no_torch_where_no_tensor_is_needed() -> None:
    code = (
        "import sys; from attndsl.cli.main import main\n"
        "for a in (['check', F], ['explain', F], ['viz', F, '-o', '/dev/null.svg'], ['fmt', '--check', F]): main(a)\n"
        "assert 'torch' not in sys.modules\n"
    ).replace("F", repr(str(GNA)))
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["explain", "E9999"], "no error code E9999"),
        (["explain", "missing.attn"], "no such file"),
        (["explain", GNA, "--set", "windw=3"], "did you mean window?"),
        (["explain", GNA, "--set", "window=3,9"], "expected 3 of int"),
        (["explain", GNA, "--set", "window=true"], "expected 3 of int"),
        (["explain", GNA, "--grid", "8x24"], "3 extents"),
        (["explain", GNA, "--grid", "8x24x40", "--shape", "L=7"], "7680 positions"),
        (["explain", WINDOW, "--grid", "8x24x40"], "declares no grid"),
        (["explain", WINDOW, "--shape", "M=3"], "there is no 'M'"),
        (["explain", WINDOW, "--shape", "H=3,Hkv=2"], "not a multiple"),
        (["explain", WINDOW, "--set", "slope=1"], "slope is an input"),
        (["explain", WINDOW, "--set", "strength=true"], "takes one float"),
        (["explain", WINDOW, "--name", "alibi_windw"], "did you mean alibi_window?"),
        (["viz", WINDOW], "Missing option"),
        (["viz", WINDOW, "-o", "out.jpg"], "must end in .svg or .png"),
        (["viz", WINDOW, "-o", "out"], "must end in .svg or .png"),
        (["viz", WINDOW, "-o", "missing/out.svg"], "cannot write missing/out.svg"),
        (["viz", WINDOW, "-o", "x.svg", "--query", "3,5,7"], "has no grid"),
        (["viz", GNA, "-o", "x.svg", "--query", "3,5"], "expected t,y,x"),
        (["viz", GNA, "-o", "x.svg", "--query", "3,5,99"], "x=99 is outside"),
        (["viz", GNA, "-o", "x.svg", "--head", "8"], "not below H=8"),
    ],
)
def test_wrong_calls(arguments: list[object], says: str, tmp_path: Path) -> None:
    assert says in one_line(attndsl(*arguments, cwd=tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_failed_require_is_the_specs_mistake() -> None:
    result = attndsl("explain", GNA, "--set", "stride=10")
    assert result.code == 1
    assert "stride exceeds window" in result.err


def test_viz_writes_whole_files(tmp_path: Path) -> None:
    svg, png = tmp_path / "a.svg", tmp_path / "a.png"
    assert attndsl("viz", GNA, "-o", svg, "--query", "0,5,7").code == 0
    assert "t=0, y=5, x=7" in svg.read_text()
    data = attndsl("viz", WINDOW, "-o", png, "--shape", "L=512", "--set", "window=64", "--json").json
    assert data["file"] == str(png)
    assert data["visited"] > 0
    assert png.read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "a.svg"]


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.attn")), ids=lambda f: f.stem)
def test_every_example_explains_and_draws_without_arguments(file: Path, tmp_path: Path) -> None:
    assert main(["explain", str(file)]) == 0
    assert main(["viz", str(file), "-o", str(tmp_path / "a.svg")]) == 0


def test_one_of_several_is_picked_by_name() -> None:
    text = "attention a { mask k <= q } attention b { mask k < q }"
    assert "pick one with --name: a, b" in one_line(attndsl("explain", "-", stdin=text))
    assert attndsl("explain", "-", "--name", "b", "--json", stdin=text).json["attention"] == "b"
