"""Arithmetic on float expressions that drops zeros and ones as it goes; zero is None."""

from __future__ import annotations

from attndsl.ir.expr import Expr, Literal, Op, number, op
from attndsl.ir.types import Kind

Part = Expr | None
"""An expression, or None for zero."""

ONE = number(1.0)
ZERO = number(0.0)


def add(a: Part, b: Part) -> Part:
    return b if a is None else a if b is None else op("add", a, b)


def sub(a: Part, b: Part) -> Part:
    return a if b is None else neg(b) if a is None else op("sub", a, b)


def neg(a: Part) -> Part:
    if isinstance(a, Op) and a.op == "neg":
        return a.args[0]
    return None if a is None else op("neg", a)


def mul(a: Part, b: Part) -> Part:
    if a is None or b is None:
        return None
    return b if a == ONE else a if b == ONE else op("mul", a, b)


def div(a: Part, b: Expr) -> Part:
    return None if a is None else a if b == ONE else op("div", a, b)


def whole(a: Part) -> Expr:
    """The expression itself, a literal where it is zero."""
    return ZERO if a is None else a


def select(condition: Expr, a: Part, b: Part) -> Part:
    return None if a is None and b is None else a if a == b else op("select", condition, whole(a), whole(b))


def to_float(a: Expr) -> Expr:
    """As a float; literals and sign changes pass through."""
    if a.type.kind is Kind.FLOAT:
        return a
    if isinstance(a, Literal):
        return number(float(a.value), a.span)
    return op("to_float", a)
