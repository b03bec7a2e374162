"""A softmax that is written out becomes the default weight."""

from __future__ import annotations

from dataclasses import replace

from attndsl.ir.attention import Attention
from attndsl.ir.expr import SCORE, Count, Expr, Op, Reduce, Value, mentions, rewrite


def softmax(attention: Attention) -> Attention:
    """`exp(f(s)) / sum(exp(f(s)))` is softmax of the score f(s)."""
    weight = attention.weight
    if not isinstance(weight, Op) or weight.op != "div":
        return attention
    top, bottom = weight.args
    if not isinstance(bottom, Reduce) or bottom.kind != "sum" or bottom.body != top:
        return attention
    if not isinstance(top, Op) or top.op != "exp" or mentions(top, lambda n: isinstance(n, Reduce | Count)):
        return attention
    return replace(attention, score=substitute(top.args[0], SCORE, attention.score), weight=None)


def substitute(expr: Expr, old: Value, new: Expr) -> Expr:
    """`expr` with every `old` replaced."""
    return rewrite(expr, lambda n: new if n == old else None)
