"""Sums that a weight needs before its pairs: what is taken out of it, in which order."""

from __future__ import annotations

import pytest

import attndsl
from attndsl.ir.alive import guarded
from attndsl.ir.attention import Attention
from attndsl.ir.expr import SCORE, Count, Expr, Op, Reduce, mentions, walk
from attndsl.ir.forms import Elementwise, Exponential, Normalised, weight_form
from attndsl.ir.infix import infix
from attndsl.ir.statistics import Staged, lse_alone, reduces, staged
from attndsl.ir.verify import verify


def simplified(text: str) -> Attention:
    return attndsl.load(f"attention a{text}").simplified


def stages_of(text: str) -> Staged:
    found = staged(simplified(text))
    assert isinstance(found, Staged), found
    for stage in found.stages:
        for each in (stage.forward, stage.backward, *stage.alone):
            if each is not None:
                verify(each)
    verify(found.inner)
    return found


def short(e: Expr | None) -> str:
    assert e is not None
    return infix(e).replace("[b, h, row]", "")


@pytest.mark.parametrize(
    "weight",
    ["softmax", "exp(s) / (2 + sum)", "relu(s)^2 / count", "relu(s) / (1 + sum(abs(s)))", "sigmoid(s - 1)",
     "sigmoid(s) * exp(s - 2) / sum(exp(s))", "exp(s) / (1 + exp(s))"],
)  # fmt: skip
def test_what_kernels_add_up_along_the_way_stays(weight: str) -> None:
    assert staged(simplified(f"{{ weight {weight} }}")) is None


def test_a_mean_is_a_sum_over_a_count() -> None:
    found = stages_of("{ mask k <= q weight softplus(s - mean(s)) / sum }")
    (stage,) = found.stages
    assert [(name, short(body)) for name, body in stage.sums] == [("row_sum0", "s")]
    assert (stage.count, stage.of_score) == ("row_count0", True)
    assert [short(n.value) for n in stage.numbers] == ["row_sum0 / row_count0"]
    assert isinstance(weight_form(found.inner), Normalised)
    assert short(found.inner.weight) == "softplus(s - row_stat0) / sum(softplus(s - row_stat0))"
    assert stage.forward.weight is not None and short(stage.forward.weight) == "1 / (sum(s) + count)"
    assert stage.backward is not None and short(stage.backward.weight) == "row_sum0_gradient * s"


def test_sums_of_sums_are_stages_in_order() -> None:
    found = stages_of("{ weight exp((s - mean(s)) / sqrt(mean((s - mean(s))^2) + 0.1)) / sum }")
    first, second = found.stages
    assert (short(first.sums[0][1]), short(second.sums[0][1])) == ("s", "(s - row_stat0)^2")
    assert (first.count, second.count) == ("row_count0", "")
    assert short(second.numbers[0].value) == "1 / sqrt(row_sum1 / row_count0 + 0.1)"
    form = weight_form(found.inner)
    assert isinstance(form, Exponential) and form.kind == "sum"
    assert {p.name for p in found.inner.params} == {"row_stat0", "row_stat1"}
    assert {p.name for p in second.forward.params} == {"row_stat0"}


def test_an_exponential_over_other_sums_has_a_number_beside_it() -> None:
    found = stages_of("{ weight exp(s) / sqrt(sum(exp(2 * s))) }")
    form = weight_form(found.inner)
    assert isinstance(form, Exponential) and form.kind == "none" and short(form.logit) == "s"
    assert not found.moved_lse


def test_a_count_alone_multiplies_nothing() -> None:
    (stage,) = stages_of("{ mask k <= q weight exp(s * log(1 + count)) / sum }").stages
    assert (stage.sums, stage.count, stage.of_score, stage.backward) == ((), "row_count0", False, None)


def test_a_denominator_that_varies_with_the_key_is_guarded() -> None:
    found = stages_of("{ weight s / (s + sum(s)) }")
    assert isinstance(weight_form(found.inner), Elementwise)
    assert "if s + row_stat0 == 0 then 0 else" in short(found.inner.weight)


def test_coordinates_stay_in_the_kernels() -> None:
    found = stages_of("{ grid m(y, x) weight tanh(s - mean(s) * q.y) }")
    assert short(found.inner.weight) == "tanh(s - row_stat0 * q.y)"


def test_no_name_is_taken_twice() -> None:
    found = stages_of("(input row_sum0: f32[H], input row_stat0: f32[H]) { weight tanh(s - row_sum0[h] * mean(s)) }")
    assert found.stages[0].sums[0][0] == "row_sum1"
    assert [n.name for n in found.stages[0].numbers] == ["row_stat1"]


@pytest.mark.parametrize("weight", ["exp(mean(s)) * relu(s)", "exp(mean(s)) * exp(s) / sum(exp(s))"])
def test_an_exponential_of_sums_moves_the_lse(weight: str) -> None:
    assert stages_of(f"{{ weight {weight} }}").moved_lse


@pytest.mark.parametrize(
    "weight", ["sum(s + sum(s) * sum(abs(s - mean(s)))) * tanh(s)", "s * count / (1 + sum(s * sum(s)))"]
)
def test_nothing_is_left_that_a_kernel_does_not_add_up(weight: str) -> None:
    found = stages_of(f"{{ weight {weight} }}")
    assert found.inner.weight is not None and staged(found.inner) is None
    for stage in found.stages:
        for _, body in stage.sums:
            assert not reduces(body)
        assert all(not mentions(n.computed, lambda n: isinstance(n, Reduce | Count)) for n in stage.numbers)


def test_the_lse_alone_has_no_decay() -> None:
    text = "(input g: f32[B, H, L] log_decay) { mask k <= q weight exp(2 * s) * decay(g) / sum }"
    alone = lse_alone(simplified(text))
    verify(alone)
    assert short(alone.weight) == "exp(s * 2) / sum(exp(s * 2))"
    assert alone.params == ()


@pytest.mark.parametrize(
    ("weight", "is_guarded"),
    [("tanh(s)", True), ("silu(s) / 3", True), ("-relu(-s)", True), ("s * sigmoid(s)", True), ("cos(s) * exp(s)", True),
     ("sigmoid(s - 4)", False), ("relu(2 * s + 1)^2", False), ("q * softplus(s)", False),
     ("sigmoid(s) * relu(s)", False)],
)  # fmt: skip
def test_a_weight_that_vanishes_needs_no_guard(weight: str, is_guarded: bool) -> None:
    a = simplified(f"{{ score if k % 3 == 0 then -inf else s weight {weight} }}")
    assert a.weight is not None
    found = guarded(a.weight, a.score)
    assert (found != a.weight) is is_guarded
    if is_guarded:
        assert any(isinstance(n, Op) and n.op == "gt" and n.args[0] == SCORE for n in walk(found))


def test_scores_that_are_finite_need_no_guard() -> None:
    a = simplified("{ score 2 * s - 0.1 * abs(q - k) weight tanh(s) }")
    assert a.weight is not None and guarded(a.weight, a.score) == a.weight
