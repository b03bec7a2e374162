"""Forms of scores and weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_ir import Scope, environment, floats

from attndsl.ir.attention import Attention
from attndsl.ir.build import whole
from attndsl.ir.evaluate import evaluate
from attndsl.ir.expr import SCORE, Expr, mentions, op
from attndsl.ir.forms import (
    Elementwise,
    Exponential,
    FeatureMap,
    General,
    Normalised,
    ScoreForm,
    Softmax,
    score_form,
    weight_form,
)
from attndsl.ir.free import column_only, row_only
from attndsl.ir.reader import read_expr
from attndsl.ir.simplify import simplify_expr


def scored(text: str) -> ScoreForm:
    return score_form(Attention("a", (), score=read_expr(text)))


def weighted(text: str):  # type: ignore[no-untyped-def]
    return weight_form(Attention("a", (), weight=read_expr(text)))


def rebuilt(form: ScoreForm, seed: int) -> np.ndarray:
    """The score from the parts of an affine form."""
    env = environment(seed)
    slope = 1.0 if form.slope is None else evaluate(form.slope, env)
    total = slope * evaluate(SCORE, env)
    for part in (form.row, form.column, form.mixed):
        total = total + (0.0 if part is None else evaluate(part, env))
    for f, g in form.products:
        total = total + evaluate(f, env) * evaluate(g, env)
    return total


@settings(max_examples=300, deadline=None)
@given(floats(3, Scope(score=True, grid=True)), st.integers(0, 1000))
def test_affine_scores_are_their_parts(score: Expr, seed: int) -> None:
    form = score_form(Attention("a", (), score=score))
    assert str(form)
    if not form.affine:
        return
    for part in (form.slope, form.row, form.column, form.mixed):
        assert part is None or not mentions(part, lambda n: n == SCORE)
    assert form.row is None or row_only(form.row)
    assert form.column is None or column_only(form.column)
    expected = evaluate(score, environment(seed))
    found = rebuilt(form, seed)
    finite = np.isfinite(found) & np.isfinite(expected) & (np.abs(expected) < 1e6)
    found, expected, finite = np.broadcast_arrays(found, expected, finite)
    assert np.allclose(found[finite], expected[finite], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("s", "the scaled dot product"),
        ("(sub s (mul (load slope h) (to_float (sub q k))))",
         "affine: s + a term per row (cancels in softmax) + a term per key"),
        ("(mul s 2.0)", "affine: s times a constant"),
        ("(div s (load gate b h row))", "affine: s times a factor per row"),
        ("(add s (load bias h (sub q k)))", "affine: s + a term per pair read from bias"),
        ("(sub s (pow (to_float (sub q k)) 2.0))",
         "affine: s + a term per row (cancels in softmax) + a term per key + 1 products of a row term and a key term"),
        ("(select (le k 3) (add s (load slope h)) s)", "affine: s + a term per key"),
        ("(mul 20.0 (tanh (div s 20.0)))", "a curve of s; its derivative is (1 - tanh(s / 20)"),
        ("(add s (load slope h))", "affine: s + a term per head"),
    ],
)  # fmt: skip
def test_scores(text: str, words: str) -> None:
    assert str(scored(text)).startswith(words)


def test_slope_of_none_and_zero() -> None:
    assert scored("s").identity
    assert scored("(add s 1.0)").slope is None
    without = scored("(to_float q)")
    assert without.affine and whole(without.slope) == read_expr("0.0")
    assert not scored("(mul s s)").affine
    assert not scored("(select (lt s 0.0) s (neg s))").affine


DOT = "(dot (load:float[D] Q b h row) (load:float[D] K b hkv k))"


@pytest.mark.parametrize(
    ("text", "kind", "words", "lse"),
    [
        ("(div (exp s) (sum (exp s)))", Softmax, "softmax", True),
        ("(div (exp (mul 2.0 s)) (sum (exp (mul 2.0 s))))", Exponential, "exponential, over its sum", True),
        ("(div (exp s) (add (exp (load z h)) (sum (exp s))))", Exponential,
         "exponential, over its sum and a constant (a sink)", True),
        ("(div (exp s) (add (sum (exp s)) 1.0))", Exponential, "exponential, over its sum and a constant (a sink)",
         True),
        ("(div (mul (sign s) (exp (abs s))) (sum (exp (abs s))))", Exponential,
         "exponential with an amplitude, over its sum", True),
        ("(div (exp s) (sum (exp (mul 2.0 s))))", Exponential, "exponential, over a reduction of its own", True),
        ("(exp s)", Exponential, "exponential, not normalised", True),
        ("(div (pow (relu s) 2.0) (to_float count))", Normalised, "elementwise over the number of visible keys", False),
        ("(div (relu s) (sum (relu s)))", Normalised, "elementwise over its sum", False),
        ("(div (relu s) (add 1.0 (sum (relu s))))", Normalised, "elementwise over a reduction", False),
        ("(sigmoid (add s (param:float bias)))", Elementwise, "elementwise, not normalised", False),
        (f"(div {DOT} (sum {DOT}))", FeatureMap, "a dot product of features, over its sum (linear in L)", False),
        (f"(mul {DOT} (pow (load gamma h) (to_float (sub q k))))", FeatureMap,
         "a dot product of features times a function of q and one of k (linear in L)", False),
        (f"(mul {DOT} (decay g b h))", FeatureMap,
         "a dot product of features with a decay along the sequence (linear in L)", False),
        ("(dot (load:float[D] Q b h row) (mul (load:float[D] K b hkv k) (decay:float[D] g b hkv)))", FeatureMap,
         "a dot product of features with a decay along the sequence (linear in L)", False),
        (f"(mul {DOT} (abs (to_float (sub q k))))", Elementwise, "elementwise, not normalised", False),
        ("(relu (sub s (mean s)))", General, "general: reductions within the weight", False),
        ("(div (relu s) (add s (sum s)))", General, "general: reductions within the weight", False),
    ],
)  # fmt: skip
def test_weights(text: str, kind: type, words: str, lse: bool) -> None:
    form = weighted(text)
    assert type(form) is kind
    assert str(form) == words
    assert form.has_lse is lse
    assert (form.logit is not None) is lse


def test_parts_of_an_exponential() -> None:
    sink = weighted("(div (exp s) (add (exp (load z h)) (sum (exp s))))")
    assert sink.extra == read_expr("(exp (load z h))")
    cog = weighted("(div (mul (sign s) (exp (abs s))) (sum (exp (abs s))))")
    assert cog.amplitude == read_expr("(sign s)")
    assert cog.logit == read_expr("(abs s)")
    assert cog.kind == "sum"
    two = weighted("(mul (exp s) (exp (neg (abs s))))")
    assert two.logit == read_expr("(add s (neg (abs s)))")


def test_default_weight() -> None:
    assert weight_form(Attention("a", ())) == Softmax()


def test_shared_sums_stay_cheap() -> None:
    score: Expr = SCORE
    weight: Expr = SCORE
    for _ in range(60):
        score = op("add", score, op("mul", score, read_expr("0.5")))
        weight = op("mul", weight, weight)
    total = op("to_float", read_expr("(sub q k)"))
    for _ in range(60):
        total = op("add", total, total)
    form = score_form(Attention("a", (), score=op("add", score, total)))
    assert form.affine
    assert str(form)
    assert str(weight_form(Attention("a", (), weight=op("div", weight, weight))))
    twice = read_expr("q")
    for _ in range(60):
        twice = op("add", twice, op("sub", twice, read_expr("k")))
    assert simplify_expr(twice).type == twice.type


def test_gave_up_is_said() -> None:
    d = "(to_float (sub q k))"
    form = scored(f"(add s (exp (mul {d} (div {d} (pow {d} 100.0)))))")
    assert form.mixed is not None
    assert any("algebra gave up: a power of 100, more than 8" in r for r in form.reasons)
    assert "algebra gave up" in str(form)
