"""Comparisons: negations turned round, constants to the right, conversions taken away.

`not (a < b)` becomes `a >= b` for ints alone: for floats they differ where a side is not a number. An int that is
compared as a float is compared as an int: index arithmetic stays far below 2^53, where both agree.
"""

from __future__ import annotations

import math

from attndsl.ir.expr import COMPARISONS, FALSE, TRUE, Expr, Literal, Op, integer, op, rewrite
from attndsl.ir.passes.boolean import negation
from attndsl.ir.types import BOOL, FLOAT, INT

_OPPOSITE = {"lt": "ge", "ge": "lt", "le": "gt", "gt": "le", "eq": "ne", "ne": "eq"}
_MIRROR = {"lt": "gt", "gt": "lt", "le": "ge", "ge": "le", "eq": "eq", "ne": "ne"}
_LIMIT = 2**40


def comparison(expr: Expr) -> Expr:
    """Compare with a constant on the right, without `not`, in ints where possible."""
    return rewrite(expr, comparison_node)


def comparison_node(node: Expr) -> Expr | None:
    """One step of `comparison`, or None."""
    if not isinstance(node, Op) or node.type != BOOL:
        return None
    if node.op == "not":
        inner = node.args[0]
        if isinstance(inner, Op) and inner.op in COMPARISONS:
            exact = inner.args[0].type == INT or inner.op in ("eq", "ne")
            return op(_OPPOSITE[inner.op], *inner.args, span=node.span) if exact else None
        return None
    if node.op not in COMPARISONS:
        return None
    a, b = node.args
    if isinstance(a, Literal) and not isinstance(b, Literal):
        return op(_MIRROR[node.op], b, a, span=node.span)
    if a.type == INT:
        return _ints(node, a, b)
    if a.type == BOOL:
        return _bools(node, a, b)
    return _as_ints(node, a, b) if a.type == FLOAT else None


def _ints(node: Op, a: Expr, b: Expr) -> Expr | None:
    if a == b:
        return TRUE if node.op in ("le", "ge", "eq") else FALSE
    if isinstance(a, Op) and a.op in ("add", "sub") and isinstance(b, Literal):
        inner = a.args[1]
        if isinstance(inner, Literal):
            limit = int(b.value) + (int(inner.value) if a.op == "sub" else -int(inner.value))
            return op(node.op, a.args[0], integer(limit, b.span), span=node.span) if abs(limit) < _LIMIT else None
    return None


def _bools(node: Op, a: Expr, b: Expr) -> Expr | None:
    if a == b:
        return TRUE if node.op == "eq" else FALSE
    if isinstance(b, Literal):
        return a if (node.op == "eq") == bool(b.value) else negation(a)
    return None


def _as_ints(node: Op, a: Expr, b: Expr) -> Expr | None:
    if not (isinstance(a, Op) and a.op == "to_float" and a.args[0].type == INT):
        return None
    x = a.args[0]
    if isinstance(b, Op) and b.op == "to_float" and b.args[0].type == INT:
        return op(node.op, x, b.args[0], span=node.span)
    if not isinstance(b, Literal) or not abs(b.value) < _LIMIT:
        return None
    if node.op in ("eq", "ne"):
        if float(b.value).is_integer():
            return op(node.op, x, integer(int(b.value), b.span), span=node.span)
        return FALSE if node.op == "eq" else TRUE
    # x < 2.5 is x < 3, x <= 2.5 is x <= 2
    bound = math.ceil(b.value) if node.op in ("lt", "ge") else math.floor(b.value)
    return op(node.op, x, integer(bound, b.span), span=node.span)
