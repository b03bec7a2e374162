"""Which expressions are a number of the head times the distance of a query and a key."""

from __future__ import annotations

from collections.abc import Callable

from attndsl.ir import build
from attndsl.ir.build import ONE, Part
from attndsl.ir.expr import Expr, Index, Op, number, op
from attndsl.ir.free import uniform
from attndsl.ir.simplify import simplify_expr
from attndsl.ir.types import INT

_Q, _K = Index(INT, "q"), Index(INT, "k")


def apart(expr: Expr) -> tuple[Expr, bool] | None:
    """(a, absolute) with `expr` equal to a * (q - k), or to a * |q - k|, a the same for all pairs of a head."""
    for absolute in (False, True):
        found = _linear(expr, absolute)
        if found is None:
            continue
        cq, ck, cd = (None if p is None else simplify_expr(p) for p in found)
        if cd is not None and cq is None and ck is None:
            return cd, absolute
        if cq is not None and ck is not None and cd is None and simplify_expr(op("add", cq, ck)) == build.ZERO:
            return cq, absolute
    return None


_Linear = tuple[Part, Part, Part]


def _linear(e: Expr, absolute: bool) -> _Linear | None:
    """(a, b, c) with e equal to a * q + b * k + c * (q - k), or c * |q - k| if `absolute`."""
    if e == _Q:
        return (ONE, None, None) if not absolute else None
    if e == _K:
        return (None, ONE, None) if not absolute else None
    if not absolute and isinstance(e, Op) and e.op == "sub" and set(e.args) == {_Q, _K}:
        return None, None, ONE if e.args[0] == _Q else number(-1.0)
    if not isinstance(e, Op):
        return None
    args = e.args
    match e.op:
        case "abs" if absolute:
            inner = apart(args[0])
            if inner is None or inner[1]:
                return None
            return (None, None, op("abs", inner[0]))
        case "to_float" if args[0].type == INT:
            return _linear(args[0], absolute)
        case "neg":
            found = _linear(args[0], absolute)
            return None if found is None else _times(found, number(-1.0), build.mul)
        case "add" | "sub":
            a, b = (_linear(x, absolute) for x in args)
            if a is None or b is None:
                return None
            join = build.add if e.op == "add" else build.sub
            x, y, z = (join(i, j) for i, j in zip(a, b, strict=True))
            return x, y, z
        case "mul":
            for factor, other in (args, args[::-1]):
                if uniform(factor) and (found := _linear(other, absolute)) is not None:
                    return _times(found, build.to_float(factor), build.mul)
            return None
        case "div" if uniform(args[1]):
            found = _linear(args[0], absolute)
            return None if found is None else _times(found, build.to_float(args[1]), build.div)
        case _:
            return None


def _times(found: _Linear, by: Expr, rule: Callable[[Part, Expr], Part]) -> _Linear:
    a, b, c = (rule(p, by) for p in found)
    return a, b, c
