"""What the tiles of a call visit, for the choice of a configuration where nothing was tuned."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from attndsl.ir.attention import Attention
from attndsl.ir.expr import SCORE
from attndsl.runtime.triton.config import Visits
from attndsl.schedule.build import build
from attndsl.schedule.plan import row_tile_count
from attndsl.schedule.problem import Problem

BOX = 128
MOST = 16384
"""Positions that are looked at. What tiles visit there says whether ranges are short."""


Extents = tuple[tuple[str, tuple[int, ...]], ...]
"""Those of each segment."""


def visits_of(attention: Attention, problem: Problem) -> Visits:
    """The visits of a forward pass of an attention (consts bound, simplified)."""
    plain = attention.score == SCORE and attention.weight is None
    if attention.gridded and not problem.moved:
        # loops over several segments take more registers
        one = len(problem.q_extents) == len(problem.k_extents) == 1
        return Visits(0.0, False, plain and one, grid=True)
    head = _head(problem)
    if head.tables or not isinstance(head.q_offset, int):
        keys, full = _looked_at(attention, head)
    else:
        extents = tuple(head.q_extents.items()), tuple(head.k_extents.items())
        keys, full = _remembered(
            attention, tuple(head.sizes.items()), tuple(head.scalars.items()), *extents, head.q_offset
        )
    ragged = any(problem.sizes[n] % BOX for n in ("Lq", "Lk"))
    return Visits(keys, full and not ragged, plain)


def _looked_at(attention: Attention, head: Problem) -> tuple[float, bool]:
    """The keys that a tile visits in the mean, and whether all boxes are FULL."""
    plan = build(attention, head, (BOX, BOX))
    tiles = sum(row_tile_count(p, s) for p in plan.forward.pieces for s in p.sources)
    return plan.visited * BOX / max(tiles, 1), plan.visited == plan.full


@lru_cache(maxsize=512)
def _remembered(
    attention: Attention, sizes: tuple[tuple[str, int], ...], scalars: tuple[tuple[str, bool | int | float], ...],
    q_extents: Extents, k_extents: Extents, q_offset: int,
) -> tuple[float, bool]:  # fmt: skip
    head = Problem(dict(sizes), dict(scalars), q_extents=dict(q_extents), k_extents=dict(k_extents), q_offset=q_offset)
    return _looked_at(attention, head)


def _head(problem: Problem) -> Problem:
    """The first rows of a call, and its first keys where rows and keys are the same positions. Where nothing else has
    lengths, they are whole powers of two: many lengths look alike."""
    sizes = dict(problem.sizes)
    same = sizes["Lq"] == sizes["Lk"] and isinstance(problem.q_offset, int) and problem.q_offset == 0
    bound = bool(problem.tables or problem.q_extents or problem.k_extents)
    for name in ("Lq", "Lk", "L") if same else ("Lq",):
        if same and not bound:
            sizes[name] = max(BOX, 1 << (sizes[name] - 1).bit_length())
        sizes[name] = min(sizes[name], MOST)
    return replace(problem, sizes=sizes)
