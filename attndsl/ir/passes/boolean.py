"""Logic: constants, repetition and double negation."""

from __future__ import annotations

from attndsl.ir.expr import FALSE, TRUE, Expr, Op, op, rewrite


def boolean(expr: Expr) -> Expr:
    """`a and true` is a, `a or true` true, `a and a` a, `a and not a` false, `not not a` a; likewise for `or`."""
    return rewrite(expr, boolean_node)


def boolean_node(node: Expr) -> Expr | None:
    """One step of `boolean`, or None."""
    if not isinstance(node, Op) or not node.type.is_number:
        return None
    if node.op == "not":
        inner = node.args[0]
        if isinstance(inner, Op) and inner.op == "not":
            return inner.args[0]
        return TRUE if inner == FALSE else FALSE if inner == TRUE else None
    if node.op in ("and", "or"):
        neutral, absorbing = (TRUE, FALSE) if node.op == "and" else (FALSE, TRUE)
        a, b = node.args
        if absorbing in node.args or a == negation(b) or b == negation(a):
            return absorbing
        if a in (neutral, b):
            return b
        if b == neutral:
            return a
        # one level of absorption: a and (a and c), a and (a or c)
        for x, y in ((a, b), (b, a)):
            if isinstance(y, Op) and y.op in ("and", "or") and x in y.args:
                return y if y.op == node.op else x
    return None


def negation(expr: Expr) -> Expr:
    """`not expr`, without a double negation."""
    if isinstance(expr, Op) and expr.op == "not":
        return expr.args[0]
    return op("not", expr, span=expr.span)
