"""The pass `select`: what it does, and that it keeps every value."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import keeps
from random_ir import Scope, bools, floats, ints

from attndsl.ir.expr import Expr
from attndsl.ir.passes.select import select
from attndsl.ir.printer import print_expr
from attndsl.ir.reader import read_expr

GRID = Scope(grid=True, score=True)


@settings(max_examples=150, deadline=None)
@given(st.one_of(ints(4, Scope(grid=True)), bools(4, Scope(grid=True)), floats(4, GRID)), st.integers(0, 2**31))
def test_keeps_values(expr: Expr, seed: int) -> None:
    keeps(select, expr, seed)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("(select true q k)", "q"),
        ("(select false q k)", "k"),
        ("(select (le k q) h h)", "h"),
        ("(select (not (le k q)) q k)", "(select (le k q) k q)"),
        ("(select (le k q) true (lt k 3))", "(or (le k q) (lt k 3))"),
        ("(select (le k q) (lt k 3) false)", "(and (le k q) (lt k 3))"),
        ("(select (le k q) false (lt k 3))", "(and (not (le k q)) (lt k 3))"),
        ("(select (le k q) (lt k 3) true)", "(or (not (le k q)) (lt k 3))"),
    ],
)
def test_examples(before: str, after: str) -> None:
    assert print_expr(select(read_expr(before))) == after
