"""Backward kernels compile for GPUs that are not there, within budgets."""
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import attndsl
from attndsl.codegen.triton_backward import BackwardForm, generate_sweep
from attndsl.codegen.triton_form import Dtype, typical_forms
from attndsl.codegen.triton_prepare import generate_prepare
from attndsl.runtime.triton.config import Config, choose, stages_that_fit
from attndsl.runtime.triton.cross import Compiled, cross_compile
from attndsl.runtime.triton.launch import SHARED_MEMORY
from benchmarks.cases import GNA

pytest.importorskip("triton")

CAUSAL = "attention causal { mask k <= q }"
SOFTCAP = "attention softcap { score 50 * tanh(s / 50) mask k <= q }"
SINK = """attention sink(input z: f32[H], input g: f32[H, Dv]) {
    mask k <= q weight exp(s) / (exp(z[h]) + sum) output o * sigmoid(g[h]) }"""
BIAS = "attention bias(input t: f32[H, L, L]) { score s + t[h, q, k] }"


def compile_step(
    text: str, step: str, *, D: int = 128, dtype: Dtype = "bf16", capability: int = 90, deterministic: bool = False,
    tma: bool = True, config: Config | None = None, **consts: Any,
) -> Compiled:  # fmt: skip
    attention = attndsl.load(text, **consts).simplified
    turned, tma = step == "dkdv", tma and capability >= 90
    form = replace(typical_forms(attention)[0], D=D, Dv=D, dtype=dtype, turned=turned)
    form = replace(form, tma=tma, boxed_stats=turned and tma)
    config = config or choose("dkdv" if turned else "dq", dtype, D, D, capability)
    wanted = frozenset(i.name for i in attention.inputs if i.dtype == "f32")
    if config.fused:
        wanted = frozenset[str]()
    backward = BackwardForm(
        form, wanted, deterministic=deterministic, fused=bool(config.fused), boxed_sums=config.fused == "boxes"
    )  # fmt: skip
    made = generate_prepare(attention, backward) if step == "prepare" else generate_sweep(attention, backward)
    assert made is not None
    values: dict[str, Any] = {"BM": config.rows, "BN": config.columns}
    if len(form.q.axes) == 3:
        values |= {"BM_0": config.rows // 64, "BM_1": 8, "BM_2": 8}
        values |= {"BN_0": config.columns // 64, "BN_1": 8, "BN_2": 8}
    limit = SHARED_MEMORY[capability // 10]
    stages = stages_that_fit(config, 2, D, D, config.rows, config.columns, limit, backward=True)
    inputs = {i.name: "fp32" for i in attention.inputs}
    return cross_compile(
        made, values, dtype=dtype, inputs=inputs, warps=config.warps, stages=stages, capability=capability
    )  # fmt: skip


HOPPER = [
    (CAUSAL, "dq", {}, 0),
    (CAUSAL, "dkdv", {}, 32),
    (CAUSAL, "dkdv", {"config": Config(128, 64, 8, 2, fused="boxes")}, 128),
    (CAUSAL, "dkdv", {"config": Config(64, 32, 4, 3, fused="boxes")}, 64),
    (CAUSAL, "dkdv", {"D": 64, "config": Config(128, 64, 8, 2, fused="boxes")}, 0),
    (CAUSAL, "dkdv", {"D": 64, "config": Config(64, 64, 4, 2, fused="elements")}, 64),
    (CAUSAL, "dkdv", {"D": 64, "dtype": "fp16"}, 0),
    (CAUSAL, "dq", {"D": 256}, 0),
    (CAUSAL, "dkdv", {"D": 256}, 128),
    (SINK, "dq", {"D": 64}, 200),
    (SINK, "prepare", {}, 0),
    (BIAS, "dq", {"D": 64, "deterministic": True}, 1400),
    (GNA, "dkdv", {"window": (5, 9, 9)}, 320),
]


@pytest.mark.parametrize(("text", "step", "how", "spills"), HOPPER)
def test_hopper_within_budgets(text: str, step: str, how: dict[str, Any], spills: int) -> None:
    built = compile_step(text, step, **how)
    assert built.registers <= 255
    assert built.spills <= spills
    assert built.shared <= SHARED_MEMORY[9]
    if step != "prepare":
        assert built.ttgir.count("warp_group_dot ") > 0
        assert "async_tma_copy" in built.ttgir


@pytest.mark.parametrize(("capability", "spills"), [(80, 400), (100, 400)])
@pytest.mark.parametrize("step", ["dq", "dkdv"])
def test_other_generations(step: str, capability: int, spills: int) -> None:
    built = compile_step(CAUSAL, step, D=64, capability=capability)
    assert built.spills <= spills
    assert built.shared <= SHARED_MEMORY[capability // 10]


@pytest.mark.parametrize(("step", "D"), [("dq", 128), ("dkdv", 128), ("dkdv", 64)])
def test_fp32_stays_in_registers(step: str, D: int) -> None:
    assert compile_step(CAUSAL, step, D=D, dtype="fp32").spills == 0


def test_delta_of_fp32_is_the_sum_that_it_cancels() -> None:
    attention = attndsl.load(SOFTCAP).simplified
    form = typical_forms(attention)[0]
    assert "pull" not in generate_sweep(attention, BackwardForm(form)).source
    source = generate_sweep(attention, BackwardForm(replace(form, dtype="fp32"))).source
    assert source.count("pull0 = tl.dot(pull, k0, pull0") == 2
    assert "dq0 = (dq0 + error[:, None] * pull0) * whole[:, None]" in source


def test_full_boxes_have_no_mask_code() -> None:
    attention = attndsl.load(CAUSAL).simplified
    for turned in (False, True):
        form = replace(typical_forms(attention)[0], turned=turned)
        source = generate_sweep(attention, BackwardForm(form)).source
        full, partial = source.split("tl.range(begin, middle")[1].split("tl.range(middle, end")
        assert "between" not in full
        assert "between" in partial


def test_one_sweep_adds_to_dq_in_boxes_or_elements() -> None:
    attention = attndsl.load(CAUSAL).simplified
    form = replace(typical_forms(attention)[0], turned=True, boxed_stats=True)
    apart = generate_sweep(attention, BackwardForm(form)).source
    assert "atomic_add" not in apart
    assert apart.count("stats_box.load") == 4
    boxes = generate_sweep(attention, BackwardForm(form, fused=True, boxed_sums=True))
    assert boxes.name == "dkdvq"
    full, partial = boxes.source.split("tl.range(middle, end")
    assert full.count("dq0_box.atomic_add") == 1 and "tl.atomic_add(dq_head" not in full
    # a box that TMA may not add, since it begins before the sequence, has queries that are masked
    assert "if start >= 0:\n                dq0_box.atomic_add([start, 0], dq0.T)\n            else:" in partial
    assert partial.count("tl.atomic_add(dq_head") == 1
    elements = generate_sweep(attention, BackwardForm(form, fused=True)).source
    assert elements.count("tl.atomic_add(dq_head") == 2
    # keys outside add nothing, whatever their weights would be
    assert "middle = tl.where((stop_0 - row_0 < BM), begin, middle)" in elements


def test_gradients_of_inputs_are_generated_where_they_are_wanted() -> None:
    attention = attndsl.load(BIAS).simplified
    form = typical_forms(attention)[0]
    assert "atomic" not in generate_sweep(attention, BackwardForm(form)).source
    assert "atomic" in generate_sweep(attention, BackwardForm(form, frozenset(("t",)))).source
    sink = attndsl.load(SINK).simplified
    assert "atomic" not in generate_sweep(sink, BackwardForm(form, frozenset(("z", "g")))).source
