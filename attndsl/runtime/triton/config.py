"""Tile sizes and launch options."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal as Lit

Pass = Lit["forward", "dq", "dkdv", "decode"]
"""What is tuned apart. In `dkdv` rows are keys and columns queries."""

_FORCED: ContextVar[Mapping[Pass, Config | None]] = ContextVar("attndsl_triton_config", default=MappingProxyType({}))


@dataclass(frozen=True)
class Config:
    """Rows and columns of a tile, warps of a program, stages of the loops' pipelines, and whether the compiler
    specialises warps for loads (one loop over all boxes instead of one for FULL and one for PARTIAL boxes).

    `q_box` and `k_box` are the shapes of boxes on a grid, a side per axis; without them the plan's cost model chooses.
    `splits`, for `decode`: over how many programs the keys of a row are split; 0 leaves it to the shape. `registers` is
    the most that a thread may have, so that several programs fit a multiprocessor; 0 leaves it to the compiler.
    `fused`, for `dkdv`: dq is computed along with dk and dv, five products instead of seven, in sums that programs add
    to in no order, whole `boxes` at a time or `elements`; calls that must be deterministic, or want gradients that only
    `dq` finds, run both passes."""

    rows: int
    columns: int
    warps: int
    stages: int
    specialize: bool = False
    q_box: tuple[int, ...] = ()
    k_box: tuple[int, ...] = ()
    splits: int = 0
    registers: int = 0
    fused: Lit["", "boxes", "elements"] = ""

    def options(self, stages: int) -> dict[str, int]:
        """What Triton's compiler is told, with as many stages as fit."""
        found = {"num_warps": self.warps, "num_stages": stages}
        return {**found, "maxnreg": self.registers} if self.registers else found


@contextmanager
def configured(forward: Config | None = None, **others: Config | None) -> Generator[None]:
    """Calls made within use these configurations, by pass: `configured(forward, dq=...)`. With `decode` calls are split
    over their keys whatever their shape, with `decode=None` none is."""
    given: dict[Pass, Config | None] = {} if forward is None else {"forward": forward}
    for name, config in others.items():
        if name not in ("dq", "dkdv", "decode"):
            raise TypeError(f"there is no pass {name!r} (forward, dq, dkdv, decode)")
        if config is None and name != "decode":
            raise TypeError(f"pass {name!r} cannot be left out; `decode` can")
        given[name] = config
    token = _FORCED.set({**_FORCED.get(), **given})
    try:
        yield
    finally:
        _FORCED.reset(token)


def all_forced() -> tuple[tuple[Pass, Config | None], ...]:
    """What `configured` asks for, all passes."""
    found = _FORCED.get()
    return tuple(sorted(found.items())) if found else ()


def decode_asked() -> Lit["on", "off", "shape"]:
    """Whether calls are split over their keys; by their shape unless `configured` says more."""
    found = _FORCED.get()
    return "shape" if "decode" not in found else "off" if found["decode"] is None else "on"


def forced(step: Pass) -> Config | None:
    """The configuration that `configured` asks for."""
    return _FORCED.get().get(step)


@dataclass(frozen=True)
class Visits:
    """What tiles of a forward pass visit: keys of a tile on average, whether all their boxes are FULL, and whether what
    is done with a pair is `plain`: softmax of its score as it is, which takes few registers. `grid`: tiles are boxes of
    a grid."""

    keys: float
    bare: bool
    plain: bool
    grid: bool = False


NARROW = 2560
"""Keys of a tile up to which the gradients of queries, and boxes of a grid, are faster in tiles of 64 rows."""
SHORT = 6144
"""Keys of a tile up to which starting and ending it costs more than what it computes could gain."""


def choose(
    step: Pass,
    dtype: str,
    D: int,
    Dv: int,
    capability: int = 90,
    visits: Callable[[], Visits] | None = None,
    products: int = 1,
    sums: bool = False,
) -> Config:
    """The configuration of a pass for an element type (`fp16`, `bf16`, `fp32`), head sizes and compute capability
    (times ten), where nothing was tuned. Of several `products` D is the sum of their components; tiles with `sums` over
    components count as `pair_tiles` does.

    `visits` tells what a forward pass visits. On compute capability 9 and with heads of 64 or 128
    components it decides, by what was measured on H100 and H200 (`benchmarks/results`):

    - 128, short ranges (windows, documents) of plain softmax: two programs on a multiprocessor, one computes while the
      other begins or ends;
    - 128, long ranges: warps of their own for loads, in one loop over all boxes;
    - 64: such warps where no box has a mask; with masks their one loop computes too much;
    - 128, boxes of a grid: small tiles where they see little; else, with plain softmax, programs of four warps, several
      on a multiprocessor.

    A launch that cannot have such warps (`walks.refusal`), or whose compiled code shows none, runs two loops.
    """
    asked = forced(step)
    if asked is not None:
        return asked
    head = max(D, Dv)
    if sums and dtype != "fp32" and (found := _summing(step, D, Dv, capability, products)) is not None:
        return found
    if products > 1 and dtype != "fp32":
        return _several(step, D, Dv, capability, products)
    if step in ("dq", "dkdv"):
        return _backward(step, dtype, head, capability, visits)
    if step == "decode":
        # rows of a tile that hold all heads of a group; loads in flight count, not products
        columns = 128 if head <= 64 else 64 if head <= 128 else 32
        return Config(64, columns if dtype != "fp32" else columns // 2, 4, 3)
    if dtype == "fp32":
        # no tensor cores without tf32: scalar products, in tiles and warps whose registers hold them
        if head <= 64:
            return Config(32, 32, 4 if head <= 32 else 8, 1)
        return Config(16, 32 if head <= 128 else 16, 8, 1)
    if capability < 90:
        return Config(128, 64, 4, 2) if head <= 64 else Config(128, 64, 8, 2) if head <= 128 else Config(64, 32, 4, 2)
    if visits is not None and capability // 10 == 9 and Dv == D and D in (64, 128):
        seen = visits()
        if seen.grid:
            if D == 128 and seen.keys <= NARROW:
                return Config(64, 64, 4, 3)
            return Config(128, 64, 4, 2) if D == 128 and seen.plain else choose(step, dtype, D, Dv, capability)
        if seen.bare or (D == 128 and seen.keys > SHORT):
            return Config(128, 128, 4, 2, specialize=True)
        if D == 128 and seen.plain:
            return Config(128, 64, 8, 2, registers=128)
    if head <= 64:
        return Config(128, 64, 4, 3)
    if head <= 128:
        return Config(128, 128, 8, 3)
    return Config(128, 64, 8, 2)


_HOPPER = (Config(128, 64, 8, 3), Config(64, 64, 8, 2)), (Config(64, 64, 4, 2), Config(64, 64, 8, 2))
_OTHERS = (
    (Config(128, 64, 8, 3), Config(128, 32, 8, 2), Config(64, 32, 8, 2), Config(64, 16, 8, 1)),
    (Config(64, 64, 8, 2), Config(64, 32, 8, 1), Config(32, 32, 8, 1), Config(32, 16, 8, 1)),
)
"""Tiles of several dot products, forward and backward, the largest first. On Hopper none has fewer than 64 rows or
columns: Triton 3.6 is known to compute wrong products of narrower ones there."""
ROOM = 208
"""Registers of a thread that tiles may take, beside what addresses and expressions need."""


def _several(step: Pass, depth: int, Dv: int, capability: int, products: int) -> Config:
    """The first tile that fits: in registers its accumulators, the products of its pairs and two more tiles of pairs
    as large; in shared memory its rows, the columns of one stage, and two tiles of pairs on their way to a product."""
    backward = step in ("dq", "dkdv")
    kept = {"dq": depth, "dkdv": depth + Dv}.get(step, Dv)
    listed = (_HOPPER if capability // 10 == 9 else _OTHERS)[backward]
    for config in listed:
        rows, columns = config.rows, config.columns
        registers = rows * (kept + columns * (products + 2)) // (32 * config.warps)
        held = (rows * (depth + Dv if backward else depth) + columns * (depth + Dv) + 2 * rows * columns) * 2
        if registers <= ROOM and held <= shared_memory(capability):
            return config
    return listed[-1]


def _summing(step: Pass, depth: int, Dv: int, capability: int, products: int) -> Config | None:
    """The tile of sums over components: 16 rows for every warp, so that no pair is computed by two; on Hopper, where
    products of fewer than 64 columns are known to be wrong, a tile for dq of eight warps has halves of its columns for
    them where registers run out. None where it does not fit into shared memory."""
    backward = step in ("dq", "dkdv")
    hopper = capability // 10 == 9
    columns = 64 if hopper else 32
    held = (64 * (depth + Dv if backward else depth) + columns * (depth + Dv) + 2 * 64 * columns) * 2
    if held > shared_memory(capability):
        return None
    crowded = 64 * (depth + columns * (products + 2)) // 128 > ROOM
    warps = 8 if hopper and step == "dq" and crowded else 4
    return Config(64, columns, warps, 2 if hopper or not backward else 1)


SHARED_MEMORY = {80: 163, 86: 99, 87: 163, 89: 99, 90: 227, 100: 227, 103: 227, 120: 99}
"""KiB of shared memory that a block can have, by compute capability (times ten)."""


def shared_memory(capability: int) -> int:
    """Bytes of shared memory that a block can have; for a capability not known, as little as any has."""
    return SHARED_MEMORY.get(capability, 99) << 10


def apart(config: Config, dtype: str, D: int, Dv: int, capability: int = 90, products: int = 1) -> Config:
    """The configuration of `dkdv` where dq is not computed along: this one, or the default beside a fused one."""
    if not config.fused:
        return config
    several = products > 1 and dtype != "fp32"
    return (
        _several("dkdv", D, Dv, capability, products) if several else _backward("dkdv", dtype, max(D, Dv), capability)
    )


def _backward(step: Pass, dtype: str, head: int, capability: int, visits: Callable[[], Visits] | None = None) -> Config:
    """Two accumulators of keys, or one of queries, and two tiles of pairs live in registers."""
    if dtype == "fp32":
        # scalar products: tiles whose registers hold them
        if head <= 64:
            return Config(32, 32, 8, 1) if step == "dq" else Config(16, 32, 8, 1)
        return Config(32, 16, 8, 1) if step == "dq" and head <= 128 else Config(16, 16, 8, 1)
    if capability < 90:
        return Config(64, 64, 4, 2) if head <= 64 else Config(64, 64, 8, 2) if head <= 128 else Config(64, 32, 8, 1)
    if head <= 128:
        # two programs of four warps, which need not wait for each other, rather than one of eight; but for long rows
        # of queries, whose one accumulator leaves registers for more of them
        if step == "dq" and head > 64:
            seen = None if visits is None else visits()
            if seen is None or seen.keys > NARROW:
                return Config(128, 64, 8, 3)
        return Config(64, 64, 4, 3) if head <= 64 else Config(64, 64, 4, 2)
    return Config(64, 64, 8, 2)


def stages_that_fit(
    config: Config, element: int, D: int, Dv: int, rows: int, columns: int, limit: int, *, backward: bool = False
) -> int:
    """At most the configuration's stages: as many as shared memory of `limit` bytes holds. A forward tile keeps its
    queries there, a backward one two tensors of its rows."""
    fixed = rows * (D + Dv if backward else D) * element
    if config.fused:
        # gradients of scores, and sums on their way to memory
        fixed += rows * columns * element + (columns * D * 4 if config.fused == "boxes" else 0)
    each = columns * (D + Dv) * element
    return max(1, min(config.stages, (limit - fixed) // max(each, 1)))
