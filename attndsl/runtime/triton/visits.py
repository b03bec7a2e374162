"""What the tiles of a call visit, for the choice of a configuration where nothing was tuned."""

from __future__ import annotations

from dataclasses import replace

from attndsl.ir.attention import Attention
from attndsl.ir.expr import SCORE
from attndsl.runtime.triton.config import Visits
from attndsl.schedule.build import build
from attndsl.schedule.plan import row_tile_count
from attndsl.schedule.problem import Problem

BOX = 128
MOST = 16384
"""Positions that are looked at. What tiles visit there says whether ranges are short."""


def visits_of(attention: Attention, problem: Problem) -> Visits:
    """The visits of a forward pass of an attention (consts bound, simplified)."""
    plain = attention.score == SCORE and attention.weight is None
    if attention.q_space is not None and not problem.moved:
        # loops over several segments take more registers
        one = len(problem.q_extents) == len(problem.k_extents) == 1
        return Visits(0.0, False, plain and one, grid=True)
    plan = build(attention, _head(problem), (BOX, BOX))
    tiles = sum(row_tile_count(p, s) for p in plan.forward.pieces for s in p.sources)
    ragged = any(problem.sizes[n] % BOX for n in ("Lq", "Lk"))
    return Visits(plan.visited * BOX / max(tiles, 1), plan.visited == plan.full and not ragged, plain)


def _head(problem: Problem) -> Problem:
    """The first rows of a call, and its first keys where rows and keys are the same positions."""
    sizes = dict(problem.sizes)
    same = sizes["Lq"] == sizes["Lk"] and isinstance(problem.q_offset, int) and problem.q_offset == 0
    for name in ("Lq", "Lk", "L") if same else ("Lq",):
        sizes[name] = min(sizes[name], MOST)
    return replace(problem, sizes=sizes)
