"""Kernels whose tiles have several dot products: their text, and their code for GPUs that are not there."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("triton")

import attndsl
from attndsl.codegen.triton_form import Dtype
from attndsl.ir.attention import Attention
from attndsl.ir.projection import Projection, projection
from attndsl.runtime.triton.config import Config, choose, shared_memory, stages_that_fit
from attndsl.runtime.triton.lowering import Lowered, compile_fitting, lower, lower_backward
from attndsl.runtime.triton.several import MOST_COMPONENTS
from attndsl.schedule.problem import Problem

TWO = "attention two { mask k <= q score s + tanh(dot(roll(Q, 1), K)) }"
THREE = """attention three {
    mask k <= q
    score s * sigmoid(dot(roll(Q, 1), K)) - abs(0.3 * dot(rmsnorm(Q), rmsnorm(K)))
}"""


def inner_of(text: str, D: int, Dv: int) -> tuple[Attention, Problem]:
    f = attndsl.load(text)
    problem = f.problem(D=D, Dv=Dv, L=4096, H=8, B=1)
    found = projection(f.simplified)
    assert isinstance(found, Projection)
    return found.inner, replace(problem, sizes=found.sizes(problem.sizes))


def kernels(text: str, D: int, Dv: int, dtype: Dtype, capability: int) -> list[Lowered]:
    attention, problem = inner_of(text, D, Dv)
    plan, forward = lower(attention, problem, dtype, capability=capability)
    back = lower_backward(attention, problem, dtype, plan, capability=capability)
    return [it for it in (*forward, *back) if it.step != "prepare"]


def test_products_have_names_of_their_own() -> None:
    text = attndsl.load(THREE).source(backend="triton")
    assert "# qa = " in text
    assert "# kb = " in text
    loop = text[text.index("for i in tl.range(begin, middle)") :]
    order = ["s = tl.dot(q0, k0.T)", "sa = tl.dot(qa0, ka0.T)", "sb = tl.dot(qb0, kb0.T)", "x = "]
    places = [loop.index(line) for line in order]
    assert places == sorted(places)


def test_every_product_has_gradients() -> None:
    dq, dkdv = (it.module.source for it in kernels(THREE, 64, 64, "bf16", 90)[1:])
    for letter in ("", "a", "b"):
        assert f"dq{letter}0 = tl.dot(ds{letter}.to(k{letter}0.dtype), k{letter}0, dq{letter}0)" in dq
        assert f"dk{letter}0 = tl.dot(ds{letter}.to(q{letter}0.dtype), q{letter}0, dk{letter}0)" in dkdv


@pytest.mark.parametrize(
    ("text", "D", "Dv", "dtype", "capability", "spills"),
    [
        (TWO, 64, 64, "bf16", 90, 0),
        (TWO, 128, 128, "fp16", 90, 160),
        (THREE, 40, 80, "bf16", 90, 400),
        (TWO, 128, 128, "bf16", 86, 0),
        (TWO, 64, 64, "fp32", 90, 64),
    ],
)
def test_tiles_fit(text: str, D: int, Dv: int, dtype: Dtype, capability: int, spills: int) -> None:
    """What is chosen compiles, in the shared memory that there is."""
    for it in kernels(text, D, Dv, dtype, capability):
        _, built = compile_fitting(it)
        assert built.shared <= shared_memory(capability)
        assert built.spills <= spills, it.name


@pytest.mark.parametrize("capability", [80, 86, 90, 100])
@pytest.mark.parametrize("step", ["forward", "dq", "dkdv"])
@pytest.mark.parametrize("products", [2, 3, 8])
def test_one_stage_of_what_is_chosen_fits(capability: int, step: str, products: int) -> None:
    for depth in range(16 * products, MOST_COMPONENTS + 1, 16):
        for Dv in (16, 64, 128, 256):
            config = choose(step, "bf16", depth, Dv, capability, products=products)  # pyright: ignore[reportArgumentType]
            own = depth if step == "forward" else depth + Dv
            held = (config.rows * own + config.columns * (depth + Dv)) * 2
            assert held <= shared_memory(capability)
            assert stages_that_fit(config, 2, depth, Dv, config.rows, config.columns, shared_memory(capability)) >= 1
            assert not config.specialize
            if capability == 90:
                # narrower products are known to be wrong there
                assert min(config.rows, config.columns) >= 64


def test_warps_are_not_specialised() -> None:
    attention, problem = inner_of(TWO, 64, 64)
    _, (it,) = lower(attention, problem, "bf16", config=Config(128, 128, 4, 2, specialize=True))
    assert it.form.walk == "two loops"


def test_vectors_that_are_too_long_are_refused() -> None:
    with pytest.raises(ValueError, match="512 together, got 256, 256, 256"):
        kernels(THREE, 256, 64, "bf16", 90)
