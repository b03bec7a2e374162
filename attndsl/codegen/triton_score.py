"""Scores rewritten for a kernel: one factor for the dot product, exponents of two, constants gathered."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

from attndsl.codegen.expr_triton import Level, level
from attndsl.ir import build
from attndsl.ir.attention import Attention
from attndsl.ir.expr import SCORE, Expr, Index, Literal, Op, ParamRef, number, op, rewrite, walk
from attndsl.ir.forms import affine, score_form
from attndsl.ir.free import depends
from attndsl.ir.simplify import simplify_expr
from attndsl.ir.types import FLOAT, INT, Kind

LOG2E = 1.4426950408889634
SCALE = ParamRef(FLOAT, "the scale of dot products")
TILE_ORIGIN = ParamRef(INT, "the first position of the tile")
TILE_FIRST_ROW = ParamRef(INT, "the first row of the tile")
RAW = SCORE
"""In rewritten scores `s` is the dot product without its scale."""


@dataclass(frozen=True)
class Exponent:
    """A logit in units of `unit` (log2(e) for powers of two), of the raw dot product. `plain`: it is that times SCALE.

    `dropped` was left out because it is the same for all keys of a row (natural units; for lse), None for nothing.
    """

    value: Expr
    plain: bool
    dropped: Expr | None = None


def exponent(score: Expr, logit: Expr, *, low_precision: bool, cancels: bool) -> Exponent:
    """The exponent of `logit` over `score`. In low precision it is one of two, and row terms that cancel are left out;
    in fp32 the rounding of either would show."""
    unit = LOG2E if low_precision else 1.0
    from attndsl.ir.passes.softmax import substitute

    whole = simplify_expr(substitute(logit, SCORE, score))
    dropped: Expr | None = None
    if low_precision and cancels:
        whole, dropped = _centred(whole)
    if whole == SCORE:
        return Exponent(op("mul", RAW, _times(SCALE, unit)), True, dropped)
    parts = affine(whole)
    if parts is not None:
        slope, bias = parts
        factor = gathered(op("mul", build.whole(slope), _times(SCALE, unit)))
        value = build.add(op("mul", RAW, factor), None if bias is None else gathered(_times(bias, unit)))
        return Exponent(build.whole(value), False, dropped)
    return Exponent(gathered(_times(of_raw(whole), unit)), False, dropped)


def of_raw(score: Expr) -> Expr:
    """A function of the scaled dot product as one of the raw one."""
    return rewrite(score, lambda n: op("mul", RAW, SCALE) if n == SCORE else None)


def _centred(score: Expr) -> tuple[Expr, Expr | None]:
    """The score without what is the same for all keys of a row, taken relative to the tile's first row."""
    parts = affine(score)
    if parts is None or parts[1] is None:
        return score, None
    slope, bias = parts[0], build.whole(parts[1])
    form = score_form(Attention("score", (), score=bias))
    if form.row is None or form.products or form.mixed is not None or "coords" in depends(bias):
        return score, None
    origin = {Index(INT, "q"): TILE_ORIGIN, Index(INT, "row"): TILE_FIRST_ROW}
    here = rewrite(bias, lambda n: origin.get(n) if isinstance(n, Index) else None)
    if level(here) > Level.COLUMN or level(here) is Level.ROW:
        return score, None
    base = build.whole(build.mul(slope, SCORE))
    if level(here) is Level.UNIFORM:
        return base, bias
    left_out = _moved(bias, lambda e: rewrite(e, lambda n: origin.get(n) if isinstance(n, Index) else None))
    return op("add", base, here), None if left_out is None else simplify_expr(left_out)


def _moved(e: Expr, moved: Callable[[Expr], Expr]) -> Expr | None:
    """What a sum loses where it is `moved` to the tile's first row; None where nothing in it varies with the row.

    That is the same for all keys. It is taken at the row's own position, where differences are exact, and without terms
    of the key alone, which may be no number there.
    """
    if moved(e) == e:
        return None
    if isinstance(e, Op) and e.op in ("add", "sub", "neg"):
        first, *rest = (_moved(a, moved) for a in e.args)
        if e.op == "neg":
            return None if first is None else op("neg", first)
        (second,) = rest
        if first is None or second is None:
            return first if second is None else second if e.op == "add" else op("neg", second)
        return op(e.op, first, second)
    own = {Index(INT, "k"): Index(INT, "q")}
    there, near = (rewrite(x, lambda n: own.get(n) if isinstance(n, Index) else None) for x in (e, moved(e)))
    return op("sub", there, near)


def _times(e: Expr, factor: float) -> Expr:
    """`factor * e` with the factor as deep inside as it costs nothing."""
    if factor == 1.0:
        return e
    if isinstance(e, Literal):
        return number(float(e.value) * factor)
    if isinstance(e, Op):
        match e.op:
            case "add" | "sub":
                return op(e.op, _times(e.args[0], factor), _times(e.args[1], factor))
            case "neg":
                return op("neg", _times(e.args[0], factor))
            case "select":
                return op("select", e.args[0], _times(e.args[1], factor), _times(e.args[2], factor))
            case "min" | "max":
                return op(e.op, _times(e.args[0], factor), _times(e.args[1], factor))
            case _:
                pass
    return op("mul", e, number(factor))


def gathered(e: Expr) -> Expr:
    """Products with the factors that vary least first, constants multiplied."""
    return rewrite(e, _gathered)


def _gathered(e: Expr) -> Expr | None:
    if not isinstance(e, Op) or e.op not in ("mul", "div") or e.type.kind is not Kind.FLOAT or e.type.shape:
        return None
    factors: list[Expr] = []
    constant = 1.0
    for factor in factors_of(e):
        if isinstance(factor, Literal) and math.isfinite(float(factor.value)):
            constant *= float(factor.value)
        else:
            factors.append(factor)
    if constant == 0.0 or len(list(walk(e))) > 256:
        return None
    if constant != 1.0 or not factors:
        factors.append(number(constant))
    order = sorted(range(len(factors)), key=lambda i: (level(factors[i]), i))
    return reduce(lambda a, b: op("mul", a, b), [factors[i] for i in order])


def factors_of(e: Expr) -> list[Expr]:
    """The factors of a product of float numbers, divisions by constants and row values as factors."""
    if isinstance(e, Op) and e.op == "mul" and e.type.kind is Kind.FLOAT and not e.type.shape:
        return factors_of(e.args[0]) + factors_of(e.args[1])
    if isinstance(e, Op) and e.op == "div" and isinstance(e.args[1], Literal) and float(e.args[1].value) != 0.0:
        return [*factors_of(e.args[0]), number(1.0 / float(e.args[1].value))]
    if isinstance(e, Op) and e.op == "div" and level(e.args[1]) <= Level.ROW < level(e):
        return [*factors_of(e.args[0]), op("div", build.ONE, e.args[1])]
    if isinstance(e, Op) and e.op == "neg" and not isinstance(e.args[0], Literal):
        return [*factors_of(e.args[0]), number(-1.0)]
    return [e]
