"""Tables of masks that are one or two intervals per row, in closed form: no plan, a few operations on vectors.

Bounds are solved once for an attention (`codegen/triton_bands.py`). Where they go one way along the rows, those of a
tile follow from its first and last row: the hull [A, B) of what any row sees and the core [C, D) that all rows see. A
tile then visits ceil((B - A) / box) boxes, from where most of them lie in the core. Two bands whose boxes would meet
are one hull with the longer core.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from attndsl.codegen.triton_bands import KEY, QUERY, Band, bands_of
from attndsl.codegen.triton_form import FULL_SPANS, PARTIAL_SPANS, PieceForm, SideForm
from attndsl.ir.attention import Attention
from attndsl.ir.evaluate import Env, evaluate
from attndsl.ir.expr import TRUE, Decay, Expr, Index, Load, ParamRef, Size, op, walk
from attndsl.runtime.call import Call
from attndsl.runtime.host import meaning
from attndsl.runtime.triton.tables import LaunchTables, PieceTables
from attndsl.schedule.monotone import trend

Longs = npt.NDArray[np.int64]
Ints = npt.NDArray[np.int32]
LINE = SideForm("", ("0",), (False,))
SPANS = PieceForm(LINE, False, True)
ZERO = np.zeros((1, 1), np.int32)
NO_BOXES = np.zeros((0, 1), np.int32)
MANY = 256
"""Tiles from which on it pays to look which are alike."""


@dataclass(frozen=True)
class Line:
    """The bands of a mask, solved for keys or with `turned` for queries; `step` is the furthest that one of the bounds
    moves from row to row. `certain`: whether a band's width goes one way along the rows."""

    bands: tuple[Band, ...]
    certain: tuple[bool, ...]
    step: int
    turned: bool


@lru_cache(maxsize=512)
def line_of(attention: Attention, turned: bool) -> Line | None:
    """The bands of an attention's mask; None where bounds do not follow from positions, sizes and scalars alone, or
    turn within the rows."""
    if attention.q_space is not None or attention.k_space is not None:
        return None
    if any(isinstance(n, Decay) for e in meaning(attention) for n in walk(e)):
        # a plan checks that its mask fits
        return None
    nodes = list(walk(attention.mask))
    if any(isinstance(n, Load) or (isinstance(n, Index) and n not in (KEY, QUERY)) for n in nodes):
        return None
    found = bands_of(attention.mask, QUERY if turned else KEY)
    if found is None:
        return None
    own = KEY if turned else QUERY
    steps: list[int] = []
    certain: list[bool] = []
    for band in found:
        if any(isinstance(n, Index) for n in walk(band.rows)):
            return None
        ways = [trend(e, own) for e in (band.low, band.high) if e is not None]
        if any(w.direction is None for w in ways):
            return None
        steps.append(min((w.step for w in ways), default=0) if len(ways) == 2 else 0)
        apart = None if band.low is None or band.high is None else op("sub", band.high, band.low)
        certain.append(apart is not None and trend(apart, own).direction is not None)
    return Line(found, tuple(certain), max(steps, default=0), turned)


Numbers = Any
"""One of each tile: a vector, or the number of one tile."""


def least(a: Numbers, b: Numbers) -> Numbers:
    return (a if a < b else b) if type(a) is int and type(b) is int else np.minimum(a, b)


def most(a: Numbers, b: Numbers) -> Numbers:
    return (a if a > b else b) if type(a) is int and type(b) is int else np.maximum(a, b)


def pick(condition: Numbers, a: Numbers, b: Numbers) -> Numbers:
    return (a if condition else b) if type(condition) is bool else np.where(condition, a, b)


class Runs(NamedTuple):
    """Boxes of tiles: so many from `first`, of which [`full`, `rest`) are FULL."""

    first: Numbers
    boxes: Numbers
    full: Numbers
    rest: Numbers


def line_tables(attention: Attention, call: Call, rows: int, columns: int, *, turned: bool) -> LaunchTables | None:
    """The tables of a sweep of tiles of `rows` positions and boxes of `columns`; None without a closed form. With
    `LaunchTables.whole` they are those that other lengths do not have."""
    line = line_of(attention, turned)
    # a gap between neighbouring rows' intervals must not hold a box
    if line is None or line.step > columns or columns & (columns - 1) or not isinstance(call.q_offset, int):
        return None
    lengths = call.sizes["Lq"], call.sizes["Lk"]
    length, width = lengths[::-1] if turned else lengths
    values = {n: _value(call, n) for n in leaves(attention)}
    if call.q_offset == 0 and not any(isinstance(n, Size) for n in values):
        shared = _shared(attention, line, tuple(values.items()), rows, columns, length, width)
        if shared is not None:
            return shared
    return _launch(_made(line, Space(values, call.q_offset, width), rows, columns, length), rows, columns)


def _launch(
    made: Made, rows: int, columns: int, whole: LaunchTables | None = None, bare: bool | None = None
) -> LaunchTables:  # fmt: skip
    piece = PieceTables(SPANS, (columns,), 0, (1,), made.bounds[None], NO_BOXES, ZERO)
    return LaunchTables(
        LINE, (rows,), 0, (1,), made.tiles, made.order, (piece,), False, whole=whole, known_bare=bare
    )  # fmt: skip


def _value(call: Call, leaf: Size | ParamRef) -> Any:
    return call.sizes[leaf.name] if isinstance(leaf, Size) else call.scalars[leaf.name]


class Space(NamedTuple):
    """What bounds are evaluated with: values of sizes and scalars, the offset of rows, and how many columns there
    are."""

    values: Mapping[Size | ParamRef, Any]
    offset: int
    width: int


class Made(NamedTuple):
    """Tables of a sweep: [tiles, start, stop], [tiles, ends and origins of spans] and the tiles, longest first."""

    tiles: Ints
    bounds: Ints
    order: Ints


def _made(line: Line, space: Space, rows: int, columns: int, length: int) -> Made:
    start = np.arange(0, length, rows)
    stop = np.minimum(start + rows, length)
    if all(band.low is None and band.high is None for band in line.bands):
        # all tiles are alike
        hulls = _hulls(line, space, start[:1], stop[:1])
        bounds, _ = _spans(_runs(hulls, space.width, columns), start[:1], columns)
        bounds = np.ascontiguousarray(np.broadcast_to(bounds, (len(start), bounds.shape[1])))
        return Made(_tiles(start, stop), bounds, np.arange(len(start), dtype=np.int32))
    hulls = _hulls(line, space, start, stop - 1)
    bounds, cost = _spans(_runs(hulls, space.width, columns), start, columns)
    order = np.argsort(-cost, kind="stable").astype(np.int32)
    return Made(_tiles(start, stop), bounds, order)


def _tiles(start: Numbers, stop: Numbers) -> Ints:
    return _columns([start, stop])


def _columns(numbers: list[Numbers]) -> Ints:
    """[tiles, numbers], or [numbers] of one tile."""
    found = np.empty((len(numbers), *np.shape(numbers[-1])), np.int32)
    for i, n in enumerate(numbers):
        found[i] = n
    return np.ascontiguousarray(found.T)


# Lengths that share tables

LEAST, MOST = 1 << 12, 1 << 22
"""Positions of the shortest and the longest tables that are shared."""
ENDLESS = 1 << 40
ALONE = 4
"""Tiles up to which each is made on its own."""
FEW = 64
"""Tiles that may differ from those of a launch whose tables are used."""


class Master(NamedTuple):
    """Tables for a whole power of two of rows and no end of columns. `reach`: how many columns there must be for a tile
    to be as it is here. `rising`: a tile has at least the work of those before it; `further`: it reaches at least as
    far. `bare`: of how many tiles, from the first on, all boxes are FULL."""

    made: Made
    reach: Longs
    rising: bool
    further: bool
    bare: int
    launch: LaunchTables


def _shared(
    attention: Attention,
    line: Line,
    values: tuple[tuple[Size | ParamRef, Any], ...],
    rows: int,
    columns: int,
    length: int,
    width: int,
) -> LaunchTables | None:
    """The tables of a length, from those that it shares with others: only tiles that the last row or the last column
    cuts are made anew. The order of tiles is that of whole ones. None where bounds depend on the last column."""
    whole = max(LEAST, 1 << (length - 1).bit_length())
    if whole > MOST or any(band.high is None for band in line.bands):
        return None
    master = _master(attention, line.turned, values, rows, columns, whole)
    made, reach = master.made, master.reach
    count = -(-length // rows)
    if master.further:
        cut = np.arange(min(int(reach.searchsorted(width, "right")), count), count)
    else:
        cut = np.flatnonzero(reach[:count] > width)
    if length % rows and not (len(cut) and cut[-1] == count - 1):
        cut = np.append(cut, count - 1)
    if master.rising:
        order = made.order[len(made.order) - count :]
    else:
        order = made.order if count == len(made.order) else made.order[made.order < count]
    first = int(cut[0]) if len(cut) else count
    tiles, bounds = made.tiles[first:count].copy(), made.bounds[first:count].copy()
    space = Space(dict(values), 0, width)
    # a few tiles are numbers: vectors of so few take longer
    for part in cut.tolist() if len(cut) <= ALONE else (cut,):
        start = part * rows
        stop = least(start + rows, length)
        tiles[part - first] = _tiles(start, stop)
        bounds[part - first] = _spans(_runs(_hulls(line, space, start, stop - 1), width, columns), start, columns)[0]
    bare = master.bare >= first and _full(bounds) == count - first
    if master.rising and count - first <= FEW:
        return _launch(Made(tiles, bounds, order), rows, columns, master.launch, bare)
    tiles, bounds = (np.concatenate([a[:first], b]) for a, b in ((made.tiles, tiles), (made.bounds, bounds)))
    return _launch(Made(tiles, bounds, order), rows, columns, None, bare)


def _full(bounds: Ints) -> int:
    """Of how many tiles, from the first on, all boxes are FULL."""
    partial = np.flatnonzero(bounds[:, FULL_SPANS - 1] != bounds[:, FULL_SPANS + PARTIAL_SPANS - 1])
    return int(partial[0]) if len(partial) else len(bounds)


@lru_cache(maxsize=32)
def _master(
    attention: Attention,
    turned: bool,
    values: tuple[tuple[Size | ParamRef, Any], ...],
    rows: int,
    columns: int,
    length: int,
) -> Master:
    line = line_of(attention, turned)
    assert line is not None
    start = np.arange(0, length, rows)
    hulls = _hulls(line, Space(dict(values), 0, ENDLESS), start, start + (rows - 1))
    bounds, cost = _spans(_runs(hulls, ENDLESS, columns), start, columns)
    reach = np.zeros(len(start), np.int64)
    for hull in hulls:
        for edge in hull:
            np.maximum(reach, edge, out=reach)
    rising = not np.any(np.diff(cost) < 0)
    # from the last on: the order of a shorter launch is the end of this one
    order = np.arange(len(start))[::-1] if rising else np.argsort(-cost, kind="stable")
    made = Made(_tiles(start, start + rows), bounds, np.ascontiguousarray(order, np.int32))
    further = not np.any(np.diff(reach) < 0)
    return Master(made, reach, rising, further, _full(bounds), _launch(made, rows, columns))


# Bounds

Hull = tuple[Numbers, Numbers, Numbers, Numbers]
"""[low, high) that any row of a tile sees, and [low, high) that all rows see, wherever columns begin and end."""


def _hulls(line: Line, space: Space, first: Numbers, last: Numbers) -> list[Hull]:
    """The hulls of tiles from their first and last rows, band by band."""
    own, shift = (KEY, 0) if line.turned else (QUERY, space.offset)
    ends = [Env({**space.values, own: at + shift}) for at in (first, last)]
    back = space.offset if line.turned else 0

    def value(e: Expr, env: Env) -> Numbers:
        found = evaluate(e, env)
        if isinstance(first, int):
            return int(found) - back
        return np.broadcast_to(np.asarray(found, np.int64), first.shape) - back

    def at_ends(e: Expr | None, default: int) -> tuple[Numbers, Numbers]:
        """The values in the first and the last row of a tile."""
        if e is None:
            whole = first * 0 + default
            return whole, whole
        return value(e, ends[0]), value(e, ends[1])

    found: list[Hull] = []
    for band, certain in zip(line.bands, line.certain, strict=True):
        if band.rows != TRUE and not bool(evaluate(band.rows, ends[0])):
            continue
        low, low_2 = at_ends(band.low, 0)
        high, high_2 = at_ends(band.high, space.width)
        top = most(high, high_2)
        if certain:
            # a width that is not positive at the ends is nowhere
            top = pick((low >= high) & (low_2 >= high_2), 0, top)
        found.append((least(low, low_2), top, most(low, low_2), least(high, high_2)))
    return found


def places_of(line: Line, space: Space, first: Numbers, last: Numbers, box: int) -> list[Runs]:
    """The boxes of tiles with these first and last rows."""
    return _runs(_hulls(line, space, first, last), space.width, box)


def _runs(hulls: list[Hull], width: int, box: int) -> list[Runs]:
    found = [tuple(least(most(x, 0), width) for x in hull) for hull in hulls]
    if not found:
        return []
    if len(found) == 1:
        low, high, core, end = found[0]
        return [_placed(low, high, core, end, box)]
    return _two(found[0], found[1], box)


@lru_cache(maxsize=512)
def leaves(attention: Attention) -> tuple[Size | ParamRef, ...]:
    """Sizes and scalars that the mask reads."""
    return tuple({n: None for n in walk(attention.mask) if isinstance(n, Size | ParamRef)})


def _placed(
    low: Numbers, high: Numbers, core: Numbers, end: Numbers, box: int, before: Numbers | None = None
) -> Runs:  # fmt: skip
    """The fewest boxes that cover [low, high), placed so that most lie within [core, end); not before `before`."""
    shape = [low & (box - 1), high - low, core - low, end - low, *([] if before is None else [low - before])]
    if isinstance(low, int) or len(low) < MANY:
        back, count, full, rest = _shift(shape, box)
        return Runs(low - back, count, full, rest)
    # tiles that stand to their columns as the one in the middle does have the same answer
    usual = [x[len(low) // 2] for x in shape]
    other = np.flatnonzero(np.logical_or.reduce([x != u for x, u in zip(shape, usual, strict=True)]))
    few = np.append(other, len(low) // 2)
    found: list[Longs] = []
    for part in _shift([x[few] for x in shape], box):
        whole = np.full(len(low), part[-1])
        whole[other] = part[:-1]
        found.append(whole)
    return Runs(low - found[0], found[1], found[2], found[3])


def _shift(shape: list[Numbers], box: int) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """How far before its hull a tile's first box begins, how many boxes it has, and which are FULL."""
    over, length, core, end, *before = shape
    # a box is a power of two: a shift rounds down, a mask is what is left
    bits, rest_of = box.bit_length() - 1, box - 1
    count = most(length + rest_of, 0) >> bits
    room = count * box - length
    if before:
        room = least(room, before[0])
    shift, best = over * 0, over * 0 - 1
    for ahead in (over, -core & rest_of, -end & rest_of, over * 0):
        inside = most(((end + ahead) >> bits) - ((core + ahead + rest_of) >> bits), 0)
        better = (ahead <= room) & (inside > best)
        shift, best = pick(better, ahead, shift), pick(better, inside, best)
    full = least(most((core + shift + rest_of) >> bits, 0), count)
    rest = least(most((end + shift) >> bits, full), count)
    return shift, count, full, rest


def _two(a: tuple[Numbers, ...], b: tuple[Numbers, ...], box: int) -> list[Runs]:
    """The boxes of two bands, each pair in one."""
    # an empty band is taken for one at the other's start
    a = tuple(pick(a[0] >= a[1], b[0], x) for x in a)
    b = tuple(pick(b[0] >= b[1], a[0], x) for x in b)
    swap = b[0] < a[0]
    low = [pick(swap, y, x) for x, y in zip(a, b, strict=True)]
    high = [pick(swap, x, y) for x, y in zip(a, b, strict=True)]
    alone = _placed(low[0], low[1], low[2], low[3], box)
    meet = high[0] <= alone.first + alone.boxes * box
    longer = high[3] - high[2] > low[3] - low[2]
    core, end = (pick(meet & longer, high[i], low[i]) for i in (2, 3))
    first = _placed(low[0], pick(meet, most(low[1], high[1]), low[1]), core, end, box)
    after = first.first + first.boxes * box
    start = pick(meet, after, high[0])
    second = _placed(start, pick(meet, after, high[1]), pick(meet, after, high[2]), high[3], box, after)
    # three runs of PARTIAL boxes are told, not four
    many = (first.full > 0) & (first.rest < first.boxes) & (second.full > 0) & (second.rest < second.boxes)
    many = many & (first.rest > first.full)
    first = first._replace(full=pick(many, first.boxes, first.full), rest=pick(many, first.boxes, first.rest))
    return [first, second]


def _spans(runs: list[Runs], like: Numbers, box: int) -> tuple[Ints, Numbers]:
    """[tiles, ends of spans..., origins of spans...], and what tiles cost; there are as many tiles as in `like`."""
    zero = like * 0
    full = [(r.first + r.full * box, r.rest - r.full) for r in runs]
    partial: list[tuple[Numbers, Numbers]] = []
    for r in runs:
        partial += [(r.first, r.full), (r.first + r.rest * box, r.boxes - r.rest)]
    if len(partial) > PARTIAL_SPANS:
        partial = _squeezed(partial)
    full += [(zero, zero)] * (FULL_SPANS - len(full))
    partial += [(zero, zero)] * (PARTIAL_SPANS - len(partial))
    ends: list[Numbers] = []
    origins: list[Numbers] = []
    end = zero
    for start, count in (*full, *partial):
        origins.append(start - end * box)
        end = end + count
        ends.append(end)
    whole = ends[FULL_SPANS - 1]
    return _columns([*ends, *origins]), 10 * whole + 13 * (end - whole)


def _squeezed(partial: list[tuple[Numbers, Numbers]]) -> list[tuple[Numbers, Numbers]]:
    """Four runs of which one is empty as three."""
    (a, n), (b, m), (c, k), (d, j) = partial
    none = n == 0
    first = pick(none, b, a), pick(none, m, n)
    gone = none | (m == 0)
    second = pick(gone, c, b), pick(gone, k, m)
    last = gone | (k == 0)
    third = pick(last, d, c), pick(last, j, k)
    return [first, second, third]
