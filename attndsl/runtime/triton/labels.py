"""Configurations as text and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar, cast

from attndsl.runtime.triton.config import Config
from attndsl.runtime.triton.scan_config import ScanConfig

AnyConfig = Config | ScanConfig
Made = TypeVar("Made", Config, ScanConfig)


def label(config: AnyConfig) -> str:
    """`128x128 w8 s3`, and the fields that are not as usual: `128x128 w4 s2 specialize q_box=16x8`. Of a scan, rows are
    those of a chunk."""
    first = config.rows if isinstance(config, Config) else config.chunk
    parts = [f"{first}x{config.columns}", f"w{config.warps}", f"s{config.stages}"]
    for name, value in _unusual(config).items():
        if name not in ("rows", "chunk", "columns", "warps", "stages"):
            parts.append(name if value is True else f"{name}={_shown(value)}")
    return " ".join(parts)


def _shown(value: Any) -> str:
    return "x".join(map(str, cast("tuple[Any, ...]", value))) if isinstance(value, tuple) else str(value)


def config_data(config: AnyConfig) -> dict[str, Any]:
    """As JSON has it; fields that are as usual are left out."""
    return {n: list(cast("tuple[Any, ...]", v)) if isinstance(v, tuple) else v for n, v in _unusual(config).items()}


def _unusual(config: AnyConfig) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if field.default is MISSING or value != field.default:
            found[field.name] = value
    return found


def config_of(data: Mapping[str, Any]) -> Config:
    """The configuration that `data` describes. ValueError for what is none: what another version wrote."""
    made = _made(Config, data)
    if not _possible(made):
        raise ValueError(f"not a configuration: {label(made)}")
    return made


def scan_config_of(data: Mapping[str, Any]) -> ScanConfig:
    """The configuration of a scan that `data` describes. ValueError for what is none."""
    made = _made(ScanConfig, data)
    if not _possible_scan(made):
        raise ValueError(f"not a configuration of a scan: {label(made)}")
    return made


def _made(kind: type[Made], data: Mapping[str, Any]) -> Made:
    known = {f.name: f for f in fields(kind)}
    values: dict[str, Any] = {}
    for name, value in data.items():
        if name not in known:
            raise ValueError(f"a configuration has no {name!r}")
        values[name] = tuple(cast("list[Any]", value)) if isinstance(value, list) else value
        usual: Any = known[name].default
        kind_of = "int" if usual is MISSING else type(usual).__name__
        if type(values[name]).__name__ != kind_of and usual is not None:
            raise ValueError(f"{name} of a configuration is not {value!r}")
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"not a configuration: {error}") from error


def _possible(config: Config) -> bool:
    """Whether a kernel can have it: a wrong file must not reach the compiler."""
    powers = all(_power(n) for n in (config.rows, config.columns, config.warps))
    whole = all(type(n) is int for box in (config.q_box, config.k_box) for n in box)
    small = config.stages <= 8 and config.warps <= 16 and max(config.rows, config.columns) <= 512
    registers = config.registers == 0 or (24 <= config.registers <= 255 and config.registers % 8 == 0)
    known = config.fused in ("", "boxes", "elements")
    return powers and whole and small and registers and known and config.stages >= 1


def _possible_scan(config: ScanConfig) -> bool:
    columns, warps, stages = config.of_states
    powers = (config.chunk, config.columns, columns, config.warps, warps, config.gate_warps)
    small = max(config.chunk, config.columns, columns) <= 2048 and max(config.warps, warps, config.gate_warps) <= 16
    counts = 1 <= config.stages <= 8 and 1 <= stages <= 8 and 1 <= config.resident <= 16 and config.least >= 1
    return all(map(_power, powers)) and small and counts and config.segments >= 0


def _power(n: int) -> bool:
    return n > 0 and n & (n - 1) == 0
