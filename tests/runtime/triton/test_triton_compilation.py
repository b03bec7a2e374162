"""Kernels of a call are compiled side by side, each once, as Triton itself would; what fails says so."""
# pyright: reportUnknownMemberType=false, reportMissingImports=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pytest
import torch

import attndsl
from attndsl.runtime.failures import KernelError, KernelWarning
from attndsl.runtime.triton import compilation, decode_launch, filling, launch, scan_launch
from attndsl.runtime.triton.compiled import our_cache
from attndsl.runtime.triton.config import Config, configured
from attndsl.runtime.triton.limit import TooLongError
from tests.runtime.triton.pretend import Pretended, pretend

pytest.importorskip("triton")

DOCUMENTS = "attention docs(input doc: i32[B, L] sorted) { mask doc[b, q] == doc[b, k] and k <= q }"
NEAR = "attention near(scalar c: float = 2.0) { score s * c mask k <= q and q - k < 70 }"
FRAMES = "attention frames(input on: bool[B, T]) { grid video(t, x) mask on[b, k.t] and abs(q.x - k.x) < 9 }"
SMALL = Config(32, 32, 4, 1)
LOCATED = ["classify", "gather", "rank"]
SIFTED = ["sift", "pack", "rank"]


@pytest.fixture(autouse=True)
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pretended:
    monkeypatch.setenv("ATTNDSL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    return pretend(monkeypatch)


def tensors(rows: int, keys: int, *, grad: bool = False) -> list[torch.Tensor]:
    return [torch.zeros(1, 2, n, 32, dtype=torch.bfloat16, requires_grad=grad) for n in (rows, keys, keys)]


def call(text: str, rows: int, keys: int, *, grad: bool = False) -> torch.Tensor:
    """A call of a function of its own."""
    given = {"doc": torch.zeros(1, keys, dtype=torch.int32)} if "doc" in text else {}
    with configured(SMALL, dq=SMALL, dkdv=SMALL, decode=SMALL if rows == 1 else None):
        return attndsl.load(text)(*tensors(rows, keys, grad=grad), q_offset=keys - rows, **given)


def of_frames(*, grad: bool = False) -> torch.Tensor:
    """A call on a grid whose boxes are found on the device."""
    on = torch.ones(1, 4, dtype=torch.bool)
    with configured(SMALL, dq=SMALL, dkdv=SMALL):
        return attndsl.load(FRAMES)(*tensors(100, 100, grad=grad), grid=(4, 25), on=on)


def back(out: torch.Tensor) -> None:
    with configured(SMALL, dq=SMALL, dkdv=SMALL, decode=None):
        out.backward(torch.ones_like(out))


def test_kernels_are_those_that_triton_would_compile(gpu: Pretended, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a launch by Triton looks for is there."""
    seen: list[tuple[Any, Sequence[Any], dict[str, int]]] = []
    real = compilation.first_run

    def first_run(function: Any, values: Sequence[Any], options: dict[str, int], *more: Any) -> Any:
        seen.append((function, values, options))
        return real(function, values, options, *more)

    for module in (launch, decode_launch, filling, scan_launch):
        monkeypatch.setattr(module, "first_run", first_run)
    back(call(NEAR, 100, 100, grad=True))
    call(NEAR, 1, 100)
    call(DOCUMENTS, 100, 100)
    of_frames()
    retention = attndsl.load("attention r(input g: f32[H]) { mask k <= q weight dot(Q, K) * g[h]^(q - k) }")
    retention(*tensors(128, 128), g=torch.full((2,), 0.9))
    names = {function.fn.__name__ for function, _, _ in seen}
    assert names >= {"forward", "prepare", "dq", "dkdv", "decode", "outputs", *LOCATED, *SIFTED}
    gpu.forget()
    with our_cache():
        for function, values, options in seen:
            function.warmup(*values, grid=(1,), **options)
    assert gpu.compiled == []
    assert len(gpu.found) == len(seen)


@pytest.mark.parametrize("which", ["located", "backward"])
def test_side_by_side(which: str, gpu: Pretended, monkeypatch: pytest.MonkeyPatch) -> None:
    """No kernel is done before all have begun."""
    from triton.backends.nvidia.compiler import CUDABackend

    out = call(NEAR, 100, 100, grad=True) if which == "backward" else None
    gpu.forget()
    expected = ["prepare", "dq", "dkdv"] if which == "backward" else [*LOCATED, "forward"]
    met, real = Barrier(len(expected)), CUDABackend.add_stages

    def add_stages(*arguments: Any) -> Any:
        met.wait(240)
        return real(*arguments)

    monkeypatch.setattr(CUDABackend, "add_stages", add_stages)
    if out is None:
        call(DOCUMENTS, 100, 100)
    else:
        back(out)
    assert sorted(gpu.compiled) == sorted(expected)
    assert gpu.launched == expected


def test_boxes_on_grids_are_found_before_they_are_read(gpu: Pretended) -> None:
    """In every pass, and again in the next call, by kernels that are compiled once."""
    for _ in range(2):
        back(of_frames(grad=True))
        assert gpu.launched == [*SIFTED, "forward", *SIFTED, *SIFTED, "prepare", "dq", "dkdv"]
        gpu.launched.clear()
    assert sorted(gpu.compiled) == sorted(["forward", "prepare", "dq", "dkdv", "sift", "sift", "pack", "rank"])


def test_threads_that_call_first_compile_once(gpu: Pretended) -> None:
    failed: list[BaseException] = []
    together = Barrier(2)

    def run() -> None:
        try:
            together.wait(240)
            call(DOCUMENTS, 100, 100)
        except BaseException as error:
            failed.append(error)

    workers = [Thread(target=run) for _ in range(2)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert failed == []
    assert sorted(gpu.compiled) == sorted([*LOCATED, "forward"])
    assert sorted(gpu.launched) == sorted([*LOCATED, "forward"] * 2)


def test_a_failure_is_told_and_the_next_call_tries_again(gpu: Pretended, monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.backends.nvidia.compiler import CUDABackend

    real = CUDABackend.add_stages

    def add_stages(self: Any, stages: dict[str, Any], options: Any, *rest: Any) -> None:
        real(self, stages, options, *rest)
        ttgir = stages["ttgir"]

        def spoiled(source: Any, metadata: Any) -> Any:
            if "@forward" in str(source):
                raise RuntimeError("PassManager::run failed")
            return ttgir(source, metadata)

        stages["ttgir"] = spoiled

    monkeypatch.setattr(CUDABackend, "add_stages", add_stages)
    for _ in range(2):
        with pytest.raises(attndsl.KernelError, match="PassManager::run failed") as caught:
            call(DOCUMENTS, 100, 100)
        assert caught.value.reproducer is not None
    assert gpu.launched == LOCATED * 2
    assert sorted(gpu.compiled) == sorted(LOCATED)
    monkeypatch.setattr(CUDABackend, "add_stages", real)
    call(DOCUMENTS, 100, 100)
    assert gpu.launched == [*LOCATED * 3, "forward"]


def test_a_child_process_compiles(gpu: Pretended) -> None:
    """Threads do not survive a fork."""
    call(NEAR, 100, 100)
    child = os.fork()
    if child == 0:
        try:
            call("attention other { mask k >= q }", 100, 100)
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def test_registers_are_part_of_what_is_compiled(gpu: Pretended) -> None:
    f = attndsl.load(NEAR)
    for registers in (0, 128):
        with configured(Config(32, 32, 4, 1, registers=registers), decode=None):
            f(*tensors(100, 100))
    assert gpu.compiled == ["forward", "forward"]


def untuned(grad: bool = False) -> torch.Tensor:
    """A call in the configurations that are chosen for it."""
    return attndsl.load(NEAR)(*tensors(100, 100, grad=grad))


def test_a_kernel_that_does_not_compile_runs_without_a_pipeline(
    gpu: Pretended, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass that does not end, or fails, for kernels of several stages: a warning, once, and one stage."""
    from triton.backends.nvidia.compiler import CUDABackend

    real = CUDABackend.make_ttgir

    def make_ttgir(module: Any, metadata: Any, options: Any, capability: int) -> Any:
        if options.num_stages > 1:
            raise TooLongError("ttgir", 5.0)
        return real(module, metadata, options, capability)

    monkeypatch.setattr(CUDABackend, "make_ttgir", staticmethod(make_ttgir))
    with pytest.warns(KernelWarning, match=r"near: a kernel did not compile .* one stage .*forward, tile .*\(ttgir\)"):
        untuned()
    assert gpu.launched == ["forward"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        untuned()
    # a configuration that is asked for is not replaced
    with pytest.raises(KernelError, match="2 stages"), configured(Config(32, 32, 4, 2), decode=None):
        untuned()


def test_the_first_error_is_told(gpu: Pretended, monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.backends.nvidia.compiler import CUDABackend

    def make_ttgir(module: Any, metadata: Any, options: Any, capability: int) -> Any:
        raise TooLongError("ttgir", 5.0)

    monkeypatch.setattr(CUDABackend, "make_ttgir", staticmethod(make_ttgir))
    with pytest.raises(KernelError, match=r"[23] stages(.|\n)*did not end within 5 s"):
        untuned()
