"""A GPU that is not there: kernels are compiled for sm_90, looked for in the cache as for a call, and launch nothing.

Everything that a call does on the host is done, on CPU tensors.
"""
# pyright: reportUnknownMemberType=false, reportMissingImports=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportPrivateUsage=false

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable
from contextlib import nullcontext
from functools import lru_cache
from types import SimpleNamespace
from typing import Any
from weakref import WeakValueDictionary

import pytest
import torch

from attndsl.runtime import dispatch, entry, registry, runner, scans
from attndsl.runtime.triton import (
    compilation,
    decode,
    decode_launch,
    launch,
    machine,
    scan,
    scan_launch,
    scan_passes,
)
from attndsl.tune.machines import gpu_of

H200 = gpu_of("h200").machine
SHARED = 227 << 10
_PROPERTIES = SimpleNamespace(major=9, minor=0, multi_processor_count=132)


class Pretended:
    """What happened: names of kernels that were launched, in order, and of those that Triton compiled or found in its
    cache, in any order."""

    def __init__(self) -> None:
        self.launched: list[str] = []
        self.compiled: list[str] = []
        self.found: list[str] = []
        self.arguments: list[tuple[Any, ...]] = []

    def forget(self) -> None:
        """Begin anew."""
        for listed in (self.launched, self.compiled, self.found, self.arguments):
            listed.clear()


def _driver(happened: Pretended) -> Any:
    from triton.backends.compiler import GPUTarget

    class Launcher:
        launch_cooperative_grid = False

        def __init__(self, src: Any, metadata: Any) -> None:
            self.name = src.fn.__name__

        def __call__(self, *arguments: Any) -> None:
            happened.launched.append(self.name)
            happened.arguments.append(arguments)

    utils = SimpleNamespace(
        load_binary=lambda *a: (1, 1, 100, 0, 1024),
        get_device_properties=lambda d: {"max_shared_mem": SHARED, "multiprocessor_count": 132},
    )
    return SimpleNamespace(
        utils=utils, launcher_cls=Launcher, get_current_target=lambda: GPUTarget("cuda", 90, 32),
        get_current_device=lambda: 0, get_current_stream=lambda d=None: 0,
        get_active_torch_device=lambda: torch.device("cpu"),
    )  # fmt: skip


def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretended:
    """Until the end of a test."""
    from triton import knobs
    from triton.runtime import driver

    happened = Pretended()

    def listen(*, src: Any, cache_hit: bool, **_: Any) -> None:
        (happened.found if cache_hit else happened.compiled).append(src.fn.__name__)

    def triton(owner: str, backend: object, device: str) -> str:
        return "triton"

    monkeypatch.setattr(driver, "_active", _driver(happened))
    monkeypatch.setattr(knobs.compilation, "listener", listen)
    monkeypatch.setattr(machine, "on_gpu", lambda device: True)
    # every module that has it: its answers are remembered
    for name, module in list(sys.modules.items()):
        if name.startswith("attndsl.") and hasattr(module, "machine_of"):
            monkeypatch.setattr(module, "machine_of", lambda device: H200)
    for module in (dispatch, entry, runner, scans):
        monkeypatch.setattr(module, "choose_backend", triton)
    # tensors of a CPU say that their device has no index
    cuda: dict[str, Callable[..., Any]] = {
        "current_device": lambda: None, "get_device_capability": lambda *_: (9, 0),
        "get_device_properties": lambda *_: _PROPERTIES, "is_current_stream_capturing": lambda: False,
        "current_stream": lambda *_: SimpleNamespace(wait_event=lambda e: None, record_event=lambda: None),
        "device": lambda *_: nullcontext(),
    }  # fmt: skip
    for name, function in cuda.items():
        monkeypatch.setattr(torch.cuda, name, function)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda d: 0, raising=False)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda t, s: None)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda t: t)
    monkeypatch.setattr("attndsl.runtime.triton.submit._allocator", lambda d: _scratch)
    # what another test left, and what the next one is not to find
    monkeypatch.setattr(compilation, "_known", OrderedDict())
    monkeypatch.setattr(registry, "_living", WeakValueDictionary())
    monkeypatch.setattr(registry, "_read", OrderedDict())
    monkeypatch.setattr(launch, "_compiled", {})
    monkeypatch.setattr(scan_passes, "memo_of", lru_cache(scan_launch.memo_of.__wrapped__))
    monkeypatch.setattr(scan, "_multiprocessors", lambda device: 132)
    assert decode.device_of(torch.device("cpu")).multiprocessors == 132
    assert decode_launch.SHARED_MEMORY[9] == SHARED
    return happened


def _scratch(size: int, alignment: int, stream: int | None) -> torch.Tensor:
    return torch.empty(size, dtype=torch.int8)
