"""What is computed of one position before the pairs."""

from __future__ import annotations

import pytest

import attndsl
from attndsl.ir.attention import Attention
from attndsl.ir.channels import components_in, numbered
from attndsl.ir.expr import mentions, walk
from attndsl.ir.infix import infix
from attndsl.ir.printer import print_attention
from attndsl.ir.projection import Projection, projection
from attndsl.ir.reader import read_attention
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
    ("text", "score", "first", "further"),
    [
        ("{ score s + tanh(dot(roll(Q, 1), K)) }", "s + tanh(sa)", None, ["roll(Q[b, h, row], 1)"]),
        ("{ score dot(Q, K) * sigmoid(dot(roll(Q, 1), K)) }", "s * sigmoid(sa)", "Q[b, h, row]",
         ["roll(Q[b, h, row], 1)"]),
        # a factor of the pair stays one
        ("(input t: f32[Lq, Lk]) { score s + t[q, k] * dot(roll(Q, 1), K) }", "s + sa * t[row, k]", None,
         ["roll(Q[b, h, row], 1)"]),
        # what only stands together is one product, which is s
        ("{ score tanh(s + dot(roll(Q, 1), 2 * K)) - abs(dot(softmax(Q), K)) }", "tanh(s) - abs(sa)",
         "concat(roll(Q[b, h, row], 1), Q[b, h, row] * the scale of the call)", ["softmax(Q[b, h, row])"]),
        # what stands alone too is not
        ("{ score tanh(s + dot(roll(Q, 1), K)) - s^2 }", "tanh(s + sa) - s^2", None, ["roll(Q[b, h, row], 1)"]),
    ],
)  # fmt: skip
def test_dot_products_that_are_no_sum_are_several(text: str, score: str, first: str | None, further: list[str]) -> None:
    found = projected(text)
    assert infix(found.inner.score) == score
    assert (None if found.vectors is None else infix(found.vectors.query)) == first
    assert [infix(p.vectors.query) for p in found.products] == further
    assert [(q.name, k.name) for q, k in found.inner.products] == [(p.query, p.key) for p in found.products]
    assert projection(found.inner) is None
    assert read_attention(print_attention(found.inner)) == found.inner


@pytest.mark.parametrize(
    ("text", "score", "weight", "first"),
    [
        ("{ weight sigmoid(s) * dot(rmsnorm(Q), K) }", "s", "sa * sigmoid(s)", None),
        (
            "{ weight sigmoid(dot(roll(Q, 1), K)) * dot(rmsnorm(Q), K) }",
            "s",
            "sigmoid(s) * sa",
            "roll(Q[b, h, row], 1)",
        ),
        # in a weight s is the score, whose own product has another name
        ("{ score 2 * dot(roll(Q, 1), K) weight sigmoid(s) * dot(roll(Q, 1), K) }", "sa * 2", "sa * sigmoid(s)", None),
    ],
)
def test_a_weight_may_have_products_beside_the_score(text: str, score: str, weight: str, first: str | None) -> None:
    found = projected(text)
    assert found.inner.weight is not None
    assert (infix(found.inner.score), infix(found.inner.weight)) == (score, weight)
    assert (None if found.vectors is None else infix(found.vectors.query)) == first
    assert len(found.products) == 1


def test_sizes_of_further_products_are_whole_tiles() -> None:
    found = projected(
        "(input w: f32[H, D, M], input c: f32[H, D_0]) { score s + tanh(dot(Q @ w[h], K @ w[h])) * c[h, 0] }"
    )
    (product,) = found.products
    assert product.size == "D_0_"
    sizes = found.sizes({"D": 40, "M": 17, "H": 8, "Hkv": 2, "D_0": 3})
    assert (sizes["D"], sizes["D_0_"], sizes["Hkv"]) == (40, 32, 8)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "{ score s " + "".join(f"+ tanh(dot(roll(Q, {i}), K))" for i in range(1, 9)) + " }",
            "more than 8 dot products",
        ),
    ],
)
def test_what_is_left_says_why(text: str, reason: str) -> None:
    found = projection(simplified(text))
    assert isinstance(found, str)
    assert reason in found


@pytest.mark.parametrize(
    ("text", "query", "key"),
    [
        ("{ score dot(rope(Q, q - k), K) }", "rope(Q, q)", "rope(K, k)"),
        ("{ score dot(Q, rope(K, 2 * (k - q))) }", "rope(Q, -(-q * 2))", "rope(K, k * 2)"),
        ("{ score dot(roll(Q, q - k), K) }", "roll(Q, q)", "roll(K, k)"),
        ("{ score dot(Q, roll(K, q)) }", "roll(Q, -q)", "K"),
        ("{ score dot(rope(Q + Q * Q, q - k), K) }", "rope(Q + Q * Q, q)", "rope(K, k)"),
    ],
)
def test_turns_by_the_pair_are_turns_of_both_sides(text: str, query: str, key: str) -> None:
    found = projected(text)
    assert not found.channels
    assert found.vectors is not None
    sides = infix(found.vectors.query).replace("[b, h, row]", ""), infix(found.vectors.key).replace("[b, hkv, k]", "")
    assert sides == (query, key)


@pytest.mark.parametrize(
    ("text", "channels"),
    [
        ("{ score total(abs(concat(Q + K, K))) }", 2),
        ("{ score norm(outer(Q, K)) }", 2),
        ("{ score norm(rope(Q + K, q - k)) }", 4),
        ("{ score norm(rope(Q, abs(q - k)) - K) }", 2),
        ("{ score norm(roll(Q, abs(q - k)) - K) }", 2),
        ("(input w: f32[D, M]) { score norm(tanh(Q + K) @ w) }", 2),
        ("(input w: f32[D, M], input c: f32[M]) { score dot(c, tanh(Q + K) @ w) }", 3),
        ("(input r: f32[M, D]) { score norm(Q - r[clamp(q - k, 0, M - 1)]) }", 1),
        ("(input r: f32[Lq, Lk, D]) { score s + dot(Q, r[q, k]) }", 1),
        ("(input r: f32[M, D, D]) { score dot(Q @ r[abs(q - k)], K) }", 2),
    ],
)
def test_what_moves_components_is_summed_by_their_numbers(text: str, channels: int) -> None:
    found = projected(text)
    assert len(found.channels) == channels
    (whole,) = {n for n in walk(found.inner.score) if numbered(n) and not components_in(n)}
    assert not mentions(whole, lambda n: bool(n.type.shape))
    assert read_attention(print_attention(found.inner)) == found.inner


def test_names_of_inputs_are_not_those_of_the_user() -> None:
    found = projected("(input row_number0: f32[H]) { score s / norm(Q) + row_number0[h] }")
    assert [n.name for n in found.numbers] == ["row_number0_"]


def test_towers_of_shared_parts_are_looked_at_once() -> None:
    lines = "\n".join(["score s * s + dot(rmsnorm(Q), K)"] + ["score s * s + s"] * 40)
    found = projection(simplified(f"{{ {lines} }}"))
    assert isinstance(found, Projection)
    assert len(found.products) == 1
