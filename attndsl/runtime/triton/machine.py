"""The GPU of a device as keys of tuned data have it, and the version of Triton."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingImports=false

from __future__ import annotations

import subprocess
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attndsl.runtime.cache.key import Machine

if TYPE_CHECKING:
    import torch


def on_gpu(device: torch.device) -> bool:
    """Whether kernels are compiled and launched for tensors there; the interpreter takes others. Asked for as
    `machine.on_gpu`, so that tests can pretend."""
    return device.type == "cuda"


@lru_cache(maxsize=64)
def machine_of(device: torch.device) -> Machine | None:
    """The GPU of a device; None for one without."""
    if not on_gpu(device):
        return None
    import torch

    facts: Any = torch.cuda.get_device_properties(device)
    shared = getattr(facts, "shared_memory_per_block_optin", 0) or facts.shared_memory_per_block
    return Machine(facts.name, facts.major * 10 + facts.minor, facts.multi_processor_count, int(shared))


@lru_cache(maxsize=1)
def triton_version() -> str:
    """Triton's version; empty without Triton."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("triton")
    except PackageNotFoundError:
        return ""


@lru_cache(maxsize=1)
def driver_version() -> str:
    """The NVIDIA driver's version; empty where the system does not say."""
    try:
        return Path("/sys/module/nvidia/version").read_text().strip()
    except OSError:
        pass
    try:
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        found = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.splitlines()[0].strip() if found else ""
