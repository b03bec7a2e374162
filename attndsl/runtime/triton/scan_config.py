"""Chunk sizes and launch options of scans, and when the sequence is split."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class ScanConfig:
    """Rows of a chunk, columns of the values that a program owns, warps and stages of `outputs`; programs that a
    multiprocessor runs side by side; and how many segments the sequence is cut into (0: as many as fill the GPU).
    `states`, which only streams, has columns, warps and stages of its own (0: the same)."""

    chunk: int
    columns: int
    warps: int
    stages: int
    resident: int = 1
    segments: int = 0
    state_columns: int = 0
    state_warps: int = 0
    state_stages: int = 0

    @property
    def of_states(self) -> tuple[int, int, int]:
        """Columns, warps and stages of `states`."""
        return self.state_columns or self.columns, self.state_warps or self.warps, self.state_stages or self.stages


_FORCED: ContextVar[ScanConfig | None] = ContextVar("attndsl_scan_config", default=None)
GATE_LENGTH = 512
"""Rows of a segment where gradients of decays are summed: their rounding grows with its square root."""


@contextmanager
def scan_configured(config: ScanConfig | None) -> Generator[None]:
    """Scans within use this configuration, in all their passes."""
    token = _FORCED.set(config)
    try:
        yield
    finally:
        _FORCED.reset(token)


def forced_scan() -> ScanConfig | None:
    """The configuration of `scan_configured`."""
    return _FORCED.get()


def choose_scan(dtype: str, keys: int, values: int, capability: int = 90, channel: bool = False) -> ScanConfig:
    """The configuration of a scan for an element type (`fp16`, `bf16`, `fp32`), components of keys and of values, and
    whether decays are per channel, which takes registers."""
    forced = _FORCED.get()
    if forced is not None:
        return forced
    if dtype == "fp32":
        return ScanConfig(32, 32 if values > 16 else 16, 4, 1)
    # narrower columns are miscompiled next to arithmetic on tiles (Triton 3.6, sm_90: illegal accesses at 16 and 32)
    if keys > 256:
        return ScanConfig(64, 64, 8, 1)
    if keys > 128 or channel:
        return ScanConfig(64, 64, 8, 2)
    return ScanConfig(64, 64, 4, 2, 2)


def cut(rows: int, chunk: int, programs: int, fill: int, segments: int = 0, most: int = 0) -> tuple[int, int]:
    """(segments, rows of each) of a sequence: one where `programs` fill the GPU (`fill` programs), else as many as do,
    of four chunks at least. `segments` forces their number, `most` limits their rows."""
    if not segments:
        # one wave: a second one that is not full costs as much as the first
        segments = 1 if programs * 4 >= fill * 3 else fill // max(programs, 1)
        segments = max(1, min(segments, rows // (4 * chunk)))
    if most:
        segments = max(segments, -(-rows // most))
    length = max(1, -(-rows // (segments * chunk))) * chunk
    return max(1, -(-rows // length)), length
