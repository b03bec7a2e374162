"""Solve a mask for one column coordinate: every comparison becomes bounds on the column.

A comparison is brought to `term <= e` or `term >= e` with the column in the term alone; the term is then undone
operation by operation, each step an exact equivalence over the integers: x // s >= t is x >= t*s, |x| <= t is
-t <= x <= t, table[x] <= t is x < search(table, t). What cannot be undone stays as `Unsolved`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attndsl.ir.expr import COMPARISONS, FALSE, TRUE, Expr, Literal, Load, Op, Search, integer, op
from attndsl.ir.types import BOOL, INT, Kind
from attndsl.schedule.formula import NO, YES, All, Any, AtLeast, Below, Formula, Residues, RowIs, Unsolved, of_bool
from attndsl.schedule.interval import FAR, Boxes, bounds
from attndsl.schedule.linear import Linear, contains, expression, linear, tidy

_NEGATED = {"lt": "ge", "le": "gt", "gt": "le", "ge": "lt", "eq": "ne", "ne": "eq"}
_MIRRORED = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le", "eq": "eq", "ne": "ne"}
_LARGEST_POWER = 31


@dataclass(frozen=True)
class Unknown:
    """What to solve for: the column's node, the ranges of all variables, and which tables are sorted and how long."""

    column: Expr
    boxes: Boxes
    sorted_tables: Mapping[str, int]

    def inside(self, expr: Expr) -> bool:
        """Whether the column occurs in an expression."""
        return contains(expr, self.column)

    def range_of(self, expr: Expr) -> tuple[int, int]:
        """Smallest and largest value of an integer expression."""
        low, high = bounds(expr, self.boxes)
        return int(low), int(high)


def solve(mask: Expr, unknown: Unknown, *, negate: bool = False) -> Formula:
    """The formula of a mask, or of its negation."""
    if mask in (TRUE, FALSE):
        return of_bool((mask == TRUE) is not negate)
    inside = unknown.inside(mask)
    if isinstance(mask, Op):
        match mask.op, mask.args:
            case "not", (a,):
                return solve(a, unknown, negate=not negate)
            case (("and" | "or"), (a, b)):
                parts = (solve(a, unknown, negate=negate), solve(b, unknown, negate=negate))
                return All(parts) if (mask.op == "and") is not negate else Any(parts)
            case "select", (c, a, b):
                yes, no = solve(a, unknown, negate=negate), solve(b, unknown, negate=negate)
                return Any((All((solve(c, unknown), yes)), All((solve(c, unknown, negate=True), no))))
            case (("eq" | "ne"), (a, b)) if a.type == BOOL:
                same = (mask.op == "eq") is not negate
                return Any((
                    All((solve(a, unknown), solve(b, unknown, negate=not same))),
                    All((solve(a, unknown, negate=True), solve(b, unknown, negate=same))),
                ))  # fmt: skip
            case "ispow2", (a,) if inside:
                return _ispow2(a, unknown, negate)
            case name, (a, b) if name in COMPARISONS:
                return _comparison(_NEGATED[name] if negate and a.type == INT else name, a, b, unknown, negate, mask)
            case _:
                pass
    if not inside:
        return RowIs(op("not", mask) if negate else mask)
    return Unsolved(op("not", mask) if negate else mask)


def _comparison(name: str, a: Expr, b: Expr, unknown: Unknown, negate: bool, mask: Expr) -> Formula:
    if a.type == INT and b.type == INT:
        return _integers(name, a, b, unknown)
    if a.type.kind is Kind.FLOAT and a.type.is_number:
        if unknown.inside(b):
            a, b, name = b, a, _MIRRORED[name]
        if not unknown.inside(a):
            return RowIs(op("not", mask) if negate else mask)
        if isinstance(a, Op) and a.op == "to_float" and a.args[0].type == INT and not unknown.inside(b):
            return _against_float(name, a.args[0], b, unknown, negate)
    return Unsolved(op("not", mask) if negate else mask)


def _against_float(name: str, a: Expr, limit: Expr, unknown: Unknown, negate: bool) -> Formula:
    """An int against a float that does not move with the column. A NaN limit satisfies only !=."""
    down, up = op("floor", limit), op("ceil", limit)
    match name:
        case "le":
            found = _integers("gt" if negate else "le", a, down, unknown)
        case "lt":
            found = _integers("ge" if negate else "lt", a, up, unknown)
        case "ge":
            found = _integers("lt" if negate else "ge", a, up, unknown)
        case "gt":
            found = _integers("le" if negate else "gt", a, down, unknown)
        case _:
            whole = RowIs(op("eq", down, up))
            equal = All((whole, _integers("eq", a, down, unknown)))
            other = Any((RowIs(op("ne", down, up)), _integers("ne", a, down, unknown)))
            return equal if (name == "eq") is not negate else other
    number = RowIs(op("eq", limit, limit))
    nan = RowIs(op("ne", limit, limit))
    return Any((nan, found)) if negate else All((number, found))


def _integers(name: str, a: Expr, b: Expr, unknown: Unknown) -> Formula:
    form = linear(a).plus(linear(b), -1)
    moving = [t for t in form.terms if unknown.inside(t)]
    if not moving:
        return RowIs(op(name, expression(form), integer(0)))
    if len(moving) > 1:
        return Unsolved(op(name, a, b))
    term, factor = moving[0], form.terms[moving[0]]
    rest = form.without(term).times(-1)  # factor * term  <name>  rest
    if factor < 0:
        factor, rest, name = -factor, rest.times(-1), _MIRRORED[name]
    match name:
        case "le":
            return _at_most(term, _floor(rest, factor), unknown)
        case "lt":
            return _at_most(term, _floor(rest.plus(Linear({}, 1), -1), factor), unknown)
        case "ge":
            return _at_least(term, _ceil(rest, factor), unknown)
        case "gt":
            return _at_least(term, _ceil(rest.plus(Linear({}, 1)), factor), unknown)
        case "eq":
            divides = YES if factor == 1 else RowIs(op("eq", op("mod", expression(rest), integer(factor)), integer(0)))
            return All((divides, _equal(term, _floor(rest, factor), unknown)))
        case _:
            below = _at_most(term, _floor(rest.plus(Linear({}, 1), -1), factor), unknown)
            above = _at_least(term, _ceil(rest.plus(Linear({}, 1)), factor), unknown)
            return _residues_unequal(term, _floor(rest, factor), factor, unknown) or Any((below, above))


def _floor(form: Linear, divisor: int) -> Expr:
    if all(c % divisor == 0 for c in form.terms.values()):
        return expression(Linear({t: c // divisor for t, c in form.terms.items()}, form.constant // divisor))
    return op("floordiv", expression(form), integer(divisor))


def _ceil(form: Linear, divisor: int) -> Expr:
    return _floor(form.plus(Linear({}, divisor - 1)), divisor)


def _plus(expr: Expr, number: int) -> Expr:
    return expression(linear(expr).plus(Linear({}, number)))


def _difference(a: Expr, b: Expr) -> Expr:
    return expression(linear(a).plus(linear(b), -1))


def _equal(term: Expr, e: Expr, unknown: Unknown) -> Formula:
    if isinstance(term, Op) and term.op == "mod":
        found = _residues(term, e, integer(1), unknown)
        if found is not None:
            size = term.args[1]
            return All((RowIs(op("and", op("ge", e, integer(0)), op("lt", e, size))), found))
    return All((_at_most(term, e, unknown), _at_least(term, e, unknown)))


def _residues_unequal(term: Expr, e: Expr, factor: int, unknown: Unknown) -> Formula | None:
    """x % d != e as one run of residues, where that is what it is."""
    if factor != 1 or not isinstance(term, Op) or term.op != "mod" or not isinstance(term.args[1], Literal):
        return None
    size = int(term.args[1].value)
    found = _residues(term, _plus(e, 1), integer(size - 1), unknown) if size > 1 else None
    if found is None:
        return None
    outside = op("or", op("lt", e, integer(0)), op("ge", e, integer(size)))
    return Any((RowIs(outside), found))


def _residues(term: Op, first: Expr, length: Expr, unknown: Unknown) -> Formula | None:
    """(first <= x % d < first + length, round the clock) for x the column plus or minus something."""
    size = term.args[1]
    if not isinstance(size, Literal) or int(size.value) <= 0:
        return None
    form = linear(term.args[0])
    factor = form.terms.get(unknown.column)
    rest = form.without(unknown.column)
    if factor not in (1, -1) or any(unknown.inside(t) for t in rest.terms):
        return None
    if factor == 1:
        start = _difference(first, expression(rest))
    else:
        start = _difference(expression(rest), _plus(expression(linear(first).plus(linear(length))), -1))
    return Residues(int(size.value), start, length)


def _at_most(term: Expr, e: Expr, unknown: Unknown) -> Formula:
    """term <= e."""
    if term == unknown.column:
        return Below(_plus(e, 1))
    if not unknown.inside(term):
        return RowIs(op("le", term, e))
    if isinstance(term, Load):
        return _table(term, e, unknown, "right")
    if not isinstance(term, Op):
        return Unsolved(op("le", term, e))
    match term.op, term.args:
        case (("add" | "sub" | "neg" | "mul"), _) if linear(term).terms != {term: 1}:
            return _integers("le", term, e, unknown)
        case "floordiv", (x, d) if _positive(d, unknown):
            return _integers("lt", x, tidy(op("mul", _plus(e, 1), d)), unknown)
        case "min", (x, y):
            return Any((_at_most(x, e, unknown), _at_most(y, e, unknown)))
        case "max", (x, y):
            return All((_at_most(x, e, unknown), _at_most(y, e, unknown)))
        case "abs", (x,):
            return All((_integers("le", x, e, unknown), _integers("ge", x, tidy(op("neg", e)), unknown)))
        case "select", (c, x, y):
            return _select(c, _at_most(x, e, unknown), _at_most(y, e, unknown), unknown)
        case "mod", (x, d) if isinstance(d, Literal) and int(d.value) > 0:
            size = int(d.value)
            low, high = unknown.range_of(x)
            if low >= 0 and high < size:
                return _integers("le", x, e, unknown)
            found = _residues(term, integer(0), op("min", _plus(e, 1), d), unknown)
            return All((RowIs(op("ge", e, integer(0))), found)) if found else Unsolved(op("le", term, e))
        case "bitlen", (x,) if isinstance(e, Literal):
            if int(e.value) < 0:
                return NO
            return _at_most(op("abs", x), integer(2 ** min(int(e.value), _LARGEST_POWER) - 1), unknown)
        case "to_int", (x,):
            yes = All((solve(x, unknown), RowIs(op("ge", e, integer(1)))))
            return Any((yes, All((solve(x, unknown, negate=True), RowIs(op("ge", e, integer(0)))))))
        case "sign", (x,):
            return Any((
                RowIs(op("ge", e, integer(1))),
                All((RowIs(op("eq", e, integer(0))), _integers("le", x, integer(0), unknown))),
                All((RowIs(op("eq", e, integer(-1))), _integers("lt", x, integer(0), unknown))),
            ))  # fmt: skip
        case _:
            return Unsolved(op("le", term, e))


def _at_least(term: Expr, e: Expr, unknown: Unknown) -> Formula:
    """term >= e."""
    if term == unknown.column:
        return AtLeast(e)
    if not unknown.inside(term):
        return RowIs(op("ge", term, e))
    if isinstance(term, Load):
        return _table(term, e, unknown, "left")
    if not isinstance(term, Op):
        return Unsolved(op("ge", term, e))
    match term.op, term.args:
        case (("add" | "sub" | "neg" | "mul"), _) if linear(term).terms != {term: 1}:
            return _integers("ge", term, e, unknown)
        case "floordiv", (x, d) if _positive(d, unknown):
            return _integers("ge", x, tidy(op("mul", e, d)), unknown)
        case "min", (x, y):
            return All((_at_least(x, e, unknown), _at_least(y, e, unknown)))
        case "max", (x, y):
            return Any((_at_least(x, e, unknown), _at_least(y, e, unknown)))
        case "abs", (x,):
            return Any((_integers("ge", x, e, unknown), _integers("le", x, tidy(op("neg", e)), unknown)))
        case "select", (c, x, y):
            return _select(c, _at_least(x, e, unknown), _at_least(y, e, unknown), unknown)
        case "mod", (x, d) if isinstance(d, Literal) and int(d.value) > 0:
            size = int(d.value)
            low, high = unknown.range_of(x)
            if low >= 0 and high < size:
                return _integers("ge", x, e, unknown)
            start = op("max", e, integer(0))
            found = _residues(term, start, op("sub", integer(size), start), unknown)
            return All((RowIs(op("lt", e, d)), found)) if found else Unsolved(op("ge", term, e))
        case "bitlen", (x,) if isinstance(e, Literal):
            if int(e.value) <= 0:
                return YES
            if int(e.value) > _LARGEST_POWER + 1:
                return Unsolved(op("ge", term, e))
            return _at_least(op("abs", x), integer(2 ** (int(e.value) - 1)), unknown)
        case "to_int", (x,):
            yes = All((solve(x, unknown), RowIs(op("le", e, integer(1)))))
            return Any((yes, All((solve(x, unknown, negate=True), RowIs(op("le", e, integer(0)))))))
        case "sign", (x,):
            return Any((
                RowIs(op("le", e, integer(-1))),
                All((RowIs(op("eq", e, integer(0))), _integers("ge", x, integer(0), unknown))),
                All((RowIs(op("eq", e, integer(1))), _integers("gt", x, integer(0), unknown))),
            ))  # fmt: skip
        case _:
            return Unsolved(op("ge", term, e))


def _select(condition: Expr, yes: Formula, no: Formula, unknown: Unknown) -> Formula:
    return Any((All((solve(condition, unknown), yes)), All((solve(condition, unknown, negate=True), no))))


def _positive(divisor: Expr, unknown: Unknown) -> bool:
    return not unknown.inside(divisor) and unknown.range_of(divisor)[0] > 0


def _table(load: Load, e: Expr, unknown: Unknown, side: str) -> Formula:
    """table[x] <= e (side right) or >= e (left) for a sorted table that x cannot leave."""
    name = "le" if side == "right" else "ge"
    length = unknown.sorted_tables.get(load.tensor)
    if length is None or len(load.indices) != 1:
        return Unsolved(op(name, load, e))
    x = load.indices[0]
    low, high = unknown.range_of(x)
    if low < 0 or high >= length:
        return Unsolved(op(name, load, e))
    # counting elements <= e - 1 is counting those < e: one form, so that equal searches are seen to be equal
    shift = linear(e).constant
    if side == "right":
        at = Search(INT, load.tensor, _plus(e, 1), "left") if shift == -1 else Search(INT, load.tensor, e, "right")
        return _integers("lt", x, at, unknown)
    at = Search(INT, load.tensor, _plus(e, -1), "right") if shift == 1 else Search(INT, load.tensor, e, "left")
    return _integers("ge", x, at, unknown)


def _ispow2(x: Expr, unknown: Unknown, negate: bool) -> Formula:
    """x is 1, 2, 4, ...: the points, or for the negation the gaps between them."""
    high = unknown.range_of(x)[1]
    if high >= min(FAR, 2**_LARGEST_POWER):
        return Unsolved(op("not", op("ispow2", x)) if negate else op("ispow2", x))
    powers = [2**i for i in range(max(high, 0).bit_length())]
    if not negate:
        return Any(tuple(_integers("eq", x, integer(p), unknown) for p in powers))
    gaps: list[Formula] = [_integers("le", x, integer(0), unknown)]
    for p in powers[1:]:
        above = _integers("gt", x, integer(p), unknown)
        gaps.append(All((above, _integers("lt", x, integer(2 * p), unknown))))
    return Any(tuple(gaps))
