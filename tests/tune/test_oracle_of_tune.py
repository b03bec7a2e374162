"""Results that are not right do not pass: NaN, a part left out, a row or a key that is off."""
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import attndsl
from attndsl.ir.projection import Projection, projection
from attndsl.ir.simplify import simplify
from attndsl.reference import reference
from attndsl.runtime.binding import bind_call
from attndsl.tune import oracle
from attndsl.tune.oracle import Oracle, Subject, apart, sampled_rows, subject_of

WINDOW = "attention window(input g: f32[B, H, Lq]) { mask k <= q and q - k < 40 output o * g[b, h, q] }"


def subject(Lq: int = 70, dtype: torch.dtype = torch.float16, text: str = WINDOW, **more: Any) -> Subject:
    f = attndsl.load(text)
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 2, Lq, 16), torch.randn(1, 2, 70, 16), torch.randn(1, 2, 70, 8)
    inputs = {"g": torch.rand(1, 2, Lq)} if "input" in text else {}
    call = bind_call(f.attention, f.simplified, q.to(dtype), k.to(dtype), v.to(dtype), inputs, **more)
    return Subject(f.attention, call, None, torch.randn(1, 2, Lq, 8, dtype=dtype))


def right(it: Subject, grad: Tensor | None = None) -> dict[str, Tensor]:
    """Output, or gradients, computed in fp32."""
    call = it.call
    leaves = [t.float().requires_grad_(grad is not None) for t in (call.q, call.k, call.v)]
    out, _ = reference(
        it.attention, *leaves, inputs=call.inputs, q_offset=call.q_offset, scale=call.scale, dtype=torch.float32
    )
    if grad is None:
        return {"out": out.to(call.q.dtype)}
    out.backward(grad.float())
    return {n: t.grad.to(call.q.dtype) for n, t in zip("qkv", leaves, strict=True) if t.grad is not None}


def nan(t: Tensor) -> None:
    t[0, 1, 3, 2] = float("nan")


def off(t: Tensor) -> None:
    t[0, 1, 30:] *= 1.1


SABOTAGE: list[Callable[[Tensor], None]] = [nan, off]


@pytest.mark.parametrize("pairs", [1 << 24, 2 * 70 * 30], ids=["all rows", "some rows"])
@pytest.mark.parametrize("more", [{}, {"q_offset": 20}, {"scale": 0.7}], ids=str)
def test_forward(monkeypatch: pytest.MonkeyPatch, pairs: int, more: Any) -> None:
    monkeypatch.setattr(oracle, "PAIRS", pairs)
    it = subject(Lq=50, **more)
    assert len(sampled_rows(it)) == (1 if pairs > 50 * 140 else 3)
    judge = Oracle(it, "forward")
    assert judge.wrong(right(it)) == ""
    for spoil in SABOTAGE:
        found = right(it)
        spoil(found["out"])
        assert judge.wrong(found).startswith("out: error") or pairs < 1 << 24
        assert apart(found, right(it)).startswith("out: ")


@pytest.mark.parametrize("pairs", [1 << 24, 2 * 70 * 30], ids=["all rows", "some rows"])
@pytest.mark.parametrize("step", ["dq", "dkdv"])
def test_gradients(monkeypatch: pytest.MonkeyPatch, pairs: int, step: Any) -> None:
    monkeypatch.setattr(oracle, "PAIRS", pairs)
    it = subject()
    judge, names = Oracle(it, step), ("q",) if step == "dq" else ("k", "v")
    found = {n: t for n, t in right(it, judge.grad()).items() if n in names}
    assert judge.wrong(found) == ""
    for name in names:
        for spoil in SABOTAGE:
            spoiled = {n: t.clone() for n, t in found.items()}
            spoil(spoiled[name])
            assert judge.wrong(spoiled).startswith(f"{name}: error")


@pytest.mark.parametrize("pairs", [1 << 24, 2 * 70 * 30 * 16], ids=["all rows", "some rows"])
def test_several_dot_products(monkeypatch: pytest.MonkeyPatch, pairs: int) -> None:
    """Kernels are judged on the vectors that they are given."""
    monkeypatch.setattr(oracle, "PAIRS", pairs)
    written = subject(text="attention two { mask k <= q score s + tanh(dot(roll(Q, 1), K)) }", Lq=70)
    found = projection(simplify(written.attention))
    assert isinstance(found, Projection)
    call = written.call
    inputs = {"queries0": call.q.roll(1, -1), "keys0": call.k}
    inner = replace(call, attention=found.inner, inputs=inputs, sizes=found.sizes(call.sizes))
    judge = Oracle(subject_of(found.inner, inner, None, written.grad), "forward")
    assert len(judge.rows) == (1 if pairs > 1 << 20 else 3)
    assert judge.wrong(right(written)) == ""
    spoiled = right(subject(text="attention one { mask k <= q }", Lq=70))
    assert judge.wrong(spoiled).startswith("out: error")


@pytest.mark.parametrize("reduced", ["norm(concat(Q - K, K))", "amax(concat(Q - K, K))"])
def test_sums_over_components_that_move(reduced: str) -> None:
    """A loop over them means what the vectors mean."""
    written = subject(text=f"attention moved {{ mask k <= q score {reduced} }}", Lq=70)
    found = projection(simplify(written.attention))
    assert isinstance(found, Projection)
    call = written.call
    inputs = {c.name: call.q if c.of_row else call.k for c in found.channels}
    inner = replace(call, attention=found.inner, inputs=inputs, sizes=found.sizes(call.sizes))
    judge = Oracle(subject_of(found.inner, inner, None, written.grad), "forward")
    assert judge.wrong(right(written)) == ""
    assert judge.wrong(right(subject(text="attention one { mask k <= q }", Lq=70))).startswith("out: error")


def test_rows_that_cannot_be_looked_at_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oracle, "PAIRS", 100)
    assert sampled_rows(subject(text="attention a { mask k <= q output o / Lq }")) == ()
    assert Oracle(subject(text="attention a { mask k <= q output o / Lq }"), "forward").wrong({}) == ""


def test_apart_knows_infinite_and_empty() -> None:
    safe = {"out": torch.tensor([1.0, float("-inf"), 2.0])}
    assert apart({"out": safe["out"].clone()}, safe) == ""
    assert apart({"out": torch.tensor([1.0, 5.0, 2.0])}, safe) == "out: other elements are infinite"
    assert "not finite" in apart({"out": torch.tensor([float("nan"), float("-inf"), 2.0])}, safe)
    assert apart({"out": torch.zeros(3)}, {"out": torch.zeros(3)}) == ""
    assert apart({"out": torch.ones(3)}, {"out": torch.zeros(3)}) != ""
