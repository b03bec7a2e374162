"""Weights that need sums of their row before its pairs: which kernels run, and what is refused."""
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

import attndsl
from attndsl.codegen.triton_source import gpu_way
from tests.runtime.triton.pretend import Pretended, pretend

CENTRED = "attention centred { mask k <= q weight exp(s) * tanh(mean(s)) / sum(exp(s)) }"


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pretended:
    monkeypatch.setenv("ATTNDSL_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    return pretend(monkeypatch)


def test_stages_run_first_and_last(gpu: Pretended) -> None:
    """A sweep adds up the rows before the kernels that read the sums, and one pulls gradients back after them. A call
    of another length compiles nothing."""
    f = attndsl.load(CENTRED)
    for n in (256, 384):
        gpu.forget()
        q, k, v = (torch.randn(1, 2, n, 32).bfloat16().requires_grad_() for _ in range(3))
        torch.autograd.grad(f(q, k, v).float().sum(), [q, k, v])
        assert gpu.launched == ["forward", "forward", "prepare", "dq", "dkdv", "dq", "dkdv"]
    assert gpu.compiled == []


def test_few_rows_are_split_over_their_keys(gpu: Pretended) -> None:
    q, k, v = (torch.randn(1, 2, n, 32).bfloat16() for n in (1, 2048, 2048))
    attndsl.load(CENTRED)(q, k, v, q_offset="end")
    assert gpu.launched == ["decode", "merge"] * 3


def test_the_source_has_every_sweep_and_says_what_it_finds() -> None:
    source = attndsl.load(CENTRED).source(backend="triton")
    assert source.count("def forward(") == 2
    assert (
        "# row_sum0 = sum(s)\n# row_count0 = count\n# row_stat0 = tanh(row_sum0[b, h, row] / row_count0[b, h, row])"
        in source
    )
    assert re.search(r"^# Added up first, over the row:$", source, re.MULTILINE)


def test_words() -> None:
    way = gpu_way(attndsl.load("attention a { weight (s - mean(s)) / count }").simplified)
    assert way.startswith("Triton kernels of tiles, after row_sum0 = sum(s); row_count0 = count; row_stat0 =")


def test_the_lse_of_an_exponential_of_sums_is_refused(gpu: Pretended) -> None:
    q, k, v = (torch.randn(1, 1, 64, 16).half() for _ in range(3))
    f = attndsl.load("attention a { weight exp(mean(s)) * relu(s) }")
    with pytest.raises(ValueError, match="the lse of a weight with an exponential of sums alone; backend 'cpu' does"):
        f(q, k, v, return_lse=True)
