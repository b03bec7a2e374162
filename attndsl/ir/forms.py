"""What kind of score and weight an attention has: the shapes that kernels are written for.

Nothing here changes an attention. A form says how a score or weight may be computed; `str(form)` says it in words.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from attndsl.ir import build
from attndsl.ir.algebra import separate
from attndsl.ir.attention import Attention
from attndsl.ir.build import ONE, Part
from attndsl.ir.derivative import derivative
from attndsl.ir.expr import SCORE, Count, Expr, Op, Reduce, Value, mentions, op, walk
from attndsl.ir.free import depends, q_side, row_only, tensors, uniform
from attndsl.ir.infix import infix
from attndsl.ir.separate import Terms
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
    "above_own_sum", "affine", "score_form", "weight_form",
]  # fmt: skip


@dataclass(frozen=True)
class ScoreForm:
    """A score as a function of the scaled dot product s.

    If `affine`, the score is slope * s + bias and neither contains s; None is a slope of one, a bias of zero. Then
    the bias is row + column + the sum of f * g over `products` + mixed: `row` is the same for all keys of a row,
    `column` for all rows of a key, `products` are pairs of such, `mixed` is the rest, and `reasons` say why there is
    one where the algebra gave up. If not affine, `slope` and the parts of the bias are None.
    """

    score: Expr
    affine: bool
    slope: Part = None
    bias: Part = None
    row: Part = None
    column: Part = None
    products: Terms = ()
    mixed: Part = None
    reasons: tuple[str, ...] = ()

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
            return "a curve of s; its derivative is " + infix(self.curve, 80)
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
        return "; ".join(["affine: " + " + ".join(parts), *self.reasons])


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
    found: dict[Expr, tuple[Part, Part] | None] = {}
    contains: dict[Expr, bool] = {}
    for node in walk(expr):
        contains[node] = node == of or any(contains[c] for c in node.children)
        if node == of:
            found[node] = (ONE, None)
        elif not contains[node]:
            found[node] = (None, None if node == build.ZERO else node)
        else:
            parts = [found[c] for c in node.children]
            known = [p for p in parts if p is not None]
            linear = isinstance(node, Op) and len(known) == len(parts)
            found[node] = _affine_op(node, known) if linear and isinstance(node, Op) else None
    return found[expr]


def above_own_sum(weight: Exponential) -> Expr | None:
    """The amplitude over the sum of exp(logit) where a weight divides by a sum of other exponentials, whose exponents
    differ by what all keys of a row share; None if it does not."""
    match weight.denominator:
        case Reduce(kind="sum", body=Op(op="exp", args=(other,))):
            parts = affine(weight.logit), affine(other)
            if parts[0] is None or parts[1] is None or parts[0][0] != parts[1][0]:
                return None
            apart = simplify_expr(build.whole(build.sub(parts[0][1], parts[1][1])))
            if not row_only(apart) or mentions(apart, lambda n: isinstance(n, Reduce | Count)):
                return None
            factor = op("exp", apart)
            return factor if weight.amplitude is None else op("mul", weight.amplitude, factor)
        case _:
            return None


def _affine_op(node: Op, parts: list[tuple[Part, Part]]) -> tuple[Part, Part] | None:
    """The affine form of an operation on affine arguments."""
    if node.op == "select":
        condition, (a, b), (c, d) = parts[0], parts[1], parts[2]
        fixed = condition[0] is None
        return (build.select(node.args[0], a, c), build.select(node.args[0], b, d)) if fixed else None
    if node.op == "neg":
        return build.neg(parts[0][0]), build.neg(parts[0][1])
    if node.op not in ("add", "sub", "mul", "div"):
        return None
    (a, b), (c, d) = parts
    if node.op == "add":
        return build.add(a, c), build.add(b, d)
    if node.op == "sub":
        return build.sub(a, c), build.sub(b, d)
    if node.op == "mul" and c is None:
        return build.mul(a, d), build.mul(b, d)
    if node.op == "mul" and a is None:
        return build.mul(c, b), build.mul(d, b)
    if node.op == "div" and c is None:
        return build.div(a, node.args[1]), build.div(b, node.args[1])
    return None


def _split(bias: Part) -> tuple[Part, Part, Terms, Part, tuple[str, ...]]:
    """(row, column, products, mixed, reasons) of a bias."""
    reasons: list[str] = []
    row: Part = None
    column: Part = None
    mixed: Part = None
    products: list[tuple[Expr, Expr]] = []
    for sign, term in _terms(bias):
        answer = separate(term, 4)
        terms = answer.value
        if terms is None:
            if "gave up" in answer.reason:
                reasons.append(answer.reason)
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
    return row, column, tuple(products), mixed, tuple(dict.fromkeys(reasons))


def _terms(expr: Part) -> list[tuple[int, Expr]]:
    """The signed terms of a sum; shared sums that would come to very many stay whole."""
    if expr is None:
        return []
    found: list[tuple[int, Expr]] = []
    stack: list[tuple[int, Expr]] = [(1, expr)]
    steps = 0
    while stack:
        sign, node = stack.pop()
        steps += 1
        if steps < _MOST_TERMS and isinstance(node, Op) and node.op in ("add", "sub", "neg"):
            last = sign if node.op == "add" else -sign
            stack.append((last, node.args[-1]))
            if len(node.args) == 2:
                stack.append((sign, node.args[0]))
        else:
            found.append((sign, node))
    return found


_MOST_TERMS = 64


def _side(expr: Expr) -> str:
    if uniform(expr):
        return "a constant" if not depends(expr) else "a factor per head"
    return "a factor per row" if row_only(expr) else "a factor per key" if not q_side(expr) else "a factor per pair"
