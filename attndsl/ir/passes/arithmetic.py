"""Arithmetic identities that hold exactly: for ints all the usual ones, for floats those that change no bit.

For floats x - x, x * 0 and regrouping are left alone: they differ at infinities and in rounding.
"""

from __future__ import annotations

from attndsl.ir.expr import Expr, Literal, Op, integer, op, rewrite
from attndsl.ir.types import FLOAT, INT

_COMMUTE = frozenset(("add", "mul", "min", "max"))
_LIMIT = 2**31


def arithmetic(expr: Expr) -> Expr:
    """Neutral elements, constants to the right and together, signs inwards, repeated min and max, nested divisions."""
    return rewrite(expr, arithmetic_node)


def arithmetic_node(node: Expr) -> Expr | None:
    """One step of `arithmetic`, or None."""
    if not isinstance(node, Op) or node.type not in (INT, FLOAT):
        return None
    if len(node.args) == 1:
        return _unary(node)
    if len(node.args) != 2 or node.args[0].type != node.type or node.args[1].type != node.type:
        return None
    a, b = node.args
    if node.op in _COMMUTE and isinstance(a, Literal) and not isinstance(b, Literal):
        return op(node.op, b, a, span=node.span)
    rule = {"add": _add, "sub": _sub, "mul": _mul, "min": _extreme, "max": _extreme}.get(node.op, _divide)
    return rule(node, a, b)


def constant(expr: Expr) -> int | float | None:
    """The number that a literal is, or None."""
    return expr.value if isinstance(expr, Literal) and expr.type in (INT, FLOAT) else None


def _int(value: int, like: Expr) -> Literal:
    return integer(value, span=like.span)


def _unary(node: Op) -> Expr | None:
    inner = node.args[0]
    if not isinstance(inner, Op):
        return None
    if node.op == "neg" and inner.op == "neg":
        return inner.args[0]
    if node.op == "neg" and inner.op == "sub" and node.type == INT:
        return op("sub", inner.args[1], inner.args[0], span=node.span)
    if node.op == "abs" and inner.op == "neg":
        return op("abs", inner.args[0], span=node.span)
    if node.op == inner.op and node.op in ("abs", "relu", "sign"):
        return inner
    return None


def _add(node: Op, a: Expr, b: Expr) -> Expr | None:
    c = constant(b)
    if c == 0:
        return a
    if isinstance(b, Op) and b.op == "neg":
        return op("sub", a, b.args[0], span=node.span)
    if isinstance(a, Op) and a.op == "neg":
        return op("sub", b, a.args[0], span=node.span)
    if node.type == INT and c is not None:
        return _shift(node, a, int(c))
    return None


def _sub(node: Op, a: Expr, b: Expr) -> Expr | None:
    c = constant(b)
    if c == 0:
        return a
    if node.type == INT and a == b:
        return _int(0, node)
    if isinstance(b, Op) and b.op == "neg":
        return op("add", a, b.args[0], span=node.span)
    if constant(a) == 0 and node.type == INT:
        return op("neg", b, span=node.span)
    if node.type == INT and c is not None:
        return _shift(node, a, -int(c))
    return None


def _shift(node: Op, a: Expr, c: int) -> Expr | None:
    """a + c where a already adds a constant."""
    if not isinstance(a, Op) or a.op not in ("add", "sub"):
        return None
    inner = constant(a.args[1])
    if inner is not None:
        total = c + (int(inner) if a.op == "add" else -int(inner))
        return _plus(node, a.args[0], total)
    first = constant(a.args[0])
    if first is not None and a.op == "sub":
        return op("sub", _int(int(first) + c, node), a.args[1], span=node.span)
    return None


def _plus(node: Op, a: Expr, c: int) -> Expr:
    if c == 0:
        return a
    return op("add" if c > 0 else "sub", a, _int(abs(c), node), span=node.span)


def _mul(node: Op, a: Expr, b: Expr) -> Expr | None:
    c = constant(b)
    if c == 1:
        return a
    if node.type == INT and c == 0:
        return _int(0, node)
    if c == -1:
        return op("neg", a, span=node.span)
    if node.type == INT and c is not None and isinstance(a, Op) and a.op == "mul":
        inner = constant(a.args[1])
        if inner is not None:
            return op("mul", a.args[0], _int(int(inner) * int(c), node), span=node.span)
    return None


def _extreme(node: Op, a: Expr, b: Expr) -> Expr | None:
    if a == b:
        return a
    if node.type != INT:
        return None  # where floats are equal, nested min and max share the gradient in another way
    for x, y in ((a, b), (b, a)):
        if isinstance(y, Op) and y.op in ("min", "max") and x in y.args:
            return y if y.op == node.op else x  # min(x, max(x, c)) is x
    c = constant(b)
    if c is not None and isinstance(a, Op) and a.op == node.op:
        inner = constant(a.args[1])
        if inner is not None:
            best = min(inner, c) if node.op == "min" else max(inner, c)
            return op(node.op, a.args[0], _int(int(best), node), span=node.span)
    return None


def _divide(node: Op, a: Expr, b: Expr) -> Expr | None:
    c = constant(b)
    if c is None:
        return None
    if node.op in ("div", "pow", "floordiv") and c == 1:
        return a
    if node.op == "mod" and c in (1, -1):
        return _int(0, node)
    if node.op not in ("floordiv", "mod") or not isinstance(a, Op) or c == 0:
        return None
    inner = constant(a.args[-1])
    if inner is None:
        return None
    inner, c = int(inner), int(c)
    if a.op == "mul" and inner % c == 0:
        factor = _int(inner // c, node)
        return op("mul", a.args[0], factor, span=node.span) if node.op == "floordiv" else _int(0, node)
    if a.op == "floordiv" and node.op == "floordiv" and inner > 0 and c > 0 and inner * c < _LIMIT:
        return op("floordiv", a.args[0], _int(inner * c, node), span=node.span)
    if a.op == "mod" and c == inner:
        return a if node.op == "mod" else (_int(0, node) if c > 0 else None)
    if a.op in ("add", "sub") and inner % c == 0:
        rest = op(node.op, a.args[0], b, span=node.span)
        return rest if node.op == "mod" else op(a.op, rest, _int(inner // c, node), span=node.span)
    return None
