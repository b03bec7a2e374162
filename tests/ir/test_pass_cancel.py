"""The pass `cancel`: what it does, and that it keeps every value."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import keeps
from random_ir import Scope, bools, floats, ints

from attndsl.ir.expr import Expr
from attndsl.ir.passes.cancel import cancel
from attndsl.ir.printer import print_expr
from attndsl.ir.reader import read_expr

GRID = Scope(grid=True, score=True)


@settings(max_examples=150, deadline=None)
@given(st.one_of(ints(4, Scope(grid=True)), bools(4, Scope(grid=True)), floats(4, GRID)), st.integers(0, 2**31))
def test_keeps_values(expr: Expr, seed: int) -> None:
    keeps(cancel, expr, seed)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("(add (sub q k) k)", "q"),
        ("(sub (mul q 2) q)", "q"),
        ("(sub (sub q k) q)", "(neg k)"),
        ("(sub (add q k) (sub q 3))", "(add k 3)"),
        ("(sub q k)", "(sub q k)"),
        ("(add (sub q k) h)", "(add (sub q k) h)"),
        ("(sub (add q 2) q)", "2"),
        ("(add (mul q 2) q)", "(mul q 3)"),
    ],
)
def test_examples(before: str, after: str) -> None:
    assert print_expr(cancel(read_expr(before))) == after
