"""The pass `boolean`: what it does, and that it keeps every value."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import keeps
from random_ir import Scope, bools, floats, ints

from attndsl.ir.expr import Expr
from attndsl.ir.passes.boolean import boolean
from attndsl.ir.printer import print_expr
from attndsl.ir.reader import read_expr

GRID = Scope(grid=True, score=True)


@settings(max_examples=150, deadline=None)
@given(st.one_of(ints(4, Scope(grid=True)), bools(4, Scope(grid=True)), floats(4, GRID)), st.integers(0, 2**31))
def test_keeps_values(expr: Expr, seed: int) -> None:
    keeps(boolean, expr, seed)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("(and (le k q) true)", "(le k q)"),
        ("(and false (le k q))", "false"),
        ("(or (le k q) false)", "(le k q)"),
        ("(or true (le k q))", "true"),
        ("(not (not (le k q)))", "(le k q)"),
        ("(and (le k q) (not (le k q)))", "false"),
        ("(or (not (le k q)) (le k q))", "true"),
        ("(or (le k q) (le k q))", "(le k q)"),
        ("(and (le k q) (or (lt k 3) (le k q)))", "(le k q)"),
        ("(and (lt k 3) (and (le k q) (lt k 3)))", "(and (le k q) (lt k 3))"),
    ],
)
def test_examples(before: str, after: str) -> None:
    assert print_expr(boolean(read_expr(before))) == after
