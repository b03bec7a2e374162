"""The pass `arithmetic`: what it does, and that it keeps every value."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import keeps
from random_ir import Scope, bools, floats, ints

from attndsl.ir.expr import Expr
from attndsl.ir.passes.arithmetic import arithmetic
from attndsl.ir.printer import print_expr
from attndsl.ir.reader import read_expr

GRID = Scope(grid=True, score=True)


@settings(max_examples=150, deadline=None)
@given(st.one_of(ints(4, Scope(grid=True)), bools(4, Scope(grid=True)), floats(4, GRID)), st.integers(0, 2**31))
def test_keeps_values(expr: Expr, seed: int) -> None:
    keeps(arithmetic, expr, seed)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("(add q 0)", "q"),
        ("(add 0 q)", "(add q 0)"),
        ("(sub (add q 3) 5)", "(sub q 2)"),
        ("(sub (sub 3 q) 1)", "(sub 2 q)"),
        ("(mul (mul q 2) 3)", "(mul q 6)"),
        ("(add q (neg k))", "(sub q k)"),
        ("(sub q (neg k))", "(add q k)"),
        ("(sub q q)", "0"),
        ("(sub s s)", "(sub s s)"),
        ("(mul s 0.0)", "(mul s 0.0)"),
        ("(mul s 1.0)", "s"),
        ("(mul s -1.0)", "(neg s)"),
        ("(neg (sub q k))", "(sub k q)"),
        ("(abs (neg q))", "(abs q)"),
        ("(min q q)", "q"),
        ("(min (min q 3) 5)", "(min q 3)"),
        ("(min q (max q 5))", "q"),
        ("(min s s)", "s"),
        ("(min (min s 3.0) 3.0)", "(min (min s 3.0) 3.0)"),
        ("(floordiv q 1)", "q"),
        ("(mod q 1)", "0"),
        ("(floordiv (mul q 6) 3)", "(mul q 2)"),
        ("(floordiv (floordiv q 2) 3)", "(floordiv q 6)"),
        ("(floordiv (add q 6) 3)", "(add (floordiv q 3) 2)"),
        ("(mod (add q 6) 3)", "(mod q 3)"),
        ("(mod (mod q 5) 5)", "(mod q 5)"),
        ("(floordiv (mod q 5) 5)", "0"),
        ("(floordiv q 0)", "(floordiv q 0)"),
        ("(pow s 1.0)", "s"),
    ],
)
def test_examples(before: str, after: str) -> None:
    assert print_expr(arithmetic(read_expr(before))) == after
