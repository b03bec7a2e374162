"""The shapes of boxes that candidates are tried with on grids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from attndsl.ir.attention import Attention
from attndsl.runtime.triton.config import Config, Pass
from attndsl.schedule.boxes import box_choices
from attndsl.schedule.problem import Problem

SHAPES = 3
"""Shapes beside the one that the plan's cost model takes."""
SIZES = 2
"""Sizes of tiles whose shapes are tried: those of the default, and the next ones."""


def with_boxes(configs: Sequence[Config], attention: Attention, problem: Problem, step: Pass) -> tuple[Config, ...]:
    """The candidates, and on a grid the first sizes of tiles with other shapes of boxes too. `attention` has its consts
    bound and is simplified."""
    if step not in ("forward", "dq") or attention.q_space is None:
        return tuple(configs)
    found: dict[Config, None] = dict.fromkeys(configs)
    sizes = list(dict.fromkeys((c.rows, c.columns) for c in configs if min(c.rows, c.columns) >= 64))[:SIZES]
    for rows, columns in sizes:
        first = next(c for c in configs if (c.rows, c.columns) == (rows, columns))
        for q, k in box_choices(attention, problem, rows, columns, SHAPES + 1)[1:]:
            found[replace(first, q_box=q, k_box=k)] = None
    return tuple(found)
