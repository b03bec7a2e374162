"""The pass `softmax`: what it recognises and what it leaves alone."""

from __future__ import annotations

from attndsl.ir.attention import Attention
from attndsl.ir.expr import SCORE, Reduce, op
from attndsl.ir.passes.softmax import softmax
from attndsl.ir.reader import read_attention, read_expr
from attndsl.ir.types import FLOAT
from attndsl.ir.verify import verify


def test_written_softmax() -> None:
    text = "(attention a (score (mul s 2.0)) (weight (div (exp (add s 1.0)) (sum (exp (add s 1.0))))))"
    simple = softmax(read_attention(text))
    verify(simple)
    assert simple.weight is None
    assert simple.score == read_expr("(add (mul s 2.0) 1.0)")


def test_other_weights_stay() -> None:
    for weight in ("(div (exp s) (add 1.0 (sum (exp s))))", "(div (exp s) (sum (exp (mul 2.0 s))))", "(exp s)"):
        attention = Attention("a", (), weight=read_expr(weight))
        assert softmax(attention) == attention
    nested = op("exp", op("sub", SCORE, Reduce(FLOAT, "mean", SCORE)))
    attention = Attention("a", (), weight=op("div", nested, Reduce(FLOAT, "sum", nested)))
    assert softmax(attention) == attention
