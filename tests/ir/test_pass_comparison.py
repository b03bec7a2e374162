"""The pass `comparison`: what it does, and that it keeps every value."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import keeps
from random_ir import Scope, bools, floats, ints

from attndsl.ir.expr import Expr
from attndsl.ir.passes.comparison import comparison
from attndsl.ir.printer import print_expr
from attndsl.ir.reader import read_expr

GRID = Scope(grid=True, score=True)


@settings(max_examples=150, deadline=None)
@given(st.one_of(ints(4, Scope(grid=True)), bools(4, Scope(grid=True)), floats(4, GRID)), st.integers(0, 2**31))
def test_keeps_values(expr: Expr, seed: int) -> None:
    keeps(comparison, expr, seed)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("(not (lt q k))", "(ge q k)"),
        ("(not (eq s 1.0))", "(ne s 1.0)"),
        ("(not (lt s 1.0))", "(not (lt s 1.0))"),
        ("(lt 3 q)", "(gt q 3)"),
        ("(lt q q)", "false"),
        ("(ge q q)", "true"),
        ("(lt (add q 3) 5)", "(lt q 2)"),
        ("(eq (le k q) true)", "(le k q)"),
        ("(ne (le k q) true)", "(not (le k q))"),
        ("(lt (to_float q) (to_float k))", "(lt q k)"),
        ("(lt (to_float q) 2.5)", "(lt q 3)"),
        ("(le (to_float q) 2.5)", "(le q 2)"),
        ("(gt (to_float q) -2.5)", "(gt q -3)"),
        ("(ge (to_float q) -2.5)", "(ge q -2)"),
        ("(eq (to_float q) 2.5)", "false"),
        ("(eq (to_float q) 2.0)", "(eq q 2)"),
        ("(lt (to_float q) inf)", "(lt (to_float q) inf)"),
    ],
)
def test_examples(before: str, after: str) -> None:
    assert print_expr(comparison(read_expr(before))) == after
