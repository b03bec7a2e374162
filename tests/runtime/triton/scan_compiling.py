"""Compile a kernel of a scan for a GPU that is not there."""

from __future__ import annotations

from attndsl.codegen.triton import TritonModule
from attndsl.codegen.triton_scan import Walk, generate_scan
from attndsl.codegen.triton_scan_channel import Channel, generate_channel
from attndsl.codegen.triton_scan_step import Step, generate_step
from attndsl.runtime.triton.cross import Compiled, cross_compile
from attndsl.runtime.triton.scan import PREFIX, PREFIX_BLOCK, PREFIX_WIDTH
from attndsl.runtime.triton.scan_channel import WARPS
from attndsl.runtime.triton.scan_config import ScanConfig, choose_step


def compile_scan(walk: Walk, name: str, config: ScanConfig, start: bool = True) -> Compiled:
    """A kernel of a scan."""
    made = generate_scan(walk, ["a scan"])
    columns, warps, stages = config.of_states if name == "states" else (config.columns, config.warps, config.stages)
    if name in ("columns", "norms", "prefix"):
        warps, stages = 4, 1
    return cross_compile(
        TritonModule(made.source, PREFIX if name == "prefix" else made.arguments[name]),
        {"BT": config.chunk, "BV": columns, "START": start, "FINAL": False, "BLOCK": PREFIX_BLOCK,
         "WIDTH": PREFIX_WIDTH},
        dtype=walk.dtype, inputs={"gamma": "fp32", "g": "fp32"}, warps=warps, stages=stages, kernel=name,
    )  # fmt: skip


def compile_channel(channel: Channel, name: str, config: ScanConfig) -> Compiled:
    """A kernel of a decay per channel."""
    made = generate_channel(channel, ["a decay per channel"])
    return cross_compile(
        TritonModule(made.source, made.arguments[name]), {"BT": config.chunk, "REST": True},
        dtype=channel.dtype, inputs={"g": "bf16"},
        warps=config.gate_warps if name == "careful" else WARPS[name], stages=1, kernel=name,
    )  # fmt: skip


def compile_step(step: Step) -> Compiled:
    """The kernel of one row."""
    made, config = generate_step(step, ["a step"]), choose_step(step.keys, step.values)
    return cross_compile(
        TritonModule(made.source, made.arguments["step"]), {"BV": config.columns, "START": True, "FINAL": True},
        dtype="bf16", inputs={"gamma": "fp32", "g": "fp32"}, warps=config.warps, stages=1, kernel="step",
    )  # fmt: skip
