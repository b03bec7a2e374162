"""When a result is right: no further from the exact one than a plain computation in the same dtype is.

The one home of the rule: an output at most twice as far from the dense fp64 definition as the plain eager computation
in the same dtype, a gradient at most three times, plus the floor 2 max |x + 0.3 - 0.3 - x| in that dtype. What is not a
number never passes.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

OUTPUT_FACTOR = 2.0
GRADIENT_FACTOR = 3.0
LSE_FACTOR = 8.0
"""Of lse, which is fp32 whatever the dtype, against a computation in fp32."""


@dataclass(frozen=True)
class Verdict:
    """The largest distance of a result from the exact one, and the largest that is right."""

    error: float
    allowed: float

    @property
    def ok(self) -> bool:
        """False for what is not a number."""
        return self.error <= self.allowed


def judge(
    actual: Tensor,
    eager: Tensor,
    exact: Tensor,
    dtype: torch.dtype,
    factor: float = OUTPUT_FACTOR,
    others: Callable[[], Iterable[tuple[Tensor, Tensor]]] | None = None,
) -> Verdict:
    """The verdict on `actual`; `eager` is the plain computation in `dtype`, `exact` the definition in fp64.

    The largest error of a few elements is small by luck at times. So where that is too much, `others` may give
    results (eager, exact) of the same computation on other numbers, whose errors then count as well, more where
    this result is larger than theirs.
    """
    found, plain, rounding = error(actual, exact), _plain_error(eager, exact, dtype), floor(exact, dtype)
    if found > factor * plain + rounding and others is not None:
        for other_eager, other_exact in others():
            # a smaller result may be a sum of as large terms, a larger one has larger terms
            size = max(1.0, _largest(exact) / max(_largest(other_exact), torch.finfo(torch.float64).tiny))
            plain = max(plain, size * _plain_error(other_eager, other_exact, dtype))
            rounding = max(rounding, size * floor(other_exact, dtype))
    return Verdict(found, factor * plain + rounding)


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


def _plain_error(eager: Tensor, exact: Tensor, dtype: torch.dtype) -> float:
    plain = error(eager, exact)
    if plain < float("inf"):
        return plain
    # the plain computation overflowed: one rounding of the largest value instead
    return torch.finfo(dtype).eps * _largest(exact)


def _largest(x: Tensor) -> float:
    finite = x[x.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 0.0
