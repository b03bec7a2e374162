"""What a mask says about one column coordinate, row by row: intervals and residues, combined by and / or.

`solve.py` turns a mask into a `Formula`; `conjuncts` puts it into disjunctive form. For a fixed row, a
`Conjunct` is one interval of columns, possibly cut down to some residues.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TypeVar

from attndsl.ir.expr import FALSE, TRUE, Expr

MOST_CONJUNCTS = 64
T = TypeVar("T")


@dataclass(frozen=True)
class AtLeast:
    """column >= bound."""

    bound: Expr


@dataclass(frozen=True)
class Below:
    """column < bound."""

    bound: Expr


@dataclass(frozen=True)
class Residues:
    """(column - start) mod period < length, for a positive period and row expressions `start` and `length`."""

    period: int
    start: Expr
    length: Expr


@dataclass(frozen=True)
class RowIs:
    """A condition on the row alone."""

    condition: Expr


@dataclass(frozen=True)
class Unsolved:
    """A condition that is not an interval of columns; taken as possibly true."""

    condition: Expr


Atom = AtLeast | Below | Residues | RowIs | Unsolved


@dataclass(frozen=True)
class All:
    parts: tuple[Formula, ...]


@dataclass(frozen=True)
class Any:
    parts: tuple[Formula, ...]


Formula = Atom | All | Any
YES = All(())
NO = Any(())


def of_bool(value: bool) -> Formula:
    return YES if value else NO


@dataclass(frozen=True)
class Conjunct:
    """For each row: max(lows) <= column < min(highs), where `rows` all hold, `residues` all hold. `unsolved` are
    further conditions that the interval does not express."""

    lows: tuple[Expr, ...] = ()
    highs: tuple[Expr, ...] = ()
    residues: tuple[Residues, ...] = ()
    rows: tuple[Expr, ...] = ()
    unsolved: tuple[Expr, ...] = field(default=())

    def join(self, other: Conjunct) -> Conjunct:
        """Both conditions at once."""
        return Conjunct(
            _union(self.lows, other.lows),
            _union(self.highs, other.highs),
            _union(self.residues, other.residues),
            _union(self.rows, other.rows),
            _union(self.unsolved, other.unsolved),
        )


def _union(a: tuple[T, ...], b: tuple[T, ...]) -> tuple[T, ...]:
    return a + tuple(x for x in b if x not in a)


class TooManyConjunctsError(Exception):
    """The disjunctive form has more than MOST_CONJUNCTS members."""


def conjuncts(formula: Formula) -> tuple[Conjunct, ...]:
    """The disjunctive form; a row and column satisfy the formula if they satisfy one conjunct."""
    empty = Conjunct()
    match formula:
        case AtLeast(bound):
            return (replace(empty, lows=(bound,)),)
        case Below(bound):
            return (replace(empty, highs=(bound,)),)
        case Residues():
            return (replace(empty, residues=(formula,)),)
        case RowIs(condition):
            if condition == TRUE:
                return (empty,)
            return () if condition == FALSE else (replace(empty, rows=(condition,)),)
        case Unsolved(condition):
            return (replace(empty, unsolved=(condition,)),)
        case Any(parts):
            found: dict[Conjunct, None] = {}
            for part in parts:
                found.update(dict.fromkeys(conjuncts(part)))
                _check(len(found))
            return _absorbed(tuple(found))
        case All(parts):
            product: tuple[Conjunct, ...] = (empty,)
            for part in parts:
                factors = conjuncts(part)
                _check(len(product) * len(factors))
                product = tuple(dict.fromkeys(a.join(b) for a in product for b in factors))
            return _absorbed(product)


def _check(count: int) -> None:
    if count > MOST_CONJUNCTS:
        raise TooManyConjunctsError


def _absorbed(members: tuple[Conjunct, ...]) -> tuple[Conjunct, ...]:
    """Without members that another one implies (A or (A and B) is A)."""
    if len(members) > 16:
        return members
    kept = list(members)
    for member in members:
        if any(other != member and _implies(member, other) for other in kept):
            kept.remove(member)
    return tuple(kept)


def _implies(strong: Conjunct, weak: Conjunct) -> bool:
    pairs = ((strong.lows, weak.lows), (strong.highs, weak.highs), (strong.residues, weak.residues),
             (strong.rows, weak.rows), (strong.unsolved, weak.unsolved))  # fmt: skip
    return all(set(w) <= set(s) for s, w in pairs)
