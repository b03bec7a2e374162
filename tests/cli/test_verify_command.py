"""`verify`: random calls, judged by the rule, and made again from their seeds."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

import attndsl
from attndsl.cli.draws import Given, draw
from attndsl.cli.main import main
from attndsl.reference import reference
from attndsl.reference.accuracy import judge
from attndsl.runtime.cpu.kernel import CpuKernel
from tests.accuracy import assert_right
from tests.cli import shell
from tests.cli.shell import EXAMPLES, one_line

GNA, JOINT = EXAMPLES / "gna.attn", EXAMPLES / "joint.attn"
ANY = Given({}, None, {}, None)


@pytest.mark.parametrize("file", ["alibi_window", "gna", "sink_gated"])
def test_examples_are_right(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(EXAMPLES / f"{file}.attn"), "--trials", "4", "--seed", "7", "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["ok"]
    (report,) = found["attentions"]
    assert (report["calls"], report["seed"], report["failures"]) == (4, 7, [])
    assert {"out", "dq", "dk", "dv", "lse"} <= set(report["worst"])
    assert all(0 <= share <= 1 for share in report["worst"].values())


def test_what_is_wrong_is_found_and_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "two.attn").write_text("attention a { mask k <= q } attention b(const w: int) { mask q - k < w }")

    def forward(self: CpuKernel, *arguments: Any, **options: Any) -> Any:
        out, lse, saved = right(self, *arguments, **options)
        return (out * 1.1 if self.attention.name == "b" else out), lse, saved

    right = CpuKernel.forward
    monkeypatch.setattr(CpuKernel, "forward", forward)
    options = [str(tmp_path / "two.attn"), "--dtype", "fp32", "--shape", "D=16,H=2", "--forward"]
    assert main(["verify", *options, "--trials", "3"]) == 1
    out = capsys.readouterr().out
    assert "a: 3 calls from seed 0, all right" in out
    assert re.search(r"b: 3 calls from seed 0, \d wrong", out)
    blocks = re.findall(r"WRONG   b  (.*)\n        out    .* allowed\n        again: attndsl (.*)\n", out)
    assert blocks
    call, again = blocks[0]
    assert "D=16" in call
    assert main(shlex.split(again)) == 1
    assert f"WRONG   b  {call}\n" in capsys.readouterr().out


def test_a_crash_is_a_failure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def forward(*_: Any, **__: Any) -> Any:
        raise IndexError("a bug")

    monkeypatch.setattr(CpuKernel, "forward", forward)
    assert main(["verify", str(GNA), "--trials", "1"]) == 1
    assert "IndexError: a bug" in capsys.readouterr().out


def test_draws_are_of_many_kinds_and_come_again() -> None:
    spec = attndsl.load("attention a(input t: f32[H, M], const w: int = 5, scalar n: int) { mask k <= q + n - w * h }")
    made = [draw(spec._written, ANY, seed) for seed in range(60)]
    assert made == [draw(spec._written, ANY, seed) for seed in range(60)]
    assert {d.dtype for d in made} == {"fp32", "bf16", "fp16"}
    assert {d.layout for d in made} == {"bhsd", "bshd", "strided"}
    assert {type(d.q_offset) for d in made} == {int, str, tuple}
    sizes = [d.setup.sizes for d in made]
    assert any(s["H"] != s["Hkv"] for s in sizes)
    assert any(s["D"] != s["Dv"] for s in sizes)
    assert any(s["Lq"] > s["Lk"] for s in sizes)
    assert any(s["Lq"] % 2 for s in sizes)
    assert len({d.setup.consts["w"] for d in made}) > 5
    moved = [draw(attndsl.load(JOINT, window=(3, 3, 3))._written, ANY, seed) for seed in range(20)]
    assert any(d.q_offset != 0 and d.setup.sizes["Lq"] < d.setup.sizes["Lk"] for d in moved)


@pytest.mark.parametrize(("Lq", "Lk"), [(67, 80), (80, 67)])
def test_sides_shorter_than_their_grid(Lq: int, Lk: int) -> None:
    f = attndsl.load(JOINT, window=(3, 3, 3))
    made = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, n, 8, generator=made) for n in (Lq, Lk, Lk))
    grid = {"text": (20,), "video": (3, 4, 5)}
    exact, eager = (reference(f.attention, q, k, v, grid=grid, dtype=d)[0] for d in (torch.float64, torch.float32))
    assert_right("out", f(q, k, v, grid=grid), eager, exact, torch.float32)


def test_what_is_not_a_number_is_not_right() -> None:
    exact = torch.ones(4, dtype=torch.float64)
    for wrong in (float("nan"), float("inf")):
        found = judge(torch.tensor([1.0, wrong, 1.0, 1.0]), exact.float(), exact, torch.float32)
        assert not found.ok


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["verify", GNA, "--backend", "cuda"], "--backend: there is no 'cuda'"),
        (["verify", GNA, "--trials", "0"], "--trials"),
        (["verify", GNA, "--grid", "2x2x2", "--set", "window=3,3,3"], "of 60 random calls none is allowed; the last: "),
        (["verify", GNA, "--set", "w=3"], "--set: there is no 'w'"),
    ],
)
def test_wrong_calls(arguments: list[object], says: str) -> None:
    assert says in one_line(shell.attndsl(*arguments))
