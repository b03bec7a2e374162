"""Assertions by the rule of `attndsl.reference.accuracy`."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from attndsl.reference.accuracy import GRADIENT_FACTOR, OUTPUT_FACTOR, error, floor, judge

__all__ = ["GRADIENT_FACTOR", "OUTPUT_FACTOR", "assert_right", "error", "floor"]


def assert_right(
    name: str,
    actual: Tensor,
    eager: Tensor,
    exact: Tensor,
    dtype: torch.dtype,
    factor: float = OUTPUT_FACTOR,
    others: Callable[[], Iterable[tuple[Tensor, Tensor]]] | None = None,
) -> None:
    """Assert that `actual` is at most `factor` times as far from `exact` (fp64) as `eager`, plus the floor. `others`
    as in `judge`."""
    assert actual.shape == exact.shape, f"{name}: shape {tuple(actual.shape)}, expected {tuple(exact.shape)}"
    assert not bool(exact.isnan().any()), f"{name}: the exact result is not a number"
    assert not bool(actual.isnan().any()), f"{name}: {int(actual.isnan().sum())} elements are not a number"
    found = judge(actual, eager, exact, dtype, factor, others)
    assert found.ok, f"{name}: error {found.error:.3g} above {found.allowed:.3g} ({factor} times the plain one + floor)"
