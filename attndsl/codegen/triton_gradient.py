"""Derivatives of a weight for the backward kernels.

With weights w = a exp(l) / Z or n / D of the pair, G = do . v and delta = do . o:

- `dl = P (G a - delta)` is the gradient of the exponent l (P = exp(l) / Z), `P G` that of the amplitude a;
- `G / D` is the gradient of the numerator n, and a row's `sigma = -delta / D * dD/dS` that of every term of a sum S
  in the denominator.

What these have in common is a factor per pair ("parts") times the derivative of an expression of s and of inputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache, reduce

from attndsl.codegen.expr_triton import Level, level
from attndsl.codegen.triton_score import factors_of, gathered, of_raw
from attndsl.codegen.triton_weight import Rule
from attndsl.ir.attention import Attention
from attndsl.ir.build import ONE, ZERO
from attndsl.ir.derivative import derivative
from attndsl.ir.expr import SCORE, Expr, Literal, Load, Op, op, walk
from attndsl.ir.free import depends
from attndsl.ir.passes.softmax import substitute
from attndsl.ir.simplify import simplify_expr


@dataclass(frozen=True)
class Term:
    """An expression of a pair whose gradient is known: `part` names it (`dl`, `da`, `dn`, `sigma0`, ...)."""

    part: str
    value: Expr


def terms(attention: Attention, rule: Rule) -> tuple[Term, ...]:
    """The expressions of the scaled dot product that a weight is made of."""

    def of_s(e: Expr) -> Expr:
        return simplify_expr(substitute(e, SCORE, attention.score))

    found: list[Term] = []
    if rule.logit is not None:
        found.append(Term("dl", of_s(rule.logit)))
        if rule.numerator is not None:
            found.append(Term("da", of_s(rule.numerator)))
    else:
        assert rule.numerator is not None
        found.append(Term("dn", of_s(rule.numerator)))
        found += [Term(f"sigma{i}", of_s(r.body)) for i, r in enumerate(rule.sums)]
    return tuple(found)


def slope(value: Expr, wrt: Expr) -> Expr | None:
    """The derivative of a term as a function of the raw dot product; None for zero."""
    found = simplify_expr(derivative(value, wrt))
    return None if found == ZERO else gathered(of_raw(found))


def score_slopes(found: tuple[Term, ...], of: Expr = SCORE) -> list[tuple[str, Expr]]:
    """(part, derivative with respect to s, or another dot product) of the terms that have one."""
    slopes = [(t.part, slope(t.value, of)) for t in found]
    return [(part, e) for part, e in slopes if e is not None]


@lru_cache(256)
def load_slopes(found: tuple[Term, ...], load: Load) -> tuple[tuple[str, Expr], ...]:
    """The same for an element of an input."""
    slopes = [(t.part, slope(t.value, load)) for t in found]
    return tuple((part, e) for part, e in slopes if e is not None)


def without_uniform(e: Expr, *, per_head: bool) -> tuple[Expr, Expr]:
    """(factor, rest): a product without the factors that are the same for all pairs of a head (`per_head`: or at
    least of a batch), and those."""
    outer: list[Expr] = []
    inner: list[Expr] = []
    for f in factors_of(e):
        fixed = level(f) is Level.UNIFORM and (per_head or "h" not in depends(f))
        (outer if fixed else inner).append(f)

    def product(some: list[Expr]) -> Expr:
        return reduce(lambda a, b: op("mul", a, b), some) if some else ONE

    return product(outer), product(inner)


def certain(e: Expr) -> bool:
    """Whether a slope is a finite number on every pair, invisible ones included, so that zero times it is zero."""
    return all(_finite(n) for n in walk(e))


_TAME = frozenset((
    "add", "sub", "mul", "neg", "abs", "sign", "min", "max", "tanh", "sigmoid", "relu", "select", "to_float", "floor",
    "lt", "le", "gt", "ge", "eq", "ne", "and", "or", "not", "sin", "cos", "erf",
))  # fmt: skip


def _finite(node: Expr) -> bool:
    match node:
        case Literal(value=value):
            return abs(float(value)) < math.inf
        case Op(op=name):
            return name in _TAME
        case Load():
            return level(node) is Level.UNIFORM
        case _:
            return True
