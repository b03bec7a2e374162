"""The mask on one axis: solved once, then cut into tiles of any shape.

A mask that demands equal residues, q % d == k % d, is looked at per residue class: the axis is split by d, row and
column coordinates count the positions of one class, and what is left of the mask has no `%` in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from attndsl.ir.expr import TRUE, Coord, Expr, Literal, Op, op, rewrite
from attndsl.ir.types import INT
from attndsl.schedule.formula import Conjunct, TooManyConjunctsError, conjuncts
from attndsl.schedule.interval import Boxes as Ranges
from attndsl.schedule.linear import Linear, expression, linear, split_divisions
from attndsl.schedule.place import place
from attndsl.schedule.plan import AxisRanges
from attndsl.schedule.rows import Longs, RowTiles, touched
from attndsl.schedule.solve import Unknown, solve
from attndsl.schedule.tables import RangeTable

ROW_RESIDUE = Coord(INT, "q", "#", "residue")
COLUMN_RESIDUE = Coord(INT, "k", "#", "residue")
Tables = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class AxisMask:
    """A mask between the coordinates of one axis: `row` in [0, rows), `column` in [0, columns)."""

    mask: Expr
    row: Expr
    column: Expr
    rows: int
    columns: int
    tables: Tables
    sorted_tables: frozenset[str]


@dataclass(frozen=True)
class SolvedAxis:
    """An axis mask as conjuncts of what is visible and of what is denied. `split` is the number of residue classes
    and `shift` what a row's residue adds to give its columns' residue."""

    axis: AxisMask
    visible: tuple[Conjunct, ...]
    denied: tuple[Conjunct, ...]
    split: int = 1
    shift: int = 0

    @property
    def solved(self) -> bool:
        """Whether nothing stayed unsolved."""
        return not any(c.unsolved or len(c.residues) > 1 for c in (*self.visible, *self.denied))


def solve_axis(axis: AxisMask, *, split: bool = True) -> SolvedAxis:
    """Solve an axis mask for its column; with `split` by residue class where it demands equal residues."""
    if split:
        found = _residue_demand(axis)
        if found is not None:
            return _solve_split(axis, *found)
    ranges = {axis.row: (0, max(axis.rows - 1, 0)), axis.column: (0, max(axis.columns - 1, 0))}
    return SolvedAxis(axis, *_both_ways(axis, axis.mask, ranges))


def _both_ways(
    axis: AxisMask, mask: Expr, ranges: Mapping[Expr, tuple[int, int]]
) -> tuple[tuple[Conjunct, ...], tuple[Conjunct, ...]]:
    range_tables = {n: RangeTable(t, n in axis.sorted_tables) for n, t in axis.tables.items() if t.ndim == 1}
    lengths = {n: len(axis.tables[n]) for n in axis.sorted_tables if axis.tables[n].dtype.kind in "iu"}
    unknown = Unknown(axis.column, Ranges(ranges, range_tables), lengths)
    return _conjuncts(mask, unknown, False), _conjuncts(mask, unknown, True)


def _conjuncts(mask: Expr, unknown: Unknown, negate: bool) -> tuple[Conjunct, ...]:
    try:
        return conjuncts(solve(mask, unknown, negate=negate))
    except TooManyConjunctsError:
        return (Conjunct(unsolved=(op("not", mask) if negate else mask,)),)


# Residue classes


def factors(mask: Expr) -> list[Expr]:
    """The members of a conjunction."""
    if isinstance(mask, Op) and mask.op == "and":
        return [f for a in mask.args for f in factors(a)]
    return [mask]


def conjunction(parts: list[Expr]) -> Expr:
    """The `and` of several masks."""
    found = TRUE
    for part in parts:
        found = part if found == TRUE else op("and", found, part)
    return found


def _residue_demand(axis: AxisMask) -> tuple[int, int, Expr] | None:
    """(d, shift, other factors) for a factor that says column ≡ row + shift (mod d)."""
    parts = factors(axis.mask)
    for i, part in enumerate(parts):
        if not isinstance(part, Op) or part.op != "eq" or part.args[0].type != INT:
            continue
        found = _congruence(part.args[0], part.args[1], axis) or _congruence(part.args[1], part.args[0], axis)
        if found is not None:
            return *found, conjunction(parts[:i] + parts[i + 1 :])
    return None


def _congruence(a: Expr, b: Expr, axis: AxisMask) -> tuple[int, int] | None:
    """a == b as column ≡ row + shift (mod d): x % d == y % d, or x % d == a number."""
    if not isinstance(a, Op) or a.op != "mod" or not isinstance(a.args[1], Literal):
        return None
    d = int(a.args[1].value)
    if not 2 <= d <= max(axis.rows, axis.columns):
        return None
    if isinstance(b, Op) and b.op == "mod" and b.args[1] == a.args[1]:
        form = linear(a.args[0]).plus(linear(b.args[0]), -1)
    elif isinstance(b, Literal) and 0 <= int(b.value) < d:
        form = linear(a.args[0]).plus(Linear({}, int(b.value)), -1)
    else:
        return None
    if set(form.terms) != {axis.row, axis.column}:
        return None
    at_column, at_row = form.terms[axis.column] % d, form.terms[axis.row] % d
    if at_column == 1 and at_row == d - 1:
        return d, -form.constant % d
    if at_column == d - 1 and at_row == 1:
        return d, form.constant % d
    return None


def _solve_split(axis: AxisMask, d: int, shift: int, mask: Expr) -> SolvedAxis:
    column_residue = COLUMN_RESIDUE if shift else ROW_RESIDUE
    here = {
        axis.row: Linear({axis.row: d, ROW_RESIDUE: 1}, 0),
        axis.column: Linear({axis.column: d, column_residue: 1}, 0),
    }
    substituted = rewrite(mask, lambda n: expression(here[n]) if n in here else None)
    inside = split_divisions(substituted, {ROW_RESIDUE: d, COLUMN_RESIDUE: d})
    ranges = {
        axis.row: (0, max((axis.rows - 1) // d, 0)),
        axis.column: (0, max((axis.columns - 1) // d, 0)),
        ROW_RESIDUE: (0, d - 1),
        COLUMN_RESIDUE: (0, d - 1),
    }
    return SolvedAxis(axis, *_both_ways(axis, inside, ranges), d, shift)


# Tiles


def row_tiles(solved: SolvedAxis, box: int) -> tuple[RowTiles, Longs, Longs]:
    """Row tiles of `box` coordinates, residue by residue, with the residues of their rows and columns."""
    axis, d = solved.axis, solved.split
    lengths = (axis.rows - np.arange(d) + d - 1) // d
    tiles = -(-lengths // box)
    residue = np.repeat(np.arange(d), tiles)
    nth = np.arange(len(residue)) - np.repeat(np.cumsum(tiles) - tiles, tiles)
    start = nth * box
    stop = np.minimum(start + box, lengths[residue])
    column_residue = (residue + solved.shift) % d
    columns: Longs | int = axis.columns if d == 1 else np.maximum((axis.columns - column_residue + d - 1) // d, 0)
    given: dict[Expr, Longs] = {} if d == 1 else {ROW_RESIDUE: residue, COLUMN_RESIDUE: column_residue}
    return RowTiles(axis.row, start, stop, given, columns, axis.tables, axis.sorted_tables), residue, column_residue


def sampled_rows(solved: SolvedAxis, size: int, most_rows: int) -> tuple[RowTiles, Longs, float]:
    """Single rows of evenly spaced blocks of `size`, the block of each, and blocks of the axis per sampled block."""
    blocks, _, _ = row_tiles(solved, size)
    most = most_rows // size
    chosen = np.arange(blocks.count)
    if blocks.count > most:
        chosen = np.linspace(0, blocks.count - 1, most).astype(np.int64)
    lengths = (blocks.stop - blocks.start)[chosen]
    block = np.repeat(np.arange(len(chosen)), lengths)
    nth = np.arange(len(block)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    start = blocks.start[chosen][block] + nth
    columns = blocks.columns if isinstance(blocks.columns, int) else blocks.columns[chosen][block]
    given = {n: v[chosen][block] for n, v in blocks.given.items()}
    rows = RowTiles(blocks.row, start, start + 1, given, columns, blocks.tables, blocks.rising)
    return rows, block, blocks.count / max(len(chosen), 1)


def axis_ranges(
    solved: SolvedAxis, row_box: int, column_box: int, *, enumerate_rows: bool = False
) -> tuple[AxisRanges, bool]:
    """The boxes that each row tile visits, and whether every class is exact.

    `enumerate_rows` forgoes the closed forms (the slow twin that tests compare with).
    """
    tiles, residue, column_residue = row_tiles(solved, row_box)
    visible = touched(solved.visible, tiles, column_box, enumerate_rows)
    denied = touched(solved.denied, tiles, column_box, enumerate_rows)
    boxes = place(visible, denied, tiles.columns, column_box, tiles.count)
    indptr = np.searchsorted(boxes.tile, np.arange(tiles.count + 1)).astype(np.int32)
    ranges = AxisRanges(
        tiles.start.astype(np.int32),
        tiles.stop.astype(np.int32),
        _compact(residue, solved.split),
        indptr,
        boxes.first.astype(np.int32),
        boxes.count.astype(np.int32),
        _compact(column_residue[boxes.tile], solved.split),
        boxes.kind,
    )
    return ranges, visible.exact and denied.exact


def _compact(residue: Longs, split: int) -> npt.NDArray[np.int32]:
    """Residues as int32; without a split a view of a single zero."""
    if split == 1:
        return np.broadcast_to(np.zeros((), np.int32), residue.shape)
    return residue.astype(np.int32)
