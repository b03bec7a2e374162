"""Dot products of features that hold the same product twice, with each once.

dot(outer(x, x), outer(y, y)) is dot(x, y)^2, a sum over all pairs of components, in which (i, j) and (j, i) give the
same: n (n + 1) / 2 features do instead of n^2, the squares and the products of different components, which the query
has twice: that factor is exact, where the root of it on either side would be an error of its own that all terms share.
That holds wherever two features meet part by part: side by side, as factors of outer products, and times numbers.
"""

from __future__ import annotations

from functools import lru_cache

from attndsl.ir.build import Part
from attndsl.ir.expr import Expr, Op, number, op

Numbers = tuple[tuple[str, Expr], ...]


@lru_cache(maxsize=512)
def reduced(query: Expr, key: Expr) -> tuple[Expr, Expr]:
    """Features of a query and of a key with the same dot product, and fewer where a product stands in them twice.

    Only beside other features: all squares before all products is an order of summation that loses digits where the
    square of a dot product is nearly 0, which shows in weights that are nothing else.
    """
    return _whole(query, key) if _is_concat(query) and _is_concat(key) else (query, key)


def _is_concat(e: Expr) -> bool:
    inner = bare(e)[0]
    return isinstance(inner, Op) and inner.op == "concat"


def _whole(query: Expr, key: Expr) -> tuple[Expr, Expr]:
    q, q_factors = bare(query)
    k, k_factors = bare(key)
    found = _reduced(q, k)
    if found is None:
        return query, key
    return times(found[0], q_factors), times(found[1], k_factors)


def _reduced(q: Expr, k: Expr) -> tuple[Expr, Expr] | None:
    """As `_whole`, None where nothing changes."""
    if not (isinstance(q, Op) and isinstance(k, Op)) or q.op != k.op or len(q.args) != len(k.args):
        return None
    if q.op not in ("concat", "outer") or not all(map(_alike, q.args, k.args)):
        return None
    if q.op == "outer":
        a, c = (bare(x) for x in q.args)
        b, d = (bare(x) for x in k.args)
        if a[0] == c[0] and b[0] == d[0]:
            x, y = _whole(a[0], b[0])
            return times(_squared(x, number(2.0)), a[1] + c[1]), times(_squared(y), b[1] + d[1])
    parts = [_whole(a, b) for a, b in zip(q.args, k.args, strict=True)]
    if all(p == given for p, given in zip(parts, zip(q.args, k.args, strict=True), strict=True)):
        return None
    return op(q.op, *(p for p, _ in parts)), op(k.op, *(p for _, p in parts))


def _squared(x: Expr, twice: Part = None) -> Expr:
    """Squares and products of different components, these times `twice`."""
    products = op("distinct", x)
    return op("concat", op("mul", x, x), products if twice is None else op("mul", products, twice))


def _alike(a: Expr, b: Expr) -> bool:
    """Whether two vectors are known to have as many components."""
    return len(a.type.shape) == 1 and a.type.shape == b.type.shape


def bare(e: Expr) -> tuple[Expr, Numbers]:
    """A vector without the numbers that it is multiplied and divided by, and those, first the innermost."""
    match e:
        case Op(op="mul" | "div" as name, args=(a, b)) if a.type.shape and not b.type.shape:
            inner, factors = bare(a)
            return inner, (*factors, (name, b))
        case Op(op="mul", args=(a, b)) if b.type.shape and not a.type.shape:
            inner, factors = bare(b)
            return inner, (*factors, ("mul", a))
        case Op(op="neg", args=(a,)) if a.type.shape:
            inner, factors = bare(a)
            return inner, (*factors, ("mul", number(-1.0)))
        case _:
            return e, ()


def times(e: Expr, factors: Numbers) -> Expr:
    """A vector times numbers as `bare` gives them."""
    for name, factor in factors:
        e = op(name, e, factor)
    return e
