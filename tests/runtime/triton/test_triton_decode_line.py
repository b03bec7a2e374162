"""Tables of few rows in closed form: each visible pair once for every row that could be meant, no plan for a longer
cache."""
# pyright: reportUnknownMemberType=false, reportMissingImports=false

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import attndsl
from attndsl.ir.evaluate import Env, evaluate
from attndsl.ir.expr import Index, ParamRef
from attndsl.ir.types import INT
from attndsl.runtime.triton.decode_line import few_tables, is_closed
from attndsl.runtime.triton.tables import QSegment, launches
from attndsl.schedule.build import build
from attndsl.schedule.tiling import Tiling
from tests.runtime.triton.pretend import pretend

pytest.importorskip("triton")

MASKS: list[tuple[str, dict[str, Any]]] = [
    ("{ }", {}),
    ("{ mask k <= q }", {}),
    ("{ mask k < q }", {}),
    ("{ mask k >= q }", {}),
    ("(scalar w: int) { mask k <= q and q - k < w }", {"w": 1}),
    ("(scalar w: int) { mask k <= q and q - k < w }", {"w": 100}),
    ("(scalar w: int) { mask k <= q and q - k < w }", {"w": 300}),
    ("(scalar w: int) { mask k <= q and (k < 4 or q - k < w) }", {"w": 90}),
    ("(scalar w: int) { mask k <= q and (k < 40 or q - k < w) }", {"w": 0}),
    ("(scalar w: int) { mask abs(q - k) <= w }", {"w": 33}),
    ("{ mask k // 16 <= q // 16 }", {}),
    ("(scalar far: int) { mask k <= q and (q - k < 9 or far < 5) }", {"far": 6}),
]
TILING = Tiling(16, 32, step=64)


@pytest.mark.parametrize(("text", "given"), MASKS)
def test_pairs_are_visited_once_and_as_a_plan_has_it(text: str, given: dict[str, Any]) -> None:
    f = attndsl.load(f"attention line{text}")
    assert is_closed(f.simplified, TILING.step, TILING.columns)
    for rows, keys, offset in ((1, 1, 0), (1, 64, 63), (1, 65, 64), (3, 300, 297), (16, 511, 400), (2, 130, -70)):
        problem = f.problem(Lq=rows, Lk=keys, H=2, D=16, q_offset=offset, **given)
        rounded = TILING.problem(f.simplified, problem)
        assert isinstance(rounded.q_offset, int)
        first, height, width = rounded.q_offset, rounded.sizes["Lq"], rounded.sizes["Lk"]
        q, k = np.indices((height, width), sparse=True)
        values: dict[Any, Any] = {Index(INT, "q"): q + first, Index(INT, "k"): k}
        values |= {ParamRef(INT, n): v for n, v in given.items()}
        seen = np.broadcast_to(np.asarray(evaluate(f.simplified.mask, Env(values)), bool), (height, width))
        made = few_tables(f.simplified, TILING, problem)
        plan = build(f.simplified, rounded, TILING.tile(f.simplified, rounded))
        (other,) = launches(plan, [QSegment("", 0, rows)], 128, False)
        if made is None:
            assert not seen.any()
            assert other.pieces == ()
            continue
        (piece,), (theirs,) = made.pieces, other.pieces
        assert (made.rows.tolist(), made.box) == (other.rows.tolist(), other.box)
        assert piece.form == theirs.form
        begin, middle, end = piece.bounds[0, 0].tolist()
        times = np.zeros(width + 32, int)
        full = 0
        for i in range(begin, end):
            at, count = piece.boxes[i].tolist() if not piece.form.flat else (int(piece.boxes[i, 0]), 1)
            times[max(at, 0) : at + 32 * count] += 1
            if i < middle:
                assert at >= 0
                assert at + 32 * count <= width
                assert seen[:, at : at + 32 * count].all()
                full += count
        assert times.max() <= 1
        assert not seen[:, times[:width] == 0].any()
        assert full >= plan.full


@pytest.mark.parametrize(
    "text",
    ["{ mask k < Lk - 3 }", "{ mask q % 3 == k % 3 }", "{ mask h < 1 or k <= q }", "(input t: bool[H]) { mask t[h] }"],
)
def test_other_masks_are_planned(text: str) -> None:
    assert not is_closed(attndsl.load(f"attention other{text}").simplified, 64, 32)


def test_a_growing_cache_plans_and_compiles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at the lengths, either, at which tables are rounded anew."""
    monkeypatch.setenv("ATTNDSL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    gpu = pretend(monkeypatch)
    f = attndsl.load("attention window { mask k <= q and (q - k < 256 or k < 4) }")
    q = torch.zeros(1, 4, 1, 32, dtype=torch.bfloat16)
    cache = torch.zeros(1, 2, 1000, 32, dtype=torch.bfloat16)
    f(q, cache[:, :, :600], cache[:, :, :600], q_offset="end")
    expected = sorted(gpu.compiled)
    assert "decode" in expected
    monkeypatch.setattr("attndsl.schedule.build.build", lambda *_: pytest.fail("planned"))
    gpu.forget()
    for n in range(601, 800):
        k = cache[:, :, :n]
        f(q, k, k, q_offset="end")
    assert gpu.compiled == gpu.found == []
    assert len(gpu.launched) == 199 * len(expected)
    # not for offsets that only the device knows
    gpu.forget()
    f(q, cache[:, :, :799], cache[:, :, :799], q_offset=torch.tensor([798]))
    assert gpu.launched[0] == "classify"
