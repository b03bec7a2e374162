"""Derivatives against finite differences away from kinks, and against torch at kinks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_ir import B, H, K, Q, environment
from random_ir import D as VECTOR

from attndsl.ir.derivative import derivative, differentiable
from attndsl.ir.evaluate import Env, evaluate
from attndsl.ir.expr import SCORE, Expr, Load, ParamRef, Reduce, number, op
from attndsl.ir.reader import read_expr
from attndsl.ir.simplify import simplify_expr
from attndsl.ir.types import FLOAT, INT

X, Y = SCORE, ParamRef(FLOAT, "y")
SMOOTH = (
    "neg", "abs", "exp", "log", "sqrt", "tanh", "sigmoid", "relu", "elu", "silu", "gelu", "softplus", "erf", "sin",
    "cos", "acos", "sign",
)  # fmt: skip


def slope(expr: Expr, wrt: Expr, env: Env, h: float = 1e-5) -> np.ndarray:
    at = np.asarray(env.values[wrt], np.float64)
    above, below = (evaluate(expr, env.bind({wrt: at + s * h})) for s in (1, -1))
    return np.asarray((above - below) / (2 * h))


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("x", [-2.7, -0.6, 0.3, 0.8, 1.9])
def test_functions(name: str, x: float) -> None:
    if name in ("log", "sqrt"):
        x = abs(x)
    if name == "acos" and abs(x) > 1:
        x = x / 3
    expr = op(name, op("mul", X, X)) if name in ("exp", "sin") else op(name, X)
    env = Env({X: x})
    assert evaluate(derivative(expr, X), env) == pytest.approx(float(slope(expr, X, env)), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("name", ["add", "sub", "mul", "div", "pow", "min", "max", "atan2"])
@pytest.mark.parametrize("swap", [False, True])
def test_two_arguments(name: str, swap: bool) -> None:
    expr = op(name, Y, X) if swap else op(name, X, Y)
    for x, y in ((0.5, 1.7), (2.3, 0.4), (1.1, 1.2)):
        env = Env({X: x, Y: y})
        for wrt in (X, Y):
            expected = pytest.approx(float(slope(expr, wrt, env)), rel=1e-6, abs=1e-8)
            assert evaluate(derivative(expr, wrt), env) == expected


@st.composite
def curves(draw: st.DrawFn, depth: int) -> Expr:
    if depth == 0:
        return draw(st.sampled_from((X, X, Y, number(0.5), number(-1.25))))
    inner = curves(depth - 1)
    match draw(st.integers(0, 4)):
        case 0:
            name = draw(st.sampled_from(("tanh", "sigmoid", "sin", "cos", "erf", "silu", "gelu", "softplus", "neg")))
            return op(name, draw(inner))
        case 1:
            return op("div", draw(inner), op("add", op("mul", X, X), number(1.0)))
        case 2:
            return op("pow", op("add", op("sigmoid", draw(inner)), number(0.5)), draw(inner))
        case 3:
            return op("select", op("gt", draw(inner), number(0.3)), draw(inner), draw(inner))
        case _:
            return op(draw(st.sampled_from(("add", "sub", "mul", "min", "max"))), draw(inner), draw(inner))


@settings(max_examples=300, deadline=None)
@given(curves(4), st.floats(-2, 2), st.floats(-2, 2))
def test_random_curves(expr: Expr, x: float, y: float) -> None:
    torch = pytest.importorskip("torch")
    env = Env({X: x, Y: y})
    for simplified in (False, True):
        found = derivative(expr, X)
        found = simplify_expr(found) if simplified else found
        exact, size = _by_torch(expr, torch, x, y)
        assert float(evaluate(found, env)) == pytest.approx(exact, rel=1e-6, abs=1e-9 * max(1.0, size))


def _by_torch(expr: Expr, torch, x: float, y: float) -> tuple[float, float]:  # type: ignore[no-untyped-def]
    """Torch's gradient of the same operations, and the size of the value."""
    leaf = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    functions = {
        "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div, "pow": torch.pow, "neg": torch.neg,
        "min": torch.minimum, "max": torch.maximum, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "sin": torch.sin,
        "cos": torch.cos, "erf": torch.erf, "silu": torch.nn.functional.silu, "gelu": torch.nn.functional.gelu,
        "softplus": torch.nn.functional.softplus, "abs": torch.abs, "relu": torch.relu, "sign": torch.sign,
        "elu": torch.nn.functional.elu, "sqrt": torch.sqrt, "exp": torch.exp, "select": torch.where, "gt": torch.gt,
        "lt": torch.lt, "le": torch.le,
    }  # fmt: skip

    def run(node: Expr):  # type: ignore[no-untyped-def]
        if node == X:
            return leaf
        if not node.children:
            return torch.tensor(evaluate(node, Env({Y: y})), dtype=torch.float64)
        return functions[node.op](*map(run, node.children))  # type: ignore[attr-defined]

    value = run(expr)
    if value.requires_grad:
        value.backward()
    return 0.0 if leaf.grad is None else float(leaf.grad), abs(float(value.detach()))


@pytest.mark.parametrize(
    "text",
    ["(abs s)", "(relu s)", "(sign s)", "(elu s)", "(max s 0.0)", "(min s 0.0)", "(max 0.0 s)", "(max s (neg s))",
     "(min (max s 0.0) 0.0)", "(mul (abs s) (relu s))", "(pow s 2.0)", "(pow s 1.0)", "(pow s 0.0)", "(pow 2.0 s)",
     "(pow (abs s) 3.0)", "(softplus (add s 25.0))", "(softplus (add s 20.0))", "(select (lt s 0.0) (mul s 2.0) s)",
     "(max (min s 1.0) 0.0)", "(silu s)"],
)  # fmt: skip
def test_kinks_like_torch(text: str) -> None:
    torch = pytest.importorskip("torch")
    expr = read_expr(text)
    exact, _ = _by_torch(expr, torch, 0.0, 0.0)
    assert float(evaluate(derivative(expr, X), Env({X: 0.0}))) == pytest.approx(exact, rel=1e-8, abs=1e-12)


def test_reductions_and_reads() -> None:
    total = Reduce(FLOAT, "sum", op("exp", SCORE))
    weight = op("div", op("exp", SCORE), total)
    by_score, by_sum = derivative(weight, SCORE), derivative(weight, total)
    env = Env({SCORE: 0.4, total: 3.0})
    assert evaluate(by_score, env) == pytest.approx(np.exp(0.4) / 3)
    assert evaluate(by_sum, env) == pytest.approx(-np.exp(0.4) / 9)
    dead = Env({SCORE: 0.4, total: 0.0})
    assert evaluate(weight, dead) == evaluate(by_score, dead) == evaluate(by_sum, dead) == 0
    read = Load(FLOAT, "slope", (H,))
    expr = op("mul", op("mul", read, read), op("to_float", op("sub", Q, K)))
    assert evaluate(derivative(expr, read), Env({read: 3.0, Q: 5, K: 3})) == 12
    assert set(differentiable(op("add", expr, total))) == {read, total}


def test_constants_have_none() -> None:
    for text in ("(to_float (floor s))", "(to_float q)", "(sign s)", "(load bias h (floor s))", "1.0"):
        assert simplify_expr(derivative(read_expr(text), SCORE)) == number(0.0)
    with pytest.raises(ValueError, match="float numbers"):
        derivative(SCORE, Q)


@pytest.mark.parametrize(
    "text",
    ["(dot (mul s (load:float[D] u h)) (load:float[D] u h))", "(total (add s (load:float[D] u h)))",
     "(norm (add s (load:float[D] u h)))", "(norm (vsoftmax (mul s (load:float[D] u h))))",
     "(total (mul (rmsnorm (add s (load:float[D] u h))) (load:float[D] u h)))",
     "(norm (concat (mul s (load:float[D] u h)) (load:float[D] u h)))",
     "(norm (outer (mul s (load:float[D] u h)) (tanh (mul s (load:float[D] u h)))))",
     "(norm (distinct (add (mul s (load:float[D] u h)) (load:float[D] u h))))",
     "(total (matmul (mul s (load:float[D] u h)) (load:float[D,M] W h)))",
     "(dot (roll (mul s (load:float[D] u h)) 1) (load:float[D] u h))",
     "(dot (rope (mul (exp s) (load:float[D] u h)) q) (load:float[D] u h))"],
)  # fmt: skip
def test_through_vectors(text: str) -> None:
    expr = read_expr(text)
    env = environment(3)
    found = evaluate(derivative(expr, SCORE), env)
    assert np.allclose(found, slope(expr, SCORE, env), rtol=1e-5, atol=1e-6)


def test_vector_result() -> None:
    expr = op("add", Load(VECTOR, "u", (H,)), SCORE)
    d = derivative(expr, SCORE)
    assert d.type == expr.type
    none = derivative(Load(VECTOR, "u", (H,)), SCORE)
    assert none.type == VECTOR
    assert np.all(evaluate(none, environment(0)) == 0)
    assert INT != FLOAT and B != H
