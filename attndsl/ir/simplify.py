"""Runs the passes until nothing changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from attndsl.ir.attention import Attention
from attndsl.ir.expr import Expr, Value, rewrite
from attndsl.ir.passes.arithmetic import arithmetic_node
from attndsl.ir.passes.boolean import boolean_node
from attndsl.ir.passes.cancel import cancel_node
from attndsl.ir.passes.comparison import comparison_node
from attndsl.ir.passes.fold import fold_node
from attndsl.ir.passes.select import select_node
from attndsl.ir.passes.softmax import softmax

RULES: tuple[Callable[[Expr], Expr | None], ...] = (
    fold_node,
    boolean_node,
    select_node,
    arithmetic_node,
    cancel_node,
    comparison_node,
)
_ROUNDS = 16


def simplify(attention: Attention) -> Attention:
    """An attention of the same meaning: every expression simplified, a written-out softmax recognised."""
    out = softmax(attention.map(simplify_expr)).map(simplify_expr)
    return replace(out, output=None) if isinstance(out.output, Value) else out


def simplify_expr(expr: Expr) -> Expr:
    """An expression of the same value in every environment."""
    for _ in range(_ROUNDS):
        new = rewrite(expr, _step)
        if new == expr:
            break
        expr = new
    return expr


def _step(node: Expr) -> Expr | None:
    for rule in RULES:
        new = rule(node)
        if new is not None:
            return new
    return None
