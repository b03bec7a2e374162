"""A GPU that is not there: kernels are compiled for sm_90, looked for in the cache as for a call, and launch nothing.

Everything that a call does on the host is done, on CPU tensors.
"""
# pyright: reportUnknownMemberType=false, reportMissingImports=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportPrivateUsage=false

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from attndsl.runtime.triton import backward, decode, decode_launch, kernel, launch
from attndsl.tune.machines import gpu_of

H200 = gpu_of("h200").machine
SHARED = 227 << 10


class _Launcher:
    launch_cooperative_grid = False

    def __init__(self, src: Any, metadata: Any) -> None:
        pass

    def __call__(self, *arguments: Any) -> None:
        pass


def _driver() -> Any:
    from triton.backends.compiler import GPUTarget

    utils = SimpleNamespace(
        load_binary=lambda *a: (1, 1, 100, 0, 1024),
        get_device_properties=lambda d: {"max_shared_mem": SHARED, "multiprocessor_count": 132},
    )
    return SimpleNamespace(
        utils=utils, launcher_cls=_Launcher, get_current_target=lambda: GPUTarget("cuda", 90, 32),
        get_current_device=lambda: 0, get_current_stream=lambda d=None: 0,
        get_active_torch_device=lambda: torch.device("cpu"),
    )  # fmt: skip


def _launch(it: launch.Launch) -> tuple[launch.Prepared, Any]:
    """As `launch.launch` on a GPU."""
    ready = launch.Prepared(it)
    values = ready.arguments(it.call, it.tensors)
    stages = launch.stages_that_fit(
        it.config, it.call.q.element_size(), it.call.q.shape[-1], it.call.v.shape[-1], *ready.tile, SHARED,
        backward=it.module.name != "forward",
    )  # fmt: skip
    return ready, launch._run(it, ready.kernel[ready.programs,], values, stages, ready.tile)


def pretend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the end of a test."""
    from triton.runtime import driver

    monkeypatch.setattr(driver, "_active", _driver())
    monkeypatch.setattr(kernel, "machine_of", lambda device: H200)
    for module in (kernel, backward):
        monkeypatch.setattr(module, "launch", _launch)
    assert decode.device_of(torch.device("cpu")).multiprocessors == 132
    assert decode_launch.SHARED_MEMORY[9] == SHARED
