"""Shapes of boxes on a grid, best first, for those who measure more than one."""

from __future__ import annotations

from math import prod

from attndsl.ir.attention import Attention
from attndsl.schedule.build import analyse_all
from attndsl.schedule.classes import classes
from attndsl.schedule.problem import Problem
from attndsl.schedule.shapes import ranked
from attndsl.schedule.space import SegmentBox, pairs

Box = tuple[int, ...]


def box_choices(
    attention: Attention, problem: Problem, rows: int, columns: int, count: int
) -> tuple[tuple[Box, Box], ...]:
    """At most `count` (q box, k box) of `rows` and `columns` positions for the largest pair of segments, by the cost
    model's order. Empty on a line, and where the cost model cannot count boxes without looking at them."""
    grids = [p for p in pairs(attention, problem) if len(_real(p.q)) > 1 or len(_real(p.k)) > 1]
    if not grids or not isinstance(problem.q_offset, int) or problem.q_offset != 0:
        return ()
    pair = max(grids, key=lambda p: prod(p.q.extents) * prod(p.k.extents))
    if not prod(pair.q.extents) or not prod(pair.k.extents):
        return ()
    _, items = classes(attention, problem, pair)
    shapes = ranked(analyse_all(items, rows_are_q=True), rows, columns, count)
    q, k = _real(pair.q), _real(pair.k)
    return tuple((tuple(s.q[i] for i in q), tuple(s.k[i] for i in k)) for s in shapes)


def _real(segment: SegmentBox) -> list[int]:
    """Axes that are not there only to match the other side's."""
    return [i for i, a in enumerate(segment.axes) if not a.startswith("#")]
