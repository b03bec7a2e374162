"""Which columns the rows of a tile touch: disjoint intervals per row tile, from the conjuncts of a mask.

Bounds that go one way along the rows are evaluated at the two ends of a tile only, where a certificate says that
the rows' intervals leave no gap. All other tiles have their rows enumerated, in chunks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from attndsl.ir.evaluate import Env, evaluate
from attndsl.ir.expr import Expr, Load, Op, Search
from attndsl.ir.types import INT
from attndsl.schedule.formula import Conjunct, Residues
from attndsl.schedule.linear import Linear, contains, expression, linear
from attndsl.schedule.monotone import Trend, trend

Longs = npt.NDArray[np.int64]
CHUNK = 1 << 16
MOST_PIECES = 1 << 20
FEW_ROWS = 1 << 12
"""Up to this many rows are enumerated at once: that costs less than a certificate."""


def _nothing_known() -> dict[Expr, tuple[Any, Any]]:
    return {}


@dataclass(frozen=True)
class RowTiles:
    """Row tiles of one axis: rows start..stop-1 of each; `given` are further nodes with one value per tile, such as
    a residue; `columns` how many column coordinates there are, per tile or for all; `rising` the sorted tables."""

    row: Expr
    start: Longs
    stop: Longs
    given: Mapping[Expr, Longs]
    columns: Longs | int
    tables: Mapping[str, npt.NDArray[Any]]
    rising: frozenset[str] = frozenset()
    known: dict[Expr, tuple[Any, Any]] = field(default_factory=_nothing_known, compare=False)

    def ends(self, e: Expr) -> tuple[Any, Any]:
        """The value in the first and in the last row of every tile."""
        found = self.known.get(e)
        if found is None:
            everything = slice(None)
            first = evaluate(e, self.env(everything, self.start))
            last = evaluate(e, self.env(everything, self.stop - 1)) if contains(e, self.row) else first
            found = self.known[e] = (np.broadcast_to(first, (self.count,)), np.broadcast_to(last, (self.count,)))
        return found

    def trend(self, e: Expr) -> Trend:
        """Which way an expression goes along the rows."""
        return trend(e, self.row, self.rising)

    @property
    def count(self) -> int:
        return len(self.start)

    def env(self, tiles: Longs | slice, rows: Longs, axis: bool = False) -> Env:
        """Values for some tiles: one row each, or with `axis` rows along a second dimension."""
        given = {n: v[tiles][:, None] if axis else v[tiles] for n, v in self.given.items()}
        return Env({self.row: rows, **given}, self.tables)

    def columns_of(self, tiles: Longs | slice) -> Any:
        return self.columns if isinstance(self.columns, int) else self.columns[tiles]


@dataclass(frozen=True)
class Touched:
    """Disjoint intervals [lo, hi) of columns, sorted by tile and lo; `exact` if each column interval of the width of a
    box that lies in one of them holds a column that some row of the tile satisfies."""

    tile: Longs
    lo: Longs
    hi: Longs
    exact: bool


def touched(members: tuple[Conjunct, ...], tiles: RowTiles, box: int, always_rows: bool = False) -> Touched:
    """Columns that satisfy some conjunct for some row of each tile. `box` is the width of column boxes: sets of
    residues with a period up to it count as solid."""
    found: list[tuple[Longs, Longs, Longs]] = []
    exact = True
    for member in members:
        exact &= not member.unsolved and len(member.residues) <= 1
        for tile, lo, hi, sure in _conjunct(member, tiles, box, always_rows):
            exact &= sure
            found.append((tile, lo, hi))
    if not found:
        none = np.zeros(0, np.int64)
        return Touched(none, none, none, exact)
    tile, lo, hi = (np.concatenate(part) for part in zip(*found, strict=True))
    return Touched(*merged(tile, lo, hi), exact)


def merged(tile: Longs, lo: Longs, hi: Longs) -> tuple[Longs, Longs, Longs]:
    """Disjoint intervals per tile: overlapping and adjacent ones become one, empty ones vanish."""
    solid = lo < hi
    tile, lo, hi = tile[solid], lo[solid], hi[solid]
    if len(tile) < 2:
        return tile, lo, hi
    far = int(hi.max()) + 1
    begin, end = tile * far + lo, tile * far + hi
    order = np.argsort(begin, kind="stable")
    tile, begin, end = tile[order], begin[order], np.maximum.accumulate(end[order])
    new = np.empty(len(tile), bool)
    new[0] = True
    np.logical_or(begin[1:] > end[:-1], tile[1:] != tile[:-1], out=new[1:])
    firsts = np.flatnonzero(new)
    lasts = np.append(firsts[1:], len(tile)) - 1
    tile = tile[firsts]
    return tile, begin[firsts] - tile * far, end[lasts] - tile * far


Part = tuple[Longs, Longs, Longs, bool]


def _conjunct(member: Conjunct, tiles: RowTiles, box: int, always_rows: bool) -> list[Part]:
    if not tiles.count:
        return []
    row = tiles.row
    moving = any(contains(e, row) for e in _expressions(member))
    if not moving:
        return _enumerated(member, tiles, np.arange(tiles.count), 1, box)
    rows = int((tiles.stop - tiles.start).sum())
    if always_rows or member.residues or rows <= FEW_ROWS:
        return _enumerated(member, tiles, np.arange(tiles.count), 0, box)
    lo, hi, sure = _at_ends(member, tiles)
    settled = np.flatnonzero(sure)
    parts: list[Part] = [(settled, lo[settled], hi[settled], True)]
    rest = np.flatnonzero(~sure)
    if len(rest):
        parts += _enumerated(member, tiles, rest, 0, box)
    return parts


def _expressions(member: Conjunct) -> tuple[Expr, ...]:
    return (*member.lows, *member.highs, *member.rows, *(e for r in member.residues for e in (r.start, r.length)))


# At the ends of a tile


def _at_ends(member: Conjunct, tiles: RowTiles) -> tuple[Longs, Longs, npt.NDArray[np.bool_]]:
    """Hull of the rows' intervals per tile, and whether it is certainly their union."""
    n = tiles.count
    lows, highs = [tiles.ends(e) for e in member.lows], [tiles.ends(e) for e in member.highs]
    zero, columns = np.zeros(n, np.int64), np.broadcast_to(np.asarray(tiles.columns, np.int64), (n,))
    lo = [np.maximum.reduce([zero, *(v[i] for v in lows)]) for i in (0, 1)]
    hi = [np.minimum.reduce([columns, *(v[i] for v in highs)]) for i in (0, 1)]
    holds, mixed = _row_conditions(member.rows, tiles)
    lo_way, hi_way = _way(member.lows, tiles), _way(member.highs, tiles)
    if lo_way is None or hi_way is None:
        return lo[0], hi[0], np.zeros(n, bool)
    if lo_way * hi_way <= 0:
        # one row's interval holds all others'
        sure = np.ones(n, bool)
        low, high = (lo[1], hi[1]) if hi_way > 0 or lo_way < 0 else (lo[0], hi[0])
    else:
        sure = _gapless(member, tiles)
        low, high = np.minimum(lo[0], lo[1]), np.maximum(hi[0], hi[1])
    return low, np.where(holds, high, low), (sure & ~mixed) | ~(holds | mixed)


def _way(bounds: tuple[Expr, ...], tiles: RowTiles) -> int | None:
    """The common direction of several bounds; None if they disagree or one is unknown."""
    ways = {tiles.trend(b).direction for b in bounds} - {0}
    return None if None in ways or len(ways) > 1 else (ways.pop() if ways else 0)  # type: ignore[return-value]


def _row_conditions(
    conditions: tuple[Expr, ...], tiles: RowTiles
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Per tile: the conditions hold in all rows; some hold in a part of the rows, or one cannot tell."""
    holds, mixed = np.ones(tiles.count, bool), np.zeros(tiles.count, bool)
    for condition in conditions:
        a, b = tiles.ends(condition)
        holds &= a & b
        if contains(condition, tiles.row):
            mixed |= (a != b) if _one_way(condition, tiles) else np.True_
    return holds, mixed


def _one_way(condition: Expr, tiles: RowTiles) -> bool:
    """Whether a condition that holds in two rows holds in all between, and likewise its negation."""
    if not isinstance(condition, Op) or condition.op not in ("lt", "le", "gt", "ge"):
        return False
    return condition.args[0].type == INT and tiles.trend(Op(INT, "sub", condition.args)).direction is not None


def _gapless(member: Conjunct, tiles: RowTiles) -> npt.NDArray[np.bool_]:
    """Whether the intervals of neighbouring rows certainly overlap or touch.

    Either every interval is as wide as a bound moves in a step, or all contain a point that moves by at most one.
    """
    lows, highs = [linear(e) for e in member.lows], [linear(e) for e in member.highs]
    step = min(max((tiles.trend(e).step for e in side), default=0) for side in (member.lows, member.highs))
    certified = _at_least(highs, lows, max(step, 1), tiles)
    one = Linear({}, 1)
    points = [p for p in (*lows, *(h.plus(one, -1) for h in highs)) if tiles.trend(expression(p)).step <= 1]
    for point in points:
        if np.all(certified):
            break
        certified = certified | (_at_least([point], lows, 0, tiles) & _at_least(highs, [point], 1, tiles))
    return certified


def _at_least(highs: list[Linear], lows: list[Linear], least: int, tiles: RowTiles) -> npt.NDArray[np.bool_]:
    """Per tile: high - low >= least for all pairs and all rows of the tile."""
    holds = np.ones(tiles.count, bool)
    for high in highs:
        for low in lows:
            e = expression(_sharpened(high.plus(low, -1)))
            if tiles.trend(e).direction is None:
                return np.zeros(tiles.count, bool)
            holds &= np.minimum(*tiles.ends(e)) >= least
    return holds


def _sharpened(form: Linear) -> Linear:
    """A lower bound of a form in which searches for an element's own value give way to its position."""
    for term, coefficient in form.terms.items():
        if not isinstance(term, Search) or not isinstance(term.value, Load) or term.value.tensor != term.tensor:
            continue
        position = linear(term.value.indices[0])
        if term.side == "left" and coefficient < 0:
            return _sharpened(form.without(term).plus(position, coefficient))
        if term.side == "right" and coefficient > 0:
            return _sharpened(form.without(term).plus(position.plus(Linear({}, 1)), coefficient))
    return form


# Row by row


def _enumerated(member: Conjunct, tiles: RowTiles, chosen: Longs, rows: int, box: int) -> list[Part]:
    """Intervals of the chosen tiles from all their rows, or from their first row if `rows` is 1."""
    width = rows or int((tiles.stop - tiles.start)[chosen].max())
    per_chunk = max(1, CHUNK // width)
    return [_chunk(member, tiles, chosen[i : i + per_chunk], width, box) for i in range(0, len(chosen), per_chunk)]


def _chunk(member: Conjunct, tiles: RowTiles, chosen: Longs, width: int, box: int) -> Part:
    rows = tiles.start[chosen][:, None] + np.arange(width)
    valid = rows < tiles.stop[chosen][:, None]
    rows = np.minimum(rows, tiles.stop[chosen][:, None] - 1)
    env = tiles.env(chosen, rows, axis=True)
    columns = tiles.columns_of(chosen)
    columns = columns if isinstance(columns, int) else columns[:, None]
    lo: Any = np.zeros(rows.shape, np.int64)
    hi: Any = np.broadcast_to(np.asarray(columns, np.int64), rows.shape)
    for e in member.lows:
        lo = np.maximum(lo, evaluate(e, env))
    for e in member.highs:
        hi = np.minimum(hi, evaluate(e, env))
    for e in member.rows:
        valid = valid & evaluate(e, env)
    hi = np.where(valid, hi, lo)
    tile = np.broadcast_to(chosen[:, None], rows.shape)
    exact = True
    if member.residues:
        tile, lo, hi, exact = _residues(member.residues[0], env, tile, lo, hi, box)
        return *merged(tile, lo, hi), exact
    return *merged(tile.ravel(), lo.ravel(), hi.ravel()), exact


def _residues(which: Residues, env: Env, tile: Longs, lo: Longs, hi: Longs, box: int) -> Part:
    """Cut intervals down to their first and last member of a residue class, or into single runs of residues."""
    period = which.period
    start = np.broadcast_to(np.asarray(evaluate(which.start, env), np.int64), lo.shape)
    length = np.clip(np.broadcast_to(np.asarray(evaluate(which.length, env), np.int64), lo.shape), 0, period)
    into = (lo - start) % period
    lo = np.where(into < length, lo, lo + period - into)
    back = (hi - 1 - start) % period
    hi = np.where(back < length, hi, hi - (back - length + 1))
    solid = (lo < hi) & (length > 0)
    tile, lo, hi, start, length = (a[solid] for a in (tile, lo, hi, start, length))
    if period <= box:
        return tile, lo, hi, True
    runs = (hi - 1 - start) // period - (lo - start) // period + 1
    total = int(runs.sum())
    if total > MOST_PIECES:
        return tile, lo, hi, False
    begin = start + (lo - start) // period * period
    each = np.repeat(np.arange(len(runs)), runs)
    nth = np.arange(total) - np.repeat(np.cumsum(runs) - runs, runs)
    left = begin[each] + nth * period
    return tile[each], np.maximum(left, lo[each]), np.minimum(left + length[each], hi[each]), True
