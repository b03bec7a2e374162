"""What limits a plan: the pairs that the mask shows, and the boxes that the plan visits."""

from __future__ import annotations

from math import prod

import numpy as np

from attndsl.ir.attention import Attention
from attndsl.ir.evaluate import Env, evaluate
from attndsl.ir.expr import Expr
from attndsl.schedule.axis import SolvedAxis, sampled_rows
from attndsl.schedule.classes import classes
from attndsl.schedule.piece import Analysed, analyse
from attndsl.schedule.plan import Bounds, TilePass, row_tile_count
from attndsl.schedule.problem import Problem
from attndsl.schedule.rows import touched
from attndsl.schedule.space import pairs

BLOCK = 32
MOST_ROWS = 1 << 14
MOST_PAIRS = 1 << 22


def plan_bounds(attention: Attention, problem: Problem, sweep: TilePass, total: int) -> Bounds:
    """The bounds of a forward pass; `total` boxes are a dense one's."""
    shown = visible_share(attention, problem)
    visited = sweep.visited
    tiles = sum(row_tile_count(p, s) for p in sweep.pieces for s in p.sources)
    worst = max((s.most for p in sweep.pieces for s in p.sources), default=0)
    return Bounds(
        None if shown is None else 1 / shown if shown else float("inf"),
        total / visited if visited else float("inf"),
        visited / tiles if tiles else 0.0,
        worst,
    )


def visible_share(attention: Attention, problem: Problem) -> float | None:
    """Visible pairs over all pairs, averaged over the distinct batch and head classes.

    Of long axes evenly spaced rows are counted; None where the mask is not solved and has too many pairs to look at.
    """
    visible, everything = 0.0, 0.0
    for pair in pairs(attention, problem):
        _, items = classes(attention, problem, pair)
        for item in items:
            found = analyse(item, rows_are_q=True, split=True)
            size = prod(pair.q.extents) * prod(pair.k.extents)
            everything += size
            if not size:
                continue
            share = _separate_share(found) if found.separated.solved else _looked_share(found)
            if share is None:
                return None
            visible += share * size
    return visible / everything if everything else 0.0


def _separate_share(found: Analysed) -> float:
    return prod(_axis_share(a) for a in found.separated.axes)


def _axis_share(solved: SolvedAxis) -> float:
    rows, _, _ = sampled_rows(solved, BLOCK, MOST_ROWS)
    seen = touched(solved.visible, rows, 1)
    return float((seen.hi - seen.lo).sum()) / (rows.count * solved.axis.columns)


def _looked_share(found: Analysed) -> float | None:
    shape = (*found.rows.extents, *found.columns.extents)
    if prod(shape) > MOST_PAIRS or found.item.missing:
        return None
    nodes: tuple[Expr, ...] = (*found.rows.nodes, *found.columns.nodes)
    grids = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij", sparse=True)
    value = evaluate(found.mask, Env(dict(zip(nodes, grids, strict=True)), found.item.tables))
    return float(np.mean(np.broadcast_to(np.asarray(value, bool), shape)))
