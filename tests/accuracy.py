"""When a result is right: no further from the exact one than a plain computation in the same dtype is."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

OUTPUT_FACTOR = 2.0
GRADIENT_FACTOR = 3.0


def floor(exact: Tensor, dtype: torch.dtype) -> float:
    """What rounding alone costs: 2 * max|x + 0.3 - 0.3 - x| in `dtype`."""
    x = exact.to(dtype)
    x = x[x.isfinite()]
    return 2 * float((x + 0.3 - 0.3 - x).abs().max()) if x.numel() else 0.0


def error(actual: Tensor, exact: Tensor) -> float:
    """The largest distance; infinite where one is not a number, or infinite otherwise than the other."""
    actual = actual.to(torch.float64)
    same = (actual == exact) & ~actual.isnan()
    if bool(same.all()):
        return 0.0
    distance = (actual - exact).abs()[~same]
    return float(distance.max()) if bool(distance.isfinite().all()) else float("inf")


def assert_right(
    name: str,
    actual: Tensor,
    eager: Tensor,
    exact: Tensor,
    dtype: torch.dtype,
    factor: float = OUTPUT_FACTOR,
    others: Callable[[], Iterable[tuple[Tensor, Tensor]]] | None = None,
) -> None:
    """Assert that `actual` is at most `factor` times as far from `exact` (fp64) as `eager`, plus the floor.

    The largest error of a few elements is small by luck at times. So where that is too much, `others` may give
    results (eager, exact) of the same computation on other numbers, whose errors then count as well, more where
    this result is larger than theirs.
    """
    assert actual.shape == exact.shape, f"{name}: shape {tuple(actual.shape)}, expected {tuple(exact.shape)}"
    assert not bool(exact.isnan().any()), f"{name}: the exact result is not a number"
    assert not bool(actual.isnan().any()), f"{name}: {int(actual.isnan().sum())} elements are not a number"
    found, plain, rounding = error(actual, exact), _plain_error(eager, exact, dtype), floor(exact, dtype)
    if found > factor * plain + rounding and others is not None:
        for other_eager, other_exact in others():
            # a smaller result may be a sum of as large terms, a larger one has larger terms
            size = max(1.0, _largest(exact) / max(_largest(other_exact), torch.finfo(torch.float64).tiny))
            plain = max(plain, size * _plain_error(other_eager, other_exact, dtype))
            rounding = max(rounding, size * floor(other_exact, dtype))
    limit = factor * plain + rounding
    assert found <= limit, f"{name}: error {found:.3g} above {limit:.3g} ({factor} * {plain:.3g} + {rounding:.3g})"


def _plain_error(eager: Tensor, exact: Tensor, dtype: torch.dtype) -> float:
    plain = error(eager, exact)
    if plain < float("inf"):
        return plain
    # the plain computation overflowed: one rounding of the largest value instead
    return torch.finfo(dtype).eps * _largest(exact)


def _largest(x: Tensor) -> float:
    finite = x[x.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 0.0
