"""Operations on literals become literals."""

from __future__ import annotations

import math

from attndsl.ir.evaluate import Env, evaluate
from attndsl.ir.expr import Expr, Literal, Op, rewrite
from attndsl.ir.types import Kind

DIVISIONS = ("floordiv", "mod", "div")
_EMPTY = Env()
_LARGEST = 2**63 - 1


def fold(expr: Expr) -> Expr:
    """Compute what is known. A division by a literal zero stays, so that it can be reported, and so do results
    that are not a number or leave 64 bits."""
    return rewrite(expr, fold_node)


def fold_node(node: Expr) -> Expr | None:
    """The literal that an operation on literals is, or None."""
    if not isinstance(node, Op) or not node.type.is_number:
        return None
    values: list[bool | int | float] = []
    for a in node.args:
        if not isinstance(a, Literal):
            return None
        values.append(a.value)
    if node.op in DIVISIONS and values[1] == 0:
        return None
    if node.op == "pow" and node.type.kind is Kind.INT and not _small_power(values):
        return None
    result = evaluate(node, _EMPTY)
    match node.type.kind:
        case Kind.BOOL:
            return Literal(node.type, bool(result), span=node.span)
        case Kind.INT:
            value = int(result)
            return Literal(node.type, value, span=node.span) if abs(value) <= _LARGEST else None
        case Kind.FLOAT:
            value = float(result)
            return None if math.isnan(value) else Literal(node.type, value, span=node.span)


def _small_power(values: list[bool | int | float]) -> bool:
    base, exponent = int(values[0]), int(values[1])
    return exponent >= 0 and exponent * max(1, base.bit_length()) <= 63
