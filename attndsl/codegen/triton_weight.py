"""How a weight is accumulated over the tiles of a row, and what a row does at the end."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from attndsl.codegen.expr_triton import UnsupportedError
from attndsl.ir import build
from attndsl.ir.alive import guarded
from attndsl.ir.attention import Attention
from attndsl.ir.expr import FURTHER, SCORE, Count, Expr, Reduce, mentions, op, rewrite, walk
from attndsl.ir.finished import finished
from attndsl.ir.forms import Elementwise, Exponential, FeatureMap, Normalised, Softmax, above_own_sum, weight_form
from attndsl.ir.projection import Projection, projection


@dataclass(frozen=True)
class Rule:
    """`logit` exists for exponentials, whose running maximum is subtracted; `numerator` is the factor beside it (None:
    one) or the whole weight. `over` says what the sum of values is divided by: `sum` of the exponentials, that and
    `extra`, the row expression `denominator` of `sums` and `count`, or nothing."""

    logit: Expr | None
    numerator: Expr | None
    over: str
    extra: Expr | None = None
    denominator: Expr | None = None
    sums: tuple[Reduce, ...] = field(default=())
    counts: bool = False


def rule_of(attention: Attention) -> Rule:
    """The rule of an attention's weight. UnsupportedError names what is missing."""
    score = attention.score
    match weight_form(attention):
        case Softmax(logit=logit):
            return Rule(logit, None, "sum")
        case Exponential(amplitude=amplitude, logit=logit, kind=kind, extra=extra) if kind != "other":
            _plain(amplitude)
            return Rule(logit, amplitude, kind, extra)
        case Exponential(amplitude=amplitude, logit=logit) as form if (found := above_own_sum(form)) is not None:
            _plain(amplitude)
            return Rule(logit, found, "sum")
        case Exponential(amplitude=amplitude, logit=logit, denominator=denominator) if (
            denominator is not None and not mentions(denominator, lambda n: isinstance(n, Reduce | Count))
        ):
            share = op("div", build.ONE if amplitude is None else amplitude, denominator)
            return Rule(logit, share, "none")
        case Exponential():
            raise UnsupportedError("an exponential weight over a reduction other than its own sum")
        case Elementwise(value=value):
            return Rule(None, guarded(value, score), "none")
        case Normalised(numerator=numerator, denominator=denominator):
            alive = rewrite(denominator, lambda n: _alive(n, score))
            return _normalised(guarded(numerator, score), alive)
        case FeatureMap():
            raise UnsupportedError("a weight that is a dot product of features (linear attention)")
        case _:
            raise UnsupportedError("a weight with reductions in its numerator")


def _alive(node: Expr, score: Expr) -> Expr | None:
    """A sum over pairs that have a weight."""
    return replace(node, body=guarded(node.body, score)) if isinstance(node, Reduce) and not node.type.shape else None


def _normalised(numerator: Expr, denominator: Expr) -> Rule:
    sums = [n for n in walk(denominator) if isinstance(n, Reduce)]
    for r in sums:
        _plain(r.body)
        if r.type.shape:
            raise UnsupportedError("a sum of vectors in a weight")
    if not sums and mentions(denominator, lambda n: n == SCORE or n in FURTHER):
        raise UnsupportedError("a denominator that varies with the key")
    counts = any(isinstance(n, Count) or (isinstance(n, Reduce) and n.kind == "mean") for n in walk(denominator))
    return Rule(None, numerator, "row", None, denominator, tuple(dict.fromkeys(sums)), counts)


def _plain(e: Expr | None) -> None:
    if e is not None and mentions(e, lambda n: isinstance(n, Reduce | Count)):
        raise UnsupportedError("nested reductions in a weight")


def vector_free(attention: Attention) -> None:
    """UnsupportedError where expressions read vectors of q and k, and are not the numbers that a projection leaves."""
    if finished(attention) is not None:
        raise UnsupportedError("an output clause within its kernels that torch computes after them")
    found = projection(attention)
    if isinstance(found, Projection):
        raise UnsupportedError("vectors of one position within its kernels, which torch computes before them")
    if found is not None:
        raise UnsupportedError(found)
