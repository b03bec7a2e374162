"""Compile the kernels of a spec for a GPU that is not there."""

from __future__ import annotations

from math import prod
from typing import Any

import attndsl
from attndsl.codegen.triton import generate
from attndsl.codegen.triton_form import Dtype, Form
from attndsl.runtime.triton.config import Config, choose, stages_that_fit
from attndsl.runtime.triton.cross import Compiled, cross_compile
from attndsl.runtime.triton.launch import SHARED_MEMORY, constants
from attndsl.runtime.triton.tables import QSegment, launches
from attndsl.schedule.build import build
from attndsl.schedule.tiling import Tiling


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
    Dv = Dv or D
    config = config or choose("forward", dtype, D, Dv, capability)
    problem.setdefault("L", 1000)
    if "grid" in problem:
        problem.pop("L")
    made = f.problem(D=D, Dv=Dv, **problem)
    plan = build(f.simplified, made, Tiling(config.rows, config.columns).tile(f.simplified, made))
    on_grid = f.simplified.q_space is not None and made.q_offset == 0
    segments = [QSegment("", 0, made.sizes["Lq"])]
    if on_grid:
        segments, start = [], 0
        for name, extents in made.q_extents.items():
            segments.append(QSegment(name, start, prod(extents)))
            start += prod(extents)
    found: list[Compiled] = []
    for tables in launches(plan, segments, config.rows, on_grid):
        pieces = tuple(p.form for p in tables.pieces)
        boxes = tma and capability >= 90 and bool(pieces) and not any(p.side.any_split for p in pieces)
        form = Form(dtype, D, Dv, tables.q, pieces, on_grid=on_grid, tma=boxes, aligned=True)
        rows, columns = prod(tables.box), max((prod(p.box) for p in tables.pieces), default=16)
        element = 4 if dtype == "fp32" else 2
        stages = stages_that_fit(config, element, D, Dv, rows, columns, SHARED_MEMORY[capability // 10])
        module = generate(f.simplified, form)
        found.append(
            cross_compile(
                module, constants(form, tables, lse), dtype=dtype, inputs=inputs or {}, warps=config.warps,
                stages=stages, capability=capability,
            )
        )  # fmt: skip
    return found
