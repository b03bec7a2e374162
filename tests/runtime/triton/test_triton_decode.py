"""Few rows: which keys their programs visit, over how many programs, what is planned and compiled again."""
# pyright: reportUnknownMemberType=false, reportMissingImports=false

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import attndsl
from attndsl.codegen.triton_decode import generate_decode
from attndsl.codegen.triton_form import Form, PieceForm, SideForm
from attndsl.runtime.binding import bind_call
from attndsl.runtime.call import Call
from attndsl.runtime.triton import reach
from attndsl.runtime.triton.config import Config, configured
from attndsl.runtime.triton.cross import cross_compile
from attndsl.runtime.triton.decode import STEP, Decode, share_count, sure_keys
from attndsl.runtime.triton.decode_launch import Step
from attndsl.runtime.triton.decode_tables import DecodeTables, decode_tables
from attndsl.runtime.triton.kernel import TritonKernel
from attndsl.runtime.triton.launch import SHARED_MEMORY
from attndsl.runtime.triton.modules import load_module
from attndsl.runtime.triton.tables import QSegment, launches
from attndsl.schedule.build import build
from attndsl.schedule.problem import Problem
from attndsl.schedule.tiling import Tiling
from tests.runtime.triton.interpreted import run_cases

pytest.importorskip("triton")

CAUSAL = "attention causal { mask k <= q }"
WINDOW = "attention window(scalar w: int) { mask k <= q and (q - k < w or k < 4) }"
DUO = "attention duo(input full: bool[H]) { mask k <= q and (full[h] or k < 8 or q - k < 40) }"
SINK = """attention sink(input z: f32[H], input slope: f32[H]) {
    score s - slope[h] * (q - k) mask k <= q weight exp(s) / (exp(z[h]) + sum) }"""
LINE = SideForm("", ("0",), (False,))


def test_cases_equal_the_definition() -> None:
    assert "26 of 26 cases right" in run_cases("tests.runtime.triton.interpret_few", 0, 1)


# Tables


def visits(tables: DecodeTables, splits: int, batch: int, hkv: int, Lk: int) -> tuple[list[int], set[int]]:
    """Keys that the programs of a group visit, in order, and those without mask code; as the kernel walks."""
    batches, heads = tables.class_of.shape
    kind = tables.class_of[batch if batches > 1 else 0, hkv if heads > 1 else 0]
    (begin, middle, end, number), box = map(int, tables.bounds[kind, 0]), tables.box
    assert tables.tiles == 1
    seen: list[int] = []
    free: set[int] = set()
    for split in range(splits):
        each, more = divmod(number, splits)
        lo = split * each + min(split, more)
        hi = lo + each + (split < more)
        for run in range(begin, end):
            first, count, before = (0, 1, run - begin) if tables.piece.flat else map(int, tables.boxes[run, [0, 1, -1]])
            first = int(tables.boxes[run, 0])
            for start in range(first + max(lo - before, 0) * box, first + min(hi - before, count) * box, box):
                keys = range(start, start + box)
                seen += [x for x in keys if 0 <= x < Lk]
                if run < middle:
                    assert start + box <= Lk
                    free |= set(keys)
    return seen, free


def tables_of(text: str, Lq: int, Lk: int, offset: int, H: int = 2, Hkv: int = 1, **given: Any) -> DecodeTables:
    f = attndsl.load(text)
    sizes = {"Lq": Lq, "Lk": Lk, "H": H, "Hkv": Hkv, "D": 16}
    problem = f.problem(q_offset=offset, **sizes, **given)
    tiling = Tiling(16, 16, step=STEP)
    planned = tiling.problem(f.simplified, problem)
    plan = build(f.simplified, planned, tiling.tile(f.simplified, planned))
    (launch,) = launches(plan, [QSegment("", 0, Lq)], 128, False)
    return decode_tables(launch, 1, H, H // Hkv, sure_keys(launch, Lk))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 9), st.integers(1, 700), st.integers(0, 200), st.integers(1, 9), st.integers(1, 300))
def test_rounded_plans_visit_every_visible_key_once(Lq: int, Lk: int, back: int, splits: int, w: int) -> None:
    offset = max(0, Lk - Lq - back)
    q, k = np.arange(offset, offset + Lq)[:, None], np.arange(Lk)[None, :]
    mask = (k <= q) & ((q - k < w) | (k < 4))
    seen, free = visits(tables_of(WINDOW, Lq, Lk, offset, w=w), splits, 0, 0, Lk)
    assert len(seen) == len(set(seen))
    assert set(np.flatnonzero(mask.any(0))) <= set(seen)
    assert free <= set(np.flatnonzero(mask.all(0)))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 300), st.integers(1, 5), st.lists(st.booleans(), min_size=4, max_size=4))
def test_heads_that_differ_visit_what_any_sees(Lk: int, splits: int, full: list[bool]) -> None:
    tables = tables_of(DUO, 1, Lk, Lk - 1, 4, 2, full=np.array(full))
    k = np.arange(Lk)
    for group in range(2):
        masks = [(k < 8) | (Lk - 1 - k < 40) | full[h] for h in (2 * group, 2 * group + 1)]
        seen, free = visits(tables, splits, 0, group, Lk)
        assert len(seen) == len(set(seen))
        assert set(np.flatnonzero(masks[0] | masks[1])) <= set(seen)
        assert free <= set(np.flatnonzero(masks[0] & masks[1]))


def test_only_what_is_visible_is_read() -> None:
    seen, _ = visits(tables_of(WINDOW, 1, 100_000, 99_999, w=1024), 7, 0, 0, 100_000)
    assert len(seen) <= 1024 + 4 + STEP + 3 * 16


def test_plans_are_rounded_where_the_mask_allows() -> None:
    tiling = Tiling(16, 64, step=STEP)

    def problem(text: str, **sizes: Any) -> Problem:
        f = attndsl.load(text)
        made = f.problem(**sizes)
        return tiling.problem(f.simplified, made)

    rounded = problem(CAUSAL, Lq=2, Lk=1000, q_offset=998)
    assert (rounded.q_offset, rounded.sizes["Lq"], rounded.sizes["Lk"]) == (960, 64, 1024)
    exact = (
        "attention tail { mask k >= Lk - 70 and k <= q }",
        "attention mod { mask (q - k) % 3 == 0 }",
        "attention docs(input d: i32[L]) { mask d[q] == d[k] }",
        "attention g { grid m(x) mask k <= q }",
    )
    for text in exact:
        sizes = {"grid": (1000,)} if "grid" in text else {}
        assert problem(text, Lq=2, Lk=1000, q_offset=998, **sizes).sizes["Lq"] == 2


# The number of programs


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 2000), st.integers(1, 5000), st.integers(1, 1000))
def test_shares_are_neither_tiny_nor_too_many(groups: int, boxes: int, slots: int) -> None:
    n = share_count(groups, boxes, slots)
    assert 1 <= n <= max(1, boxes // 2)
    if groups >= slots:
        # whole waves of programs are as good as any
        assert n * groups <= 40 * max(slots, groups)


def test_a_single_long_row_fills_the_gpu() -> None:
    assert share_count(8, 2048, 264) == 33
    assert share_count(256, 128, 264) == 1


# Launches


class NoGpu:
    """Enough of a driver to compile for an H100."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int | None = None) -> int:
        return 0

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)


def call_of(f: attndsl.AttentionFunction, Lk: int, *, Lq: int = 1, H: int = 8, Hkv: int = 2, **given: Any) -> Call:
    q = torch.randn(1, H, Lq, 64, dtype=torch.bfloat16)
    k = torch.randn(1, Hkv, Lk, 64, dtype=torch.bfloat16)
    return bind_call(f.attention, f.simplified, q, k, k, given, q_offset="end")


def test_a_growing_cache_compiles_once_and_plans_every_64_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.runtime import driver

    f = attndsl.load(WINDOW)
    runner = f._runner  # pyright: ignore[reportPrivateUsage]
    kernel = TritonKernel(f.simplified)
    variants: dict[str, int] = {}
    plans: set[int] = set()

    def compiled(it: Step, call: Call, values: list[Any]) -> None:
        function = getattr(load_module(it.module.source), it.name)
        function.warmup(*values, grid=(1,), num_warps=it.warps, num_stages=it.stages)
        variants[it.name] = len(function.device_caches[0][0])

    monkeypatch.setattr(Step, "first", compiled)
    monkeypatch.setattr(driver, "_active", NoGpu())
    kept: list[Any] = []
    for Lk in (*range(1000, 1040), *range(2000, 2100, 7), 9000):
        call = call_of(f, Lk, w=900 + Lk % 3)
        plan = runner.plan(call, kernel.tiling(call))
        kept.append(plan)
        plans.add(id(plan))
        kernel.forward(call, plan, False, False)
    assert variants == {"decode": 1, "merge": 1}
    assert len(plans) <= 3 * (2 + 3 + 1)


@pytest.mark.parametrize(
    ("sizes", "few"),
    [
        ({"Lq": 1, "Lk": 100}, True),
        ({"Lq": 16, "Lk": 100}, True),
        ({"Lq": 16, "Lk": 100, "H": 32, "Hkv": 1}, True),
        ({"Lq": 60, "Lk": 100, "H": 2, "Hkv": 2}, True),
        ({"Lq": 65, "Lk": 100, "H": 2, "Hkv": 2}, False),
        ({"Lq": 128, "Lk": 4096, "H": 2, "Hkv": 2}, True),
        ({"Lq": 128, "Lk": 4096, "H": 100, "Hkv": 100}, False),
    ],
)
def test_calls_are_chosen_by_shape(sizes: dict[str, int], few: bool) -> None:
    f = attndsl.load("attention dense {}")
    decode = Decode(f.simplified)
    call = call_of(f, sizes["Lk"], **{n: x for n, x in sizes.items() if n != "Lk"})
    assert decode.wanted(call) == few
    with configured(decode=Config(64, 64, 4, 2)):
        assert decode.wanted(call)
    with configured(decode=None):
        assert not decode.wanted(call)


def test_grids_keep_the_forward_kernel() -> None:
    f = attndsl.load("attention g { grid m(y, x) mask abs(q.y - k.y) <= 1 }")
    q = torch.randn(1, 1, 12, 16)
    decode = Decode(f.simplified)
    assert not decode.wanted(bind_call(f.attention, f.simplified, q, q, q, {}, grid=(3, 4)))
    moved = bind_call(f.attention, f.simplified, q[:, :, :2], q, q, {}, grid=(3, 4), q_offset=4)
    assert decode.wanted(moved)


def test_configured_names_passes() -> None:
    with pytest.raises(TypeError, match="`decode` can"), configured(dq=None):
        pass


# Machine code


@pytest.mark.parametrize(
    ("text", "how", "rows", "columns", "capability"),
    [
        (CAUSAL, {}, 16, 64, 90),
        (CAUSAL, {"D": 64, "Dv": 64}, 16, 128, 90),
        (CAUSAL, {"D": 256, "Dv": 256}, 16, 32, 90),
        (CAUSAL, {}, 64, 64, 90),
        (CAUSAL, {}, 16, 64, 80),
        (CAUSAL, {}, 16, 64, 100),
        (SINK, {"D": 96, "Dv": 80, "pieces": (PieceForm(LINE, True),)}, 16, 64, 90),
    ],
)
def test_kernels_compile_within_budgets(
    text: str, how: dict[str, Any], rows: int, columns: int, capability: int
) -> None:
    form = replace(Form("bf16", 128, 128, LINE, (PieceForm(LINE, False),), aligned=True), **how)
    module = generate_decode(attndsl.load(text).simplified, form)
    values = {"BM": rows, "BN": columns, "SPLIT": True, "LSE": True}
    built = cross_compile(
        module, values, dtype="bf16", inputs={"z": "fp32", "slope": "fp32"}, warps=4, stages=3, capability=capability,
        kernel="decode",
    )  # fmt: skip
    assert built.spills <= 32
    assert built.registers <= 255
    assert built.shared <= SHARED_MEMORY[capability // 10]
    # keys go straight to shared memory, while others are worked on
    assert "async_copy_global_to_local" in built.ttgir
    if rows == 16 and how.get("D", 128) == 128:
        # two programs share a multiprocessor
        assert 2 * built.shared <= SHARED_MEMORY[capability // 10]
        assert 2 * 128 * built.registers <= 65536


@pytest.mark.parametrize("far", [False, True])
def test_offsets_within_boxes_are_as_wide_as_needed(far: bool) -> None:
    k = torch.empty(0).as_strided((1, 1, 0, 64), (0, 0, 35_000_000, 1))
    assert reach.far(64, k) and not reach.far(32, k)
    form = Form("bf16", 64, 64, LINE, (PieceForm(LINE, False),), aligned=True, far=far)
    module = generate_decode(attndsl.load("attention dense {}").simplified, form)
    values = {"BM": 16, "BN": 64, "SPLIT": True, "LSE": True}
    built = cross_compile(module, values, dtype="bf16", inputs={}, warps=4, stages=2, kernel="decode")
    assert ("tensor<64x1xi64" in built.ttgir) == far


def test_merging_is_light() -> None:
    form = Form("bf16", 128, 128, LINE, (PieceForm(LINE, False),), aligned=True)
    module = generate_decode(attndsl.load(SINK).simplified, form)
    values = {"BM": 1, "BN": 64, "SPLIT": True, "LSE": True}
    built = cross_compile(
        module, values, dtype="bf16", inputs={"z": "fp32", "slope": "fp32"}, warps=4, stages=1, kernel="merge"
    )
    assert built.registers <= 64
    assert built.spills == 0
