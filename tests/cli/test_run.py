"""`run` from the outside: real tensors, checked against the oracle."""

from __future__ import annotations

from pathlib import Path

import pytest

from attndsl.cli.main import main
from tests.cli.shell import EXAMPLES, attndsl, one_line

WINDOW, GNA = EXAMPLES / "alibi_window.attn", EXAMPLES / "gna.attn"


def test_run_checks_forward_and_backward() -> None:
    data = attndsl("run", WINDOW, "--shape", "H=2,L=256,D=16", "--set", "window=64", "--backward", "--json").json
    assert data["ok"] is True
    assert (data["check"]["rows"], data["check"]["of"]) == (256, 256)
    assert set(data["check"]["results"]) == {"out", "dq", "dk", "dv", "dslope"}
    for found in data["check"]["results"].values():
        assert 0 < found["error"] <= found["allowed"] < 1
    assert all(data["time"][n] > 0 for n in ("forward_ms", "backward_ms", "sdpa_forward_ms", "sdpa_backward_ms"))
    assert data["plan"]["visited"] == data["plan"]["full"] + data["plan"]["partial"] <= data["plan"]["total"]
    assert data["call"]["consts"] == {"window": 64}


def test_run_on_a_grid_in_words() -> None:
    result = attndsl("run", GNA, "--grid", "4x6x8", "--set", "window=3,3,3", "--shape", "H=1,D=16")
    assert result.code == 0, result.err
    for word in ("tiles visited", "keys of the query at t=2, y=3, x=4", "QQ", "fp64 oracle", "ok", "dense SDPA"):
        assert word in result.out, word
    assert result.out.isascii()


@pytest.mark.parametrize("dtype", ["bf16", "float16"])
def test_narrow_types(dtype: str) -> None:
    data = attndsl("run", WINDOW, "--shape", "H=2,L=200,D=16", "--dtype", dtype, "--backward", "--json").json
    assert data["ok"] is True


def test_rows_are_sampled_where_all_are_too_many() -> None:
    data = attndsl("run", WINDOW, "--shape", "H=8,L=2048,D=8", "--set", "window=32", "--backward", "--json").json
    assert 0 < data["check"]["rows"] < data["check"]["of"] == 2048
    assert data["ok"] is True


def test_nothing_to_do() -> None:
    for shape in ("L=0", "B=0,L=64", "Lq=0,Lk=64", "Lq=64,Lk=0"):
        result = attndsl("run", WINDOW, "--shape", f"{shape},H=2,D=16", "--json")
        assert result.code == 0, (shape, result.err)
        assert result.json["ok"] is True


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.attn")), ids=lambda f: f.stem)
def test_every_example_is_right(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attndsl.cli.trial.SECONDS", 0.0)
    text = file.read_text()
    arguments = ["run", str(file), "--backward"]
    if "grid" not in text:
        arguments += ["--shape", "H=2,L=160,D=16"]
    elif "++" in text:
        arguments += ["--shape", "H=2,D=16", "--grid", "text=20,video=4x6x8"]
    elif "grid k" in text:
        arguments += ["--shape", "H=2,D=16", "--grid", "q=16x16,k=8x8"]
    else:
        axes = text.partition("grid ")[2].partition("(")[2].partition(")")[0].count(",") + 1
        arguments += ["--shape", "H=2,D=16", "--grid", {1: "160", 2: "12x16", 3: "4x10x12"}[axes]]
    code = main(arguments)
    printed = capsys.readouterr()
    assert code == 0, printed.out + printed.err
    assert "error   dq" in printed.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run"], "Missing argument"),
        (["run", WINDOW, "--dtype", "fp23"], "--dtype: there is no 'fp23'"),
        (["run", WINDOW, "--shape", "L=abc"], "'abc' is not a whole number"),
        (["run", WINDOW, "--seed", "-1"], "--seed"),
        (["run", WINDOW, "--seed", "x"], "--seed"),
        (["run", WINDOW, "--grid", "4x4"], "declares no grid"),
        (["run", GNA, "--grid", "2x24x40", "--set", "window=3,9,9", "--set", "window=3"], "gives window twice"),
    ],
)
def test_wrong_calls(arguments: list[object], says: str) -> None:
    assert says in one_line(attndsl(*arguments))


def test_a_closed_pipe_is_no_error() -> None:
    import subprocess
    import sys

    command = f"{sys.executable} -m attndsl explain {GNA} --dump | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("-- tree --")
    assert done.stderr == ""
    assert done.returncode == 0


def test_an_interrupt_is_quiet() -> None:
    import os
    import signal
    import subprocess
    import sys
    import time

    # a shell in the background has its children ignore it
    process = subprocess.Popen(
        [sys.executable, "-m", "attndsl", "check", "-"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    time.sleep(2)
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.strip() in ("", "attndsl: stopped")
