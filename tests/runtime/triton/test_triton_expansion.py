"""Features that expand a row: which a kernel computes, and how many there are."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

from attndsl.codegen.expr_triton import UnsupportedError
from attndsl.codegen.triton_expansion import Expansion, check_expansion, generate_expansion, length
from attndsl.codegen.whitelist_triton import check_kernels
from attndsl.ir.expr import Expr, Index, Load, number, op
from attndsl.ir.types import INT, Kind, Type

INDICES: tuple[Expr, ...] = tuple(Index(INT, n) for n in ("b", "h", "q"))  # pyright: ignore[reportArgumentType]
Q = Load(Type(Kind.FLOAT, ("D",)), "Q", INDICES)
TAYLOR = op("concat", op("add", op("mul", Q, number(0.0)), number(1.0)), Q, op("outer", Q, Q))


def test_the_number_of_features() -> None:
    assert length(TAYLOR, 16) == 288
    assert length(op("outer", Q, op("concat", Q, Q)), 5) == 50
    assert [length(op("distinct", Q), n) for n in (1, 2, 5, 16)] == [0, 1, 10, 120]


def test_pieces_are_tiles_of_at_most_256_columns() -> None:
    source = generate_expansion(Expansion(TAYLOR, "Q", 24, 632), ["title"]).source
    check_kernels(source)
    assert source.count("tl.store") == 2 + 3
    assert "tl.arange(0, 512)" not in source


def test_what_meets_other_components_is_left_to_torch() -> None:
    K = Load(Type(Kind.FLOAT, ("D",)), "K", INDICES)
    for features in (op("vsoftmax", Q), op("mul", Q, op("norm", Q)), op("concat", Q, K), op("mul", Q, INDICES[2])):
        with pytest.raises(UnsupportedError):
            check_expansion(features, "Q")
