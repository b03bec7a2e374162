"""Weights with sums of vectors over the row, as attentions that find these and one that reads them."""

from __future__ import annotations

import re

import pytest

import attndsl
from attndsl.ir.infix import infix
from attndsl.ir.vector_sums import VectorSums, vector_sums


def found_in(text: str) -> VectorSums | str | None:
    return vector_sums(attndsl.load(f"attention a{text}").simplified)


def sums_of(text: str) -> tuple[list[tuple[str, str]], str]:
    """Weights and values of the sums, and the weight that reads them."""
    found = found_in(text)
    assert isinstance(found, VectorSums), found
    assert found.inner.weight is not None
    sums = [("" if (w := s.attention.weight) is None else infix(w), infix(s.value)) for s in found.sums]
    return sums, infix(found.inner.weight)


@pytest.mark.parametrize(
    ("weight", "sums"),
    [
        ("norm(sum(K))", [("1", "K[b, hkv, k]")]),
        ("norm(mean(K * s))", [("s / count", "K[b, hkv, k]")]),
        ("norm(mean(tanh(Q) * K))", [("1 / count", "K[b, hkv, k]")]),
        ("norm(sum(exp(s) * K) / sum(exp(s)))", [("exp(s) / sum(exp(s))", "K[b, hkv, k]")]),
        ("norm(sum(rope(K, q - k)))", [("1", "rope(K[b, hkv, k], -k)")]),
        (
            "norm(sum(if k < 3 then K else s * Q))",
            [("if k < 3 then 1 else 0", "K[b, hkv, k]"), ("(if k < 3 then 0 else 1) * s", "1")],
        ),
        ("norm(mean(K - mean(K)))", [("1 / count", "K[b, hkv, k]")]),
        ("norm(sum((K - Q)^2))", [("1", "K[b, hkv, k] * K[b, hkv, k]"), ("1", "K[b, hkv, k]"), ("1", "1")]),
    ],
)
def test_sums_are_attentions(weight: str, sums: list[tuple[str, str]]) -> None:
    assert sums_of(f"{{ weight tanh(s) * {weight} }}")[0] == sums


def test_a_sum_reads_earlier_ones() -> None:
    sums, weight = sums_of("{ weight relu(s - norm(sum(dot(K, mean(K)) * K))) }")
    assert sums == [("1 / count", "K[b, hkv, k]"), ("dot(K[b, hkv, k], summed0[b, h, row])", "K[b, hkv, k]")]
    assert weight == "relu(s - norm(summed1[b, h, row]))"


def test_numbers_in_vectors_of_the_row_are_summed_too() -> None:
    """A vector that is made before the pairs may read no other sums."""
    sums, weight = sums_of("{ weight relu(dot(Q * mean(s), K)) }")
    assert sums == [("s / count", "1")]
    assert weight == "relu(dot(Q[b, h, row] * summed0[b, h, row], K[b, hkv, k]))"


def test_weights_without_such_sums_stay() -> None:
    for weight in ("exp(s) / sum", "relu(s - mean(s))", "norm(Q * mean(s) - K)", "dot(Q, K) / sum"):
        assert found_in(f"{{ weight {weight} }}") is None


def test_rows_without_keys_are_counted_where_there_may_be_any() -> None:
    def counts(text: str) -> bool:
        found = found_in(text)
        assert isinstance(found, VectorSums)
        return found.seen is not None

    assert not counts("{ weight relu(s - norm(mean(K))) }")
    assert counts("{ mask k < q weight relu(s - norm(mean(K))) }")
    assert counts("{ score if k % 2 == 0 then -inf else s weight relu(s - norm(mean(K))) }")


def test_sums_that_read_no_score_have_none() -> None:
    """It may read vectors, of which a kernel that multiplies nothing is given none."""
    found = found_in("(input c: f32[H, D]) { mask k < q score s + dot(c[h], K) weight relu(s - norm(sum(s * K))) }")
    assert isinstance(found, VectorSums)
    assert found.seen is not None
    assert infix(found.seen.attention.score) == "s"
    assert "dot" in infix(found.sums[0].attention.score)


def test_quotients_by_a_sum_are_zero_where_that_is() -> None:
    weight = sums_of("{ weight s / norm(sum(K)) }")[1]
    assert weight == "s * (if norm(summed0[b, h, row]) == 0 then 0 else " + (
        "1 / (if norm(summed0[b, h, row]) == 0 then 1 else norm(summed0[b, h, row])))"
    )


@pytest.mark.parametrize(
    ("weight", "reason"),
    [
        ("norm(mean(tanh(Q + K)))", r"`tanh\(Q\[b, h, row\] \+ K\[b, hkv, k\]\)` in a sum of vectors, which is no sum"),
        ("norm(mean(K / tanh(Q + K)))", r"a quotient by `tanh\(.*\)` in a sum of vectors"),
        ("norm(mean(sin(Q + K) * cos(Q - K)))", "times another vector of the pair in a sum of vectors"),
    ],
)
def test_sums_that_do_not_separate_are_named(weight: str, reason: str) -> None:
    found = found_in(f"{{ weight tanh(s) * {weight} }}")
    assert isinstance(found, str)
    assert re.search(reason, found), found


@pytest.mark.parametrize(
    ("weight", "moved"),
    [
        ("exp(s) * exp(norm(mean(K)))", False),
        ("exp(s) * exp(norm(mean(K * s)))", True),
        ("exp(s - norm(mean(K * s)))", False),
        ("exp(dot(K, mean(K * s))) * relu(s)", True),
    ],
)
def test_exponents_whose_score_is_summed(weight: str, moved: bool) -> None:
    found = found_in(f"{{ weight {weight} }}")
    assert isinstance(found, VectorSums)
    assert found.moved_lse == moved
