"""How long a candidate should take: a sum of what it asks of each part of a GPU, with weights fitted to measurements.

Terms are seconds that a part would be busy at its data-sheet rate: tensor cores, exponentials, arithmetic of masks,
loads of boxes into shared memory, memory; and what is not hidden behind them: the start of every box and tile on a
multiprocessor whose other programs cannot fill the gap, loads that too few stages hide, rows of the last wave. The
weights say how far real kernels are from that; `benchmarks/fit_model.py` writes them and judges them on workloads that
they were not fitted on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from attndsl.ir.expr import Coord, Expr, Index, Load, walk
from attndsl.runtime.triton.config import Config, Pass
from attndsl.runtime.triton.scan_config import ScanConfig, ScanPass
from attndsl.schedule.plan import Plan, TilePass, row_tile_count
from attndsl.schedule.problem import Problem
from attndsl.schedule.tiling import Tiling
from attndsl.tune.candidates import element_size, footprint
from attndsl.tune.machines import Gpu
from attndsl.tune.scan_candidates import Shape
from attndsl.tune.scan_terms import SCAN_TERMS, STEP_TERMS, STEP_USUAL, scan_terms, step_terms

TERMS = (
    "tensor", "narrow", "exponentials", "masks", "switched", "loads", "memory", "alone", "serial", "pressure", "starts",
    "tiles", "stages", "last wave",
)  # fmt: skip
DECODE_TERMS = ("memory", "uneven", "latency", "narrow", "arithmetic", "starts", "merge")
"""Those of `decode`: keys and values from memory once, shares that end at other times, loads that are too few to hide
how long they take, boxes too narrow for the products of four warps, products and exponentials, the start of programs
and boxes, and merging."""
FILE = Path(__file__).parent / "model.json"
THREADS = 2048
"""Threads that a multiprocessor holds."""
MASK_OPERATIONS = 12.0
"""Of a pair, for a mask of two comparisons; see `operations_of`."""
COSTLY = {"mod": 8.0, "floordiv": 8.0, "pow": 16.0, "ispow2": 4.0, "bitlen": 4.0, "popcount": 2.0, "select": 2.0}
"""Operations of what takes more than one."""
LOADED = 4.0
FUSED = 1.4, 2.0
"""As measured, in programs of four and of eight warps."""
PRODUCTS = {"forward": (1.0, 1.0), "decode": (1.0, 1.0), "dq": (2.0, 1.0), "dkdv": (2.0, 2.0)}
"""Matrix products a pair of tiles takes, of width D and of width Dv."""


DECODE_USUAL = {
    "memory": 1.1, "uneven": 0.7, "latency": 0.7, "narrow": 0.3, "arithmetic": 0.5, "starts": 1.0, "merge": 1.0,
}  # fmt: skip
"""Weights of `decode` where measurements say nothing."""
LATENCY = 8e-7
"""Seconds from a load to its data."""
PROGRAM = 2e-6
"""Seconds until a program's first box is there, or until its results are stored."""


def terms_of(step: Pass) -> tuple[str, ...]:
    """The names of a pass' terms."""
    return DECODE_TERMS if step == "decode" else TERMS


def tiling_of(step: Pass, config: Config, problem: Problem) -> Tiling:
    """The boxes that a candidate's plan is made of."""
    if step == "decode":
        from attndsl.runtime.triton.decode import decode_tiling

        return decode_tiling(config, problem.sizes)
    rows, columns = (config.columns, config.rows) if step == "dkdv" else (config.rows, config.columns)
    return Tiling(rows, columns, config.q_box, config.k_box)


@dataclass(frozen=True)
class Work:
    """What a pass visits, all batches and heads: pairs in boxes, those of PARTIAL boxes, boxes, tiles; the mean rows
    and columns of a box; and what the mask takes of a pair."""

    pairs: float
    partial: float
    boxes: float
    tiles: float
    rows: float
    columns: float
    operations: float = MASK_OPERATIONS


def operations_of(mask: Expr) -> float:
    """Arithmetic that a mask takes of every pair. What is of a row or a column alone is done once for it."""
    sides: dict[Expr, frozenset[str]] = {}
    found = 0.0
    for node in walk(mask):
        own: set[str] = set()
        if isinstance(node, Coord):
            own = {node.side}
        elif isinstance(node, Index) and node.name in ("q", "k", "row"):
            own = {"k" if node.name == "k" else "q"}
        sides[node] = frozenset(own).union(*(sides[c] for c in node.children))
        if len(sides[node]) == 2:
            found += LOADED if isinstance(node, Load) else COSTLY.get(getattr(node, "op", ""), 1.0)
    return MASK_OPERATIONS / 3 + 2 * found


def work_of(plan: Plan, problem: Problem, step: Pass, operations: float = MASK_OPERATIONS) -> Work:
    """The work of a pass of a plan that was made with the pass' own boxes."""
    sweep: TilePass = plan.dkdv if step == "dkdv" else plan.forward
    # few rows: heads that share keys are rows of one tile
    heads = problem.sizes["B"] * problem.sizes["Hkv" if step == "decode" else "H"]
    pairs = partial = boxes = tiles = rows = columns = 0.0
    for piece in sweep.pieces:
        r, c = prod(piece.rows.box), prod(piece.cols.box)
        shares = np.bincount(piece.class_of.ravel(), minlength=len(piece.sources)) / max(piece.class_of.size, 1)
        for share, source in zip(shares, piece.sources, strict=True):
            visited = float(share) * source.visited * heads
            pairs += visited * r * c
            partial += float(share) * (source.visited - source.full) * heads * r * c
            boxes += visited
            rows, columns = rows + visited * r, columns + visited * c
            tiles += float(share) * row_tile_count(piece, source) * heads
    return Work(pairs, partial, boxes, tiles, rows / max(boxes, 1.0), columns / max(boxes, 1.0), operations)


def programs_side_by_side(step: Pass, config: Config, problem: Problem, dtype: str, gpu: Gpu) -> int:
    """Programs that a multiprocessor holds at once, by registers, shared memory and threads."""
    need = footprint(step, config, problem.sizes["D"], problem.sizes["Dv"], dtype)
    # specialised: the tile's two groups of warps, and one that loads with few registers
    computing = 32 * config.warps * (2 if config.specialize else 1)
    threads = computing + (32 * config.warps if config.specialize else 0)
    each = min(max(need.registers, 32.0) + 24.0, config.registers or 255.0)
    registers = computing * each + 24 * (threads - computing)
    most = min(gpu.registers / registers, gpu.shared_memory / max(need.shared + 1024, 1), THREADS / threads)
    return max(1, int(most))


def terms(step: Pass, config: Config, work: Work, problem: Problem, dtype: str, gpu: Gpu) -> npt.NDArray[np.float64]:
    """The seconds of every term at weight one, in the order of `terms_of`."""
    if step == "decode":
        return _decode_terms(config, work, problem, dtype, gpu)
    s, e = problem.sizes, element_size(dtype)
    D, Dv = s["D"], s["Dv"]
    units = gpu.machine.multiprocessors
    rate = gpu.tensor if dtype != "fp32" else gpu.scalar
    side = programs_side_by_side(step, config, problem, dtype, gpu)
    need = footprint(step, config, D, Dv, dtype)
    by_d, by_dv = PRODUCTS[step]
    tensor = 2 * work.pairs * (by_d * D + by_dv * Dv) / rate
    if config.specialize:
        # two groups share a tile, and no product has fewer than 64 rows
        tensor *= max(128 / config.rows, 1.0)
    exponentials = work.pairs / (gpu.exponentials * units * gpu.clock)
    loads = work.boxes * work.columns * (D + Dv) * e / (64.0 * units * gpu.clock)
    # every 64 rows read the box anew, every box its rows' queries: narrow boxes starve the tensor cores
    reads = work.boxes * (work.rows * D + max(work.rows / 64, 1.0) * work.columns * (D + Dv)) * e
    shared = reads / (128.0 * units * gpu.clock)
    waves = max(work.tiles / (units * side), 1e-3)
    rows, keys = s["B"] * s["H"] * s["Lq"], s["B"] * s["Hkv"] * s["Lk"]
    busy = tensor + exponentials
    # groups of four warps that work on rows of their own can fill each other's gaps
    groups = side * max(min(config.warps / 4, work.rows / 64), 0.5) * (1.5 if config.specialize else 1.0)
    hidden = max(config.stages - 1, 0.5) * side
    return np.array(
        [
            tensor,
            max(shared - 0.75 * tensor, 0.0),
            exponentials,
            0.0 if config.specialize else work.operations * work.partial / gpu.scalar,
            # one loop: all boxes go through the mask's arithmetic if one has a mask
            work.operations * work.pairs / gpu.scalar if config.specialize and work.partial else 0.0,
            loads,
            (D + Dv) * e * (rows + keys) / gpu.memory,
            busy / groups,
            # the same warps load, multiply and take exponentials, one after another
            0.0 if config.specialize else busy,
            # registers that are not there, or that leave none to load the next tiles into
            busy * max(need.registers / (168.0 if config.specialize else config.registers or 255.0) - 0.65, 0.0),
            1e3 * work.boxes / (units * side * gpu.clock),
            1e3 * work.tiles / (units * side * gpu.clock),
            loads / hidden,
            busy * (np.ceil(waves) / waves - 1.0) if waves < 8 else 0.0,
        ]
    )


def _decode_terms(config: Config, work: Work, problem: Problem, dtype: str, gpu: Gpu) -> npt.NDArray[np.float64]:
    from attndsl.runtime.triton.decode import Device, share_count, side_by_side

    s, e, units = problem.sizes, element_size(dtype), gpu.machine.multiprocessors
    head, group = s["D"] + s["Dv"], s["H"] // max(s["Hkv"], 1)
    longest = work.boxes / max(work.tiles, 1.0)
    side = side_by_side(config, s["D"], s["Dv"], e, Device(units, gpu.machine.capability))
    slots = side * units
    shares = config.splits or share_count(max(round(work.tiles), 1), max(round(longest), 1), slots)
    each = np.ceil(longest / shares)
    programs = work.tiles * shares
    waves = np.ceil(programs / slots)
    box = config.columns * head * e
    memory = work.boxes * box / gpu.memory
    # what a multiprocessor must have asked for, so that its part of the memory is always busy
    needed = gpu.memory / units * LATENCY
    there = min(side, programs / units) * max(config.stages - 1, 1) * box
    rows = max(16.0, 2.0 ** np.ceil(np.log2(max(s["Lq"] * group, 1))))
    products = 2 * work.boxes * config.columns * rows * head / (gpu.tensor if e == 2 else gpu.scalar)
    exponentials = work.boxes * config.columns * rows / (gpu.exponentials * units * gpu.clock)
    parts = shares * s["B"] * s["H"] * s["Lq"] * (s["Dv"] + 2) * 4 if shares > 1 else 0
    return np.array(
        [
            memory,
            memory * max(waves * each * slots / max(work.boxes, 1.0) - 1.0, 0.0),
            memory * max(needed / max(there, 1.0) - 1.0, 0.0),
            memory * max(64 / config.columns - 1.0, 0.0) if config.warps >= 4 else 0.0,
            products + exponentials,
            waves * (PROGRAM + each * 1e3 / gpu.clock / max(config.warps, 1)),
            2 * parts / gpu.memory + (2 * PROGRAM if shares > 1 else 0.0),
        ]
    )


@dataclass(frozen=True)
class Model:
    """Weights of the terms, by pass; those of scans (`scan`, `step`); and what is said of them: what they were fitted
    on, how they were judged."""

    weights: Mapping[Pass, npt.NDArray[np.float64]]
    scans: Mapping[str, npt.NDArray[np.float64]]
    about: dict[str, Any]

    def seconds(self, step: Pass, found: npt.NDArray[np.float64]) -> float:
        """The predicted time of a pass."""
        return float(self.weights[step] @ found)


@lru_cache(maxsize=1)
def model() -> Model:
    """The fitted model that the package brings."""
    data: Any = json.loads(FILE.read_text())
    fitted: dict[str, dict[str, float]] = data["weights"]
    steps: tuple[Pass, ...] = ("forward", "dq", "dkdv", "decode")

    def in_order(values: Mapping[str, float], names: Sequence[str]) -> npt.NDArray[np.float64]:
        return np.array([float(values.get(t, 0.0)) for t in names])

    weights: dict[Pass, npt.NDArray[np.float64]] = {step: in_order(fitted[step], terms_of(step)) for step in steps}
    scans = {"scan": in_order(fitted["scan"], SCAN_TERMS), "step": in_order(STEP_USUAL, STEP_TERMS)}
    return Model(weights, scans, {n: v for n, v in data.items() if n != "weights"})


def predict(
    step: Pass, config: Config, plan: Plan, problem: Problem, dtype: str, gpu: Gpu, operations: float = MASK_OPERATIONS
) -> float:
    """Milliseconds of a pass on a GPU. A fused sweep takes so many times what one for dk and dv alone would (`FUSED`),
    but makes the pass dq needless."""
    work = work_of(plan, problem, step, operations)
    found = 1e3 * model().seconds(step, terms(step, config, work, problem, dtype, gpu))
    if not config.fused:
        return found
    return FUSED[config.warps == 8] * found - 1e3 * model().seconds(
        "dq", terms("dq", config, work, problem, dtype, gpu)
    )


def predict_scan(step: ScanPass, config: ScanConfig, shape: Shape, gpu: Gpu) -> float:
    """Milliseconds of a pass of linear attention on a GPU."""
    if step == "step":
        return 1e3 * float(model().scans["step"] @ step_terms(config, shape, gpu))
    return 1e3 * float(model().scans["scan"] @ scan_terms(config, shape, gpu))
