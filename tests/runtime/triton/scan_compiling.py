"""Compile a kernel of a scan for a GPU that is not there."""

from __future__ import annotations

from attndsl.codegen.triton import TritonModule
from attndsl.codegen.triton_scan import Walk, generate_scan
from attndsl.runtime.triton.cross import Compiled, cross_compile
from attndsl.runtime.triton.scan_config import ScanConfig


def compile_scan(walk: Walk, name: str, config: ScanConfig, start: bool = True) -> Compiled:
    """The kernel `states` or `outputs` of a scan."""
    made = generate_scan(walk, ["a scan"])
    return cross_compile(
        TritonModule(made.source, made.arguments[name]),
        {"BT": config.chunk, "BV": config.columns, "START": start, "FINAL": False},
        dtype=walk.dtype, inputs={"gamma": "fp32", "g": "fp32"}, warps=config.warps, stages=config.stages, kernel=name,
    )  # fmt: skip
