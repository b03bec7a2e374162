"""Interval arithmetic over boxes: what values an expression can take when its variables range over intervals.

Sound for every expression, exact where each variable occurs once. All bounds are numpy arrays (or numbers) that
broadcast, so that thousands of boxes are looked at in one call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from attndsl.ir.evaluate import Env, evaluate
from attndsl.ir.expr import Expr, Literal, Load, Op, ParamRef, Search, walk
from attndsl.ir.types import INT, Kind
from attndsl.schedule.tables import AreaTable, Table

Array = Any
Bounds = tuple[Array, Array]
"""Smallest and largest value, both attained or beyond. For bool: (surely true, possibly true)."""

FAR = 2**61
"""Beyond every integer that a mask can compute; sums saturate there."""
_INF = np.inf


@dataclass(frozen=True)
class Boxes:
    """Ranges of the variables (inclusive) and the tables that are read."""

    ranges: Mapping[Expr, Bounds]
    tables: Mapping[str, Table]


def bounds(expr: Expr, boxes: Boxes) -> Bounds:
    """The range of `expr` over boxes; for a bool whether it is surely and possibly true."""
    known: dict[Expr, Bounds] = {}
    with np.errstate(all="ignore"):
        for node in walk(expr):
            known[node] = _node_bounds(node, known, boxes)
    return known[expr]


def _node_bounds(node: Expr, known: Mapping[Expr, Bounds], boxes: Boxes) -> Bounds:
    given = boxes.ranges.get(node)
    if given is not None:
        return given
    if isinstance(node, Literal):
        return node.value, node.value
    args = [known[c] for c in node.children]
    if isinstance(node, Load) and node.tensor in boxes.tables:
        table = boxes.tables[node.tensor]
        if isinstance(table, AreaTable):
            return table.bounds(args[0], args[1])
        found = table.bounds(*args[0])
        return (found[0] != 0, found[1] != 0) if node.type.kind is Kind.BOOL else found
    if isinstance(node, Search):
        env = Env({}, {node.tensor: boxes.tables[node.tensor].values})
        low = evaluate(Search(node.type, node.tensor, _HOLE, node.side), env.bind({_HOLE: args[0][0]}))
        high = evaluate(Search(node.type, node.tensor, _HOLE, node.side), env.bind({_HOLE: args[0][1]}))
        return low, high
    if isinstance(node, Op) and node.op in _RULES and all(c.type.is_number for c in node.children):
        low, high = _RULES[node.op](node, args)
        return _real(node, args, low, high) if node.type.kind is Kind.FLOAT else (low, high)
    return _anything(node)


def _real(node: Op, args: list[Bounds], low: Array, high: Array) -> Bounds:
    """Bounds from -inf to inf say that a value may be NaN, and then so may be what is computed from it."""
    wild: npt.NDArray[np.bool_] = np.logical_or(np.isnan(low), np.isnan(high))
    if node.op != "select":
        for child, (a, b) in zip(node.args, args, strict=True):
            if child.type.kind is Kind.FLOAT:
                wild = np.logical_or(wild, np.logical_and(np.equal(a, -_INF), np.equal(b, _INF)))
    return np.where(wild, -_INF, low), np.where(wild, _INF, high)


_HOLE = ParamRef(INT, "#")


def _anything(node: Expr) -> Bounds:
    match node.type.kind:
        case Kind.BOOL:
            return False, True
        case Kind.INT:
            return -FAR, FAR
        case Kind.FLOAT:
            return -_INF, _INF


def _corners(function: Callable[[Array, Array], Array]) -> Callable[[Op, list[Bounds]], Bounds]:
    """For functions that are monotone in each argument while the other is fixed."""

    def rule(_: Op, args: list[Bounds]) -> Bounds:
        (a, b), (c, d) = args
        values = [function(x, y) for x in (a, b) for y in (c, d)]
        low, high = values[0], values[0]
        for v in values[1:]:
            low, high = np.minimum(low, v), np.maximum(high, v)
        return low, high

    return rule


def _increasing(name: str) -> Callable[[Op, list[Bounds]], Bounds]:
    def rule(node: Op, args: list[Bounds]) -> Bounds:
        values = [evaluate(node, Env({node.args[0]: end})) for end in args[0]]
        return values[0], values[1]

    return rule


def _partial(name: str) -> Callable[[Op, list[Bounds]], Bounds]:
    """Increasing where it is defined, from 0 on; NaN below, which compares as it likes."""
    inner = _increasing(name)

    def rule(node: Op, args: list[Bounds]) -> Bounds:
        low, high = inner(node, args)
        defined = np.greater_equal(args[0][0], 0)
        return np.where(defined, low, -_INF), np.where(defined, high, _INF)

    return rule


def _saturated(low: Array, high: Array, kind: Kind) -> Bounds:
    return (np.clip(low, -FAR, FAR), np.clip(high, -FAR, FAR)) if kind is Kind.INT else (low, high)


def _add(node: Op, args: list[Bounds]) -> Bounds:
    (a, b), (c, d) = args
    return _saturated(np.add(a, c), np.add(b, d), node.type.kind)


def _sub(node: Op, args: list[Bounds]) -> Bounds:
    (a, b), (c, d) = args
    if node.args[0] == node.args[1] and node.type.kind is Kind.INT:
        return 0, 0
    return _saturated(np.subtract(a, d), np.subtract(b, c), node.type.kind)


def _product(x: Array, y: Array) -> Array:
    found = np.multiply(x, y)
    # 0 * inf bounds nothing: the finite factor is 0 there
    return np.where(np.isnan(found), 0.0, found) if np.asarray(found).dtype.kind == "f" else found


def _mul(node: Op, args: list[Bounds]) -> Bounds:
    if node.type.kind is Kind.INT and any(np.any(np.abs(np.asarray(e)) > 2**31) for pair in args for e in pair):
        return -FAR, FAR
    low, high = _corners(_product)(node, args)
    if node.args[0] == node.args[1]:
        low = np.maximum(low, 0)
    return low, high


def _div(node: Op, args: list[Bounds]) -> Bounds:
    (a, b), (c, d) = args
    safe = (np.asarray(c) > 0) | (np.asarray(d) < 0)
    low, high = _corners(np.true_divide)(node, [(a, b), (np.where(safe, c, 1.0), np.where(safe, d, 1.0))])
    return np.where(safe, low, -_INF), np.where(safe, high, _INF)


def _floordiv(_: Op, args: list[Bounds]) -> Bounds:
    (a, b), (c, d) = args
    c, d = np.asarray(c), np.asarray(d)
    safe = (c > 0) | (d < 0)
    one = np.where(safe, c, 1), np.where(safe, d, 1)
    values = [np.floor_divide(x, y) for x in (a, b) for y in one]
    low, high = np.minimum.reduce(np.broadcast_arrays(*values)), np.maximum.reduce(np.broadcast_arrays(*values))
    most = np.maximum(np.abs(a), np.abs(b)) + 1
    zero = (c == 0) & (d == 0)
    low, high = np.where(safe, low, np.where(zero, 0, -most)), np.where(safe, high, np.where(zero, 0, most))
    return low, high


def _mod(_: Op, args: list[Bounds]) -> Bounds:
    (a, b), (c, d) = args
    a, b, c, d = (np.asarray(x) for x in (a, b, c, d))
    fixed = (c == d) & (c > 0)
    step = np.where(fixed, c, 1)
    same = fixed & (a // step == b // step)
    low = np.where(same, a % step, np.where(c >= 0, 0, np.minimum(c + 1, 0)))
    high = np.where(same, b % step, np.where(d <= 0, 0, d - 1))
    return low, np.maximum(low, high)


def _abs(_: Op, args: list[Bounds]) -> Bounds:
    a, b = args[0]
    return np.maximum(np.maximum(a, np.negative(b)), 0), np.maximum(np.abs(a), np.abs(b))


def _power(node: Op, args: list[Bounds]) -> Bounds:
    exponent = node.args[1]
    if isinstance(exponent, Literal) and isinstance(exponent.value, int) and exponent.value >= 0:
        n = exponent.value
        a, b = args[0]
        if np.any(np.maximum(np.abs(a), np.abs(b)) > 2.0 ** (62 / max(n, 1))) and node.type.kind is Kind.INT:
            return -FAR, FAR
        if n % 2 == 0 and n:
            a, b = _abs(node, args[:1])
        return np.power(a, n), np.power(b, n)
    if node.type.kind is Kind.INT:
        (a, b), (c, d) = args
        if np.all(np.asarray(a) >= 1) and np.all(np.asarray(c) >= 0) and np.all(np.asarray(d) * np.log2(b) < 62):
            return np.power(a, c), np.power(b, d)
        return _anything(node)
    low, high = _corners(np.float_power)(node, args)
    # with a negative base the sign may alternate
    known = np.greater(args[0][0], 0)
    return np.where(known, low, -_INF), np.where(known, high, _INF)


def _select(node: Op, args: list[Bounds]) -> Bounds:
    (sure, maybe), (a, b), (c, d) = args
    if node.type.kind is Kind.BOOL:
        sure_not = np.logical_not(maybe)
        low = np.where(sure, a, np.where(sure_not, c, np.logical_and(a, c)))
        high = np.where(sure, b, np.where(sure_not, d, np.logical_or(b, d)))
        return low, high
    low, high = np.minimum(a, c), np.maximum(b, d)
    return np.where(sure, a, np.where(maybe, low, c)), np.where(sure, b, np.where(maybe, high, d))


def _equal(node: Op, args: list[Bounds]) -> Bounds:
    (a, b), (c, d) = args
    if node.args[0].type.kind is Kind.BOOL:
        sure = np.logical_or(np.logical_and(a, c), np.logical_not(np.logical_or(b, d)))
        never = np.logical_or(np.logical_and(a, np.logical_not(d)), np.logical_and(c, np.logical_not(b)))
        return sure, np.logical_not(never)
    sure = np.logical_and(np.logical_and(np.equal(a, b), np.equal(c, d)), np.equal(a, c))
    return sure, np.logical_and(np.less_equal(a, d), np.less_equal(c, b))


def _unequal(node: Op, args: list[Bounds]) -> Bounds:
    sure, maybe = _equal(node, args)
    return np.logical_not(maybe), np.logical_not(sure)


def _ispow2(node: Op, args: list[Bounds]) -> Bounds:
    a, b = (np.asarray(e, np.int64) for e in args[0])
    one = np.equal(a, b)
    is_power = evaluate(node, Env({node.args[0]: a}))
    low_bits = evaluate(Op(node.type, "bitlen", node.args), Env({node.args[0]: np.maximum(a - 1, 0)}))
    next_power = np.left_shift(1, np.minimum(low_bits, 62))
    return np.logical_and(one, is_power), np.where(one, is_power, np.logical_and(b >= 1, next_power <= b))


def _bitlen(node: Op, args: list[Bounds]) -> Bounds:
    low, high = _abs(node, args)
    return evaluate(node, Env({node.args[0]: low})), evaluate(node, Env({node.args[0]: high}))


def _sign(_: Op, args: list[Bounds]) -> Bounds:
    return np.sign(args[0][0]), np.sign(args[0][1])


_RULES: dict[str, Callable[[Op, list[Bounds]], Bounds]] = {
    "add": _add, "sub": _sub,
    "neg": lambda _, a: (np.negative(a[0][1]), np.negative(a[0][0])),
    "mul": _mul, "div": _div, "floordiv": _floordiv, "mod": _mod, "pow": _power, "abs": _abs, "sign": _sign,
    "min": lambda _, a: (np.minimum(a[0][0], a[1][0]), np.minimum(a[0][1], a[1][1])),
    "max": lambda _, a: (np.maximum(a[0][0], a[1][0]), np.maximum(a[0][1], a[1][1])),
    "lt": lambda _, a: (np.less(a[0][1], a[1][0]), np.less(a[0][0], a[1][1])),
    "le": lambda _, a: (np.less_equal(a[0][1], a[1][0]), np.less_equal(a[0][0], a[1][1])),
    "gt": lambda _, a: (np.greater(a[0][0], a[1][1]), np.greater(a[0][1], a[1][0])),
    "ge": lambda _, a: (np.greater_equal(a[0][0], a[1][1]), np.greater_equal(a[0][1], a[1][0])),
    "eq": _equal, "ne": _unequal, "select": _select,
    "and": lambda _, a: (np.logical_and(a[0][0], a[1][0]), np.logical_and(a[0][1], a[1][1])),
    "or": lambda _, a: (np.logical_or(a[0][0], a[1][0]), np.logical_or(a[0][1], a[1][1])),
    "not": lambda _, a: (np.logical_not(a[0][1]), np.logical_not(a[0][0])),
    "ispow2": _ispow2, "bitlen": _bitlen,
    "to_float": lambda _, a: (np.asarray(a[0][0], np.float64), np.asarray(a[0][1], np.float64)),
    "to_int": lambda _, a: (np.asarray(a[0][0], np.int64), np.asarray(a[0][1], np.int64)),
    **{name: _increasing(name) for name in ("floor", "ceil", "exp", "tanh", "sigmoid", "relu", "elu",
                                            "softplus", "erf")},
    "log": _partial("log"), "sqrt": _partial("sqrt"),
    "sin": lambda _, __: (-1.0, 1.0), "cos": lambda _, __: (-1.0, 1.0),
}  # fmt: skip
