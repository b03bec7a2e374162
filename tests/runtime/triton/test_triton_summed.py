"""Weights with sums of vectors over the row: their results, which kernels run, and what is refused."""
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

import attndsl
from attndsl.codegen.triton_source import gpu_way
from attndsl.runtime.call import Kept
from attndsl.runtime.triton import kernel_for
from attndsl.runtime.triton.standalone_lowering import lower_module
from tests.runtime.triton.interpreted import run_cases
from tests.runtime.triton.pretend import Pretended, pretend

CENTRED = "attention centred { mask k <= q weight exp(s - norm(mean(s * K))) / sum }"


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pretended:
    monkeypatch.setenv("ATTNDSL_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    return pretend(monkeypatch)


def test_outputs_and_gradients_equal_the_definition() -> None:
    assert "cases right" in run_cases("tests.runtime.triton.interpret_summed")


def test_sums_run_before_and_after(gpu: Pretended) -> None:
    """A backward pass sums again, counts the keys that rows see, and goes the other way. A call of another length
    compiles nothing."""
    f = attndsl.load(CENTRED)
    for n in (256, 384):
        gpu.forget()
        q, k, v = (torch.randn(1, 2, n, 32).bfloat16().requires_grad_() for _ in range(3))
        torch.autograd.grad(f(q, k, v).float().sum(), [q, k, v])
        assert gpu.launched == ["forward"] * 4 + ["prepare", "dq", "dkdv"] * 2
    assert gpu.compiled == []


def test_few_rows_are_split_over_their_keys(gpu: Pretended) -> None:
    q, k, v = (torch.randn(1, 2, n, 32).bfloat16() for n in (1, 2048, 2048))
    attndsl.load(CENTRED)(q, k, v, q_offset="end")
    assert gpu.launched == ["decode", "merge"] * 2


def test_saved_tensors_are_those_of_the_last_kernels() -> None:
    """Their shapes are known without elements, whatever is summed."""
    f = attndsl.load("attention a(input W: f32[D, M]) { weight relu(s - norm(mean(K @ W))) / sum }")
    q = torch.empty(1, 2, 64, 32, device="meta", dtype=torch.bfloat16)
    first, sums = kernel_for(f.simplified).saves(q, q, q, False)
    assert first == "out"
    assert sums == Kept((1, 1, 2, 64), torch.float32, batch=1)


def test_words() -> None:
    f = attndsl.load(CENTRED)
    assert gpu_way(f.simplified) == (
        "Triton kernels of tiles, after summed0 = sum(s / count * K[b, hkv, k]); row_number0 = norm(summed0[b, h, row])"
    )
    source = f.source(backend="triton")
    assert "# Summed first, over the row:\n# summed0 = sum(s / count * K[b, hkv, k])" in source
    assert source.count("def forward(") == 2


def call(text: str, **options: object) -> None:
    q, k, v = (torch.randn(1, 1, 64, 16).half() for _ in range(3))
    attndsl.load(f"attention a{text}")(q, k, v, **options)


def test_what_is_refused(gpu: Pretended) -> None:
    with pytest.raises(ValueError, match=r"does not have `tanh\(Q.*\)` in a sum of vectors, .*; backend 'cpu' does"):
        call("{ weight relu(s - norm(mean(tanh(Q + K)))) }")
    with pytest.raises(ValueError, match="the lse of a weight with an exponential whose score only sums of vectors"):
        call("{ weight exp(s) * exp(norm(mean(K * s))) }", return_lse=True)
    wide = "(input W: f32[D, 400]) { weight relu(s - norm(mean(K @ W))) }"
    with pytest.raises(ValueError, match="vectors of at most 256 components in a weight, got 400; backend 'cpu' has"):
        call(wide, W=torch.randn(16, 400))


def test_modules_are_refused() -> None:
    f = attndsl.load(CENTRED)
    nothing: Any = None
    with pytest.raises(ValueError, match="its weight needs sums of vectors over the row that kernels"):
        lower_module(f.simplified, f.attention, nothing, "bf16")
