"""Evaluation against plain Python and numpy."""

from __future__ import annotations

import math
import operator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attndsl.ir.evaluate import Env, UnboundError, evaluate
from attndsl.ir.expr import SCORE, Count, Expr, Index, Load, ParamRef, Reduce, Search, Size, integer, number, op
from attndsl.ir.types import BOOL, FLOAT, INT, Kind, Type

Q, K, H = Index(INT, "q"), Index(INT, "k"), Index(INT, "h")
X = ParamRef(FLOAT, "x")
SMALL = st.integers(-40, 40)


def python_floordiv(a: int, b: int) -> int:
    return a // b if b else 0


def python_mod(a: int, b: int) -> int:
    return a % b if b else 0


BINARY = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "min": min, "max": max, "lt": operator.lt,
    "le": operator.le, "gt": operator.gt, "ge": operator.ge, "eq": operator.eq, "ne": operator.ne,
    "floordiv": python_floordiv, "mod": python_mod,
}  # fmt: skip


@given(st.sampled_from(sorted(BINARY)), st.lists(SMALL, min_size=1, max_size=5), SMALL)
def test_integers_like_python(name: str, left: list[int], right: int) -> None:
    node = op(name, Q, K)
    expected = [BINARY[name](a, right) for a in left]
    arrays = evaluate(node, Env({Q: np.array(left), K: right}))
    assert arrays.tolist() == expected
    assert arrays.dtype in (np.int64, np.bool_)
    assert evaluate(node, Env({Q: np.array(left), K: np.full(len(left), right)})).tolist() == expected
    for a, e in zip(left, expected, strict=True):
        assert evaluate(node, Env({Q: a, K: right})) == e
        assert evaluate(node, Env({Q: np.int64(a), K: np.int64(right)})) == e
        assert evaluate(op(name, integer(a), integer(right)), Env()) == e


def test_broadcasting_and_sharing() -> None:
    d = op("sub", Q, K)
    mask = op("and", op("le", integer(0), d), op("lt", d, integer(2)))
    q, k = np.arange(4)[:, None], np.arange(5)[None, :]
    assert np.array_equal(evaluate(mask, Env({Q: q, K: k})), (q - k >= 0) & (q - k < 2))


@given(SMALL, SMALL, st.booleans())
def test_select_and_logic(a: int, b: int, c: bool) -> None:
    flag = ParamRef(BOOL, "c")
    for value in (c, np.bool_(c), np.array([c])):
        env = Env({Q: a, K: b, flag: value})
        assert evaluate(op("select", flag, Q, K), env) == (a if c else b)
        assert evaluate(op("not", flag), env) == (not c)
        assert evaluate(op("or", flag, op("lt", Q, K)), env) == (c or a < b)
        assert evaluate(op("to_int", flag), env) == int(c)


REAL = {
    "exp": math.exp, "sqrt": math.sqrt, "log": math.log, "tanh": math.tanh, "erf": math.erf, "sin": math.sin,
    "cos": math.cos, "sigmoid": lambda x: 1 / (1 + math.exp(-x)), "relu": lambda x: max(x, 0.0),
    "elu": lambda x: x if x > 0 else math.exp(x) - 1, "silu": lambda x: x / (1 + math.exp(-x)),
    "gelu": lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))), "softplus": lambda x: math.log(1 + math.exp(x)),
    "abs": abs, "neg": operator.neg, "sign": lambda x: (x > 0) - (x < 0), "floor": math.floor, "ceil": math.ceil,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(REAL))
@pytest.mark.parametrize("x", [-3.25, -0.5, 0.0, 0.7, 3.0])
def test_functions(name: str, x: float) -> None:
    if name in ("log", "sqrt"):
        x = abs(x) + 0.1
    node = op(name, X)
    assert evaluate(node, Env({X: x})) == pytest.approx(REAL[name](x), rel=1e-12, abs=1e-15)
    array = evaluate(node, Env({X: np.array([[x, x]])}))
    assert array.shape == (1, 2)
    assert array.dtype == (np.int64 if name in ("floor", "ceil") else np.float64)
    assert array[0, 1] == pytest.approx(REAL[name](x), rel=1e-12, abs=1e-15)


def test_extremes() -> None:
    assert evaluate(op("sigmoid", X), Env({X: -1000.0})) == 0
    assert evaluate(op("sigmoid", X), Env({X: 1000.0})) == 1
    assert evaluate(op("softplus", X), Env({X: 1000.0})) == 1000
    assert evaluate(op("div", X, number(0)), Env({X: 1.0})) == math.inf
    assert evaluate(op("acos", X), Env({X: 0.5})) == pytest.approx(math.pi / 3)
    assert evaluate(op("atan2", X, number(-1)), Env({X: 1.0})) == pytest.approx(3 * math.pi / 4)


@given(st.integers(-(2**62), 2**62))
def test_bits(n: int) -> None:
    for value in (n, np.int64(n), np.array([n])):
        assert evaluate(op("bitlen", Q), Env({Q: value})) == abs(n).bit_length()
        assert evaluate(op("ispow2", Q), Env({Q: value})) == (n > 0 and n & (n - 1) == 0)


@pytest.mark.parametrize("n", [2**54 - 1, 2**62 - 1, 2**53, 2**53 + 1])
def test_bits_beyond_floats(n: int) -> None:
    assert evaluate(op("bitlen", Q), Env({Q: n})) == n.bit_length()


def test_powers() -> None:
    assert evaluate(op("pow", Q, integer(3)), Env({Q: np.array([-2, 5])})).tolist() == [-8, 125]
    assert evaluate(op("pow", X, number(0.5)), Env({X: 9.0})) == 3
    assert evaluate(op("pow", number(0), number(0)), Env()) == 1


def test_reads() -> None:
    table = np.array([[10, 11, 12], [20, 21, 22]], np.int32)
    read = Load(INT, "t", (H, Q))
    env = Env({H: np.array([0, 1])[:, None], Q: np.arange(-1, 4)[None]}, {"t": table})
    assert evaluate(read, env).tolist() == [[0, 10, 11, 12, 0], [0, 20, 21, 22, 0]]
    assert evaluate(read, env).dtype == np.int64
    assert evaluate(read, Env({H: 1, Q: 2}, {"t": table})) == 22
    assert evaluate(read, Env({H: 2, Q: 2}, {"t": table})) == 0
    assert evaluate(read, Env({H: 0, Q: np.arange(2)}, {"t": np.zeros((0, 3), np.int32)})).tolist() == [0, 0]
    with pytest.raises(ValueError, match="3 dimensions is read with 2 indices"):
        evaluate(read, Env({H: 0, Q: 0}, {"t": np.zeros((1, 1, 1))}))


def test_read_kinds() -> None:
    for dtype, kind, wide in ((np.float32, FLOAT, np.float64), (np.bool_, BOOL, np.bool_), (np.uint8, INT, np.int64)):
        read = Load(kind, "t", (Q,))
        assert evaluate(read, Env({Q: np.arange(5)}, {"t": np.ones(3, dtype)})).dtype == wide


def test_search() -> None:
    table = np.array([1, 3, 3, 7], np.int32)
    for side in ("left", "right"):
        node = Search(INT, "t", Q, side)
        wanted = np.array([-(2**40), 0, 1, 3, 4, 7, 8, 2**40])
        found = evaluate(node, Env({Q: wanted}, {"t": table}))
        assert found.tolist() == np.searchsorted(table.astype(np.int64), wanted, side).tolist()


def test_vectors() -> None:
    d = Type(Kind.FLOAT, ("D",))
    rng = np.random.default_rng(0)
    qs, ks, w = rng.normal(size=(5, 4)), rng.normal(size=(7, 4)), rng.normal(size=(2, 4, 3))
    qv, kv = Load(d, "Q", (Q,)), Load(d, "K", (K,))
    matrix = Load(Type(Kind.FLOAT, ("D", "M")), "W", (H,))
    env = Env({Q: np.arange(5)[:, None], K: np.arange(7)[None], H: 1}, {"Q": qs, "K": ks, "W": w})
    assert np.allclose(evaluate(op("dot", qv, kv), env), qs @ ks.T)
    assert np.allclose(evaluate(op("norm", qv), env)[:, 0], np.linalg.norm(qs, axis=1))
    assert np.allclose(evaluate(op("total", op("mul", number(2), qv)), env)[:, 0], 2 * qs.sum(1))
    assert np.allclose(evaluate(op("amax", qv), env)[:, 0], qs.max(1))
    assert np.allclose(evaluate(op("matmul", qv, matrix), env)[:, 0], qs @ w[1])
    assert np.allclose(evaluate(op("total", op("vsoftmax", qv)), env), 1)
    assert evaluate(op("concat", qv, kv), env).shape == (5, 7, 8)
    assert np.allclose(evaluate(op("outer", qv, kv), env), np.einsum("qi,kj->qkij", qs, ks).reshape(5, 7, 16))
    scaled = op("mul", op("to_float", op("sub", Q, K)), op("roll", qv, integer(1)))
    assert np.allclose(
        evaluate(scaled, env), (np.arange(5)[:, None] - np.arange(7))[..., None] * np.roll(qs, 1, 1)[:, None]
    )
    assert np.allclose(evaluate(op("norm", op("rope", qv, Q)), env), evaluate(op("norm", qv), env))
    turned = evaluate(op("dot", op("rope", qv, op("add", Q, H)), op("rope", kv, op("add", K, H))), env)
    assert np.allclose(turned, evaluate(op("dot", op("rope", qv, Q), op("rope", kv, K)), env))


def test_given_nodes() -> None:
    total = Reduce(FLOAT, "sum", op("exp", SCORE))
    share = op("div", op("exp", SCORE), total)
    assert evaluate(share, Env({SCORE: 0.0, total: 4.0})) == 0.25
    d = op("sub", Q, K)
    assert evaluate(op("mul", d, integer(3)), Env({d: np.array([1, 2])})).tolist() == [3, 6]
    assert evaluate(d, Env({d: 9})) == 9
    assert evaluate(d, Env({Q: 1}).bind({K: 5})) == -4


@pytest.mark.parametrize(
    "node", [Q, Size(INT, "Lk"), Count(INT), Reduce(FLOAT, "sum", number(1)), Load(INT, "doc", (integer(0),))]
)
def test_unbound(node: Expr) -> None:
    with pytest.raises(UnboundError) as info:
        evaluate(node, Env())
    assert info.value.node == (node.tensor if isinstance(node, Load) else node)
