"""The configurations that calls get without tuning compile for every generation, within budgets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import attndsl
from attndsl.runtime.binding import bind_call
from attndsl.runtime.triton.choices import facts_of, untuned
from attndsl.runtime.triton.config import Config, Visits, choose
from attndsl.runtime.triton.kernels import kernel_for, tiles_of
from attndsl.runtime.triton.lowering import compile_fitting, lower, shared_memory
from attndsl.runtime.triton.visits import visits_of
from attndsl.tune.machines import gpu_of
from benchmarks.cases import ALL_CASES, Case

pytest.importorskip("triton")

SPECIALISED, TWO = Config(128, 128, 4, 2, specialize=True), Config(128, 64, 8, 2, registers=128)
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
    problem = f.problem(L=1000, H=2, D=head)
    _, (it,) = lower(f.simplified, problem, dtype, capability=capability)
    config = choose("forward", dtype, head, head, capability, lambda: visits_of(f.simplified, problem))
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


CASES: tuple[tuple[str, int, int, Config], ...] = (
    ("attention dense {}", 128, 16384, SPECIALISED),
    ("attention dense {}", 64, 4096, SPECIALISED),
    ("attention dense {}", 64, 4000, Config(128, 64, 4, 3)),
    ("attention causal { mask k <= q }", 128, 32768, SPECIALISED),
    ("attention causal { mask k <= q }", 64, 32768, Config(128, 64, 4, 3)),
    ("attention causal { mask k <= q }", 96, 32768, Config(128, 128, 8, 3)),
    ("attention swa { mask k <= q and q - k < 1024 }", 128, 524288, TWO),
    ("attention swa { mask k <= q and q - k < 4096 }", 128, 32768, TWO),
    ("attention docs(input doc: i32[L] sorted) { mask doc[q] == doc[k] and k <= q }", 128, 32768, TWO),
    ("attention picture { grid g(y, x) mask abs(q.y - k.y) <= 40 }", 128, 16384, Config(128, 64, 4, 2)),
    (
        "attention near { grid g(y, x) mask abs(q.y - k.y) <= 2 and abs(q.x - k.x) <= 2 }",
        128,
        16384,
        Config(64, 64, 4, 3),
    ),
)


@pytest.mark.parametrize(
    ("text", "head", "length", "config"), CASES, ids=[f"{t.split()[1].split('(')[0]}-{d}" for t, d, _, _ in CASES]
)
def test_what_a_mask_leaves_decides(text: str, head: int, length: int, config: Config) -> None:
    f = attndsl.load(text)
    sizes: dict[str, Any] = {"grid": (128, 128)} if "grid" in text else {"L": length}
    if "doc" in text:
        sizes["doc"] = np.repeat(np.arange(32), length // 32)
    problem = f.problem(H=2, D=head, **sizes)
    for gpu in ("h100", "h200"):
        assert untuned("forward", facts_of(f.simplified, problem, "bf16", gpu_of(gpu).machine)) == config
    others = {untuned("forward", facts_of(f.simplified, problem, d, gpu_of(g).machine)) for d, g in
              (("fp32", "h200"), ("bf16", "a100"), ("bf16", "b200"))}  # fmt: skip
    assert not any(c.specialize or c.registers for c in others)
    assert untuned("forward", facts_of(f.simplified, problem, "fp16", gpu_of("h200").machine)) == config


def test_few_rows_of_many_keys() -> None:
    f = attndsl.load("attention causal { mask k <= q }")
    problem = f.problem(Lq=1000, Lk=100_000, q_offset=99_000, H=2, D=128)
    seen = visits_of(f.simplified, problem)
    assert 99_000 < seen.keys < 101_000
    assert not seen.bare


def test_dq_of_short_rows_has_narrow_tiles() -> None:
    def chosen(keys: float, grid: bool = False, D: int = 128) -> Config:
        return choose("dq", "bf16", D, D, 90, lambda: Visits(keys, False, True, grid))

    assert chosen(1152).rows == 64
    assert chosen(1152, grid=True).rows == 64
    assert chosen(16384).rows == chosen(6400, grid=True).rows == choose("dq", "bf16", 128, 128).rows == 128
    assert chosen(16384, D=64).rows == 64


@pytest.mark.parametrize(("rows", "keys"), [(0, 5), (5, 0), (0, 0), (1, 1), (127, 3), (20000, 7), (3, 40000)])
def test_every_size_has_visits(rows: int, keys: int) -> None:
    f = attndsl.load("attention causal { mask k <= q }")
    seen = visits_of(f.simplified, f.problem(Lq=rows, Lk=keys, H=2, D=128))
    assert 0 <= seen.keys <= keys + 128
    assert seen.plain


def test_new_lengths_are_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    f = attndsl.load("attention recent { mask k <= q and q - k < 777 }")
    first = visits_of(f.simplified, f.problem(L=300_000, D=128))

    def refuse(*_: object) -> None:
        raise AssertionError("planned again")

    monkeypatch.setattr("attndsl.runtime.triton.visits.build", refuse)
    assert visits_of(f.simplified, f.problem(L=299_000, D=128)) == first


@pytest.mark.parametrize("case", ALL_CASES, ids=lambda c: c.name.replace(" ", "-"))
def test_every_call_has_a_configuration_on_a_gpu(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks are looked at for it: with grids that a call does not fill, too."""
    monkeypatch.setattr("attndsl.runtime.triton.kernel.machine_of", lambda device: gpu_of("h200").machine)
    f = attndsl.load(case.text, **case.consts)
    call = bind_call(
        f.attention, f.simplified, *case.tensors(torch.bfloat16), case.made() | dict(case.scalars), grid=case.grid,
        q_offset=case.offset(),
    )  # fmt: skip
    kernel, call = tiles_of(kernel_for(f.simplified), call, shaped=True)
    for step in ("forward", "dq", "dkdv", "decode"):
        assert kernel.config(step, call).rows
