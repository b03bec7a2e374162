"""Pairs whose score is minus infinity: they are visible, and have no weight."""

from __future__ import annotations

import math

from attndsl.ir.build import ZERO
from attndsl.ir.expr import SCORE, Expr, Literal, Load, Op, mentions, number, op
from attndsl.ir.types import FLOAT, Kind


def guarded(value: Expr, score: Expr) -> Expr:
    """A function of the score and of what a pair reads, and zero where the score is minus infinity; as it is where that
    cannot be or makes it zero anyway."""
    if not unbounded(score) or _vanishes(value):
        return value
    return op("select", op("gt", SCORE, number(-math.inf)), value, ZERO)


def unbounded(score: Expr) -> bool:
    """Whether a score may be minus infinity."""

    def test(node: Expr) -> bool:
        if isinstance(node, Literal):
            return node.type.kind is Kind.FLOAT and not math.isfinite(node.value)
        return (isinstance(node, Load) and node.type == FLOAT) or (
            isinstance(node, Op) and node.op in ("log", "pow", "exp", "div")
        )

    return mentions(score, test)


def _vanishes(e: Expr) -> bool:
    """Whether a function of s, and its derivative, surely tend to zero as s falls."""
    if not isinstance(e, Op):
        return False
    match e.op:
        case "sigmoid" | "relu" | "softplus" | "exp":
            return _falls(e.args[0])
        case "pow":
            exponent = e.args[1]
            return _vanishes(e.args[0]) and isinstance(exponent, Literal) and exponent.value >= 1
        case "div":
            return _vanishes(e.args[0]) and not mentions(e.args[1], lambda n: n == SCORE)
        case "mul":
            a, b = e.args
            return any(_vanishes(x) and (_vanishes(y) or not _of_score(y)) for x, y in ((a, b), (b, a)))
        case _:
            return False


def _of_score(e: Expr) -> bool:
    return mentions(e, lambda n: n == SCORE)


def _falls(e: Expr) -> bool:
    """Whether an expression is s, times a positive number, plus what does not depend on it."""
    if e == SCORE:
        return True
    if not isinstance(e, Op) or e.op not in ("add", "sub", "mul", "div"):
        return False
    a, b = e.args
    if e.op in ("mul", "div"):
        return _falls(a) and isinstance(b, Literal) and b.value > 0
    return (_falls(a) and not _of_score(b)) or (e.op == "add" and _falls(b) and not _of_score(a))
