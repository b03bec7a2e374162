"""Boxes that the device finds: the kernels compile for GPUs, and only shapes decide what is launched."""
# pyright: reportUnknownMemberType=false, reportMissingImports=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import attndsl
from attndsl.codegen.triton_classify import ClassifyForm, generate_classify, told_by_spans
from attndsl.runtime.binding import bind_call
from attndsl.runtime.call import Call
from attndsl.runtime.triton.cross import cross_compile
from attndsl.runtime.triton.filling import WARPS
from attndsl.runtime.triton.kernel import TritonKernel
from attndsl.runtime.triton.locate import CHUNK, GATHERED, PAIRS, RANKED, SEARCHED, Locator
from attndsl.schedule.candidates import MOST_LISTED

pytest.importorskip("triton")

DOCUMENTS = "attention documents(input doc: i32[B, L] sorted) { mask doc[b, q] == doc[b, k] and k <= q }"
ONE_LINE = "attention documents(input doc: i32[L] sorted) { mask doc[q] == doc[k] and k <= q }"
TABLE = """attention table(input t: bool[H, N, M], input w: i64[H]) {
    mask t[h, q // 128, k // 96] or abs(q - k) % 5 < w[h] }"""


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(
    ("text", "form"),
    [
        (DOCUMENTS, ClassifyForm(spans=True)),
        (ONE_LINE, ClassifyForm(spans=True, searched=True)),
        (DOCUMENTS, ClassifyForm(turned=True, batch_offset=True)),
        (TABLE, ClassifyForm(decode=True)),
    ],
)
def test_they_compile_without_spills(text: str, form: ClassifyForm, capability: int) -> None:
    module = generate_classify(attndsl.load(text).simplified, form)
    for kernel in module.kernels:
        chunk = {"classify": CHUNK, "gather": GATHERED, "rank": RANKED, "lookup": 0}[kernel.name]
        constants = {"BM": 128, "BN": 128, "CHUNK": chunk, "PAIRS": PAIRS, "BLOCK": SEARCHED}
        built = cross_compile(
            kernel, constants, dtype="bf16", inputs={"doc": "i32", "t": "u8", "w": "i64"},
            warps=WARPS, stages=1, capability=capability,
        )  # fmt: skip
        assert built.spills == 0


def call_of(text: str, **given: Any) -> tuple[attndsl.AttentionFunction, Call]:
    f = attndsl.load(text)
    q = torch.zeros(2, 4, 300, 16)
    return f, bind_call(f.attention, f.simplified, q, q, q, given)


def test_masks_of_positions_are_planned_on_the_host() -> None:
    f, call = call_of("attention near(scalar w: int, input slope: f32[H]) { score s * slope[h] mask q - k < w }", w=9,
                      slope=torch.ones(4))  # fmt: skip
    assert not Locator(f.simplified).wanted(call)
    f, call = call_of(DOCUMENTS, doc=torch.zeros(2, 300, dtype=torch.int32))
    assert Locator(f.simplified).wanted(call)
    assert TritonKernel(f.simplified).locates(call)


def test_tables_are_small_where_runs_are_few() -> None:
    f, call = call_of(DOCUMENTS, doc=torch.zeros(2, 300, dtype=torch.int32))
    located = Locator(f.simplified).sweep(call, 16, 16)
    assert located.form.spans
    assert located.total < 2 * 19 * (10 + 3) + 500
    turned = Locator(f.simplified).sweep(call, 16, 16, turned=True)
    assert not turned.form.spans


def test_lists_that_would_be_too_long_are_spans() -> None:
    f = attndsl.load("attention table(input t: bool[N, M]) { mask t[q // 16, k // 16] }")
    assert not told_by_spans(f.simplified)
    t = torch.zeros(1, 1, dtype=torch.bool)
    for length, spans in ((1000, False), (16 * 8192 + 16, True)):
        assert (length // 16 >= MOST_LISTED**0.5) is spans
        q = torch.zeros(1, 1, length, 1)
        call = bind_call(f.attention, f.simplified, q, q, q, {"t": t})
        assert Locator(f.simplified).sweep(call, 16, 16).form.spans is spans


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("attention a(input n: i32[B]) { mask k < n[b] }", (2, 1)),
        ("attention a(input n: i32[H]) { mask k < n[h] }", (1, 4)),
        ("attention a(input n: i32[L], input g: f32[B, H]) { score s * g[b, h] mask n[k] < 3 }", (1, 1)),
    ],
)
def test_batches_and_heads_that_see_the_same_share_tables(text: str, kinds: tuple[int, int]) -> None:
    tensors: dict[str, Callable[[], Tensor]] = {
        "n": lambda: torch.zeros(next(n for n, s in ((2, "[B]"), (4, "[H]"), (300, "[L]")) if s in text)).int(),
        "g": lambda: torch.ones(2, 4),
    }
    f, call = call_of(text, **{n: make() for n, make in tensors.items() if f"{n}:" in text})
    sizes = Locator(f.simplified).sweep(call, 16, 16).sizes
    assert (sizes.batches, sizes.heads) == kinds
