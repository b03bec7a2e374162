"""The configurations that calls get without tuning compile for every generation, within budgets."""

from __future__ import annotations

from typing import Any

import pytest

import attndsl
from attndsl.runtime.triton.config import choose
from attndsl.runtime.triton.lowering import compile_fitting, lower, shared_memory

pytest.importorskip("triton")

SPEC = """attention alibi(input slope: f32[H]) {
    score s - slope[h] * (q - k)
    mask k <= q and q - k < 300
}"""
"""FULL and PARTIAL boxes, a tensor, a score that is not the product alone."""

BUDGETS = {
    (80, "bf16", 64): 32, (80, "bf16", 128): 32, (80, "bf16", 256): 192, (80, "fp16", 128): 32,
    (80, "fp32", 64): 0, (80, "fp32", 128): 256, (80, "fp32", 256): 512,
    (90, "bf16", 64): 0, (90, "bf16", 128): 0, (90, "bf16", 256): 0, (90, "fp16", 128): 0,
    (90, "fp32", 64): 0, (90, "fp32", 128): 256, (90, "fp32", 256): 512,
    (100, "bf16", 64): 0, (100, "bf16", 128): 64, (100, "bf16", 256): 64, (100, "fp16", 128): 64,
    (100, "fp32", 64): 0, (100, "fp32", 128): 256, (100, "fp32", 256): 512,
}  # fmt: skip
"""Bytes that a thread may spill, by capability, element type and head size: what is so today, and a little more."""


@pytest.mark.parametrize(("capability", "dtype", "head"), list(BUDGETS), ids=lambda v: str(v))
def test_forward(capability: int, dtype: Any, head: int) -> None:
    f = attndsl.load(SPEC)
    _, (it,) = lower(f.simplified, f.problem(L=1000, H=2, D=head), dtype, capability=capability)
    config = choose("forward", dtype, head, head, capability)
    assert it.tile == (config.rows, config.columns)
    fitting, built = compile_fitting(it)
    assert fitting.stages == it.stages, "the estimate of what fits is too large"
    assert 32 < built.registers <= 255
    assert built.spills <= BUDGETS[capability, dtype, head]
    assert 0 < built.shared <= shared_memory(capability)
    assert f".target sm_{capability}" in built.ptx
    if dtype != "fp32":
        assert {80: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma"}[capability] in built.ptx
        assert ("cp.async.bulk.tensor" in built.ptx) == (capability >= 90)
