"""Masks as bounds: for every row the keys low <= k < high, so that a pair costs two comparisons whatever the mask says.

The mask is solved for the key as the planner solves it, but with no sizes known. Bounds depend on the row alone and are
computed before the loops; a FULL box widens them, which costs nothing per pair. Where a sorted tensor is compared, a
bound is a place in it (`Search`), which the host looks up for all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

from attndsl.codegen.expr_triton import is_long
from attndsl.ir.attention import Attention, Input
from attndsl.ir.expr import (
    TRUE,
    Expr,
    Extent,
    Index,
    Literal,
    Load,
    Op,
    ParamRef,
    Search,
    Size,
    integer,
    op,
    walk,
)
from attndsl.ir.free import q_side
from attndsl.ir.types import INT
from attndsl.schedule.formula import Conjunct, TooManyConjunctsError, conjuncts
from attndsl.schedule.interval import Boxes, bounds
from attndsl.schedule.linear import Linear, expression, linear
from attndsl.schedule.solve import Unknown, solve

POSITIONS = 1 << 28
"""Positions are taken to be smaller."""
FURTHEST = 1 << 30
"""A distance above all distances of positions: numbers beyond it mean the same."""
MOST_BANDS = 2
KEY, QUERY = Index(INT, "k"), Index(INT, "q")


@dataclass(frozen=True)
class Band:
    """The keys low <= k < high of a row for which `rows` holds; None is no bound but that of the sequence."""

    low: Expr | None
    high: Expr | None
    rows: Expr = TRUE


def bands_of(mask: Expr, unknown: Index = KEY, rising: frozenset[str] = frozenset()) -> tuple[Band, ...] | None:
    """Bands whose union is the mask, at most MOST_BANDS; None where it is none, or where bounds could leave int32.

    Solved for QUERY they say which queries low <= q < high see a key. `rising` are tensors of ints that are sorted and
    never read outside.
    """
    ranges = Boxes(_ranges(mask), {})
    try:
        members = conjuncts(solve(mask, Unknown(unknown, ranges, dict.fromkeys(rising, POSITIONS))))
    except TooManyConjunctsError:
        return None
    if not members or any(m.unsolved or m.residues for m in members):
        return None
    found = _merged([_band(m) for m in members])
    if len(found) > MOST_BANDS:
        return None
    made: list[Band] = []
    for band in found:
        low, high = _narrow(band.low, ranges), _narrow(band.high, ranges)
        if (low is None) != (band.low is None) or (high is None) != (band.high is None):
            return None
        made.append(replace(band, low=low, high=high))
    return tuple(made)


def few_runs(mask: Expr, rising: frozenset[str] = frozenset()) -> bool:
    """Whether the keys that a row sees are at most MOST_BANDS intervals, and as many more where a head or batch sees by
    another rule. `rising` as in `bands_of`."""
    try:
        members = conjuncts(solve(mask, Unknown(KEY, Boxes(_ranges(mask), {}), dict.fromkeys(rising, POSITIONS))))
    except TooManyConjunctsError:
        return False
    if any(m.unsolved or m.residues for m in members):
        return False
    found = _merged([_band(m) for m in members])
    always = sum(band.rows == TRUE or q_side(band.rows) for band in found)
    return always <= MOST_BANDS and len(found) - always <= MOST_BANDS


def rising_of(attention: Attention) -> frozenset[str]:
    """Inputs of ints along the sequence that are promised to be sorted."""
    return frozenset(
        p.name
        for p in attention.params
        if isinstance(p, Input) and "sorted" in p.facts and len(p.shape) == 1 and p.dtype.startswith("i")
    )


def searches_of(attention: Attention) -> tuple[Search, ...]:
    """The places that bounds of an attention's mask are, all of them numbers of the row; none where it has no such
    bounds."""
    rising = rising_of(attention)
    if not rising or attention.gridded:
        return ()
    found: dict[Search, None] = {}
    for band in bands_of(attention.mask, rising=rising) or ():
        for e in (band.low, band.high, band.rows):
            for node in walk(e) if e is not None else ():
                if isinstance(node, Search):
                    found[node] = None
    fine = all(_of_row(node.value, rising) for node in found)
    return tuple(found) if fine else ()


def _of_row(e: Expr, rising: frozenset[str]) -> bool:
    """Whether the host knows an expression from the row and the tensors."""
    return all(
        isinstance(n, Literal | Op) or n in (Index(INT, "q"), Index(INT, "row"))
        or (isinstance(n, Load) and n.tensor in rising)
        for n in walk(e)
    )  # fmt: skip


def _ranges(mask: Expr) -> dict[Expr, tuple[int, int]]:
    found: dict[Expr, tuple[int, int]] = {KEY: (0, POSITIONS - 1), QUERY: (-POSITIONS, POSITIONS - 1)}
    for node in walk(mask):
        if node in found or node.type != INT:
            continue
        if isinstance(node, Index | Size | Extent):
            found[node] = (0, POSITIONS)
        elif isinstance(node, ParamRef | Load):
            found[node] = (-(2**31), 2**31 - 1)
    return found


def _band(member: Conjunct) -> Band:
    return Band(_joined("max", member.lows), _joined("min", member.highs), _joined("and", member.rows) or TRUE)


def _joined(name: str, parts: Sequence[Expr]) -> Expr | None:
    return reduce(lambda a, b: op(name, a, b), parts) if parts else None


def _merged(found: list[Band]) -> list[Band]:
    """Bands that differ in one bound only are nested: their union is the wider one."""
    for i, a in enumerate(found):
        for j in range(i):
            b = found[j]
            if a.rows != b.rows or (a.low != b.low and a.high != b.high):
                continue
            low, high = _wider("min", a.low, b.low), _wider("max", a.high, b.high)
            rest = [band for n, band in enumerate(found) if n not in (i, j)]
            return _merged([Band(low, high, a.rows), *rest])
    return found


def _wider(name: str, a: Expr | None, b: Expr | None) -> Expr | None:
    return None if a is None or b is None else a if a == b else op(name, a, b)


def _narrow(bound: Expr | None, ranges: Boxes) -> Expr | None:
    """The bound, certain to stay within int32, which it is computed in; a number of the call in it is cut to FURTHEST.
    None if that fails."""
    if bound is None or is_long(bound):
        return None
    if _fits(bound, ranges):
        return bound
    form = linear(bound)
    free = [t for t in form.terms if isinstance(t, ParamRef | Load)]
    if len(free) != 1 or abs(form.terms[free[0]]) != 1:
        return None
    cut = op("min", op("max", free[0], integer(-FURTHEST)), integer(FURTHEST))
    near = Linear({cut if t == free[0] else t: c for t, c in form.terms.items()}, form.constant)
    made = expression(near)
    return made if abs(form.constant) < POSITIONS and _fits(made, ranges) else None


def _fits(e: Expr, ranges: Boxes) -> bool:
    places: dict[Expr, tuple[int, int]] = {n: (0, POSITIONS) for n in walk(e) if isinstance(n, Search)}
    ranges = Boxes({**ranges.ranges, **places}, {})
    for node in walk(e):
        if node.type == INT:
            low, high = bounds(node, ranges)
            if int(low) < -(2**31) or int(high) >= 2**31:
                return False
    return True
