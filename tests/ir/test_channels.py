"""Sums over the components of vectors of the pair."""

from __future__ import annotations

import pytest

import attndsl
from attndsl.ir.attention import Attention
from attndsl.ir.channels import holds_reduction, numbers_of, slope_of, vectors_read, within
from attndsl.ir.expr import Load, Op, walk
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
    assert projection(found.inner) is None
    assert read_attention(print_attention(found.inner)) == found.inner
    return found


def named(found: Projection) -> str:
    """The score with what its vectors are."""
    text = infix(found.inner.score)
    for c in found.channels:
        text = text.replace(f"{c.name}[b, h, row]", infix(c.value)).replace(f"{c.name}[b, hkv, k]", infix(c.value))
    return text.replace("[b, h, row]", "").replace("[b, hkv, k]", "")


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("{ score -total(abs(Q - K)) }", "-total(abs(Q - K))"),
        ("(input w: f32[H, D]) { score dot(w[h], tanh(Q + K)) }", "total(w[h] * tanh(Q + K))"),
        # a permutation of what is computed component by component is one of its vectors
        ("{ score total(abs(roll(Q - K, 1))) }", "total(abs(roll(Q, 1) - roll(K, 1)))"),
        # so is what a matrix does to a sum
        ("(input w: f32[D, M]) { score total(abs((Q - K) @ w)) }", "total(abs(Q @ w - K @ w))"),
        # numbers of the pair are computed once, and what all components are multiplied by after their sum
        ("{ score dot(s * Q, tanh(Q + K)) }", "total(Q * tanh(Q + K)) * s"),
    ],
)
def test_vectors_of_one_side_are_read_by_component(text: str, score: str) -> None:
    assert named(projected(text)) == score


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("{ score dot(Q, K - Q) }", "s - row_number0"),
        ("{ score total(2 * Q * K) - total(K) }", "s - key_number0"),
        ("(input r: f32[M, D]) { score dot(Q, K + r[clamp(q - k, 0, M - 1)]) }",
         "s + row_table0[b, h, row, min(max(q - k, 0), M - 1)]"),
    ],
)  # fmt: skip
def test_what_is_a_dot_product_after_all_stays_one(text: str, score: str) -> None:
    found = projected(text)
    assert not holds_reduction(found.inner.score)
    assert infix(found.inner.score).replace("[b, h, row]", "").replace("[b, hkv, k]", "") == score


def test_a_distance_is_not_expanded() -> None:
    """Squares that cancel lose the digits of a small distance."""
    found = projected("{ score norm(Q - K) }")
    assert not found.numbers
    assert "sqrt(total((Q - K) * (Q - K)))" in named(found)


def test_decays_per_channel_are_differences_of_sums() -> None:
    found = projected("(input g: f32[B, Hkv, L, D] log_decay) { mask k <= q score dot(Q, K * decay(g)) }")
    (prefix,) = found.prefixes
    assert prefix.size == found.channels[0].size
    assert not prefix.by_head
    assert {p.name for p in found.inner.channels} == {*prefix.rows, *prefix.keys, *(c.name for c in found.channels)}
    assert "exp(" in infix(found.inner.score)


def test_sums_and_products_stand_side_by_side() -> None:
    found = projected("{ score s * sigmoid(dot(roll(Q, 1), K)) - norm(Q - K) / norm(K) }")
    assert len(found.products) == 1
    assert [infix(n.value) for n in found.numbers] == ["norm(K[b, hkv, k])"]
    assert len(vectors_read(found.inner.score)) == 2
    sizes = found.sizes({"D": 40, "H": 8, "Hkv": 2})
    assert [sizes[name] for name, _ in found.extents] == [40]


def test_what_a_sum_needs_are_numbers() -> None:
    found = projected("(input t: f32[H]) { score norm(Q * tanh(t[h] * s) - K) }")
    (total,) = {n for n in walk(found.inner.score) if isinstance(n, Op) and n.op == "total"}
    vectors, numbers = within(total)
    assert all(v.type.shape for v in vectors)
    assert "tanh(t[h] * s)" in [infix(n) for n in numbers]
    assert not any(n.type.shape for n in numbers_of(found.inner.score))


@pytest.mark.parametrize(
    ("text", "slope"),
    [
        ("{ score total(abs(Q - K)) }", "sign(x - y)"),
        ("{ score total(exp(Q * K)) }", "exp(x * y) * y"),
        ("{ score total(max(Q, K)) - s }", "if x > y then 1 else if x == y then 0.5 else 0"),
    ],
)
def test_slopes_are_those_of_a_component(text: str, slope: str) -> None:
    score = projected(text).inner.score
    (total,) = [n for n in walk(score) if isinstance(n, Op) and n.op == "total"]
    loads = {n.tensor[:3]: n for n in within(total)[0] if isinstance(n, Load)}
    found = slope_of(total, loads["row"])
    assert found is not None
    text = infix(found).replace(infix(loads["row"]), "x").replace(infix(loads["key"]), "y")
    assert text == slope
