"""One row of a scan, in one kernel."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from torch import Tensor

from attndsl.codegen.triton_scan import ScanModule
from attndsl.codegen.triton_scan_step import Step, generate_step
from attndsl.runtime.triton.generated import scan_module_for
from attndsl.runtime.triton.modules import load_module
from attndsl.runtime.triton.scan import Carried
from attndsl.runtime.triton.scan_config import ScanConfig
from attndsl.runtime.triton.scan_launch import Memo, Reading, Ready


@lru_cache(maxsize=256)
def _module(step: Step) -> ScanModule:
    return scan_module_for("step", step, lambda: generate_step(step, ["a step"]))


def run_step(
    step: Step,
    config: ScanConfig,
    reading: Reading,
    given: Mapping[str, Tensor | None],
    initial: Carried | None,
    final: Carried | None,
    memo: Memo,
) -> None:
    """Fill `out` [B, H, 1, values] and `final` from the state that enters. `given`: q, k and v [B, heads, 1, size],
    out, gamma or g, and with a normaliser `shares` [B, H, 1]. Runs within `launching`."""
    q = given["q"]
    assert q is not None
    initial = None if initial is None else initial.contiguous()
    key = "step", initial is None, final is None
    ready: Ready | None = memo.get(key)
    if ready is None:
        ready = memo[key] = _prepared(step, config, reading, given, initial is not None, final is not None)
    states = {
        "state": None if initial is None else initial.state, "column": None if initial is None else initial.column,
        "final": None if final is None else final.state, "final_column": None if final is None else final.column,
    }  # fmt: skip
    ready.run(q.device, {**given, **states, **reading.values(_module(step).arguments["step"])}, q)


def _prepared(
    step: Step, config: ScanConfig, reading: Reading, given: Mapping[str, Tensor | None], start: bool, final: bool
) -> Ready:
    q, module = given["q"], _module(step)
    assert q is not None
    B, H = q.shape[:2]
    slices = -(-step.values // config.columns)
    known: dict[str, Any] = {
        "group": reading.sizes.get("group", 1), "H": H, "slices": slices, "BV": config.columns, "START": start,
        "FINAL": final,
    }  # fmt: skip
    for name, t in given.items():
        if t is not None:
            known[f"{name}_group"] = H // max(t.shape[1], 1)
            for axis, n, s in zip("bh", t.shape, t.stride(), strict=False):
                known[f"{name}_s{axis}"] = 0 if n == 1 else s
    arguments = module.arguments["step"]
    known |= reading.numbers(arguments)
    return Ready.of(load_module(module.source).step, arguments, known, B * H * slices, config.warps, 1)
