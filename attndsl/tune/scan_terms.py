"""How long a configuration of a scan should take: bytes, FLOP, and the chain of chunks that a program works through.

A program of `outputs` owns some columns of the state and walks the chunks of its segment one after another, so that
what counts beside the memory that all read is how long one link of that chain is. Terms are seconds at data-sheet
rates; `benchmarks/fit_scan.py` fits their weights and judges them on workloads that they were not fitted on.
"""

from __future__ import annotations

from math import ceil

import numpy as np
import numpy.typing as npt

from attndsl.runtime.triton.scan_config import ScanConfig, step_width
from attndsl.tune.candidates import element_size
from attndsl.tune.machines import Gpu
from attndsl.tune.scan_candidates import Shape, scan_footprint

SCAN_TERMS = (
    "memory", "excess", "links", "work", "factors", "warps", "shallow", "pressure", "states", "state factors",
    "state memory", "starts",
)  # fmt: skip
"""Memory once, and what of it takes longer than the chains; links of the chains; a link's products, and its factors of
decays; what more than four warps wait for each other; loads that few stages do not hide; registers that are not there;
the chain of `states`, its factors and what it reads; launches, and waves of programs."""
STEP_TERMS = ("memory", "latency", "starts")
"""The state read and written; loads that are too few to hide how long they take; programs."""
SCAN_USUAL = {
    "memory": 0.2, "excess": 1.0, "links": 0.7, "work": 1.0, "factors": 1.0, "warps": 0.5, "shallow": 0.5,
    "pressure": 1.0, "states": 0.5, "state factors": 0.5, "state memory": 0.5, "starts": 1.0,
}  # fmt: skip
"""Weights where measurements say nothing."""
STEP_USUAL = {"memory": 1.2, "latency": 0.7, "starts": 1.0}
"""Weights of `step`: three measurements of one shape, which differ by 2 %, say nothing of others."""
LINK = 1e3
"""Clocks of a link of a chain that does nothing."""
COPIES = 1.6
"""How many more registers than the tiles of a link need compiled code takes: both operands of products live on."""
LAUNCH = 2e-6
LATENCY = 8e-7
"""Seconds from a load to its data."""
THREADS, REGISTERS = 2048, 255
"""Threads of a multiprocessor, registers of a thread."""
Floats = npt.NDArray[np.float64]


def scan_terms(config: ScanConfig, shape: Shape, gpu: Gpu) -> Floats:
    """The seconds of every term at weight one, in the order of `SCAN_TERMS`."""
    e, units = element_size(shape.dtype), gpu.machine.multiprocessors
    rate = (gpu.tensor if e == 2 else gpu.scalar) / units
    clock = 1.0 / gpu.clock
    segments, length = shape.cut(config, gpu)
    chunk, columns, keys = config.chunk, config.columns, shape.padded
    heads = shape.B * shape.H
    programs = heads * shape.slices(columns) * segments
    need = scan_footprint(config, shape)
    side = _side(config.warps, COPIES * need.registers, need.shared, gpu)
    links = ceil(length / chunk) * ceil(programs / (units * side))
    flops = 2.0 * chunk * (2 * keys * columns + chunk * keys + chunk * columns)
    together = min(side, ceil(programs / units))
    tokens = shape.B * shape.L * e
    memory = tokens * (shape.H + shape.Hkv) * (shape.keys + shape.values) / gpu.memory
    numbers = 2 * chunk * chunk + chunk * columns if shape.decays else 0.0
    base, work = LINK * clock, together * flops / rate
    waves = ceil(programs / (units * side))
    states = slow = again = 0.0
    starts = (1 + waves) * LAUNCH
    if segments > 1:
        again = tokens * shape.H * (shape.keys + shape.values) / gpu.memory
        wide, warps, stages = config.of_states
        held = _side(warps, keys * wide / (32 * warps) + 40, stages * chunk * (keys + wide) * e, gpu)
        turns = ceil(heads * shape.slices(wide) * (segments - 1) / (units * held))
        states = ceil(length / chunk) * turns * (0.5 + 2.0 / stages + 0.5 * (warps / 4 - 1)) * base
        slow = ceil(length / chunk) * turns * base * (warps * wide / 256) * shape.decays
        starts += 2 * LAUNCH
    return np.array(
        [
            memory,
            max(memory - links * (base + work), 0.0),
            links * base,
            links * work,
            links * together * numbers / (gpu.scalar / units) * 4.0,
            links * (config.warps / 4 - 1) * base,
            links * base * 2.0 / config.stages,
            links * base * max(need.registers / REGISTERS - 0.6, 0.0) * 4.0,
            states,
            slow,
            again,
            starts,
        ]
    )


def step_terms(config: ScanConfig, shape: Shape, gpu: Gpu) -> Floats:
    """As `scan_terms`, for `STEP_TERMS`."""
    units = gpu.machine.multiprocessors
    width = step_width(shape.keys)
    numbers = width * config.columns
    programs = shape.B * shape.H * shape.slices(config.columns)
    memory = 2.0 * shape.B * shape.H * shape.keys * shape.values * 4 / gpu.memory
    side = _side(config.warps, numbers / (32 * config.warps) + 24, 0, gpu)
    waves = ceil(programs / (units * side))
    there = min(side, programs / units) * numbers * 4
    needed = gpu.memory / units * LATENCY
    return np.array([memory, memory * max(needed / max(there, 1.0) - 1.0, 0.0), waves * LAUNCH])


def _side(warps: int, registers: float, shared: float, gpu: Gpu) -> int:
    """Programs that a multiprocessor holds at once."""
    threads = 32 * warps
    each = threads * min(max(registers, 32.0) + 24.0, 255.0)
    return max(1, int(min(gpu.registers / each, gpu.shared_memory / (shared + 1024), THREADS / threads)))
