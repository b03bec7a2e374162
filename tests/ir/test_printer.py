"""Printed text reads back to the same thing."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from random_ir import GRID, PARAMS, H, K, Q, Scope, attentions, bools, floats, vectors

from attndsl.ir.attention import Attention, Segment, Space
from attndsl.ir.expr import SCORE, Coord, Expr, Literal, ParamRef, Search, Value, integer, number, op
from attndsl.ir.printer import WIDTH, print_attention, print_expr
from attndsl.ir.reader import ReadError, read_attention, read_expr
from attndsl.ir.types import FLOAT, INT, Kind, Type
from attndsl.ir.verify import verify


@settings(max_examples=200, deadline=None)
@given(attentions())
def test_attention_round_trip(attention: Attention) -> None:
    verify(attention)
    text = print_attention(attention)
    assert read_attention(text) == attention
    assert print_attention(read_attention(text)) == text


@settings(max_examples=100, deadline=None)
@given(floats(4, Scope(score=True, reduce=True, grid=True)), bools(4, Scope(grid=True)), vectors(3))
def test_expression_round_trip(number_: Expr, condition: Expr, vector: Expr) -> None:
    for expr in (number_, condition, vector):
        assert read_expr(print_expr(expr)) == expr
        assert all(len(line) <= WIDTH + 60 for line in print_expr(expr).split("\n"))


@pytest.mark.parametrize(
    ("expr", "text"),
    [
        (op("lt", op("sub", Q, K), integer(-3)), "(lt (sub q k) -3)"),
        (number(3), "3.0"),
        (number(1e22), "1e+22"),
        (number(-math.inf), "-inf"),
        (Literal(Type(Kind.BOOL), True), "true"),
        (ParamRef(FLOAT, "rate"), "(param:float rate)"),
        (ParamRef(INT, "span", 2), "(param span 2)"),
        (Coord(INT, "q", "", "y"), '(coord q "" y)'),
        (Value(Type(Kind.FLOAT, ("(D+M)", 3)), "o"), "o:float[(D+M),3]"),
        (Search(INT, "doc", Q, "right"), "(search doc right q)"),
        (op("pow", SCORE, number(2)), "(pow s 2.0)"),
    ],
)
def test_texts(expr: Expr, text: str) -> None:
    assert print_expr(expr) == text
    assert read_expr(text) == expr


def test_shared_subtrees_are_written_once() -> None:
    expr: Expr = op("add", Q, K)
    for _ in range(60):
        expr = op("mul", expr, expr)
    text = print_expr(expr)
    assert len(text) < 5000
    assert read_expr(text) == expr


def test_attention_text() -> None:
    attention = Attention("window", PARAMS[:2], mask=op("lt", op("sub", Q, K), ParamRef(INT, "window")))
    expected = """(attention window
  (const window int 5)
  (const span int[3] (3 1 2))
  (mask (lt (sub q k) (param window)))
  (score s))"""
    assert print_attention(attention) == expected


def test_spaces() -> None:
    keys = Space((Segment("", ("v", "u")),))
    attention = Attention("grids", (), q_space=GRID, k_space=keys, shared=False)
    assert read_attention(print_attention(attention)) == attention
    assert read_attention(print_attention(replace(attention, k_space=None))).k_space is None


@pytest.mark.parametrize(
    "text",
    ["", "(", ")", "(add q", "(add q k))", "(frob q)", "nonsense", "(coord z v t)", "(search doc)", "(param)", "()",
     "(add (q) k)", "q k", "(load:thing x)", "(member q)", '(add "unclosed q)'],
)  # fmt: skip
def test_unreadable(text: str) -> None:
    with pytest.raises(ReadError):
        read_expr(text)
    with pytest.raises(ReadError):
        read_attention(f"(attention a (mask {text}))")


def test_head_is_an_index() -> None:
    assert print_expr(H) == "h"
