"""Compile the kernels of a spec for a GPU that is not there."""

from __future__ import annotations

from typing import Any

import attndsl
from attndsl.codegen.triton_form import Dtype
from attndsl.runtime.triton.config import Config
from attndsl.runtime.triton.cross import Compiled
from attndsl.runtime.triton.lowering import compile_lowered, elements, lower


def compile_spec(
    text: str,
    *,
    D: int = 64,
    Dv: int | None = None,
    dtype: Dtype = "bf16",
    capability: int = 90,
    consts: dict[str, Any] | None = None,
    inputs: dict[str, str] | None = None,
    config: Config | None = None,
    tma: bool = True,
    lse: bool = True,
    **problem: Any,
) -> list[Compiled]:
    """Every launch of a call of these sizes, compiled."""
    f = attndsl.load(text, **(consts or {}))
    problem.setdefault("L", 1000)
    if "grid" in problem:
        problem.pop("L")
    made = f.problem(D=D, Dv=Dv or D, **problem)
    _, found = lower(f.simplified, made, dtype, capability=capability, config=config, tma=tma, lse=lse)
    return [compile_lowered(it, {**elements(f.simplified), **(inputs or {})}) for it in found]
