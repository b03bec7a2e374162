"""Launches of scans that are prepared once: what they keep, and when another kernel is compiled."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("triton")

import torch

from attndsl.codegen.triton_arguments import Argument
from attndsl.runtime.triton import scan_launch, submit
from attndsl.runtime.triton.scan_config import ScanConfig, scan_configured
from attndsl.runtime.triton.scan_launch import Ready
from attndsl.runtime.triton.scan_passes import Maps, ScanCall

ARGUMENTS = (
    Argument("x", "*qkv", "tensor", ("x",)), Argument("absent", "*fp32", "tensor", ("absent",)),
    Argument("c", "fp32", "scalar", ("c",)), Argument("L", "i32", "number", ("L",)),
    Argument("BT", "constexpr", "constexpr", ("BT",)),
)  # fmt: skip


class Kernel:
    """Stands for a kernel of Triton's, compiled or not: what was compiled and launched."""

    metadata = SimpleNamespace(global_scratch_size=0)
    function = packed_metadata = None

    def __init__(self) -> None:
        self.compiled: list[Any] = []
        self.launched: list[tuple[Any, ...]] = []

    def run(self, x: int, y: int, z: int, stream: int, *rest: Any) -> None:
        self.launched.append(((x, y, z), stream, rest[5:]))


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def first_run(
        kernel: Kernel, values: Any, options: Any, device: int, capability: int, launch: Callable[[Any], object]
    ) -> Kernel:
        kernel.compiled.append((options, device, capability))
        launch(kernel)
        return kernel

    monkeypatch.setattr(submit, "raw_stream", lambda device: 10 + device)
    monkeypatch.setattr(scan_launch, "first_run", first_run)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))


def test_a_prepared_launch_compiles_once_and_passes_what_it_is_given() -> None:
    kernel = Kernel()
    ready = Ready.of(kernel, ARGUMENTS, {"L": 5, "BT": 64}, 7, 4, 3)
    cuda = torch.device("cuda", 1)
    for c in (1.0, 2.0):
        x = torch.zeros(4)
        ready.run(cuda, {"x": x, "absent": None, "c": c}, x)
    assert kernel.compiled == [({"num_warps": 4, "num_stages": 3}, 1, 90)]
    assert len(kernel.launched) == 2
    grid, stream, values = kernel.launched[-1]
    assert (grid, stream, values[2:]) == ((7, 1, 1), 11, (2.0, 5, 64))
    assert values[1] is values[0]


def test_other_types_and_unaligned_tensors_compile_another_kernel() -> None:
    kernel = Kernel()
    ready = Ready.of(kernel, ARGUMENTS, {"L": 5, "BT": 64}, 7, 4, 3)
    x = torch.zeros(8)
    for t in (x, x[1:], x.half(), x, x[1:]):
        ready.run(torch.device("cuda", 0), {"x": t, "c": 1.0}, t)
    assert len(kernel.compiled) == 3
    assert len(kernel.launched) == 5


def test_calls_share_what_is_prepared_only_where_launches_are_the_same() -> None:
    q, k, v = (torch.zeros(1, 2, 8, 16, dtype=torch.float16) for _ in range(3))

    def memo(q: torch.Tensor, **options: Any) -> Any:
        return ScanCall(Maps(), q, k, v, **options).memo("forward")

    first = memo(q)
    assert memo(torch.ones_like(q)) is first
    others = [
        memo(q.transpose(-1, -2).contiguous().transpose(-1, -2)), memo(q[:, :, 1:]), memo(q.float()),
        memo(q, gamma=torch.zeros(1, 2)), memo(q, sizes={"M": 4}), memo(q, inputs={"W": torch.zeros(3)}),
    ]  # fmt: skip
    with scan_configured(ScanConfig(16, 16, 4, 1)):
        others.append(memo(q))
    assert all(o is not first for o in others)
    assert len({id(o) for o in others}) == len(others)
