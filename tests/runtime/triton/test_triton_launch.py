"""What a launch passes: one compilation for all lengths, errors that name the feature."""
# pyright: reportUnknownMemberType=false, reportMissingImports=false

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import attndsl
from attndsl.codegen.triton import generate
from attndsl.codegen.triton_form import typical_forms
from attndsl.ir.attention import Const
from attndsl.ir.types import Kind
from attndsl.runtime.binding import bind_call
from attndsl.runtime.call import Call
from attndsl.runtime.triton import launch as launch_module
from attndsl.runtime.triton import submit as submit_module
from attndsl.runtime.triton import sweeps as sweeps_module
from attndsl.runtime.triton.config import Config, configured
from attndsl.runtime.triton.kernel import TritonKernel
from attndsl.runtime.triton.launch import Launch, Prepared
from attndsl.runtime.triton.modules import load_module
from attndsl.runtime.triton.submit import Ready
from attndsl.schedule.build import build
from attndsl.schedule.plan import Plan

pytest.importorskip("triton")

SPEC = """attention spec(input slope: f32[H], scalar c: float, scalar w: int) {
    score s - c * slope[h] * (q - k) mask k <= q and q - k < w }"""


class NoGpu:
    """Enough of a driver to compile for an H100."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int | None = None) -> int:
        return 0

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Launches compile instead of running; the number of variants that the kernel has after each."""
    from triton.runtime import driver

    counts: list[int] = []

    def warm(self: Prepared, it: Launch) -> None:
        kernel = getattr(load_module(it.module.source), it.module.name)
        values = [it.value(a) for a in it.module.arguments]
        kernel.warmup(*values, grid=(1,), num_warps=it.config.warps, num_stages=2)
        counts.append(len(kernel.device_caches[0][0]))

    def again(self: Prepared, call: Call, given: Any) -> None:
        self.arguments(call, given)
        counts.append(len(self.kernel.device_caches[0][0]))

    monkeypatch.setattr(Prepared, "first", warm)
    monkeypatch.setattr(Prepared, "run", again)
    monkeypatch.setattr(driver, "_active", NoGpu())
    yield counts


def planned(f: attndsl.AttentionFunction, kernel: TritonKernel, call: Call) -> Plan:
    return build(f.simplified, call.problem, kernel.tiling(call).tile(f.simplified, call.problem))


def test_lengths_batches_and_scalars_never_compile_again(compiled: list[int]) -> None:
    f = attndsl.load(SPEC)
    kernel = TritonKernel(f.simplified)
    for i, length in enumerate((1, 16, 17, 100, 128, 129, 1000, 1024, 4096, 5000)):
        for batch in (1, 2):
            q = torch.randn(batch, 2, length, 64, dtype=torch.bfloat16)
            given = {"slope": torch.ones(2), "c": float(i), "w": 300 + i}
            call = bind_call(f.attention, f.simplified, q, q, q, given)
            with configured(decode=None):
                kernel.forward(call, planned(f, kernel, call), True, False)
    assert compiled == [1] * 20


def test_backward_never_compiles_again(compiled: list[int]) -> None:
    f = attndsl.load(SPEC)
    kernel = TritonKernel(f.simplified)
    for i, length in enumerate((1, 17, 128, 1000, 1024, 4096)):
        q = torch.randn(1 + i % 2, 2, length, 64, dtype=torch.bfloat16)
        given = {"slope": torch.ones(2), "c": float(i), "w": 300 + i}
        with configured(decode=None):
            call = bind_call(f.attention, f.simplified, q, q, q, given)
            plan = planned(f, kernel, call)
            _, _, saved = kernel.forward(call, plan, False, True)
            launches: list[int] = []
            for needs in (("q", "k", "v", "slope"), ("slope",), ("v",)):
                compiled.clear()
                kernel.backward(call, plan, saved, q, None, frozenset(needs))
                assert set(compiled) == {1}
                launches.append(len(compiled))
        # before the sweeps, dq, dkdv; a slope is summed with dq
        assert launches == [3, 2, 2]


def test_few_rows_that_are_differentiated_have_plans_of_many() -> None:
    f = attndsl.load(SPEC)
    kernel = TritonKernel(f.simplified)
    q = torch.randn(1, 2, 4, 64, dtype=torch.bfloat16)
    call = bind_call(f.attention, f.simplified, q, q, q, {"slope": torch.ones(2), "c": 1.0, "w": 9})
    few = kernel.tiling(call)
    q.requires_grad_()
    assert kernel.tiling(call) != few
    with torch.no_grad():
        assert kernel.tiling(call) == few


def test_tables_are_uploaded_once(compiled: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    f = attndsl.load(SPEC)
    kernel = TritonKernel(f.simplified)
    q = torch.randn(1, 2, 300, 64, dtype=torch.bfloat16)
    call = bind_call(f.attention, f.simplified, q, q, q, {"slope": torch.ones(2), "c": 1.0, "w": 9})
    plan = planned(f, kernel, call)
    kernel.forward(call, plan, False, False)
    monkeypatch.setattr(sweeps_module, "launches", None)
    kernel.forward(call, plan, False, False)
    assert len(compiled) == 2


class Compiled:
    """A compiled kernel that writes down what it is launched with."""

    function, packed_metadata = "function", "metadata"

    def __init__(self, ran: list[Any], scratch: int = 0) -> None:
        self.ran = ran
        self.metadata = SimpleNamespace(global_scratch_size=scratch)

    def __getitem__(self, grid: tuple[int, int, int]) -> Any:
        return lambda *values: self.ran.append(("by Triton", grid, values))

    def run(self, *values: Any) -> None:
        self.ran.append(values)


def test_a_compiled_kernel_is_launched_without_hooks_unless_there_are_some() -> None:
    from triton import knobs

    ran: list[Any] = []
    ready = Ready(Compiled(ran), 7)
    ready.run([16, 1.5], 0, 123)
    assert ran.pop() == (7, 1, 1, 123, "function", "metadata", None, None, None, 16, 1.5)

    def hook(_: Any) -> None: ...

    knobs.runtime.launch_enter_hook.add(hook)
    try:
        ready.run([16, 1.5], 0, 123)
    finally:
        knobs.runtime.launch_enter_hook.remove(hook)
    assert ran.pop() == ("by Triton", (7, 1, 1), (16, 1.5))


def test_kernels_that_ask_for_memory_get_it_on_the_device_of_the_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(submit_module, "allocate_on", asked.append)
    Ready(Compiled([], scratch=128), 7).run([], 3, 0)
    Ready(Compiled([]), 7).run([], 4, 0)
    assert asked == [3]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            f"attention many {{ score s {''.join(f'+ tanh(dot(roll(Q, {i}), K))' for i in range(1, 9))} }}",
            "more than 8",
        ),
    ],
)
def test_a_missing_feature_is_named(text: str, words: str) -> None:
    f = attndsl.load(text)
    with pytest.raises(ValueError, match="backend 'triton' does not have") as error:
        f.source(backend="triton")
    assert words in str(error.value)
    assert "backend 'cpu'" in str(error.value)
    kernel = TritonKernel(f.simplified)
    q = torch.randn(1, 1, 80, 64, dtype=torch.bfloat16, requires_grad=True)
    call = bind_call(f.attention, f.simplified, q, q, q, {})
    for save in (False, True):
        with pytest.raises(ValueError, match="backend 'triton' does not have") as error:
            kernel.forward(call, planned(f, kernel, call), False, save)
        assert words in str(error.value)


def test_only_narrow_floats_and_heads(compiled: list[int]) -> None:
    f = attndsl.load("attention dense {}")
    kernel = TritonKernel(f.simplified)
    wide = torch.randn(1, 1, 8, 264, dtype=torch.bfloat16)
    double = torch.randn(1, 1, 8, 16, dtype=torch.float64)
    for q, words in ((wide, "at most 256 components"), (double, "fp16, bf16 and fp32")):
        call = bind_call(f.attention, f.simplified, q, q, q, {})
        with pytest.raises(ValueError, match=words):
            kernel.tiling(call)
    assert compiled == []


def test_repeated_calls_prepare_their_arguments_once(monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[list[Any]] = []

    class Kernel:
        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            return lambda *values: passed.append(list(values))

    class Module:
        forward = Kernel()

    def load(source: str) -> Any:
        return Module

    prepared: list[Launch] = []
    make = launch_module.Prepared.__init__

    def counted(self: Prepared, it: Launch) -> None:
        prepared.append(it)
        make(self, it)

    monkeypatch.setattr(launch_module, "load_module", load)
    monkeypatch.setattr(Prepared, "__init__", counted)
    f = attndsl.load(SPEC)
    runner = f._runner  # pyright: ignore[reportPrivateUsage]
    runner.use("cpu", TritonKernel(f.simplified))
    with configured(decode=None):
        for i in range(3):
            q, k, v = (torch.full((1, 2, 200, 64), float(i), dtype=torch.bfloat16) for _ in range(3))
            f(q, k, v, slope=torch.full((2,), float(i)), c=0.5 * i, w=9)
        assert len(prepared) == 1
        tensors = [[x for x in values if isinstance(x, torch.Tensor)] for values in passed]
        for i, values in enumerate(passed):
            assert 0.5 * i in [x for x in values if isinstance(x, float)]
            assert all(bool((x == i).all()) for x in tensors[i][:3])
            assert any(x.shape == (2,) and x.dtype == torch.float32 and bool((x == i).all()) for x in tensors[i])
        f(q, k, v, slope=torch.ones(2), c=1.0, w=10)
        assert len(prepared) == 2
    with configured(Config(16, 16, 4, 1), decode=None):
        f(q, k, v, slope=torch.ones(2), c=1.0, w=10)
    assert len(prepared) == 3


def test_another_stream_waits_for_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[Any] = []
    stream = SimpleNamespace(wait_event=waited.append)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, s: waited.append(s))
    views = launch_module.Views({("order", -1): torch.zeros(1)})
    views.uploaded = "uploaded"
    seen: set[int] = set()
    for number in (1, 1, 2):
        launch_module.keep_tables(views, seen, number)
    assert waited == ["uploaded", stream, "uploaded", stream]
    waited.clear()
    # on the stream that made them they are there
    views.stream = 3
    for number in (3, 4):
        launch_module.keep_tables(views, set(), number)
    assert waited == ["uploaded", stream]


def test_const_arrays_are_copied_to_a_device_once() -> None:
    const = Const("shift", Kind.INT, 3, (1, 2, 3))
    table = launch_module._table  # pyright: ignore[reportPrivateUsage]
    assert table(const, torch.device("cpu")) is table(const, torch.device("cpu"))


def test_strides_are_wide_for_triton() -> None:
    """Whatever their values: Triton reads the types that the source writes beside the arguments."""
    f = attndsl.load("attention causal { mask k <= q }")
    (form,) = typical_forms(f.simplified)
    module = generate(f.simplified, form)
    types = {p.name: p.annotation_type for p in getattr(load_module(module.source), module.name).params}
    assert {types[f"{t}_s{axis}"] for t in "qkv" for axis in "bhl"} == {"i64"}
    assert types["Lq"] == "i32" and types["scale"] == "fp32"
