"""Kernels whose tiles sum over components of vectors of the pair: their text, and their code for GPUs that are not
there."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("triton")

import attndsl
from attndsl.codegen.triton_form import Dtype
from attndsl.ir.attention import Attention
from attndsl.ir.projection import Projection, projection
from attndsl.runtime.triton.config import Config, shared_memory
from attndsl.runtime.triton.lowering import Lowered, compile_fitting, lower, lower_backward
from attndsl.runtime.triton.several import pair_tiles
from attndsl.schedule.problem import Problem

ADDITIVE = "attention additive(input w: f32[H, D]) { mask k <= q score dot(w[h], tanh(Q + K)) }"
DISTANCE = "attention distance { mask k <= q score s - norm(Q - K) }"
SCORED = """attention scored(input w: f32[D, 16], input c: f32[H, 16]) {
    mask k <= q
    score dot(c[h], tanh(tanh(Q + K) @ w))
}"""
PLACED = """attention placed(input r: f32[128, D]) {
    mask k <= q and q - k < 128
    score norm(rope(Q + r[q - k], q - k) - K)
}"""
FADING = """attention fading(input g: f32[B, Hkv, L, D] log_decay) {
    mask k <= q and q - k < 512
    weight dot(Q, K * decay(g))
}"""


def inner_of(text: str, D: int) -> tuple[Attention, Problem]:
    f = attndsl.load(text)
    problem = f.problem(D=D, Dv=D, L=4096, H=8, B=1)
    found = projection(f.simplified)
    assert isinstance(found, Projection)
    return found.inner, replace(problem, sizes=found.sizes(problem.sizes))


def kernels(text: str, D: int, dtype: Dtype, capability: int) -> list[Lowered]:
    attention, problem = inner_of(text, D)
    plan, forward = lower(attention, problem, dtype, capability=capability)
    back = lower_backward(attention, problem, dtype, plan, capability=capability)
    return [it for it in (*forward, *back) if it.step != "prepare"]


def test_a_sum_is_a_loop_over_components() -> None:
    text = attndsl.load(ADDITIVE).source(backend="triton")
    assert "# row_vector2 = w[h]" in text
    assert "# key_vector0 = K[b, hkv, k]" in text
    full = text[text.index("for i in tl.range(begin, middle)") :]
    loop = full[full.index("for c0_c in tl.range(0, size_C_0):") : full.index("x = ")]
    assert "c0 += c0_0 * tanh(c0_1 + c0_2)" in loop
    # what FULL boxes read is inside
    (keys,) = [line for line in loop.splitlines() if "in_key_vector0 +" in line]
    assert "mask" not in keys


def test_a_moved_component_is_read_at_its_number() -> None:
    text = attndsl.load("attention paired { score norm(concat(Q - K, K)) }").source(backend="triton")
    full = text[text.index("for i in tl.range(begin, middle)") :]
    assert "c0_at = tl.full([1, 1], 0, tl.int32) + c0_c" in full
    assert "tl.where(c0_at < size_C_0, c0_0 - c0_1, c0_2)" in full


def test_gradients_go_to_the_pass_that_owns_the_vectors() -> None:
    dq, dkdv = (it.module.source for it in kernels(ADDITIVE, 64, "bf16", 90)[1:])
    assert dq.count("tl.atomic_add(grad_in_row_vector") == 4
    assert "grad_in_key_vector" not in dq
    assert dkdv.count("tl.atomic_add(grad_in_key_vector0 ") == 2
    assert "grad_in_row_vector" not in dkdv


@pytest.mark.parametrize(
    ("text", "D", "dtype", "capability", "spills"),
    [
        (ADDITIVE, 64, "bf16", 90, 0),
        (DISTANCE, 128, "fp16", 90, 120),
        (FADING, 64, "bf16", 90, 600),
        (ADDITIVE, 64, "bf16", 80, 60),
        (DISTANCE, 64, "bf16", 100, 40),
        (SCORED, 64, "bf16", 90, 300),
        (PLACED, 64, "bf16", 90, 2400),
    ],
)
def test_tiles_fit(text: str, D: int, dtype: Dtype, capability: int, spills: int) -> None:
    """What is chosen compiles, in the shared memory that there is."""
    for it in kernels(text, D, dtype, capability):
        _, built = compile_fitting(it)
        assert built.shared <= shared_memory(capability)
        assert built.spills <= spills, it.name


def test_sums_count_as_tiles_of_pairs() -> None:
    attention, problem = inner_of(DISTANCE, 64)
    assert pair_tiles(attention) == 3
    _, (it,) = lower(attention, problem, "bf16", config=Config(128, 128, 4, 2, specialize=True))
    assert it.form.walk == "two loops"


def test_no_part_of_a_result_is_narrower_than_others() -> None:
    # no box is loaded ahead of a loop over components, and Triton 3.6 reads beyond one that is narrower than others
    for it in kernels(DISTANCE, 80, "bf16", 90):
        assert "tl.zeros([BM, 128], tl.float32)" in it.module.source, it.name
        assert "tl.zeros([BM, 16]" not in it.module.source, it.name
