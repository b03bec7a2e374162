"""What a generated Triton module may hold."""

from __future__ import annotations

import pytest

import attndsl
from attndsl.codegen.triton_backward import BackwardForm, generate_sweep
from attndsl.codegen.triton_form import typical_forms
from attndsl.codegen.whitelist import UnsafeCodeError
from attndsl.codegen.whitelist_triton import check_kernels
from benchmarks.cases import CASES

KERNEL = "import triton\nimport triton.language as tl\n\n\n@triton.jit\ndef kernel(x):\n    {}\n"


@pytest.mark.parametrize("case", CASES, ids=[c.name for c in CASES])
def test_generated_kernels_pass(case: object) -> None:
    assert isinstance(case, type(CASES[0]))
    check_kernels(attndsl.load(case.text, **case.consts).source(backend="triton"))


@pytest.mark.parametrize(
    "line",
    [
        "import os", "x.__class__", "open('f')", "eval('1')", "tl._semantic", "tl.load(x).tobytes()",
        "__import__('os')", "lambda: 1", "(x if x else x)(1)", "global x", "triton.runtime",
    ],
)  # fmt: skip
def test_anything_else_does_not(line: str) -> None:
    with pytest.raises(UnsafeCodeError):
        check_kernels(KERNEL.format(line))


def test_nothing_outside_a_kernel() -> None:
    with pytest.raises(UnsafeCodeError, match="outside a kernel"):
        check_kernels("import triton\nx = 1\n")
    with pytest.raises(UnsafeCodeError, match="is not a kernel"):
        check_kernels("def f():\n    return 1\n")
    check_kernels(KERNEL.format("tl.store(x, 1)"))


def test_an_input_that_nothing_depends_on() -> None:
    """Its gradient is wanted, and its derivative is zero: sums of it have no terms."""
    f = attndsl.load("attention a(input g: f32[H]) { mask k <= q score s + sin(1.5 * q) + 0.0 * g[h] }")
    made = generate_sweep(f.simplified, BackwardForm(typical_forms(f.simplified)[0], frozenset("g")))
    check_kernels(made.source)
