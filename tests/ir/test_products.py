"""Features that hold a product twice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from attndsl.frontend.compile import compile_text
from attndsl.ir.evaluate import Env, evaluate
from attndsl.ir.expr import Expr, Index, Load, Op, Size, number, op
from attndsl.ir.features import feature_weight
from attndsl.ir.printer import print_expr
from attndsl.ir.products import reduced
from attndsl.ir.reader import read_expr
from attndsl.ir.types import INT, Kind, Type
from attndsl.ir.verify_ops import check_op
from attndsl.runtime.vectors import distinct

QUERY = Load(Type(Kind.FLOAT, ("D",)), "Q", (Index(INT, "row"),))
KEY = Load(Type(Kind.FLOAT, ("D",)), "K", (Index(INT, "k"),))


@st.composite
def maps(draw: DrawFn, depth: int) -> tuple[Expr, Expr]:
    """A map of features, of a query and of a key: what meets a part is the same map of the other, or another one."""
    if depth == 0:
        name = draw(st.sampled_from(("", "relu", "tanh")))
        other = draw(st.sampled_from((name, "abs")))
        return (op(name, QUERY) if name else QUERY), (op(other, KEY) if other else KEY)
    kind = draw(st.sampled_from(("concat", "outer", "square", "scale")))
    q, k = draw(maps(depth - 1))
    if kind == "square":
        factor = number(draw(st.sampled_from((1.0, -0.5))))
        return op("outer", q, op("mul", q, factor)), op("outer", op("neg", k), op("div", k, number(2.0)))
    if kind == "scale":
        return op("div", q, number(3.0)), op("mul", k, number(-2.0))
    a, b = draw(maps(depth - 1))
    return op(kind, q, a), op(kind, k, b)


def value(e: Expr, size: int, seed: int = 0) -> np.ndarray:
    made = np.random.default_rng(seed)
    tensors = {"Q": made.normal(size=(1, size)), "K": made.normal(size=(1, size))}
    return np.asarray(evaluate(e, Env({Index(INT, "row"): 0, Index(INT, "k"): 0}, tensors)))


@given(maps(2), st.integers(1, 5))
def test_dot_products_stay(made: tuple[Expr, Expr], size: int) -> None:
    q, k = made
    fewer = reduced(q, k)
    for e in fewer:
        assert check_op(e) == "" if isinstance(e, Op) else True
        assert read_expr(print_expr(e)) == e
    assert np.allclose(value(op("dot", *fewer), size), value(op("dot", q, k), size))
    assert value(fewer[0], size).shape == value(fewer[1], size).shape
    assert value(fewer[0], size).size <= value(q, size).size


def test_products_of_equal_factors_are_there_once() -> None:
    def count(f: Expr) -> int:
        whole = op("concat", f, op("tanh", QUERY))
        return value(reduced(whole, whole)[0], 6).size - 6

    square = op("outer", QUERY, QUERY)
    assert count(square) == 21
    assert count(op("outer", square, QUERY)) == 21 * 6
    assert count(op("outer", square, square)) == 21 * 22 // 2
    assert count(op("concat", QUERY, op("div", square, number(2.0)))) == 27
    assert count(op("outer", QUERY, op("relu", QUERY))) == 36


def test_a_product_alone_keeps_its_order() -> None:
    q, k = op("outer", QUERY, QUERY), op("outer", KEY, KEY)
    assert reduced(q, k) == (q, k)


def test_equal_factors_on_one_side_alone_stay() -> None:
    q, k = op("outer", QUERY, QUERY), op("outer", KEY, op("relu", KEY))
    assert reduced(q, k) == (q, k)


def test_towers_are_looked_at_once() -> None:
    q, k = QUERY, KEY
    for _ in range(8):
        q, k = op("concat", op("outer", q, q), q), op("concat", op("outer", k, k), k)
    reduced(q, k)


def test_weights_have_fewer_features() -> None:
    def features(text: str, D: int) -> int:
        (attention,) = compile_text(
            "use features (taylor, square, cube) attention a { mask k <= q weight " + text + " }"
        )
        found = feature_weight(attention)
        assert not isinstance(found, str)
        return int(evaluate(found.extent, Env({Size(INT, "D"): D})))

    assert features("dot(taylor(Q, D), taylor(K, D)) / sum", 16) == 16 + 16 + 136
    assert features("dot(concat(Q, square(relu(Q))), concat(K, square(relu(K))))", 16) == 16 + 136
    assert features("dot(concat(Q, cube(Q)), concat(K, cube(K)))", 4) == 4 + 40
    assert features("dot(concat(Q, square(Q)), concat(K, outer(K, relu(K))))", 4) == 4 + 16
    assert features("dot(square(Q), square(K)) / sum(dot(square(Q), square(K)))", 1) == 1


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 7, 16])
def test_one_order_everywhere(size: int) -> None:
    x = torch.randn(1, size, dtype=torch.float64)
    e = op("distinct", QUERY)
    found = evaluate(e, Env({Index(INT, "row"): 0}, {"Q": x.numpy()}))
    assert np.allclose(found, distinct(x).numpy())
    assert distinct(x).shape[-1] == size * (size - 1) // 2
    every = sorted((x[0, i] * x[0, j]).item() for i in range(size) for j in range(i))
    assert np.allclose(sorted(distinct(x)[0].tolist()), every)
    assert torch.allclose(distinct(x, -2 * x), -2 * distinct(x))
