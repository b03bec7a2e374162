"""What is computed of one position before the pairs."""

from __future__ import annotations

import pytest

import attndsl
from attndsl.ir.attention import Attention
from attndsl.ir.expr import walk
from attndsl.ir.infix import infix
from attndsl.ir.projection import Projection, projection
from attndsl.ir.verify import verify


def simplified(text: str) -> Attention:
    return attndsl.load(f"attention a{text}").simplified


def projected(text: str) -> Projection:
    found = projection(simplified(text))
    assert isinstance(found, Projection), found
    verify(found.inner)
    return found


@pytest.mark.parametrize("text", ["{}", "{ mask k <= q score 2 * s weight sigmoid(s) output o + 1 }"])
def test_nothing_is_taken_out_of_what_reads_no_vector(text: str) -> None:
    assert projection(simplified(text)) is None


@pytest.mark.parametrize(
    ("text", "query", "key"),
    [
        ("{ score dot(rmsnorm(Q), K) }", "rmsnorm(Q[b, h, row])", "K[b, hkv, k]"),
        ("{ score tanh(dot(K, roll(Q, 1))) }", "roll(Q[b, h, row], 1)", "K[b, hkv, k]"),
        ("(input w: f32[H, D, M]) { weight dot(Q @ w[h], K @ w[h]) }", "Q[b, h, row] @ w[h]", "K[b, hkv, k] @ w[h]"),
    ],
)
def test_one_dot_product_takes_the_place_of_s(text: str, query: str, key: str) -> None:
    found = projected(text)
    assert found.vectors is not None
    assert (infix(found.vectors.query), infix(found.vectors.key)) == (query, key)
    assert not any(n.type.shape for e in (found.inner.score, found.inner.weight) if e is not None for n in walk(e))


def test_a_sum_of_dot_products_is_one_of_concatenations() -> None:
    found = projected("(input w: f32[H, D, M], input c: f32[H]) { score c[h] * dot(Q @ w[h], K @ w[h]) + s / 2 }")
    assert found.vectors is not None
    assert infix(found.inner.score) == "s"
    assert infix(found.vectors.key).startswith("concat(")
    assert infix(found.vectors.extent) in ("D + M", "M + D")
    assert found.vectors.by_head


def test_products_with_the_same_key_share_its_vector() -> None:
    found = projected("{ score s + 0.5 * dot(roll(Q, 1), K) }")
    assert found.vectors is not None
    assert infix(found.vectors.key) == "K[b, hkv, k]"
    assert infix(found.vectors.extent) == "D"


def test_numbers_of_one_side_are_inputs() -> None:
    found = projected("(input u: f32[H, D]) { score s / norm(Q) + dot(u[h], K) - dot(K, K) }")
    assert found.vectors is None
    assert [(infix(n.value), n.of_row, n.by_head) for n in found.numbers] == [
        ("norm(Q[b, h, row])", True, True),
        ("dot(u[h], K[b, hkv, k])", False, True),
        ("dot(K[b, hkv, k], K[b, hkv, k])", False, False),
    ]
    assert {p.name for p in found.inner.inputs} == {n.name for n in found.numbers}


def test_vectors_that_a_distance_chooses_are_tables() -> None:
    found = projected("(input r: f32[H, M, D]) { score s + dot(Q, r[h, clamp(q - k, 0, M - 1)]) }")
    (table,) = found.tables
    assert (infix(table.vector), table.tensor, table.of_row) == ("Q[b, h, row]", "r", True)
    assert infix(found.inner.score) == f"s + {table.name}[b, h, row, min(max(q - k, 0), M - 1)]"


def test_decays_are_differences_of_sums() -> None:
    found = projected("(input g: f32[B, H, L] log_decay) { mask k <= q score s + log(decay(g)) }")
    assert "exp" not in infix(found.inner.score)
    (prefix,) = found.prefixes
    assert {p.name for p in found.inner.inputs} == {*prefix.rows, *prefix.keys}
    assert not found.moved_lse


def test_a_decay_beside_an_exponential_joins_its_exponent() -> None:
    found = projected("(input g: f32[B, H, L] log_decay) { mask k <= q weight exp(s) * decay(g) / sum }")
    assert found.moved_lse


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("(input r: f32[Lq, Lk, D]) { score s + dot(Q, r[q, k]) }", "a vector of the pair"),
        ("{ score norm(Q - K) }", "a vector of the pair"),
        ("{ score s + tanh(dot(roll(Q, 1), K)) }", "several dot products"),
        ("(input t: f32[Lq, Lk]) { score s + t[q, k] * dot(roll(Q, 1), K) }", "a factor that is no product"),
        ("(input g: f32[B, H, L, D] log_decay) { mask k <= q weight dot(Q, K * decay(g)) }", "per channel"),
        ("{ weight sigmoid(s) * dot(rmsnorm(Q), K) }", "beside the score"),
    ],
)
def test_what_is_left_says_why(text: str, reason: str) -> None:
    found = projection(simplified(text))
    assert isinstance(found, str)
    assert reason in found


def test_names_of_inputs_are_not_those_of_the_user() -> None:
    found = projected("(input row_number0: f32[H]) { score s / norm(Q) + row_number0[h] }")
    assert [n.name for n in found.numbers] == ["row_number0_"]


def test_towers_of_shared_parts_are_looked_at_once() -> None:
    lines = "\n".join(["score s * s + dot(rmsnorm(Q), K)"] + ["score s * s + s"] * 40)
    found = projection(simplified(f"{{ {lines} }}"))
    assert isinstance(found, str)
    assert "several dot products" in found
