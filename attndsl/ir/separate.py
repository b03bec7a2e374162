"""Which sums of products of a function of the query and a function of the key an expression is.

Exact over the reals and without sympy: sums, products, small powers, and exponentials whose exponents add up.
"""

from __future__ import annotations

from functools import lru_cache

from attndsl.ir import build
from attndsl.ir.build import ONE
from attndsl.ir.expr import Expr, Literal, Op, op, walk
from attndsl.ir.free import column_only, row_only, uniform
from attndsl.ir.types import FLOAT, INT

_MOST_NODES = 400

Terms = tuple[tuple[Expr, Expr], ...]
"""Pairs (f, g): the sum over them of f * g, f the same for all keys of a row, g for all rows of a key."""


def separate(expr: Expr, limit: int = 8) -> Terms | None:
    """`expr` as at most `limit` products of a row term and a column term; None if these rules find none.

    Terms with the same factor on one side are joined, so that a sum of a row term and a column term has rank 2.
    """
    if not expr.type.is_number or expr.type not in (INT, FLOAT):
        return None
    if sum(1 for _ in walk(expr)) > _MOST_NODES:
        return None
    found = _separate(expr, limit)
    return found if found is not None and len(found) <= limit else None


def additive(expr: Expr) -> tuple[build.Part, build.Part] | None:
    """(row part, column part) whose sum `expr` is, None for a part that is zero; None if it is no such sum.
    What is the same for all pairs goes to the row part."""
    terms = separate(expr)
    if terms is None:
        return None
    row: build.Part = None
    column: build.Part = None
    for f, g in terms:
        if uniform(g):
            row = build.add(row, build.mul(f, g))
        elif uniform(f):
            column = build.add(column, build.mul(f, g))
        else:
            return None
    return row, column


def product(expr: Expr) -> tuple[Expr, Expr] | None:
    """(f, g) with `expr` equal to f * g, or None."""
    terms = separate(expr, 1)
    if terms is not None:
        return terms[0] if terms else (build.ZERO, ONE)
    return None


@lru_cache(maxsize=4096)
def _separate(e: Expr, limit: int) -> Terms | None:
    if row_only(e):
        return ((build.to_float(e), ONE),)
    if column_only(e):
        return ((ONE, build.to_float(e)),)
    if not isinstance(e, Op) or e.type not in (INT, FLOAT):
        return None
    match e.op:
        case "to_float" if e.args[0].type == INT:
            return _separate(e.args[0], limit)
        case "add" | "sub":
            a, b = (_separate(x, limit) for x in e.args)
            if a is None or b is None:
                return None
            return _join((*a, *(b if e.op == "add" else _negated(b))), limit)
        case "neg":
            a = _separate(e.args[0], limit)
            return None if a is None else _negated(a)
        case "mul":
            a, b = (_separate(x, limit) for x in e.args)
            return None if a is None or b is None else _times(a, b, limit)
        case "div":
            return _quotient(e, limit)
        case "pow":
            return _power(e, limit)
        case "exp":
            return _exponential(e.args[0], None)
        case _:
            return None


def _negated(terms: Terms) -> Terms:
    return tuple((f, build.whole(build.neg(g))) if f == ONE else (build.whole(build.neg(f)), g) for f, g in terms)


def _times(a: Terms, b: Terms, limit: int) -> Terms | None:
    if len(a) * len(b) > 4 * limit:
        return None
    products = [(build.whole(build.mul(f, x)), build.whole(build.mul(g, y))) for f, g in a for x, y in b]
    return _join(tuple(products), limit)


def _quotient(e: Op, limit: int) -> Terms | None:
    a, by = _separate(e.args[0], limit), e.args[1]
    if a is None:
        return None
    if row_only(by):
        return tuple((build.whole(build.div(f, by)), g) for f, g in a)
    if column_only(by):
        return tuple((f, build.whole(build.div(g, by))) for f, g in a)
    bottom = _separate(by, 1)
    if bottom is None or len(bottom) != 1:
        return None
    ((x, y),) = bottom
    return tuple((build.whole(build.div(f, x)), build.whole(build.div(g, y))) for f, g in a)


def _power(e: Op, limit: int) -> Terms | None:
    base, exponent = e.args
    if isinstance(exponent, Literal) and float(exponent.value).is_integer() and 1 <= exponent.value <= 4:
        one = _separate(base, limit)
        power: Terms | None = one
        for _ in range(int(exponent.value) - 1):
            power = None if power is None or one is None else _times(power, one, limit)
        return power
    # x^(r + c) is x^r * x^c; where x may be 0 or below, the exponents of visible pairs still add up
    return _exponential(exponent, base) if uniform(base) else None


def _exponential(exponent: Expr, base: Expr | None) -> Terms | None:
    parts = additive(exponent)
    if parts is None:
        return None
    made = [ONE if p is None else op("exp", p) if base is None else op("pow", base, p) for p in parts]
    return ((made[0], made[1]),)


def _join(terms: Terms, limit: int) -> Terms | None:
    """Add up terms that share a factor."""
    by_column: dict[Expr, build.Part] = {}
    for f, g in terms:
        by_column[g] = build.add(by_column.get(g), f)
    by_row: dict[Expr, build.Part] = {}
    for g, f in by_column.items():
        by_row[build.whole(f)] = build.add(by_row.get(build.whole(f)), g)
    joined = tuple((f, build.whole(g)) for f, g in by_row.items() if f != build.ZERO)
    return joined if len(joined) <= 2 * limit else None
