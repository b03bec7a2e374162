"""What belongs to the query or the key alone, in torch."""

from __future__ import annotations

from attndsl.ir.expr import OPS
from attndsl.runtime import sides


def test_every_operation_has_a_function() -> None:
    known = {*sides._VECTOR, *sides._LIFTED, "to_float"}  # pyright: ignore[reportPrivateUsage]
    # loops over the components of vectors of the pair, which no side has
    assert set(OPS) - {"sum_over", "max_over"} == known
