"""Tables of few rows in closed form: where bounds of rows follow from positions alone, nothing is planned for a call.

Lengths and offsets are rounded as for plans (`Tiling.step`), so that the tables are those that a plan would have.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from attndsl.codegen.triton_form import PieceForm
from attndsl.ir.attention import Attention
from attndsl.ir.expr import ParamRef, Size
from attndsl.runtime.triton.lines import LINE, ZERO, Space, leaves, line_of, places_of
from attndsl.runtime.triton.tables import LaunchTables, PieceTables, are_short
from attndsl.schedule.problem import Problem
from attndsl.schedule.tiling import Tiling, positions_alone


@lru_cache(maxsize=512)
def is_closed(attention: Attention, step: int, columns: int) -> bool:
    """Whether calls whose lengths are rounded to multiples of `step` have tables without a plan."""
    if not step or columns & (columns - 1) or not positions_alone(attention):
        return False
    line = line_of(attention, False)
    # a gap between neighbouring rows' intervals must not hold a box
    return line is not None and line.step <= columns


def few_tables(attention: Attention, tiling: Tiling, problem: Problem) -> LaunchTables | None:
    """The tables of a call that `is_closed`, of lengths that may be rounded; None where no key is visible."""
    rounded = tiling.problem(attention, problem)
    line = line_of(attention, False)
    assert line is not None
    assert isinstance(rounded.q_offset, int)
    rows, width, box = rounded.sizes["Lq"], rounded.sizes["Lk"], tiling.columns
    values = {
        n: rounded.sizes[n.name] if isinstance(n, Size) else rounded.scalars[n.name] for n in leaves(attention)
    }  # fmt: skip
    assert all(isinstance(n, ParamRef) or n.name not in ("Lq", "Lk", "L") for n in values)
    runs = places_of(line, Space(values, rounded.q_offset, width), 0, rows - 1, box)
    full: list[tuple[int, int]] = []
    partial: list[tuple[int, int]] = []
    for begin, boxes, middle, rest in runs:
        if rest > middle:
            full.append((begin + middle * box, rest - middle))
            partial += [(begin, middle), (begin + rest * box, boxes - rest)]
        else:
            partial.append((begin, boxes))
    full, partial = ([(at, count) for at, count in found if count > 0] for found in (full, partial))
    every = full + partial
    if not every:
        return None
    flat = are_short(len(every), sum(count for _, count in every))
    if flat:
        full, partial = (
            [(at + i * box, 1) for at, count in found for i in range(count)] for found in (full, partial)
        )  # fmt: skip
    listed = full + partial
    boxes = np.array([(at,) if flat else (at, count) for at, count in listed], np.int32)
    bounds = np.array([[[0, len(full), len(listed)]]], np.int32)
    piece = PieceTables(PieceForm(LINE, flat, False), (box,), 0, (1,), bounds, boxes, ZERO)
    tile = np.array([[0, rows]], np.int32)
    return LaunchTables(LINE, (rows,), 0, (1,), tile, np.zeros(1, np.int32), (piece,), False)
