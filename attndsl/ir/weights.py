"""The forms of weights, and how one is recognised."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Literal as Lit

from attndsl.ir import build
from attndsl.ir.attention import Attention
from attndsl.ir.build import ONE, Part
from attndsl.ir.expr import FURTHER, SCORE, Count, Decay, Expr, Op, Reduce, Value, mentions
from attndsl.ir.free import column_only, k_side, row_only
from attndsl.ir.separate import product

DenominatorKind = Lit["none", "sum", "sum and constant", "other"]


@dataclass(frozen=True)
class Softmax:
    """exp(s) / sum(exp(s))."""

    logit: Expr = SCORE

    @property
    def has_lse(self) -> bool:
        return True

    def __str__(self) -> str:
        return "softmax"


@dataclass(frozen=True)
class Exponential:
    """amplitude * exp(logit) / denominator. `amplitude` is None for one.

    The denominator: `none`; `sum`: the sum of exp(logit) over the row's visible keys; `sum and constant`: that plus
    `extra`, which is the same for all keys of a row; `other`: an expression that varies with the row only or holds
    other reductions. `denominator` is it as written, None for none.
    """

    amplitude: Part
    logit: Expr
    kind: DenominatorKind
    denominator: Part = None
    extra: Part = None

    @property
    def has_lse(self) -> bool:
        return True

    def __str__(self) -> str:
        top = "exponential" if self.amplitude is None else "exponential with an amplitude"
        over = {
            "none": "not normalised",
            "sum": "over its sum",
            "sum and constant": "over its sum and a constant (a sink)",
            "other": "over a reduction of its own",
        }
        return f"{top}, {over[self.kind]}"


@dataclass(frozen=True)
class Elementwise:
    """A function of one pair, with no reduction."""

    value: Expr
    has_lse = False
    logit: Part = None

    def __str__(self) -> str:
        return "elementwise, not normalised"


@dataclass(frozen=True)
class Normalised:
    """numerator / denominator: the denominator is the same for all keys of a row and holds a count or a sum; the
    numerator holds no reduction. `by` is `count` (the number of visible keys), `sum` (of the numerator) or `other`."""

    numerator: Expr
    denominator: Expr
    by: Lit["count", "sum", "other"]
    has_lse = False
    logit: Part = None

    def __str__(self) -> str:
        by = {"count": "the number of visible keys", "sum": "its sum", "other": "a reduction"}
        return f"elementwise over {by[self.by]}"


@dataclass(frozen=True)
class FeatureMap:
    """dot(query, key) * row * column / denominator: a chunked scan computes it in linear time.

    `query` is a vector of the row, `key` one of the key; `row` and `column` are the two factors of a decay that
    separates, `decays` the `Decay` nodes (a vector one decays per channel). `denominator` is None, or as written;
    `own_sum` says that it is the sum of the numerator.
    """

    query: Expr
    key: Expr
    row: Part
    column: Part
    decays: tuple[Decay, ...]
    denominator: Part
    own_sum: bool
    has_lse = False
    logit: Part = None

    def __str__(self) -> str:
        text = "a dot product of features"
        if self.decays:
            text += " with a decay along the sequence"
        if self.row is not None or self.column is not None:
            text += " times a function of q and one of k"
        if self.denominator is not None:
            text += ", over its sum" if self.own_sum else ", over a reduction"
        return text + " (linear in L)"


@dataclass(frozen=True)
class General:
    """Anything else."""

    value: Expr
    has_lse = False
    logit: Part = None

    def __str__(self) -> str:
        return "general: reductions within the weight"


WeightForm = Softmax | Exponential | Elementwise | Normalised | FeatureMap | General


def weight_form(attention: Attention) -> WeightForm:
    """The form of an attention's weight. `has_lse` says whether it has a logarithm of a sum of exponentials, that of
    `logit`: the exponents of the numerator that contain s."""
    weight = attention.weight
    if weight is None:
        return Softmax()
    numerators, denominators = factors(weight)
    exponents = [e for n in numerators if (e := _exponent(n)) is not None]
    rest = [n for n in numerators if _exponent(n) is None]
    top, bottom = _product(numerators), _product(denominators)
    if exponents:
        return _exponential(reduce(_plus, exponents), _product(rest), top, bottom)
    if (form := _features(rest, top, bottom)) is not None:
        return form
    if bottom is None or not _reduces(bottom):
        return General(weight) if _reduces(weight) else Elementwise(weight)
    if top is None or _reduces(top) or k_side(bottom):
        return General(weight)
    by = "count" if _is_count(bottom) else "sum" if bottom == Reduce(top.type, "sum", top) else "other"
    return Normalised(top, bottom, by)


def factors(expr: Expr) -> tuple[list[Expr], list[Expr]]:
    """Numerator and denominator of an expression as factors; a shared product that has very many stays whole."""
    top: list[Expr] = []
    bottom: list[Expr] = []
    stack = [expr]
    steps = 0
    while stack:
        node = stack.pop()
        steps += 1
        if steps > _MOST or not isinstance(node, Op) or node.op not in ("mul", "div", "neg"):
            top.append(node)
        elif node.op == "mul":
            stack += [node.args[1], node.args[0]]
        else:
            stack.append(node.args[0])
            if node.op == "div":
                bottom.insert(0, node.args[1])
            else:
                top.insert(0, build.whole(build.neg(ONE)))
    return top, bottom


_MOST = 64


def _product(factors: list[Expr]) -> Part:
    return reduce(lambda a, b: build.whole(build.mul(a, b)), factors) if factors else None


def _plus(a: Expr, b: Expr) -> Expr:
    return build.whole(build.add(a, b))


def _exponent(expr: Expr) -> Part:
    """What stands in an exponential that varies with s."""
    if isinstance(expr, Op) and expr.op == "exp" and mentions(expr, lambda n: n == SCORE or n in FURTHER):
        return expr.args[0]
    return None


def _reduces(expr: Expr) -> bool:
    return mentions(expr, lambda n: isinstance(n, Reduce | Count))


def _is_count(expr: Expr) -> bool:
    return isinstance(expr, Count) or (isinstance(expr, Op) and expr.op == "to_float" and _is_count(expr.args[0]))


def _exponential(logit: Expr, amplitude: Part, top: Part, bottom: Part) -> WeightForm:
    if bottom is None:
        return Exponential(amplitude, logit, "none")
    own = [Reduce(e.type, "sum", e) for e in (Op(logit.type, "exp", (logit,)), top) if e is not None]
    if bottom == own[0]:
        return Softmax(logit) if amplitude is None and logit == SCORE else Exponential(amplitude, logit, "sum", bottom)
    terms = _terms(bottom)
    sums = [t for t in terms if t == own[0]]
    extra = [t for t in terms if t != own[0]]
    if len(sums) == 1 and all(row_only(t) and not _reduces(t) for t in extra):
        return Exponential(amplitude, logit, "sum and constant", bottom, reduce(_plus, extra))
    return Exponential(amplitude, logit, "other", bottom)


def _terms(expr: Expr) -> list[Expr]:
    found: list[Expr] = []
    stack = [expr]
    steps = 0
    while stack:
        node = stack.pop()
        steps += 1
        if steps <= _MOST and isinstance(node, Op) and node.op == "add":
            stack += [node.args[1], node.args[0]]
        else:
            found.append(node)
    return found


def _features(factors: list[Expr], top: Part, bottom: Part) -> FeatureMap | None:
    """One dot product of a row vector and a key vector; the other factors separate."""
    dots = [f for f in factors if isinstance(f, Op) and f.op == "dot"]
    if top is None or len(dots) != 1 or mentions(top, lambda n: isinstance(n, Value)) or _reduces(top):
        return None
    if bottom is not None and k_side(bottom):
        return None
    sides = _two_sides(dots[0].args)
    if sides is None:
        return None
    query, key, decays = sides
    others = [f for f in factors if f is not dots[0]]
    decays += [f for f in others if isinstance(f, Decay)]
    row: Part = None
    column: Part = None
    scale = _product([f for f in others if not isinstance(f, Decay)])
    if scale is not None:
        pair = product(scale)
        if pair is None:
            return None
        row, column = (None if p == ONE else p for p in pair)
    own = bottom is not None and bottom == Reduce(top.type, "sum", top)
    return FeatureMap(query, key, row, column, tuple(decays), bottom, own)


def _two_sides(args: tuple[Expr, ...]) -> tuple[Expr, Expr, list[Decay]] | None:
    """(row vector, key vector, decays) of a dot product's arguments; a decay may multiply either."""
    query: list[Expr] = []
    key: list[Expr] = []
    decays: list[Decay] = []
    for arg in args:
        for factor in _vector_factors(arg):
            if isinstance(factor, Decay):
                decays.append(factor)
            elif row_only(factor):
                query.append(factor)
            elif column_only(factor):
                key.append(factor)
            else:
                return None
    q, k = _product(query), _product(key)
    return None if q is None or k is None or not q.type.shape or not k.type.shape else (q, k, decays)


def _vector_factors(expr: Expr) -> list[Expr]:
    if isinstance(expr, Op) and expr.op == "mul" and not (row_only(expr) or column_only(expr)):
        return [*_vector_factors(expr.args[0]), *_vector_factors(expr.args[1])]
    return [expr]
