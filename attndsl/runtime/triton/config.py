"""Tile sizes and launch options."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

_FORCED: ContextVar[Config | None] = ContextVar("attndsl_triton_config", default=None)


@dataclass(frozen=True)
class Config:
    """Rows and columns of a tile, warps of a program, stages of the loops' pipelines."""

    rows: int
    columns: int
    warps: int
    stages: int


@contextmanager
def configured(config: Config) -> Generator[None]:
    """Calls made within use this configuration."""
    token = _FORCED.set(config)
    try:
        yield
    finally:
        _FORCED.reset(token)


def choose(dtype: str, D: int, Dv: int, capability: int = 90) -> Config:
    """The configuration for an element type (`fp16`, `bf16`, `fp32`), head sizes and compute capability (times ten)."""
    forced = _FORCED.get()
    if forced is not None:
        return forced
    head = max(D, Dv)
    if dtype == "fp32":
        # no tensor cores without tf32: small tiles of scalar products
        return Config(32, 32, 4, 1)
    if capability < 90:
        return Config(128, 64, 4, 2) if head <= 64 else Config(128, 64, 8, 2) if head <= 128 else Config(64, 32, 4, 2)
    if head <= 64:
        return Config(128, 64, 4, 3)
    if head <= 128:
        return Config(128, 128, 8, 3)
    return Config(128, 64, 8, 2)


def stages_that_fit(config: Config, element: int, D: int, Dv: int, rows: int, columns: int, limit: int) -> int:
    """At most the configuration's stages: as many as shared memory of `limit` bytes holds."""
    fixed = rows * D * element
    each = columns * (D + Dv) * element
    return max(1, min(config.stages, (limit - fixed) // max(each, 1)))
