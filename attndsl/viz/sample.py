"""A plan and its mask looked at in chosen rows and columns, never in all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from attndsl.ir.attention import Attention, Space
from attndsl.ir.evaluate import Env, UnboundError, evaluate
from attndsl.ir.expr import BOOL, INT, Coord, Expr, Extent, Index, Member, ParamRef, Size, walk
from attndsl.schedule.plan import Layout, Piece, Plan, row_tile_count, runs
from attndsl.schedule.problem import Problem

Positions = npt.NDArray[np.int64]
SKIPPED, PARTIAL, FULL = 0, 1, 2
"""Tile classes in a picture; the last two are `TileClass`."""


@dataclass(frozen=True)
class Sample:
    """`kind[i, j]` is the class of the tile that holds (rows[i], cols[j]); `seen[i, j]` whether the pair is visible,
    None where the mask reads tensors that are not at hand."""

    rows: Positions
    cols: Positions
    kind: npt.NDArray[np.uint8]
    seen: npt.NDArray[np.bool_] | None


def sample(
    attention: Attention, problem: Problem, plan: Plan, rows: Positions, cols: Positions, h: int = 0, b: int = 0
) -> Sample:
    """Tile classes and visibility at rows x cols (linear positions without `q_offset`) of one head and batch."""
    try:
        seen = visible(attention, problem, rows, cols, h, b)
    except UnboundError:
        seen = None
    return Sample(rows, cols, tile_kinds(plan, rows, cols, h, b), seen)


def visible(
    attention: Attention, problem: Problem, rows: Positions, cols: Positions, h: int = 0, b: int = 0
) -> npt.NDArray[np.bool_]:
    """The mask at rows x cols. Raises UnboundError for a tensor that `problem.tables` lacks."""
    env = Env(_values(attention, problem, rows[:, None], cols[None, :], h, b), problem.tables)
    seen = np.asarray(evaluate(attention.mask, env), dtype=bool)
    return np.broadcast_to(seen, (len(rows), len(cols)))


def tile_kinds(plan: Plan, rows: Positions, cols: Positions, h: int = 0, b: int = 0) -> npt.NDArray[np.uint8]:
    """The class of the forward tile that holds each pair of rows x cols."""
    out = np.zeros((len(rows), len(cols)), dtype=np.uint8)
    for piece in plan.forward.pieces:
        row_coords, row_inside = coordinates(rows, piece.rows)
        col_coords, col_inside = coordinates(cols, piece.cols)
        if row_inside.any() and col_inside.any():
            _mark(out, piece, row_coords, row_inside, col_coords, col_inside, h, b)
    return out


def coordinates(positions: Positions, layout: Layout) -> tuple[tuple[Positions, ...], npt.NDArray[np.bool_]]:
    """Axis coordinates of linear positions in a segment, and which positions lie in it."""
    extents = layout.extents
    local = positions - layout.start
    inside = (local >= 0) & (local < int(np.prod(extents, dtype=np.int64)))
    return tuple(np.unravel_index(np.where(inside, local, 0), extents)), inside  # type: ignore[return-value]


def _mark(
    out: npt.NDArray[np.uint8],
    piece: Piece,
    row_coords: tuple[Positions, ...],
    row_inside: npt.NDArray[np.bool_],
    col_coords: tuple[Positions, ...],
    col_inside: npt.NDArray[np.bool_],
    h: int,
    b: int,
) -> None:
    classes = piece.class_of
    source = piece.sources[int(classes[min(b, classes.shape[0] - 1), min(h, classes.shape[1] - 1)])]
    splits = [a.split for a in piece.rows.axes]
    waiting = row_inside.copy()
    for tile in range(row_tile_count(piece, source)):
        if not waiting.any():
            break
        mine = waiting
        for i, run in enumerate(runs(source, piece, tile)):
            if i == 0:
                mine = waiting.copy()
                for x, d, g, lo, hi in zip(
                    row_coords, splits, run.row_residue, run.row_start, run.row_stop, strict=True
                ):
                    mine &= (x % d == g) & (x // d >= lo) & (x // d < hi)
                waiting = waiting & ~mine
                if not mine.any():
                    break
            hit = col_inside.copy()
            for x, axis, g, first, count in zip(
                col_coords, piece.cols.axes, run.residue, run.first, run.count, strict=True
            ):
                c = x // axis.split
                hit &= (x % axis.split == g) & (c >= first) & (c < first + count * axis.box)
            out[np.ix_(mine, hit)] = int(run.kind)


def _values(attention: Attention, problem: Problem, q: Any, k: Any, h: int, b: int) -> dict[Expr, Any]:
    sizes = problem.sizes
    offset = problem.q_offset if isinstance(problem.q_offset, int) else int(problem.q_offset[b])
    group = max(1, sizes.get("H", 1) // max(1, sizes.get("Hkv", sizes.get("H", 1))))
    named: Mapping[str, Any] = {"q": q + offset, "row": q, "k": k, "h": h, "b": b, "hkv": h // group}
    values: dict[Expr, Any] = {Index(INT, name): value for name, value in named.items()}  # type: ignore[arg-type]
    values |= {Size(INT, name): size for name, size in sizes.items()}
    for s in attention.scalars:
        if s.name in problem.scalars:
            for node in walk(attention.mask):
                if isinstance(node, ParamRef) and node.name == s.name:
                    values[node] = problem.scalars[s.name]
    values |= _grid_values("q", attention.q_space, problem.q_extents, q + offset)
    values |= _grid_values("k", attention.k_space, problem.k_extents, k)
    return values


def _grid_values(
    side: Any, space: Space | None, extents: Mapping[str, tuple[int, ...]], positions: Any
) -> dict[Expr, Any]:
    values: dict[Expr, Any] = {}
    start = 0
    for segment in space.segments if space else ():
        shape = extents[segment.name]
        size = int(np.prod(shape, dtype=np.int64))
        local = positions - start
        inside = (local >= 0) & (local < size)
        values[Member(BOOL, side, segment.name)] = inside
        coords = np.unravel_index(np.where(inside, local, 0), shape)
        for axis, coord, extent in zip(segment.axes, coords, shape, strict=True):
            values[Coord(INT, side, segment.name, axis)] = np.where(inside, coord, -1)
            values[Extent(INT, side, segment.name, axis)] = extent
        start += size
    return values


def evenly(size: int, most: int) -> Positions:
    """At most `most` positions spread over [0, size): the middle of each equal part, or all of them."""
    if size <= most:
        return np.arange(size, dtype=np.int64)
    return (np.arange(most, dtype=np.int64) * 2 + 1) * size // (2 * most)
