"""The value of an expression in numpy: ints are int64, floats float64, arrays broadcast.

An expression is turned once into a flat list of steps (cached); a call then runs one numpy operation per distinct
node. Any node may be given a value, so that a caller evaluates under `q` as an array of positions, or under a
whole subexpression that it already knows.
"""

# pyright: reportUnknownLambdaType=false, reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false
from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from typing import Literal as Lit

import numpy as np

from attndsl.ir.expr import Count, Expr, Literal, Load, Op, Reduce, Search, mentions, walk
from attndsl.ir.types import Kind

Array = Any
"""A numpy array, or a Python or numpy number."""


class UnboundError(ValueError):
    """A node without children, a reduction or a tensor has no value in the environment."""

    def __init__(self, node: Expr | str) -> None:
        super().__init__(f"no value is given for {node!r}")
        self.node = node


def _nothing() -> dict[Any, Any]:
    return {}


@dataclass(frozen=True, eq=False)
class Env:
    """What is known. `values` maps nodes (`Index("q")`, `Size("Lk")`, `ParamRef("w")`, or any other) to numbers or
    arrays that broadcast together; a vector has its components last. `tables` maps tensor names to arrays."""

    values: Mapping[Expr, Array] = field(default_factory=_nothing)
    tables: Mapping[str, Array] = field(default_factory=_nothing)
    inner: frozenset[Expr] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        inner = frozenset(n for n in self.values if n.children)
        object.__setattr__(self, "inner", inner)

    def bind(self, values: Mapping[Expr, Array]) -> Env:
        """The same environment with more nodes known."""
        return Env({**self.values, **values}, self.tables)


Step = tuple[Callable[..., Array], tuple[int, ...]]


@dataclass(frozen=True)
class _Tape:
    """Slots hold the literals, then the given leaves, then the tables, then one result per step."""

    literals: tuple[Array, ...]
    leaves: tuple[Expr, ...]
    tables: tuple[str, ...]
    steps: tuple[Step, ...]
    result: int


def evaluate(expr: Expr, env: Env) -> Array:
    """The value of `expr`: an array of the broadcast shape of the values in `env`, or a number.

    x // 0 and x % 0 are 0, and so is x / 0 where the divisor contains a reduction or `count`; reads outside a tensor
    are 0; `select` takes both sides. Raises UnboundError for what has no value; reductions, `count` and decays have
    one only if `env.values` gives it.
    """
    tape = _tape(expr, env.inner)
    slots: list[Array] = list(tape.literals)
    try:
        slots += [env.values[n] for n in tape.leaves]
        slots += [env.tables[t] for t in tape.tables]
    except KeyError as missing:
        raise UnboundError(missing.args[0]) from None
    with np.errstate(all="ignore"):
        for function, args in tape.steps:
            slots.append(function(*[slots[a] for a in args]))
    return slots[tape.result]


@lru_cache(maxsize=8192)
def _tape(expr: Expr, inner: frozenset[Expr]) -> _Tape:
    literals: dict[Expr, None] = {}
    leaves: dict[Expr, None] = {}
    tables: dict[str, None] = {}
    body: list[Expr] = []
    nodes = list(walk(expr)) if not inner else list(_walk_outside(expr, inner))
    for node in nodes:
        if isinstance(node, Literal):
            literals[node] = None
        elif node in inner or not isinstance(node, Op | Load | Search):
            leaves[node] = None
        else:
            body.append(node)
            if isinstance(node, Load | Search):
                tables[node.tensor] = None
    order: list[Expr | str] = [*literals, *leaves, *tables, *body]
    slot = {n: i for i, n in enumerate(order)}
    steps: list[Step] = []
    for node in body:
        args = tuple(slot[c] for c in node.children)
        if isinstance(node, Load):
            steps.append((_read(len(node.type.shape)), (slot[node.tensor], *args)))
        elif isinstance(node, Search):
            steps.append((_search(node.side), (slot[node.tensor], *args)))
        else:
            assert isinstance(node, Op)
            steps.append((_function(node), args))
    values = tuple(n.value for n in literals if isinstance(n, Literal))
    return _Tape(values, tuple(leaves), tuple(tables), tuple(steps), slot[expr])


def _walk_outside(root: Expr, inner: frozenset[Expr]) -> list[Expr]:
    """Nodes, children first, without what lies under a node of `inner`."""
    done: dict[Expr, None] = {}
    stack: list[tuple[Expr, bool]] = [(root, False)]
    while stack:
        node, ready = stack.pop()
        if node in done:
            continue
        if ready or node in inner:
            done[node] = None
        else:
            stack.append((node, True))
            stack.extend((c, False) for c in reversed(node.children))
    return list(done)


def _function(node: Op) -> Callable[..., Array]:
    """The numpy function of an operation; numbers among vectors get component axes."""
    kind = node.args[0].type.kind if node.args else Kind.BOOL
    if node.op in VECTOR_FUNCTIONS:
        return VECTOR_FUNCTIONS[node.op]
    function = INT_FUNCTIONS.get(node.op) if kind is not Kind.FLOAT else None
    function = function or FUNCTIONS[node.op]
    if node.op == "div" and mentions(node.args[1], lambda n: isinstance(n, Reduce | Count)):
        function = _quotient
    ranks = tuple(len(a.type.shape) for a in node.args)
    top = max(ranks)
    if top == min(ranks):
        return function
    lifts = tuple(top - r for r in ranks)
    return lambda *args: function(*[_lift(a, n) for a, n in zip(args, lifts, strict=True)])


def _lift(value: Array, axes: int) -> Array:
    if not axes or not np.ndim(value):
        return value
    return np.reshape(value, np.shape(value) + (1,) * axes)


def _read(rank: int) -> Callable[..., Array]:
    """A read of a table whose last `rank` dimensions are kept; outside it is 0."""

    def read(table: Array, *indices: Array) -> Array:
        table = np.asarray(table)
        if len(indices) + rank != table.ndim:
            raise ValueError(f"a tensor of {table.ndim} dimensions is read with {len(indices)} indices")
        inside: Array = True
        for i, n in zip(indices, table.shape, strict=False):
            inside = inside & ((i >= 0) & (i < n))
        if not np.all(inside):
            if 0 in table.shape[: len(indices)]:
                shape = np.broadcast_shapes(*[np.shape(i) for i in indices])
                return np.zeros(shape + table.shape[len(indices) :], _WIDE[table.dtype.kind])
            indices = tuple(np.where(inside, i, 0) for i in indices)
            found = table[indices] if indices else table
            found = np.where(_lift(inside, rank), found, np.zeros((), table.dtype))
        else:
            found = table[indices]
        return found.astype(_WIDE[table.dtype.kind], copy=False)

    return read


def _search(side: Lit["left", "right"]) -> Callable[..., Array]:
    """A search in a sorted table of ints, without a wider copy of the table."""

    def search(table: Array, value: Array) -> Array:
        limits = np.iinfo(table.dtype)
        value = np.asarray(value)
        near = np.clip(value, limits.min, limits.max).astype(table.dtype)
        found = np.searchsorted(table, near, side).astype(np.int64)
        return np.where(value > limits.max, len(table), np.where(value < limits.min, 0, found))

    return search


_WIDE = {"b": np.bool_, "i": np.int64, "u": np.int64, "f": np.float64}
_INTS = (int, np.integer)
_NUMBERS = (int, float, np.integer, np.floating)


def _min(a: Array, b: Array) -> Array:
    return min(a, b) if type(a) is int and type(b) is int else np.minimum(a, b)


def _max(a: Array, b: Array) -> Array:
    return max(a, b) if type(a) is int and type(b) is int else np.maximum(a, b)


def _floordiv(a: Array, b: Array) -> Array:
    # numpy's integer division by zero is 0 already; its scalars and Python's differ
    if isinstance(b, _INTS):
        return a // b if b else a * 0
    return np.floor_divide(a, b)


def _mod(a: Array, b: Array) -> Array:
    if isinstance(b, _INTS):
        return a % b if b else a * 0
    return np.mod(a, b)


def _quotient(a: Array, b: Array) -> Array:
    return np.where(np.equal(b, 0), 0.0, np.true_divide(a, b))


def _select(c: Array, a: Array, b: Array) -> Array:
    return (a if c else b) if isinstance(c, bool) else np.where(c, a, b)


def _not(a: Array) -> Array:
    return not a if isinstance(a, bool) else np.logical_not(a)


def _to_float(a: Array) -> Array:
    return float(a) if isinstance(a, _NUMBERS) else np.asarray(a, np.float64)


def _to_int(a: Array) -> Array:
    return int(a) if isinstance(a, bool) else np.asarray(a, np.int64)


def _rounded(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    def run(a: Array) -> Array:
        return np.clip(np.nan_to_num(function(a), nan=0.0), -(2.0**62), 2.0**62).astype(np.int64)

    return run


def _int_power(a: Array, b: Array) -> Array:
    return a**b if type(a) is int and type(b) is int and b >= 0 else np.power(a, b)


def _bitlen(a: Array) -> Array:
    size = np.abs(np.asarray(a, np.int64))
    bits = np.frexp(size.astype(np.float64))[1].astype(np.int64)
    # a float rounds 2**54 - 1 up to 2**54
    return np.where((bits > 0) & (size >> np.maximum(bits - 1, 0) == 0), bits - 1, bits)


def _ispow2(a: Array) -> Array:
    return (a > 0) & ((a & (a - 1)) == 0)


def _sigmoid(a: Array) -> Array:
    small = np.exp(-np.abs(a))
    return np.where(np.asarray(a) >= 0, 1 / (1 + small), small / (1 + small))


_erf_each: Any = np.frompyfunc(math.erf, 1, 1)


def _erf(a: Array) -> Array:
    return np.asarray(_erf_each(a), np.float64)


def _gelu(a: Array) -> Array:
    return a * 0.5 * (1 + _erf(np.multiply(a, math.sqrt(0.5))))


def _elu(a: Array) -> Array:
    return np.where(np.asarray(a) > 0, a, np.expm1(np.minimum(a, 0)))


FUNCTIONS: dict[str, Callable[..., Array]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": np.true_divide, "neg": operator.neg,
    "floordiv": _floordiv, "mod": _mod, "pow": np.float_power, "min": _min, "max": _max,
    "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge, "eq": operator.eq, "ne": operator.ne,
    "and": operator.and_, "or": operator.or_, "not": _not, "select": _select,
    "to_float": _to_float, "to_int": _to_int,
    "abs": abs, "sign": np.sign, "floor": _rounded(np.floor), "ceil": _rounded(np.ceil),
    "exp": np.exp, "log": np.log, "sqrt": np.sqrt, "tanh": np.tanh, "sigmoid": _sigmoid,
    "relu": lambda a: np.maximum(a, 0.0), "elu": _elu, "silu": lambda a: a * _sigmoid(a), "gelu": _gelu,
    "softplus": lambda a: np.logaddexp(0.0, a), "erf": _erf, "sin": np.sin, "cos": np.cos, "acos": np.arccos,
    "atan2": np.arctan2, "bitlen": _bitlen, "ispow2": _ispow2,
}  # fmt: skip

INT_FUNCTIONS: dict[str, Callable[..., Array]] = {
    "pow": _int_power, "relu": lambda a: _max(a, 0), "floor": lambda a: a, "ceil": lambda a: a,
    "eq": operator.eq, "ne": operator.ne,
}  # fmt: skip


def _matmul(x: Array, m: Array) -> Array:
    return np.einsum("...i,...ij->...j", x, m)


def _softmax(x: Array) -> Array:
    top = np.exp(x - np.max(x, axis=-1, keepdims=True))
    return top / np.sum(top, axis=-1, keepdims=True)


def _rmsnorm(x: Array) -> Array:
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + RMSNORM_EPSILON)


def _concat(*parts: Array) -> Array:
    shape = np.broadcast_shapes(*[np.shape(p)[:-1] for p in parts])
    return np.concatenate([np.broadcast_to(p, shape + np.shape(p)[-1:]) for p in parts], axis=-1)


def _outer(x: Array, y: Array) -> Array:
    out = x[..., :, None] * y[..., None, :]
    return out.reshape(*out.shape[:-2], out.shape[-2] * out.shape[-1])


def _distinct(x: Array) -> Array:
    size = np.shape(x)[-1]
    n = np.arange(size * (size - 1) // 2)
    return x[..., n % max(size, 1)] * x[..., (n % max(size, 1) + n // max(size, 1) + 1) % max(size, 1)]


def _roll(x: Array, n: Array) -> Array:
    size = np.shape(x)[-1]
    at = (np.arange(size) - np.asarray(n)[..., None]) % size
    shape = np.broadcast_shapes(np.shape(x), at.shape)
    return np.take_along_axis(np.broadcast_to(x, shape), np.broadcast_to(at, shape), -1)


def _rope(x: Array, position: Array) -> Array:
    half = np.shape(x)[-1] // 2
    angle = np.asarray(position, np.float64)[..., None] * ROPE_BASE ** -(np.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], axis=-1)


RMSNORM_EPSILON = 1e-6
ROPE_BASE = 10000.0

VECTOR_FUNCTIONS: dict[str, Callable[..., Array]] = {
    "dot": lambda x, y: np.sum(x * y, axis=-1), "norm": lambda x: np.sqrt(np.sum(x * x, axis=-1)),
    "total": lambda x: np.sum(x, axis=-1), "amax": lambda x: np.max(x, axis=-1),
    "vsoftmax": _softmax, "rmsnorm": _rmsnorm, "concat": _concat,
    "outer": _outer, "distinct": _distinct, "matmul": _matmul, "roll": _roll, "rope": _rope,
}  # fmt: skip
