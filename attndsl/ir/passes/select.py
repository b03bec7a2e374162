"""`if` with a known condition or equal sides; `if` over bools becomes logic."""

from __future__ import annotations

from attndsl.ir.expr import FALSE, TRUE, Expr, Op, op, rewrite


def select(expr: Expr) -> Expr:
    """Drop the dead side of a `select`; turn one with a bool constant as a side into and, or."""
    return rewrite(expr, select_node)


def select_node(node: Expr) -> Expr | None:
    """One step of `select`, or None."""
    if not isinstance(node, Op) or node.op != "select":
        return None
    condition, a, b = node.args
    if condition == TRUE and a.type == node.type:
        return a
    if condition == FALSE and b.type == node.type:
        return b
    if a == b and a.type == node.type:
        return a
    if isinstance(condition, Op) and condition.op == "not":
        return op("select", condition.args[0], b, a, span=node.span)
    if a == TRUE:
        return op("or", condition, b, span=node.span)
    if b == FALSE:
        return op("and", condition, a, span=node.span)
    if a == FALSE:
        return op("and", op("not", condition), b, span=node.span)
    if b == TRUE:
        return op("or", op("not", condition), a, span=node.span)
    return None
