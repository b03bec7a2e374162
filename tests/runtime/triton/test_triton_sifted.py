"""Boxes on grids that the device finds: the kernels compile for GPUs, only candidates are looked at, and only shapes
decide what is launched."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingImports=false

from __future__ import annotations

from typing import Any

import pytest
import torch

import attndsl
from attndsl.codegen.triton_form import SideForm
from attndsl.codegen.triton_sift import SiftForm, generate_sift, open_conditions, pack_modules
from attndsl.ir.expr import TRUE, Load
from attndsl.runtime.binding import bind_call
from attndsl.runtime.call import Call
from attndsl.runtime.triton import sift
from attndsl.runtime.triton.cross import cross_compile
from attndsl.runtime.triton.filling import WARPS
from attndsl.runtime.triton.kernel import TritonKernel
from attndsl.runtime.triton.locate import Locator
from attndsl.runtime.triton.sift import CHUNK, PACKED, PAIRS, RANKED, Sifted, Sifter
from attndsl.schedule.candidates import loosened
from attndsl.schedule.tiling import Tiling

pytest.importorskip("triton")

KEPT = """use masks (neighborhood)
attention kept(input keep: bool[B, Lk], const window: int[3] = (3, 5, 7), const dilation: int[3] = 1) {
    grid video(t, y, x)
    mask all(neighborhood(q.video, k.video, size(video), window, 1, dilation, false)) and keep[b, k] }"""
JOINT = """attention joint(input n: i32[B], input doc: i64[B, T]) { grid text(m) ++ video(t, y, x)
    mask (k in video or k.m < n[b])
    and (not (q in video and k in video) or doc[b, q.t] == doc[b, k.t] and abs(q.y - k.y) < 3) }"""
VIDEO = SideForm("video", ("t", "y", "x"), (False,) * 3)
SPLIT = SideForm("video", ("t", "y", "x"), (False, True, True))
TEXT = SideForm("text", ("m",), (False,))


def known_of(f: attndsl.AttentionFunction) -> Any:
    return loosened(f.simplified.mask, lambda n: isinstance(n, Load))


@pytest.mark.parametrize(
    ("text", "form", "capability"),
    [
        (KEPT, SiftForm(VIDEO, VIDEO), 80),
        (KEPT, SiftForm(VIDEO, VIDEO), 90),
        (KEPT, SiftForm(SPLIT, SPLIT, turned=True), 90),
        (JOINT, SiftForm(TEXT, TEXT), 90),
        (JOINT, SiftForm(VIDEO, VIDEO, wide=True), 80),
    ],
)
def test_they_compile_without_spills(text: str, form: SiftForm, capability: int) -> None:
    f = attndsl.load(text)
    for kernel in (generate_sift(f.simplified, known_of(f), form), *pack_modules(form.width)):
        chunk = {"sift": CHUNK, "pack": PACKED, "rank": RANKED}[kernel.name]
        constants = {"BM": 128, "BN": 128, "CHUNK": chunk, "PAIRS": PAIRS}
        constants |= {f"{n}_{i}": size for n in ("BM", "BN") for i, size in enumerate((2, 8, 8))}
        built = cross_compile(
            kernel, constants, dtype="bf16", inputs={"keep": "u8", "n": "i32", "doc": "i64"},
            warps=WARPS, stages=1, capability=capability,
        )  # fmt: skip
        assert built.spills == 0


def call_of(text: str, grid: Any, Lq: int, *, B: int = 2, Lk: int = 0, **given: Any) -> tuple[Sifter, Call]:
    f = attndsl.load(text)
    q, k = (torch.zeros(B, 4, n, 16) for n in (Lq, Lk or Lq))
    return Sifter(f.simplified), bind_call(f.attention, f.simplified, q, k, k, given, grid=grid)


def test_only_what_the_rest_of_the_mask_leaves_is_looked_at() -> None:
    grid, L = (8, 16, 16), 2048
    sifter, call = call_of(KEPT, grid, L, keep=torch.ones(2, L, dtype=torch.bool))
    assert sifter.wanted(call)
    assert not Locator(attndsl.load(KEPT).simplified).wanted(call)
    (launch,) = sifter.sweeps(call, 64, Tiling(64, 64))
    found = launch.located
    assert isinstance(found, Sifted)
    plan = attndsl.load(KEPT.replace(" and keep[b, k]", "")).plan(Lq=L, Lk=L, grid=grid, tile=((1, 8, 8), (1, 8, 8)))
    ours = found.pieces[0].candidates
    # a list for each batch, of as many boxes as the plan without the tensor has
    assert ours.kinds == 2
    assert ours.count <= 2 * plan.visited < 2 * plan.total / 2
    assert not launch.tables.bare


def test_segments_that_read_nothing_keep_their_plan() -> None:
    text = """attention joint(input valid: bool[T]) { grid text(m) ++ video(t, y, x)
        mask not (q in video and k in video) or valid[k.t] }"""
    sifter, call = call_of(text, {"text": (40,), "video": (4, 5, 6)}, 160, valid=torch.ones(4, dtype=torch.bool))
    text_rows, video_rows = sifter.sweeps(call, 16, Tiling(16, 16))
    assert text_rows.located is None
    assert isinstance(video_rows.located, Sifted)
    assert [p.number for p in video_rows.located.pieces] == [1]
    assert [p.candidates is None for p in video_rows.tables.pieces] == [True, False]


def test_conditions_that_candidates_settle_are_not_looked_at_again() -> None:
    f = attndsl.load(KEPT)
    (left,) = open_conditions(f.simplified, known_of(f), SiftForm(VIDEO, VIDEO))
    assert isinstance(left, Load)
    # where the host knows less than all of a condition, it stays
    assert len(open_conditions(f.simplified, TRUE, SiftForm(VIDEO, VIDEO))) > 1
    joint = attndsl.load(JOINT)
    assert not open_conditions(joint.simplified, known_of(joint), SiftForm(TEXT, VIDEO))


def test_lists_that_would_be_too_long_have_mask_code_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sift, "MOST_LISTED", 100)
    sifter, call = call_of(KEPT, (4, 8, 8), 256, keep=torch.ones(2, 256, dtype=torch.bool))
    (launch,) = sifter.sweeps(call, 16, Tiling(16, 16))
    (piece,) = launch.tables.pieces
    assert launch.located is None
    assert (piece.middle_and_end[0] == piece.bounds[..., 0]).all()
    assert len(piece.boxes)


def test_nothing_is_sifted_where_the_host_knows_the_mask() -> None:
    text = "attention a(const reach: int[4] = (1, 2, 3, 4)) { grid im(y, x) mask abs(q.y - k.y) < reach[h] }"
    sifter, call = call_of(text, (8, 8), 64)
    assert not sifter.wanted(call)
    moved = "attention a(input keep: bool[Y]) { grid im(y, x) mask keep[k.y] }"
    sifter, call = call_of(moved, (8, 8), 9, Lk=64, keep=torch.ones(8, dtype=torch.bool))
    assert not sifter.wanted(call)
    f = attndsl.load(moved)
    assert Locator(f.simplified).wanted(call)
    assert TritonKernel(f.simplified).locates(call)
