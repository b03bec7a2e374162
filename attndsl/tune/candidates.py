"""Which configurations a pass may have: what the hardware's limits and the sizes of a call leave.

A candidate's accumulators and scores must fit the registers of its threads, its tiles the shared memory of a block, and
each warp must have rows of its own. What is left is ranked, compiled and measured elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from attndsl.runtime.cache.key import up
from attndsl.runtime.triton.choices import Facts
from attndsl.runtime.triton.config import Config, Pass
from attndsl.tune.machines import Gpu

ROWS = (16, 32, 64, 128, 256)
COLUMNS = (32, 64, 128, 256)
WARPS = (4, 8)
STAGES = (1, 2, 3, 4)
REGISTERS = 255
"""Of a thread."""
HALF = 128
BESIDE = 28
"""Registers of a thread beside tiles: addresses, row statistics, loop counters."""
WARP_ROWS = 16
"""Rows of a tile that the matrix instructions give a warp."""


@dataclass(frozen=True)
class Footprint:
    """What a candidate takes at least: registers of a thread, bytes of shared memory of a block."""

    registers: float
    shared: int


def element_size(dtype: str) -> int:
    """Bytes of `bf16`, `fp16`, `fp32`."""
    return 4 if dtype == "fp32" else 2


def footprint(step: Pass, config: Config, D: int, Dv: int, dtype: str, products: int = 1) -> Footprint:
    """The registers and shared memory that a candidate's tiles need. Of several `products` D is the sum of their
    components."""
    e, pairs = element_size(dtype), config.rows * config.columns
    head, stages = _padded(D) + _padded(Dv), max(config.stages, 1)
    if step == "dkdv":
        accumulators, scores, kept = config.rows * head, 2 * pairs, config.rows * head * e
    elif step == "dq":
        accumulators, scores, kept = config.rows * _padded(D), 2 * pairs, config.rows * head * e
    else:
        accumulators, scores, kept = config.rows * _padded(Dv), pairs, config.rows * _padded(D) * e
    # scores become weights in the element type while the next product runs
    numbers = accumulators + scores * (1 + e / 8) + (products - 1) * pairs
    # specialised, a tile of four warps is shared by two groups of them
    threads = 32 * config.warps * (2 if config.specialize else 1)
    if config.fused:
        # scores' gradients for all warps, and sums on their way to memory; scores are done with when these are there
        numbers = max(numbers, accumulators + config.columns * _padded(D))
        kept += pairs * e + (config.columns * D * 4 if config.fused == "boxes" else 0)
    return Footprint(numbers / threads + BESIDE, kept + stages * config.columns * head * e)


def _padded(size: int) -> int:
    return -(-size // 16) * 16


def fits(step: Pass, config: Config, facts: Facts, gpu: Gpu) -> bool:
    """Whether a candidate can run at all."""
    need = footprint(step, config, facts.depth, facts.sizes["Dv"], facts.dtype, facts.products)
    return need.registers <= REGISTERS and need.shared <= gpu.machine.shared_memory


def candidates(step: Pass, facts: Facts, gpu: Gpu, default: Config) -> tuple[Config, ...]:
    """The configurations to try for calls of these sizes, the default first. Boxes on grids are left to the plan; see
    `boxes`."""
    if step == "decode":
        return tuple(dict.fromkeys((default, *_decode(facts, gpu, default))))
    s = facts.sizes
    lines, others = (s["Lk"], s["Lq"]) if step == "dkdv" else (s["Lq"], s["Lk"])
    rows = [r for r in ROWS if r <= max(up(lines), WARP_ROWS)]
    columns = [c for c in COLUMNS if c <= max(up(others), WARP_ROWS)] or [COLUMNS[0]]
    found: dict[Config, None] = {default: None}
    for r, c, w, n in product(rows, columns, WARPS, STAGES):
        config = Config(r, c, w, n)
        if facts.dtype == "fp32" and r * c > 64 * 64:
            continue
        wide = max(facts.depth, s["Dv"]) > 128
        if r < WARP_ROWS * min(w, 2 if wide else 4) or (w == 8 and r < 128 and r * c < (2048 if wide else 8192)):
            # warps without rows, or with too little to do between two barriers
            continue
        if fits(step, config, facts, gpu):
            found[config] = None
    found |= dict.fromkeys(_crowded(step, tuple(found), facts))
    if facts.products > 1:
        # specialised warps and sweeps that compute dq along have one product
        return tuple(found)
    if step == "forward" and gpu.machine.capability // 10 == 9 and facts.dtype != "fp32":
        found |= dict.fromkeys(_specialised(rows, columns, facts, gpu))
    if step == "dkdv" and gpu.machine.capability >= 90 and facts.dtype != "fp32":
        found |= dict.fromkeys(_fused(rows, columns, facts, gpu))
    return tuple(found)


def spread(ranked: Sequence[Config], most: int) -> list[Config]:
    """The first of a ranking, and of the rest at most so many in all that differ in more than their stages, splits and
    registers before those that do not: a model that is wrong about a tile is wrong about all of its variants. At most
    half of them have specialised warps, which the compiler may not make."""
    default, *rest = ranked
    kinds = {_kind(default)}
    first: list[Config] = []
    for config in rest:
        kind = _kind(config)
        crowded = config.specialize and 2 * sum(c.specialize for c in first) >= most - 1
        if kind not in kinds and not crowded:
            kinds.add(kind)
            first.append(config)
    chosen = set(first[: most - 1])
    chosen |= set([c for c in rest if c not in chosen][: most - 1 - len(chosen)])
    return [default, *(c for c in rest if c in chosen)]


def _kind(config: Config) -> tuple[object, ...]:
    return config.rows, config.columns, config.warps, config.specialize, config.fused, config.q_box, config.k_box


def _crowded(step: Pass, configs: Sequence[Config], facts: Facts) -> Iterator[Config]:
    """Programs of eight warps that leave room for a second one: with a limit of half of the registers, where the tiles
    take little more."""
    for config in configs:
        need = footprint(step, config, facts.depth, facts.sizes["Dv"], facts.dtype, facts.products)
        if config.warps == 8 and not config.registers and HALF * 0.75 < need.registers <= HALF * 1.25:
            yield replace(config, registers=HALF)


def _fused(rows: Sequence[int], columns: Sequence[int], facts: Facts, gpu: Gpu) -> Iterator[Config]:
    """Sweeps that compute dq along: the more keys a tile has, the fewer of them add to a query's sums."""
    for r, c, n in product(rows, columns, (2, 3)):
        config = Config(r, c, r // WARP_ROWS, n, fused="boxes")
        if r in (64, 128) and c <= 64 and fits("dkdv", config, facts, gpu):
            yield config


def _specialised(rows: Sequence[int], columns: Sequence[int], facts: Facts, gpu: Gpu) -> Iterator[Config]:
    """Tiles whose loads have warps of their own: with two stages, as `walks.refusal` says, and of 128 rows at least,
    for two groups share a tile and their products have 64."""
    for r, c in product(rows, columns):
        config = Config(r, c, 4, 2, specialize=True)
        if r >= 128 and c >= 64 and fits("forward", config, facts, gpu):
            yield config


def _decode(facts: Facts, gpu: Gpu, default: Config) -> Iterator[Config]:
    """Keys split over programs: as many shares as the shape suggests (0), and as fill the multiprocessors once, twice
    and four times. Tiles hold the rows of all heads of a group; what counts is how many loads are under way."""
    s = facts.sizes
    programs = max(s["B"] * s["Hkv"], 1)
    for columns, warps, stages in product((32, 64, 128, 256), (2, 4, 8), (2, 3, 4, 5)):
        config = replace(default, columns=columns, warps=warps, stages=stages)
        if columns > max(up(s["Lk"]), COLUMNS[0]) or not fits("decode", config, facts, gpu):
            continue
        boxes = max(-(-s["Lk"] // columns), 1)
        shares = {min(max(waves * gpu.machine.multiprocessors // programs, 1), boxes) for waves in (1, 2, 4)}
        for splits in (0, *sorted(shares)):
            yield replace(config, splits=splits)
