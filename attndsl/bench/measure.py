"""One system on one workload: milliseconds of its forward and its backward pass, as rows of a table."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingImports=false

from __future__ import annotations

import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

SECONDS = 1.0
"""Time spent on repeating one measurement on a CPU."""
BACKWARD_WORK = 2.5
"""Operations of a backward pass to those of a forward pass."""


@dataclass(frozen=True)
class Row:
    """A measurement: workload, system, pass (`fwd`, `bwd`), median milliseconds (None where it failed), operations on
    visible pairs a second, and what else is to be said."""

    wl: str
    sys: str
    pas: str
    ms: float | None
    tflops: float | None
    note: str

    def as_data(self) -> dict[str, Any]:
        return asdict(self)


Keep = Callable[[Row], None]


def milliseconds(run: Callable[[], Any], device: str) -> float:
    """Median time of a call, warm."""
    if device == "cuda":
        import triton

        found: Any = triton.testing.do_bench(run, warmup=50, rep=200, return_mode="median")
        return float(found)
    run()
    samples: list[float] = []
    begin = time.perf_counter()
    while not samples or (len(samples) < 20 and time.perf_counter() - begin < SECONDS):
        start = time.perf_counter()
        run()
        samples.append(time.perf_counter() - start)
    return median(samples) * 1e3


def measure(
    keep: Keep,
    workload: str,
    system: str,
    call: Callable[..., Tensor],
    tensors: Sequence[Tensor],
    *,
    flops: float | None,
    backward: bool,
    device: str,
    note: str = "",
) -> None:
    """Measure `call(*tensors)` and, with `backward`, its gradients to the float tensors. A failure is a row that says
    so."""

    def row(what: str, ms: float | None, work: float | None, text: str) -> None:
        rate = work / ms / 1e9 if work and ms else None
        keep(Row(workload, system, what, ms, rate, text))

    try:
        with torch.no_grad():
            row("fwd", milliseconds(lambda: call(*tensors), device), flops, note)
    except Exception as error:
        row("fwd", None, None, said(error))
        return
    if not backward:
        return
    try:
        leaves = [t.detach().requires_grad_() if t.is_floating_point() else t for t in tensors]
        wanted = [t for t in leaves if t.requires_grad]
        out = call(*leaves)
        grad = torch.randn_like(out)
        ms = milliseconds(
            lambda: torch.autograd.grad(out, wanted, grad, retain_graph=True, allow_unused=True), device
        )  # fmt: skip
        row("bwd", ms, None if flops is None else BACKWARD_WORK * flops, note)
    except Exception as error:
        row("bwd", None, None, said(error))


def said(error: Exception) -> str:
    """An error as a note."""
    return f"ERR {type(error).__name__}: {' '.join(str(error).split())}"[:240]


def machine(device: str) -> dict[str, Any]:
    """What numbers depend on: the device, its driver, versions, and the commit where there is one."""
    import numpy

    import attndsl

    versions = {"torch": torch.__version__, "numpy": numpy.__version__, "python": platform.python_version(),
                "attndsl": attndsl.__version__}  # fmt: skip
    try:
        import triton

        versions["triton"] = triton.__version__
    except ImportError:
        pass
    gpu = torch.cuda.get_device_name() if device == "cuda" else ""
    driver = _ask("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if device == "cuda" else ""
    facts: dict[str, Any] = {"gpu": gpu, "driver": driver} if gpu else {"cpu": platform.processor() or "cpu"}
    if not gpu:
        facts["threads"] = torch.get_num_threads()
    return {**facts, "versions": versions, "commit": _ask("git", "rev-parse", "--short", "HEAD")}


def _ask(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
