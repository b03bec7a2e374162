"""Output clauses that kernels compute as they store a row, and those that follow after them; powers of ints."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("triton")

import attndsl
from attndsl.codegen.triton_source import gpu_way
from attndsl.ir.finished import finished
from attndsl.ir.projection import Projection, projection
from attndsl.runtime.triton.lowering import compile_granted, lower, lower_backward
from attndsl.tune.parts import parts_of

GATE = "attention gate(input w: f32[H, D, Dv]) { mask k <= q output o * sigmoid(Q @ w[h]) }"
BEYOND = (
    "o / (1 + norm(o))", "o @ u", "rope(o, q)", "roll(o, 1)", "softmax(o) + rmsnorm(o)", "o * dot(o, Q @ w)",
    "o * sigmoid(rope(Q @ w, q.x))",
)  # fmt: skip
WITHIN = (
    "o * 2", "silu(o)", "o * norm(Q)", "o * sigmoid(Q @ w) * q.x", "o + x[b, q] * dot(Q, Q)", "o + softmax(x[b, q])",
    "if norm(Q) > 1 then o else -o",
)  # fmt: skip


def of(clause: str) -> attndsl.AttentionFunction:
    inputs = "input w: f32[D, Dv], input u: f32[Dv, Dv], input x: f32[B, L, Dv]"
    return attndsl.load(f"attention a({inputs}) {{ grid image(y, x) output {clause} }}")


@pytest.mark.parametrize("clause", BEYOND)
def test_what_follows_after_the_kernels(clause: str) -> None:
    f = of(clause)
    found = finished(f.simplified)
    assert found is not None
    assert found.inner.output is None
    assert not found.inner.inputs
    assert "# Computed last, once a row:" in f.source(backend="triton")
    assert ", then o = " in gpu_way(f.simplified)
    problem = f.problem(D=64, B=1, H=2, grid=(8, 8))
    (part,) = parts_of(f.simplified, problem, "forward")
    assert part.attention == found.inner


@pytest.mark.parametrize("clause", WITHIN)
def test_what_kernels_compute_themselves(clause: str) -> None:
    f = of(clause)
    assert finished(f.simplified) is None
    assert "Computed last" not in f.source(backend="triton")


def test_gates_cost_no_spills() -> None:
    f = attndsl.load(GATE)
    found = projection(f.simplified)
    assert isinstance(found, Projection)
    assert [g.name for g in found.gates] == ["gate0"]
    problem = f.problem(D=64, B=1, H=2, L=1024)
    problem = replace(problem, sizes=found.sizes(problem.sizes))
    plan, forward = lower(found.inner, problem, "bf16", save=True)
    back = lower_backward(found.inner, problem, "bf16", plan, wanted=frozenset({"gate0"}))
    for it in (*forward, *back):
        assert compile_granted(it)[1].spills == 0, it.name


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("score s - ((q - k) % 7)^4 / 100", "c0 * c0 * c0 * c0"),
        ("score s - (q - k)^2 / 100", "(q_at - k_at).to(tl.float32) * (q_at - k_at).to(tl.float32)"),
        ("mask q * k % 3 < 2", "q_at.to(tl.int64) * k_at"),
        ("score s - (q - k)^5 / 100", ".to(tl.int64)"),
        ("mask bitlen((q - k)^6) < 9", "bitlen_long("),
        # bounds of a band are numbers of 32 bits
        ("mask k <= min(q, 9)^5", "tl.where(visible"),
    ],
)
def test_powers_of_ints(text: str, code: str) -> None:
    f = attndsl.load(f"attention a {{ {text} }}")
    assert code in f.source(backend="triton")
    _, (it,) = lower(f.simplified, f.problem(D=64, B=1, H=2, L=1024), "bf16")
    assert compile_granted(it)[1].shared
