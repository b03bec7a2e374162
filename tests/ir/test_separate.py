"""Products of row terms and key terms, by rules and by sympy."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_ir import H, K, Q, environment

from attndsl.ir import algebra
from attndsl.ir.algebra import Budget, polynomial
from attndsl.ir.evaluate import evaluate
from attndsl.ir.expr import Expr, Literal, Load, ParamRef, integer, number, op
from attndsl.ir.free import column_only, row_only
from attndsl.ir.reader import read_expr
from attndsl.ir.separate import Terms, additive, product, separate
from attndsl.ir.types import FLOAT

SLOPE = Load(FLOAT, "slope", (H,))
D = op("to_float", op("sub", Q, K))


def check(expr: Expr, terms: Terms, seed: int = 0) -> None:
    env = environment(seed)
    total = 0.0
    for f, g in terms:
        assert row_only(f)
        assert column_only(g)
        total = total + evaluate(f, env) * evaluate(g, env)
    expected = evaluate(expr, env)
    # both are off by the rounding of their largest term
    size = max([1.0, *(float(np.max(np.abs(evaluate(f, env) * evaluate(g, env)))) for f, g in terms)])
    assert np.allclose(total, expected, rtol=1e-9, atol=1e-9 * size)


CASES = [
    ("(mul (load slope h) (to_float (sub q k)))", 2),
    ("(mul (load slope h) (pow (to_float (sub q k)) 2.0))", 3),
    ("(to_float (mul (sub q k) (add q k)))", 3),
    ("(exp (mul (load slope h) (to_float (sub q k))))", 1),
    ("(pow 0.5 (to_float (sub q k)))", 1),
    ("(div (to_float (sub q k)) (add 9.0 (to_float k)))", 2),
    ("(neg (mul (exp (to_float q)) (exp (neg (to_float k)))))", 1),
    ("(to_float q)", 1),
    ("(mul (load slope h) (param:float rate))", 1),
]


@pytest.mark.parametrize(("text", "rank"), CASES)
def test_rules(text: str, rank: int) -> None:
    expr = read_expr(text)
    terms = separate(expr)
    assert terms is not None
    assert len(terms) == rank
    check(expr, terms)


@st.composite
def separable(draw: st.DrawFn, depth: int) -> Expr:
    if depth == 0:
        leaves = [op("to_float", Q), op("to_float", K), SLOPE, ParamRef(FLOAT, "rate"), D, number(0.5)]
        return draw(st.sampled_from(leaves))
    a = draw(separable(depth - 1))
    if draw(st.integers(0, 5)) == 0:
        return op("neg", a)
    return op(draw(st.sampled_from(("add", "sub", "mul"))), a, draw(separable(depth - 1)))


@settings(max_examples=200, deadline=None)
@given(separable(3), st.integers(0, 1000))
def test_random(expr: Expr, seed: int) -> None:
    terms = separate(expr, 32)
    if terms is not None:
        check(expr, terms, seed)


def test_not_separable() -> None:
    for text in ("(abs (to_float (sub q k)))", "(load bias h (sub q k))", "(exp (to_float (mul q k)))", "s"):
        assert separate(read_expr(text)) is None
        assert not algebra.separate(read_expr(text)).value


def test_additive_and_product() -> None:
    found = additive(op("mul", SLOPE, D))
    assert found is not None
    row, column = found
    assert row is not None and column is not None
    assert row_only(row) and column_only(column)
    assert additive(op("mul", D, D)) is None
    decay = op("pow", SLOPE, D)
    pair = product(decay)
    assert pair is not None
    check(op("pow", number(0.5), D), separate(op("pow", number(0.5), D)) or ())
    assert product(D) is None


def test_sympy_finds_what_cancels() -> None:
    q, k = op("to_float", Q), op("add", op("to_float", K), number(20.0))
    difference = op("sub", op("mul", q, q), op("mul", k, k))
    expr = op("div", difference, op("add", q, k))
    assert separate(expr) is None
    answer = algebra.separate(expr)
    assert answer.value is not None
    check(expr, answer.value)


def test_budget_is_a_reason_not_a_hang() -> None:
    big: Expr = op("add", op("to_float", Q), op("exp", op("mul", D, D)))
    for _ in range(12):
        big = op("mul", big, op("add", big, number(1.0)))
    answer = algebra.separate(big)
    assert answer.value is None
    assert "algebra gave up" in answer.reason
    wide = op("pow", op("add", D, op("exp", op("to_float", op("mul", Q, K)))), number(2000.0))
    assert "a power of 2000, more than 8" in algebra.separate(wide).reason
    slow = algebra.separate(op("exp", op("mul", D, D)), 8, Budget(seconds=-1.0))
    assert "s, more than -1" in slow.reason
    infinite = op("mul", op("exp", op("mul", D, D)), number(float("inf")))
    assert "infinite" in algebra.separate(infinite).reason


def test_polynomial() -> None:
    q, k = op("to_float", Q), op("to_float", K)
    expr = op("mul", SLOPE, op("pow", op("sub", q, k), number(2.0)))
    found = polynomial(expr, (q, k)).value
    assert found is not None
    assert set(found) == {(2, 0), (1, 1), (0, 2)}
    env = environment(1)
    assert np.allclose(evaluate(found[1, 1], env), -2 * evaluate(SLOPE, env))
    assert polynomial(op("exp", q), (q,)).value is None
    with pytest.raises(ValueError, match="no arithmetic"):
        polynomial(expr, (expr,))
    nothing = polynomial(op("sub", op("mul", q, k), op("mul", k, q)), (q, k)).value
    assert nothing == {}


def test_typical_scores_need_no_sympy() -> None:
    code = (
        "import sys; from attndsl.ir.forms import score_form, weight_form;"
        "from attndsl.ir.attention import Attention; from attndsl.ir.reader import read_expr;"
        "a = Attention('a', (), score=read_expr('(sub s (add (mul (load slope h) (to_float (sub q k)))"
        " (load bias h (sub q k))))'), weight=read_expr('(div (exp s) (add 1.0 (sum (exp s))))'));"
        "str(score_form(a)), str(weight_form(a)); assert 'sympy' not in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_literals_are_exact() -> None:
    tenth = Literal(FLOAT, 0.1)
    q = op("to_float", Q)
    found = polynomial(op("mul", q, tenth), (q,)).value
    assert found == {(1,): number(0.1)}
    assert integer(3) != number(3)
