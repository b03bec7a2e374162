"""Which way an expression goes along a row axis, and how far it moves in one step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal as Lit

from attndsl.ir.expr import Expr, Literal, Load, Op, Search
from attndsl.ir.types import Kind
from attndsl.schedule.linear import contains, linear

Direction = Lit[-1, 0, 1]
UNLIMITED = 2**40


@dataclass(frozen=True)
class Trend:
    """`direction` 1: never falls as the variable grows, -1: never rises, 0: constant, None: unknown. `step` bounds
    the size of the change when the variable grows by one (UNLIMITED: no bound is known)."""

    direction: Direction | None
    step: int = UNLIMITED


CONSTANT = Trend(0, 0)
UNKNOWN = Trend(None)


@lru_cache(maxsize=1 << 15)
def trend(expr: Expr, variable: Expr, rising: frozenset[str] = frozenset()) -> Trend:
    """The trend of an expression along a variable, all else fixed. `rising` names one-dimensional tables that are
    sorted and never read outside."""
    if expr == variable:
        return Trend(1, 1)
    if not contains(expr, variable):
        return CONSTANT
    if isinstance(expr, Search):
        inner = trend(expr.value, variable, rising)
        return Trend(inner.direction)
    if isinstance(expr, Load):
        known = expr.tensor in rising and len(expr.indices) == 1
        return Trend(trend(expr.indices[0], variable, rising).direction) if known else UNKNOWN
    if not isinstance(expr, Op):
        return UNKNOWN
    match expr.op, expr.args:
        case (("add" | "sub" | "neg" | "mul"), _) if expr.type.kind is Kind.INT:
            return _linear_trend(expr, variable, rising)
        case "add", (a, b):
            return _both(trend(a, variable, rising), trend(b, variable, rising), summed=True)
        case "sub", (a, b):
            return _both(trend(a, variable, rising), _turned(trend(b, variable, rising)), summed=True)
        case (("mul" | "div"), (a, Literal(value=value))):
            inner = trend(a, variable, rising)
            return Trend((_turned(inner) if value < 0 else inner).direction)
        case "floordiv", (a, Literal(value=value)) if value > 0:
            inner = trend(a, variable, rising)
            return Trend(inner.direction, -(-inner.step // int(value)) if inner.step < UNLIMITED else UNLIMITED)
        case (("min" | "max"), (a, b)):
            return _both(trend(a, variable, rising), trend(b, variable, rising), summed=False)
        case "select", (c, a, b) if not contains(c, variable):
            return _both(trend(a, variable, rising), trend(b, variable, rising), summed=False)
        case (("to_float" | "floor" | "ceil"), (a,)):
            return Trend(trend(a, variable, rising).direction)
        case _:
            return UNKNOWN


def _linear_trend(expr: Expr, variable: Expr, rising: frozenset[str]) -> Trend:
    total = CONSTANT
    for term, coefficient in linear(expr).terms.items():
        if term == expr:  # a product of two variables
            return UNKNOWN
        inner = trend(term, variable, rising)
        moved = Trend(inner.direction, min(UNLIMITED, inner.step * abs(coefficient)))
        total = _both(total, _turned(moved) if coefficient < 0 else moved, summed=True)
    return total


def _turned(t: Trend) -> Trend:
    return Trend(None if t.direction is None else (-1 if t.direction > 0 else int(t.direction < 0)), t.step)  # type: ignore[arg-type]


def _both(a: Trend, b: Trend, *, summed: bool) -> Trend:
    step = min(UNLIMITED, a.step + b.step if summed else max(a.step, b.step))
    if a.direction is None or b.direction is None:
        return Trend(None, step)
    if a.direction == 0 or b.direction == 0 or a.direction == b.direction:
        return Trend(a.direction or b.direction, step)
    return Trend(None, step)
