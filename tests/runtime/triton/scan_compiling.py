"""Compile a kernel of a scan for a GPU that is not there."""
# pyright: reportMissingImports=false

from __future__ import annotations

from attndsl.codegen.triton_scan import Walk, generate_scan
from attndsl.runtime.triton.cross import Compiled, compile_kernel
from attndsl.runtime.triton.modules import load_module
from attndsl.runtime.triton.scan_config import ScanConfig


def compile_scan(walk: Walk, name: str, config: ScanConfig, start: bool = True) -> Compiled:
    """The kernel `states` or `outputs` of a scan."""
    module = generate_scan(walk, ["a scan"])
    constants = {"BT": config.chunk, "BV": config.columns, "START": start, "FINAL": False}
    return compile_kernel(
        getattr(load_module(module.source), name), module.arguments[name], constants, dtype=walk.dtype,
        inputs={"gamma": "fp32", "g": "fp32"}, warps=config.warps, stages=config.stages,
    )  # fmt: skip
