"""All passes together: the same values, the rules of the IR, and a fixed point."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import keeps, same_value
from random_ir import Scope, attentions, bools, floats, ints

from attndsl.ir.attention import Attention
from attndsl.ir.bind import bind
from attndsl.ir.expr import Expr, ParamRef, mentions
from attndsl.ir.reader import read_expr
from attndsl.ir.simplify import simplify, simplify_expr
from attndsl.ir.verify import verify

EXPRESSIONS = st.one_of(
    ints(5, Scope(grid=True)), bools(5, Scope(grid=True)), floats(4, Scope(grid=True, score=True)), floats(4)
)


@settings(max_examples=400, deadline=None)
@given(EXPRESSIONS, st.integers(0, 2**31))
def test_keeps_values(expr: Expr, seed: int) -> None:
    keeps(simplify_expr, expr, seed)


@settings(max_examples=150, deadline=None)
@given(attentions(), st.integers(0, 2**31))
def test_attentions(attention: Attention, seed: int) -> None:
    simple = simplify(attention)
    verify(simple)
    same_value(attention.mask, simple.mask, seed)
    assert simplify(simple) == simple


@settings(max_examples=100, deadline=None)
@given(attentions())
def test_binds_and_verifies(attention: Attention) -> None:
    values = {"window": 3, "span": (2, 3, 1), "turn": (1, 2, 3, 4, 5), "causal": True, "rate": 0.25}
    kept = replace(attention, requires=())
    try:
        bound = bind(kept, values)
    except Exception as problem:
        assert "zero" in str(problem)
        return
    verify(bound)
    names = {c.name for c in bound.consts}
    assert not mentions(bound.mask, lambda n: isinstance(n, ParamRef) and n.name in names)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("(and (le 0 (sub q k)) (lt (sub q k) 5))", "(and (ge (sub q k) 0) (lt (sub q k) 5))"),
        ("(floordiv (add (mul q 1) 0) 1)", "q"),
        ("(not (and (lt q k) true))", "(ge q k)"),
        ("(lt (sub (add q 3) 3) (add k 0))", "(lt q k)"),
        ("(select (lt 2 1) (le k q) (lt (add k 1) 3))", "(lt k 2)"),
    ],
)
def test_examples(before: str, after: str) -> None:
    assert simplify_expr(read_expr(before)) == read_expr(after)
