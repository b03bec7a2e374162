"""Symbolic derivatives, with torch's subgradients at kinks."""

from __future__ import annotations

import math
from collections.abc import Callable

from attndsl.ir import build
from attndsl.ir.build import ONE, Part, add, div, mul, neg, select, sub, whole
from attndsl.ir.expr import Decay, Expr, Literal, Load, Op, Reduce, number, op, walk
from attndsl.ir.types import Kind


def derivative(expr: Expr, wrt: Expr) -> Expr:
    """The derivative of a float expression with respect to one of its float numbers: `s`, a scalar, a tensor
    element, or a `Reduce`.

    `expr` may be a vector, `wrt` not. Everything else is held constant, reductions over a row and decays too: their
    own bodies are differentiated apart. At kinks it is what torch gives: abs'(0) = relu'(0) = 0, min and max give
    half to each side where they are equal, sign, floor, comparisons and conversions from int have none.
    """
    if wrt.type.kind is not Kind.FLOAT or not wrt.type.is_number:
        raise ValueError(f"derivatives are with respect to float numbers, not {wrt.type}")
    found: dict[Expr, Part] = {}
    for node in walk(expr):
        if node == wrt:
            found[node] = ONE
        elif isinstance(node, Op) and node.type.kind is Kind.FLOAT:
            parts = [found[a] for a in node.args]
            found[node] = None if all(p is None for p in parts) else _shaped(node, _rule(node, parts))
        else:
            found[node] = None
    result = found[expr]
    if result is None and not expr.type.is_number:
        return _filled(expr, build.ZERO)
    return whole(result)


def _filled(like: Expr, value: Expr) -> Expr:
    """A vector of the shape of `like` with every component `value`."""
    return op("select", op("eq", like, like), value, value)


def _shaped(node: Expr, d: Part) -> Part:
    """A derivative with the shape of its node."""
    return d if d is None or d.type.shape == node.type.shape else _filled(node, d)


def differentiable(expr: Expr) -> tuple[Expr, ...]:
    """What a gradient may be asked for in an expression: float reads of tensors and decays, each once."""
    nodes = [n for n in walk(expr) if isinstance(n, Load | Decay | Reduce) and n.type.kind is Kind.FLOAT]
    return tuple(dict.fromkeys(nodes))


def _rule(node: Op, parts: list[Part]) -> Part:
    args = node.args
    if len(args) == 1 and node.op in _UNARY:
        slope = _UNARY[node.op](args[0], node)
        return mul(slope, parts[0])
    return _RULES[node.op](args, parts, node) if node.op in _RULES else None


def _fn(name: str) -> Callable[[Expr], Expr]:
    return lambda x: op(name, x)


_exp, _sign = _fn("exp"), _fn("sign")


def _times(x: Expr, y: Expr) -> Expr:
    return op("mul", x, y)


def _less(x: Expr, y: Expr) -> Expr:
    return op("sub", x, y)


def _gelu(x: Expr, _: Expr) -> Expr:
    erf = op("erf", _times(x, number(math.sqrt(0.5))))
    bell = _times(_exp(_times(_times(x, x), number(-0.5))), number(1 / math.sqrt(2 * math.pi)))
    return op("add", _times(op("add", erf, ONE), number(0.5)), _times(x, bell))


def _silu(x: Expr, _: Expr) -> Expr:
    gate = op("sigmoid", x)
    return _times(gate, op("add", ONE, _times(x, _less(ONE, gate))))


_TWO = number(2.0)
_UNARY: dict[str, Callable[[Expr, Expr], Expr]] = {
    "neg": lambda x, y: number(-1.0),
    "abs": lambda x, y: _sign(x),
    "exp": lambda x, y: y,
    "log": lambda x, y: op("div", ONE, x),
    "sqrt": lambda x, y: op("div", number(0.5), y),
    "tanh": lambda x, y: _less(ONE, _times(y, y)),
    "sigmoid": lambda x, y: _times(y, _less(ONE, y)),
    "relu": lambda x, y: op("select", op("gt", x, build.ZERO), ONE, build.ZERO),
    "elu": lambda x, y: op("select", op("gt", x, build.ZERO), ONE, _exp(x)),
    "silu": _silu,
    "gelu": _gelu,
    # torch takes softplus for the identity above 20
    "softplus": lambda x, y: op("select", op("gt", x, number(20.0)), ONE, op("sigmoid", x)),
    "erf": lambda x, y: _times(_exp(op("neg", _times(x, x))), number(2 / math.sqrt(math.pi))),
    "sin": lambda x, y: op("cos", x),
    "cos": lambda x, y: op("neg", op("sin", x)),
    "acos": lambda x, y: op("div", number(-1.0), op("sqrt", _less(ONE, _times(x, x)))),
}  # fmt: skip

Args = tuple[Expr, ...]


def _mul_rule(args: Args, d: list[Part], node: Op) -> Part:
    return add(mul(d[0], args[1]), mul(args[0], d[1]))


def _div_rule(args: Args, d: list[Part], node: Op) -> Part:
    by = args[1]
    return sub(div(d[0], by), div(mul(d[1], node), by) if d[1] is not None else None)


def _pow_rule(args: Args, d: list[Part], node: Op) -> Part:
    base, exponent = args
    first: Part = None
    if d[0] is not None:
        if isinstance(exponent, Literal):
            n = float(exponent.value)
            power = None if n == 0 else ONE if n == 1 else base if n == 2 else op("pow", base, number(n - 1))
            first = mul(mul(None if n == 0 else number(n), power), d[0])
        else:
            slope = _times(exponent, op("pow", base, _less(exponent, ONE)))
            first = mul(select(op("eq", exponent, build.ZERO), None, slope), d[0])
    second: Part = None
    if d[1] is not None:
        # torch: no gradient where the base is zero and the exponent is not negative
        still = op("and", op("eq", base, build.ZERO), op("ge", exponent, build.ZERO))
        second = mul(select(still, None, _times(node, op("log", base))), d[1])
    return add(first, second)


def _extreme(first: str) -> Callable[[Args, list[Part], Op], Part]:
    def rule(args: Args, d: list[Part], node: Op) -> Part:
        both = mul(number(0.5), add(d[0], d[1]))
        rest = select(op("eq", args[0], args[1]), both, d[1])
        return select(op(first, args[0], args[1]), d[0], rest)

    return rule


def _atan2(args: Args, d: list[Part], node: Op) -> Part:
    y, x = args
    length = op("add", _times(y, y), _times(x, x))
    return div(sub(mul(x, d[0]), mul(y, d[1])), length)


def _vsoftmax(args: Args, d: list[Part], node: Op) -> Part:
    change = whole(d[0])
    return op("mul", node, op("sub", change, op("dot", node, change)))


def _amax(args: Args, d: list[Part], node: Op) -> Part:
    largest = op("eq", args[0], node)
    change = op("total", whole(select(largest, whole(d[0]), _filled(args[0], build.ZERO))))
    return op("div", change, op("total", whole(select(largest, _filled(args[0], ONE), _filled(args[0], build.ZERO)))))


def _sum_over(args: Args, d: list[Part], node: Op) -> Part:
    return op("sum_over", whole(d[0]), *args[1:])


def _max_over(args: Args, d: list[Part], node: Op) -> Part:
    change = select(op("eq", args[0], node), d[0], None)
    return None if change is None else op("div", op("sum_over", change, *args[1:]), count_of_largest(node))


def count_of_largest(node: Op) -> Expr:
    """How many components the largest one of a `max_over` is; 1 where none is."""
    body, *bound = node.args
    largest = op("select", op("eq", body, node), ONE, build.ZERO)
    return op("max", op("sum_over", largest, *bound), ONE)


def _norm(args: Args, d: list[Part], node: Op) -> Part:
    slope = div(op("dot", args[0], whole(d[0])), node)
    return select(op("eq", node, build.ZERO), None, slope)


def _rmsnorm(args: Args, d: list[Part], node: Op) -> Part:
    x, change = args[0], whole(d[0])
    size = op("total", _filled(x, ONE))
    mean = op("add", op("div", op("dot", x, x), size), number(1e-6))
    shrink = op("div", op("dot", x, change), op("mul", size, mean))
    return op("div", op("sub", change, op("mul", shrink, x)), op("sqrt", mean))


def _spread(like: Expr, d: Part) -> Expr:
    """A derivative of a vector's shape, also where it is zero."""
    return _filled(like, build.ZERO) if d is None else d


def _bilinear(name: str) -> Callable[[Args, list[Part], Op], Part]:
    def rule(args: Args, d: list[Part], node: Op) -> Part:
        first = None if d[0] is None else op(name, d[0], args[1])
        return add(first, None if d[1] is None else op(name, args[0], d[1]))

    return rule


def _distinct(args: Args, d: list[Part], node: Op) -> Part:
    # quadratic: what is left of (x + dx) without the squares of x and of dx
    if d[0] is None:
        return None
    both = op("distinct", op("add", args[0], d[0]))
    return op("sub", op("sub", both, node), op("distinct", d[0]))


_RULES: dict[str, Callable[[Args, list[Part], Op], Part]] = {
    "add": lambda args, d, node: add(*d),
    "sub": lambda args, d, node: sub(*d),
    "neg": lambda args, d, node: neg(d[0]),
    "mul": _mul_rule,
    "div": _div_rule,
    "pow": _pow_rule,
    "min": _extreme("lt"),
    "max": _extreme("gt"),
    "select": lambda args, d, node: select(args[0], d[1], d[2]),
    "atan2": _atan2,
    "total": lambda args, d, node: op("total", whole(d[0])),
    "amax": _amax,
    "sum_over": _sum_over,
    "max_over": _max_over,
    "norm": _norm,
    "vsoftmax": _vsoftmax,
    "rmsnorm": _rmsnorm,
    "concat": lambda args, d, node: op("concat", *map(_spread, args, d)),
    "roll": lambda args, d, node: None if d[0] is None else op("roll", d[0], args[1]),
    "rope": lambda args, d, node: None if d[0] is None else op("rope", d[0], args[1]),
    "dot": _bilinear("dot"),
    "outer": _bilinear("outer"),
    "distinct": _distinct,
    "matmul": _bilinear("matmul"),
}
