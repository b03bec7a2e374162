"""What kind of score and weight an attention has: the shapes that kernels are written for.

Nothing here changes an attention. A form says how a score or weight may be computed; `str(form)` says it in words.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from attndsl.ir import build
from attndsl.ir.attention import Attention
from attndsl.ir.build import ONE, Part
from attndsl.ir.derivative import derivative
from attndsl.ir.expr import SCORE, Expr, Op, Value, mentions
from attndsl.ir.free import depends, q_side, row_only, tensors, uniform
from attndsl.ir.printer import print_expr
from attndsl.ir.separate import Terms, separate
from attndsl.ir.simplify import simplify_expr
from attndsl.ir.weights import (
    Elementwise,
    Exponential,
    FeatureMap,
    General,
    Normalised,
    Softmax,
    WeightForm,
    weight_form,
)

__all__ = [
    "Elementwise", "Exponential", "FeatureMap", "General", "Normalised", "ScoreForm", "Softmax", "WeightForm",
    "affine", "score_form", "weight_form",
]  # fmt: skip


@dataclass(frozen=True)
class ScoreForm:
    """A score as a function of the scaled dot product s.

    If `affine`, the score is slope * s + bias and neither contains s; None is a slope of one, a bias of zero. Then
    the bias is row + column + the sum of f * g over `products` + mixed: `row` is the same for all keys of a row,
    `column` for all rows of a key, `products` are pairs of such, `mixed` is the rest. If not affine, `slope` and the
    parts of the bias are None. `curve` is the derivative with respect to s in any case.
    """

    score: Expr
    affine: bool
    slope: Part = None
    bias: Part = None
    row: Part = None
    column: Part = None
    products: Terms = ()
    mixed: Part = None

    @cached_property
    def curve(self) -> Expr:
        """The derivative of the score with respect to s."""
        return simplify_expr(derivative(self.score, SCORE))

    @property
    def identity(self) -> bool:
        """Whether the score is s itself."""
        return self.affine and self.slope is None and self.bias is None

    def __str__(self) -> str:
        if self.identity:
            return "the scaled dot product"
        if not self.affine:
            return "a curve of s; its derivative is " + _short(self.curve)
        parts = ["s" if self.slope is None else f"s times {_side(self.slope)}"]
        if self.row is not None:
            parts.append("a term per row (cancels in softmax)" if q_side(self.row) else "a term per head")
        if self.column is not None:
            parts.append("a term per key")
        if self.products:
            parts.append(f"{len(self.products)} products of a row term and a key term")
        if self.mixed is not None:
            read = tensors(self.mixed)
            parts.append("a term per pair" + (f" read from {', '.join(sorted(read))}" if read else ""))
        return "affine: " + " + ".join(parts)


def score_form(attention: Attention) -> ScoreForm:
    """The form of an attention's score."""
    found = affine(attention.score)
    if found is None:
        return ScoreForm(attention.score, False)
    slope, bias = found
    if slope is None:
        # s plays no part; kernels still want a factor for it
        slope = build.ZERO
    return ScoreForm(attention.score, True, None if slope == ONE else slope, bias, *_split(bias))


def affine(expr: Expr, of: Value = SCORE) -> tuple[Part, Part] | None:
    """(a, b) with `expr` equal to a * s + b, neither containing s, None for zero; or None if there are none."""
    if expr == of:
        return ONE, None
    if not mentions(expr, lambda n: n == of):
        return None, None if expr == build.ZERO else expr
    if not isinstance(expr, Op):
        return None
    if expr.op == "select":
        if mentions(expr.args[0], lambda n: n == of):
            return None
        a, b = affine(expr.args[1], of), affine(expr.args[2], of)
        if a is None or b is None:
            return None
        return build.select(expr.args[0], a[0], b[0]), build.select(expr.args[0], a[1], b[1])
    parts = [affine(x, of) for x in expr.args] if expr.op in ("add", "sub", "neg", "mul", "div") else []
    if not parts or any(p is None for p in parts):
        return None
    first = parts[0] or (None, None)
    second = (parts[1] if len(parts) > 1 else None) or (None, None)
    match expr.op:
        case "add":
            return build.add(first[0], second[0]), build.add(first[1], second[1])
        case "sub":
            return build.sub(first[0], second[0]), build.sub(first[1], second[1])
        case "neg":
            return build.neg(first[0]), build.neg(first[1])
        case "mul" if second[0] is None:
            return build.mul(first[0], second[1]), build.mul(first[1], second[1])
        case "mul" if first[0] is None:
            return build.mul(second[0], first[1]), build.mul(second[1], first[1])
        case "div" if second[0] is None:
            return build.div(first[0], expr.args[1]), build.div(first[1], expr.args[1])
        case _:
            return None


def _split(bias: Part) -> tuple[Part, Part, Terms, Part]:
    """(row, column, products, mixed) of a bias."""
    row: Part = None
    column: Part = None
    mixed: Part = None
    products: list[tuple[Expr, Expr]] = []
    for sign, term in _terms(bias):
        terms = separate(term, 4)
        if terms is None:
            mixed = build.add(mixed, term) if sign > 0 else build.sub(mixed, term)
            continue
        for f, g in terms:
            part = build.mul(f, g)
            if uniform(g):
                row = build.add(row, part) if sign > 0 else build.sub(row, part)
            elif uniform(f):
                column = build.add(column, part) if sign > 0 else build.sub(column, part)
            else:
                products.append((f if sign > 0 else build.whole(build.neg(f)), g))
    return row, column, tuple(products), mixed


def _terms(expr: Part, sign: int = 1) -> list[tuple[int, Expr]]:
    if expr is None:
        return []
    if isinstance(expr, Op) and expr.op in ("add", "sub"):
        return [*_terms(expr.args[0], sign), *_terms(expr.args[1], sign if expr.op == "add" else -sign)]
    if isinstance(expr, Op) and expr.op == "neg":
        return _terms(expr.args[0], -sign)
    return [(sign, expr)]


def _side(expr: Expr) -> str:
    if uniform(expr):
        return "a constant" if not depends(expr) else "a factor per head"
    return "a factor per row" if row_only(expr) else "a factor per key" if not q_side(expr) else "a factor per pair"


def _short(expr: Expr) -> str:
    text = " ".join(print_expr(expr).split())
    return text if len(text) <= 80 else text[:77] + "..."
