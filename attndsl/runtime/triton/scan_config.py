"""Chunk sizes and launch options of scans, and when the sequence is split."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal as Lit

ScanPass = Lit["scan", "scan_dq", "scan_dk", "scan_dv", "step"]
"""What is tuned apart of linear attention: the forward scan, those of the gradients of queries, keys and values, and
one row."""
SCAN_PASSES: tuple[ScanPass, ...] = ("scan", "scan_dq", "scan_dk", "scan_dv", "step")


@dataclass(frozen=True)
class ScanConfig:
    """Rows of a chunk, columns of the values that a program owns, warps and stages of `outputs`; programs that a
    multiprocessor runs side by side; and how many segments the sequence is cut into (0: as many as fill the GPU, each
    of `least` chunks or more).
    `states`, which only streams, has columns, warps and stages of its own (0: the same); with a decay per channel,
    `gate_warps` are those of weights made in blocks of 16 rows; with `gate_whole`, chunks whose decays leave powers in
    range have one product instead. A step is a chunk of one row.

    No number here is about a length: how many segments there are follows from the GPU and the rows of a call."""

    chunk: int
    columns: int
    warps: int
    stages: int
    resident: int = 1
    segments: int = 0
    state_columns: int = 0
    state_warps: int = 0
    state_stages: int = 0
    gate_warps: int = 2
    gate_whole: bool = True
    least: int = 4

    @property
    def of_states(self) -> tuple[int, int, int]:
        """Columns, warps and stages of `states`."""
        return self.state_columns or self.columns, self.state_warps or self.warps, self.state_stages or self.stages


Asked = Mapping[ScanPass, ScanConfig]
_FORCED: ContextVar[Asked] = ContextVar("attndsl_scan_config", default=MappingProxyType({}))
GATE_LENGTH = 512
"""Rows of a segment where gradients of decays are summed: their rounding grows with its square root."""


@contextmanager
def scan_configured(config: ScanConfig | None = None, **passes: ScanConfig) -> Generator[None]:
    """Scans within use this configuration in all their passes but `step`; or, by pass, `scan_configured(scan_dq=...)`.
    None asks for nothing."""
    given: dict[ScanPass, ScanConfig] = {}
    if config is not None:
        given = dict.fromkeys(SCAN_PASSES[:-1], config)
    for name, one in passes.items():
        step: ScanPass | None = next((p for p in SCAN_PASSES if p == name), None)
        if step is None:
            raise TypeError(f"there is no pass {name!r} of a scan ({', '.join(SCAN_PASSES)})")
        given[step] = one
    token = _FORCED.set({**_FORCED.get(), **given} if passes else given)
    try:
        yield
    finally:
        _FORCED.reset(token)


def forced_scan(step: ScanPass) -> ScanConfig | None:
    """The configuration that `scan_configured` asks for."""
    return _FORCED.get().get(step)


def all_forced_scans() -> tuple[tuple[ScanPass, ScanConfig], ...]:
    """What `scan_configured` asks for, all passes."""
    found = _FORCED.get()
    return tuple(sorted(found.items())) if found else ()


def choose_scan(dtype: str, keys: int, values: int, capability: int = 90) -> ScanConfig:
    """The configuration of a scan for an element type (`fp16`, `bf16`, `fp32`), components of keys and of values."""
    if dtype == "fp32":
        return ScanConfig(32, 32 if values > 16 else 16, 4, 1)
    # the state of more than 192 keys does not fit into the registers of four warps
    if keys > 256:
        return ScanConfig(64, 64, 8, 2 if keys <= 320 else 1, state_stages=3)
    if keys > 192 or (keys > 128 and dtype == "fp16"):
        return ScanConfig(64, 64, 8, 2, state_stages=3)
    if keys > 128:
        return ScanConfig(64, 64, 4, 3, state_stages=4)
    # With two stages a chunk is asked for when the one before is done with, and its way from memory is about as long as
    # the work on a chunk; a fourth stage is worth another 5 %. Of heads of 64 two programs fit on a multiprocessor.
    return ScanConfig(64, 64, 4, 4, 1) if keys > 64 else ScanConfig(64, 64, 4, 3, 2, state_stages=4)


STEP_NUMBERS = 8192
"""Numbers of a state that a program of a step holds where nothing was tuned."""


def choose_step(keys: int, values: int) -> ScanConfig:
    """The configuration of a step, which computes without matrix products."""
    columns = max(16, min(STEP_NUMBERS // step_width(keys), 1 << max(values - 1, 0).bit_length()))
    return ScanConfig(1, columns, 4, 1)


def step_width(keys: int) -> int:
    """The components of keys that a program of a step holds, a power of two."""
    return max(16, 1 << max(keys - 1, 0).bit_length())


def hazard(config: ScanConfig, dtype: str) -> str | None:
    """Why a configuration is never run on a GPU, in words; None if it may be.

    Triton 3.6 compiles loops for sm_90 wrongly in which a product of 16-bit floats has a side below 64: results that
    are wrong, or accesses to memory that is not there, of values in tiles of 16 and 32 columns. Products of tiles below
    64 rows are of the older kind (mma.sync), and loads that are pipelined for both kinds are wrong as well.
    """
    if dtype == "fp32":
        return None
    sides = {"rows of a chunk": config.chunk, "columns": config.columns, "columns of `states`": config.of_states[0]}
    for name, n in sides.items():
        if n < 64:
            return f"{n} {name} are fewer than 64, which Triton 3.6 miscompiles for 16-bit floats"
    return None


def cut(
    rows: int, chunk: int, programs: int, fill: int, segments: int = 0, most: int = 0, least: int = 4
) -> tuple[int, int]:
    """(segments, rows of each) of a sequence: one where `programs` fill the GPU (`fill` programs), else as many as do,
    of `least` chunks or more. `segments` forces their number, `most` limits their rows."""
    if not segments:
        # one wave: a second one that is not full costs as much as the first
        segments = 1 if programs * 4 >= fill * 3 else fill // max(programs, 1)
        segments = max(1, min(segments, rows // (least * chunk)))
    if most:
        segments = max(segments, -(-rows // most))
    length = max(1, -(-rows // (segments * chunk))) * chunk
    return max(1, -(-rows // length)), length
