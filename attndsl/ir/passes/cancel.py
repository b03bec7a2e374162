"""Int sums whose terms meet: (q - k) + k is q, 2*q - q is q."""

from __future__ import annotations

from attndsl.ir.expr import Expr, Literal, Op, integer, op, rewrite
from attndsl.ir.types import INT

_LIMIT = 2**62
_MOST = 128


def cancel(expr: Expr) -> Expr:
    """Collect equal terms of int sums, where that leaves fewer of them."""
    return rewrite(expr, cancel_node)


def cancel_node(node: Expr) -> Expr | None:
    """One step of `cancel`, or None."""
    if not isinstance(node, Op) or node.type != INT or node.op not in ("add", "sub"):
        return None
    terms: dict[Expr, int] = {}
    collected = _collect(node, 1, terms, 0)
    if collected is None:
        return None
    count, constant = collected
    left = {t: c for t, c in terms.items() if c}
    if len(left) == count or any(abs(c) >= _LIMIT for c in (*left.values(), constant)):
        return None
    ordered = sorted(left.items(), key=lambda item: item[1] < 0)
    total: Expr | None = None
    for term, factor in ordered:
        part = term if abs(factor) == 1 else op("mul", term, integer(abs(factor)), span=node.span)
        if total is None:
            total = part if factor > 0 else op("neg", part, span=node.span)
        else:
            total = op("add" if factor > 0 else "sub", total, part, span=node.span)
    if total is None:
        return integer(constant, node.span)
    if constant == 0:
        return total
    return op("add" if constant > 0 else "sub", total, integer(abs(constant)), span=node.span)


def _collect(root: Expr, sign: int, terms: dict[Expr, int], constant: int) -> tuple[int, int] | None:
    """Add root's terms to `terms`; how many occurrences there were, and the constant. None for a sum of very many."""
    count = steps = 0
    stack = [(root, sign)]
    while stack:
        steps += 1
        if steps > _MOST:
            return None
        node, factor = stack.pop()
        if isinstance(node, Literal):
            constant += factor * int(node.value)
            continue
        if isinstance(node, Op):
            if node.op in ("add", "sub"):
                stack.append((node.args[1], factor if node.op == "add" else -factor))
                stack.append((node.args[0], factor))
                continue
            if node.op == "neg":
                stack.append((node.args[0], -factor))
                continue
            scale = node.args[1] if node.op == "mul" else None
            if isinstance(scale, Literal):
                stack.append((node.args[0], factor * int(scale.value)))
                continue
        count += 1
        terms[node] = terms.get(node, 0) + factor
    return count, constant
