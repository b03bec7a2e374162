"""The pass `fold`: what it does, and that it keeps every value."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import keeps
from random_ir import Scope, bools, floats, ints

from attndsl.ir.expr import Expr
from attndsl.ir.passes.fold import fold
from attndsl.ir.printer import print_expr
from attndsl.ir.reader import read_expr

GRID = Scope(grid=True, score=True)


@settings(max_examples=150, deadline=None)
@given(st.one_of(ints(4, Scope(grid=True)), bools(4, Scope(grid=True)), floats(4, GRID)), st.integers(0, 2**31))
def test_keeps_values(expr: Expr, seed: int) -> None:
    keeps(fold, expr, seed)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("(add 2 3)", "5"),
        ("(mul (add 2 3) q)", "(mul 5 q)"),
        ("(floordiv -7 2)", "-4"),
        ("(floordiv 7 0)", "(floordiv 7 0)"),
        ("(mod 7 0)", "(mod 7 0)"),
        ("(div 1.0 0.0)", "(div 1.0 0.0)"),
        ("(select true 1 2)", "1"),
        ("(to_float (sub 2 5))", "-3.0"),
        ("(sub inf inf)", "(sub inf inf)"),
        ("(sqrt -1.0)", "(sqrt -1.0)"),
        ("(pow 2 3)", "8"),
        ("(pow 2147483647 3)", "(pow 2147483647 3)"),
        ("(lt 1 2)", "true"),
    ],
)
def test_examples(before: str, after: str) -> None:
    assert print_expr(fold(read_expr(before))) == after
