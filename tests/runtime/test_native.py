"""Compiled C between the matrix products, over the features of the language, against the dense oracle."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from attndsl.runtime.cpu import CpuKernel
from attndsl.runtime.native.choice import forced, large_enough
from attndsl.runtime.native.compiler import find
from tests.runtime.cpu_cases import Case
from tests.runtime.test_cpu_kernel import CASES, D, L, normal, varied

needs_compiler = pytest.mark.skipif(isinstance(find(), str), reason="no C compiler")
pytestmark = needs_compiler

IN_C = (
    "dense", "causal", "window", "alibi", "softcap", "scaled", "documents", "duo", "sink", "softmax1", "sink_q",
    "decay_score", "decay_slope", "joint", "pooled", "pair_bias", "relative", "no_structure", "out_of_range",
    "nowhere_derivable", "branch", "score_inf", "all_inf", "output_count", "output_q", "scalar_mask",
)  # fmt: skip


def native(case: Case) -> CpuKernel:
    """The case's kernel, which must run C in both passes where its score is smooth."""
    kernel = CpuKernel(case.attention)
    call, plan = case.call(), case.plan()
    module = kernel.module.native
    assert not isinstance(module, str), module
    with forced("always"):
        used = kernel.native(call, plan)
        if kernel.uses_flash(call) and (kernel.module.bias is None or case.dtype != torch.float32):
            assert used is None
        else:
            assert used is not None
            assert (kernel.native(call, plan, backward=True) is None) == bool(module.backward_gap)
    with forced("never"):
        assert kernel.native(call, plan) is None
    return kernel


@pytest.mark.parametrize("name", IN_C)
def test_matches_the_oracle(name: str) -> None:
    # D != Dv: torch's flash kernel takes none of these
    case = CASES[name]
    case = replace(case, shape=(*case.shape[:6], 5))
    native(case)
    with forced("always"):
        case.check()
    if CpuKernel(case.attention).module.bias is not None:
        case = replace(case, shape=(*case.shape[:5], D, D))
        native(case)
        with forced("always"):
            case.check()
            replace(case, with_lse=False).check()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", ["softcap", "sink", "relative"])
def test_matches_in_every_dtype(name: str, dtype: torch.dtype) -> None:
    with forced("always"):
        varied(name, dtype=dtype, shape=(2, 4, 2, L, L, D, 5)).check()


@pytest.mark.parametrize("name", ["softcap", "alibi", "documents", "sink_q"])
@pytest.mark.parametrize("tile", [(64, 64), (5, 3)])
def test_any_tile(name: str, tile: tuple[int, int]) -> None:
    with forced("always"):
        varied(name, tile=tile).check()
        varied(name, tile=tile, exact_plan=False).check()


@pytest.mark.parametrize("offset", [2_000_000_000, torch.tensor([3, 20])])
def test_offsets(offset: int | torch.Tensor) -> None:
    with forced("always"):
        for name in ("softcap", "alibi"):
            varied(name, shape=(2, 4, 2, 7, L, D, D), q_offset=offset, inputs={"slope": normal(4) / 100}
                   if name == "alibi" else {}).check()  # fmt: skip


@pytest.mark.parametrize("name", ["softcap", "relative", "sink_q", "alibi", "pair_bias"])
def test_torch_may_multiply_instead(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attndsl.runtime.cpu.threads.gemm", lambda: None)
    with forced("always"):
        varied(name, shape=(2, 4, 2, L, L, D, 5)).check()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_threads(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    case = varied("relative", shape=(1, 2, 1, 100, 133, D, D), inputs={"t": normal(2, 9)})
    with forced("always"):
        case.check()
        monkeypatch.setattr("attndsl.runtime.cpu.threads.fork", lambda: None)
        case.check()


@pytest.mark.parametrize("tile", [(64, 64), (48, 32)])
def test_lists_of_columns(tile: tuple[int, int]) -> None:
    text = "attention a(const w: int = 70) { score 2 * tanh(s / 2) mask k <= q and (q - k < w or k < 5) }"
    with forced("always"):
        for exact in (True, False):
            Case(text, shape=(1, 2, 1, 300, 300, 8, 8), tile=tile, exact_plan=exact).check()


@pytest.mark.parametrize("empty", ["B", "Lq", "Lk"])
def test_empty(empty: str) -> None:
    sizes = {"B": 2, "Lq": 9, "Lk": 9} | {empty: 0}
    with forced("always"):
        varied("softcap", shape=(sizes["B"], 4, 2, sizes["Lq"], sizes["Lk"], 8, 8)).check()


@pytest.mark.parametrize("length", [1, 2, 17, 127, 129])
def test_odd_lengths(length: int) -> None:
    with forced("always"):
        varied("softcap", shape=(1, 2, 1, length, length, 8, 8)).check()
        varied("alibi", shape=(1, 4, 2, length, length, 8, 8)).check()


@pytest.mark.parametrize(("dtype", "wide"), [(torch.int32, False), (torch.int64, True)])
def test_ints_have_the_width_that_they_need(dtype: torch.dtype, wide: bool) -> None:
    far = torch.tensor([0, 2**40 if wide else 2**30])[torch.arange(L) % 2].to(dtype)
    word = "i64" if wide else "i32"
    text = f"attention a(input t: {word}[L]) {{ score tanh(s) mask t[q] // 3 == t[k] // 3 }}"
    case = Case(text, inputs={"t": far})
    kernel = native(case)
    with forced("always"):
        used = kernel.native(case.call(), case.plan())
        assert used is not None
        assert used.wide == wide
        case.check()
    sums = Case(text.replace("t[q] // 3 == t[k] // 3", "t[q] * 7 - t[k] * 7 == 0"), inputs={"t": far})
    with forced("always"):
        used = native(sums).native(sums.call(), sums.plan())
        assert used is not None
        assert used.wide
        sums.check()


def test_what_is_no_number_is_not_hidden() -> None:
    case = varied("softcap", shape=(1, 2, 1, L, L, D, D))
    case.q[0, 0, 3] = float("nan")
    with forced("always"):
        out = case.actual_forward()
    assert bool(out[0, 0, 3].isnan().all())
    out[0, 0, 3] = 0
    assert not bool(out.isnan().any())


def test_large_scores() -> None:
    with forced("always"):
        varied("softcap", magnitude=400.0, with_lse=False, scalars={"c": 1e4}).check()


@pytest.mark.parametrize("z", [(500.0, -3.0, 80.0, 0.0), (-300.0, 30.0, -80.0, 1.0)])
def test_sinks_of_any_size(z: tuple[float, ...]) -> None:
    text = "attention a(input z: f32[H]) { score 3 * tanh(s) mask k <= q weight exp(s) / (exp(z[h]) + sum) }"
    case = Case(text, inputs={"z": torch.tensor(z)})
    native(case)
    with forced("always"):
        case.check()


@pytest.mark.parametrize("name", ["softcap", "relative", "sink_q", "documents", "pair_bias", "no_structure"])
def test_nothing_is_read_before_it_is_written(name: str) -> None:
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        with forced("always"):
            varied(name, shape=(2, 4, 2, L, L, D, 5)).check()
            varied(name, shape=(2, 4, 2, 7, L, D, 5), q_offset=-4).check() if name == "softcap" else None
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = fill


def test_gradients_are_the_same_in_every_run() -> None:
    case = varied("relative", shape=(1, 4, 2, 150, 150, D, D))
    with forced("always"):
        first, second = case.actual(), case.actual()
    assert all(torch.equal(first[n], second[n]) for n in first)


def test_small_calls_run_torch_operations() -> None:
    assert not large_enough(1000)
    assert large_enough(1 << 30)
