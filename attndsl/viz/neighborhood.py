"""The keys of one query on a grid: which coordinates it sees, and in tiles of which class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attndsl.ir.attention import Attention, Segment
from attndsl.schedule.plan import Plan
from attndsl.schedule.problem import Problem
from attndsl.viz.sample import FULL, PARTIAL, Positions, sample

NOT_VISITED, MASKED, SEEN_PARTIAL, SEEN_FULL, QUERY = 0, 1, 2, 3, 4
"""Values of a picture's cells."""


@dataclass(frozen=True)
class Neighborhood:
    """`cells` has the extents of the k segment's grid; `query` is the position of the query, `at` its coordinates in
    the k segment (None where q and k live on different grids)."""

    segment: Segment
    query: int
    label: str
    at: tuple[int, ...] | None
    cells: npt.NDArray[np.uint8]

    @property
    def slices(self) -> list[tuple[str, npt.NDArray[np.uint8]]]:
        """Two-dimensional pictures, those without visited keys left out: one axis is a single row, the leading axis
        of three is cut into slices."""
        axes = self.segment.axes
        if self.cells.ndim == 1:
            return [("", self.cells[None, :])]
        if self.cells.ndim == 2:
            return [("", self.cells)]
        flat = self.cells.reshape(-1, *self.cells.shape[-2:])
        labels = np.ndindex(*self.cells.shape[:-2])
        return [
            (", ".join(f"{a}={i}" for a, i in zip(axes, index, strict=False)), picture)
            for index, picture in zip(labels, flat, strict=True)
            if picture.any()
        ]


def cells(kind: npt.NDArray[np.uint8], seen: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.uint8]:
    """Tile classes and visibility as one picture; unknown visibility in a PARTIAL tile shows as visible."""
    out = np.zeros(kind.shape, dtype=np.uint8)
    out[kind == FULL] = SEEN_FULL
    out[kind == PARTIAL] = SEEN_PARTIAL
    if seen is not None:
        out[(kind == PARTIAL) & ~seen] = MASKED
    return out


def linear_position(
    coordinates: Sequence[int], segment: Segment, extents: Mapping[str, tuple[int, ...]], start: int
) -> int:
    """The position of coordinates in a segment. ValueError for one that is outside."""
    shape = extents[segment.name]
    for axis, c, n in zip(segment.axes, coordinates, shape, strict=True):
        if not 0 <= c < n:
            raise ValueError(f"coordinate {axis}={c} is outside the grid, whose {axis} has extent {n}")
    return start + int(np.ravel_multi_index(tuple(coordinates), shape))


def segments(attention: Attention, side: str, extents: Mapping[str, tuple[int, ...]]) -> list[tuple[Segment, int, int]]:
    """(segment, first position, number of positions) of q's or k's space; empty without a grid."""
    space = attention.q_space if side == "q" else attention.k_space
    found: list[tuple[Segment, int, int]] = []
    start = 0
    for segment in space.segments if space else ():
        size = int(np.prod(extents[segment.name], dtype=np.int64))
        found.append((segment, start, size))
        start += size
    return found


def neighborhood(
    attention: Attention, problem: Problem, plan: Plan, query: int, h: int = 0, b: int = 0
) -> list[Neighborhood]:
    """What a query at a linear position sees, one picture per k segment."""
    rows: Positions = np.array([query], dtype=np.int64)
    label = f"q={query}"
    home: tuple[str, tuple[int, ...]] | None = None
    for segment, start, size in segments(attention, "q", problem.q_extents):
        if start <= query < start + size:
            at = tuple(int(c) for c in np.unravel_index(query - start, problem.q_extents[segment.name]))
            label = ", ".join(f"{a}={c}" for a, c in zip(segment.axes, at, strict=True))
            home = (segment.name, at)
    out: list[Neighborhood] = []
    for segment, start, size in segments(attention, "k", problem.k_extents):
        cols = np.arange(start, start + size, dtype=np.int64)
        found = sample(attention, problem, plan, rows, cols, h, b)
        picture = cells(found.kind, found.seen).reshape(problem.k_extents[segment.name])
        mine = attention.shared and home is not None and home[0] == segment.name
        if mine and home is not None:
            picture[home[1]] = QUERY
        out.append(Neighborhood(segment, query, label, home[1] if mine and home else None, picture))
    return out


def middle_query(attention: Attention, problem: Problem) -> int:
    """The position in the middle of the largest q segment."""
    parts = segments(attention, "q", problem.q_extents)
    if not parts:
        return problem.sizes["Lq"] // 2
    segment, start, _ = max(parts, key=lambda p: p[2])
    return linear_position([n // 2 for n in problem.q_extents[segment.name]], segment, problem.q_extents, start)
