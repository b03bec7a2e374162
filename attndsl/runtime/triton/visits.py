"""What the tiles of a call visit, for the choice of a configuration where nothing was tuned."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from functools import lru_cache
from math import prod

from attndsl.ir.attention import Attention
from attndsl.ir.expr import SCORE
from attndsl.ir.free import tensors
from attndsl.runtime.cache.key import up
from attndsl.runtime.call import Call
from attndsl.runtime.triton.config import Visits
from attndsl.schedule.build import build
from attndsl.schedule.plan import row_tile_count
from attndsl.schedule.problem import Problem
from attndsl.schedule.tiling import Tiling

BOX = 128
MOST = 16384
"""Positions that are looked at. What tiles visit there says whether ranges are short."""
CUT = 4096
"""Positions of a segment of a grid that are looked at."""


Extents = tuple[tuple[str, tuple[int, ...]], ...]
"""Those of each segment."""


def visits_of(attention: Attention, problem: Problem) -> Visits:
    """The visits of a forward pass of an attention (consts bound, simplified)."""
    plain = attention.score == SCORE and attention.weight is None
    if attention.gridded and not problem.moved:
        # loops over several segments take more registers
        one = len(problem.q_extents) == len(problem.k_extents) == 1
        return Visits(_of_grid(attention, problem), False, plain and one, grid=True)
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


def _of_grid(attention: Attention, problem: Problem) -> float:
    """The keys that a box of rows visits in the mean, on a grid whose segments are cut to `CUT` positions."""
    if problem.tables or tensors(attention.mask):
        return float(problem.sizes["Lk"])
    extents = tuple((n, _cut(e)) for n, e in problem.q_extents.items())
    others = tuple((n, _cut(e)) for n, e in problem.k_extents.items())
    sizes = dict(problem.sizes)
    sizes["Lq"], sizes["Lk"] = (sum(prod(e) for _, e in every) for every in (extents, others))
    if "L" in sizes and sizes["Lq"] == sizes["Lk"]:
        sizes["L"] = sizes["Lq"]
    return _remembered(attention, tuple(sizes.items()), tuple(problem.scalars.items()), extents, others, 0)[0]


def _cut(extents: tuple[int, ...]) -> tuple[int, ...]:
    """Axes that are longer than the same root of `CUT`, cut to it."""
    most = round(CUT ** (1 / len(extents)))
    return tuple(min(n, most) for n in extents)


def _looked_at(attention: Attention, head: Problem) -> tuple[float, bool]:
    """The keys that a tile visits in the mean, and whether all boxes are FULL."""
    if attention.gridded and not head.moved:
        # as many boxes as there are tiles of rows in a plan's own shape of boxes
        plan = build(attention, head, Tiling(BOX, BOX).tile(attention, head))
    else:
        plan = build(attention, head, (BOX, BOX))
    tiles = sum(row_tile_count(p, s) for p in plan.forward.pieces for s in p.sources)
    return plan.visited * BOX / max(tiles, 1), plan.visited == plan.full


def look_alike(call: Call) -> Hashable | None:
    """Equal for calls that `Call.alike` has together and that `visits_of`, and buckets of sizes, take for one another;
    None for one that is looked at on its own."""
    s = call.sizes
    if call.tables or call.q_extents or call.k_extents or s["Lq"] != s["Lk"] or not _at_start(call):
        return None
    return up(s["Lq"]), s["Lq"] % BOX == 0


def _at_start(call: Call) -> bool:
    """Whether rows begin where keys do. Offsets on the device are not looked at."""
    return isinstance(call.q_offset, int) and call.q_offset == 0


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
            sizes[name] = max(BOX, up(sizes[name]))
        sizes[name] = min(sizes[name], MOST)
    return replace(problem, sizes=sizes)
