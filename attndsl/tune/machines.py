"""GPUs by name and by compute capability, for plans and predictions on a machine without one.

Rates are those of the vendor's data sheets and programming guides: dense bf16 on tensor cores, memory traffic, and
exponentials per multiprocessor and clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

from attndsl.runtime.cache.key import Machine


@dataclass(frozen=True)
class Gpu:
    """A GPU: what keys say of it, tensor FLOP/s in 16-bit floats, FLOP/s of fp32 arithmetic, bytes/s of memory, clock,
    exponentials per multiprocessor and clock, registers and bytes of shared memory of a multiprocessor."""

    machine: Machine
    tensor: float
    scalar: float
    memory: float
    clock: float
    exponentials: int = 16
    registers: int = 65536
    shared_memory: int = 228 << 10


GPUS = {
    "a100": Gpu(Machine("NVIDIA A100-SXM4-80GB", 80, 108, 163 << 10), 312e12, 19.5e12, 2.04e12, 1.41e9,
                shared_memory=164 << 10),
    "l40s": Gpu(Machine("NVIDIA L40S", 89, 142, 99 << 10), 362e12, 91.6e12, 0.864e12, 2.52e9,
                shared_memory=100 << 10),
    "h100": Gpu(Machine("NVIDIA H100 80GB HBM3", 90, 132, 227 << 10), 989e12, 66.9e12, 3.35e12, 1.83e9),
    "h200": Gpu(Machine("NVIDIA H200", 90, 132, 227 << 10), 989e12, 66.9e12, 4.8e12, 1.83e9),
    "b200": Gpu(Machine("NVIDIA B200", 100, 148, 227 << 10), 2250e12, 75e12, 8.0e12, 1.85e9),
}  # fmt: skip
"""By the name that `--target` takes."""

CAPABILITIES = {"sm_80": "a100", "sm_89": "l40s", "sm_90": "h200", "sm_100": "b200"}
"""The GPU that a compute capability stands for."""


def gpu_of(target: str) -> Gpu:
    """The GPU of `sm_90`, `h200`, ... ValueError for one that is not known."""
    name = target.lower()
    name = CAPABILITIES.get(name, name)
    if name not in GPUS:
        known = [*CAPABILITIES, *GPUS]
        close = get_close_matches(target.lower(), known, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ValueError(f"there is no GPU {target!r}{hint}; known are {', '.join(known)}")
    return GPUS[name]


def like(machine: Machine) -> Gpu:
    """The rates of a GPU that is there: those of its name, else of its capability, by its multiprocessors."""
    for gpu in GPUS.values():
        if gpu.machine.name == machine.name:
            return gpu
    same = [g for g in GPUS.values() if g.machine.capability // 10 == machine.capability // 10] or [GPUS["a100"]]
    nearest = min(same, key=lambda g: abs(g.machine.multiprocessors - machine.multiprocessors))
    share = machine.multiprocessors / nearest.machine.multiprocessors
    return Gpu(
        machine, nearest.tensor * share, nearest.scalar * share, nearest.memory, nearest.clock, nearest.exponentials,
        nearest.registers, max(nearest.shared_memory, machine.shared_memory + 1024),
    )  # fmt: skip
