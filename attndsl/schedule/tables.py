"""Bounds of run-time tables over ranges of their indices."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = Any
Bounds = tuple[Array, Array]
MOST_CELLS = 1 << 24
"""A two-dimensional table with more cells is not summed up; what it says of a box is then unknown."""


@dataclass(frozen=True)
class RangeTable:
    """Smallest and largest element of any range of a one-dimensional table."""

    values: Array
    is_sorted: bool
    step: int = field(init=False)
    low: Array = field(init=False)
    high: Array = field(init=False)

    def __post_init__(self) -> None:
        n = len(self.values)
        step = max(1, int(np.sqrt(n)) // 4)
        starts = np.arange(0, n, step)
        object.__setattr__(self, "step", step)
        if not self.is_sorted and n:
            object.__setattr__(self, "low", np.minimum.reduceat(self.values, starts))
            object.__setattr__(self, "high", np.maximum.reduceat(self.values, starts))

    def bounds(self, lo: Array, hi: Array) -> Bounds:
        """Bounds of the elements lo..hi (inclusive); positions outside read 0."""
        n = len(self.values)
        lo, hi = np.broadcast_arrays(np.asarray(lo), np.asarray(hi))
        if not n:
            return np.zeros(lo.shape, np.int64), np.zeros(lo.shape, np.int64)
        inside_lo, inside_hi = np.clip(lo, 0, n - 1), np.clip(hi, 0, n - 1)
        if self.is_sorted:
            low, high = self.values[inside_lo], self.values[inside_hi]
        else:
            low, high = self._scan(inside_lo, inside_hi)
        outside = (lo < 0) | (hi >= n)
        wide = np.float64 if low.dtype.kind == "f" else np.int64
        low, high = low.astype(wide), high.astype(wide)
        return np.where(outside, np.minimum(low, 0), low), np.where(outside, np.maximum(high, 0), high)

    def _scan(self, lo: Array, hi: Array) -> Bounds:
        """Whole blocks of `step` elements around each distinct range: a little wide, cheap, sound."""
        keys = lo.ravel() // self.step * (len(self.low) + 1) + hi.ravel() // self.step
        distinct, back = np.unique(keys, return_inverse=True)
        first, last = distinct // (len(self.low) + 1), distinct % (len(self.low) + 1)
        low, high = np.empty(len(distinct), self.low.dtype), np.empty(len(distinct), self.low.dtype)
        same = first == last
        low[same], high[same] = self.low[first[same]], self.high[first[same]]
        rest = np.flatnonzero(~same)
        if len(rest):
            pairs = np.stack([first[rest], np.minimum(last[rest] + 1, len(self.low))], 1).ravel()
            padded_low, padded_high = np.append(self.low, self.low[-1]), np.append(self.high, self.high[-1])
            low[rest] = np.minimum.reduceat(padded_low, pairs)[::2]
            high[rest] = np.maximum.reduceat(padded_high, pairs)[::2]
        return low[back].reshape(lo.shape), high[back].reshape(lo.shape)


@dataclass(frozen=True)
class AreaTable:
    """How many cells of any rectangle of a two-dimensional bool table are true."""

    values: Array
    sums: Array = field(init=False)

    def __post_init__(self) -> None:
        rows, columns = self.values.shape
        sums = np.zeros((rows + 1, columns + 1), np.int32)
        np.cumsum(self.values, axis=0, out=sums[1:, 1:])
        np.cumsum(sums, axis=1, out=sums)
        object.__setattr__(self, "sums", sums)

    def bounds(self, first: Bounds, second: Bounds) -> Bounds:
        """Whether all, and whether any, of the cells in ranges (inclusive) of both indices are true; positions outside
        read false."""
        (a, b), (c, d) = first, second
        n, m = self.values.shape
        area = np.multiply(np.subtract(b, a) + 1, np.subtract(d, c) + 1)
        top, bottom = np.clip(a, 0, n), np.clip(np.add(b, 1), 0, n)
        left, right = np.clip(c, 0, m), np.clip(np.add(d, 1), 0, m)
        found = (
            self.sums[bottom, right] - self.sums[top, right] - self.sums[bottom, left] + self.sums[top, left]
        )  # fmt: skip
        return np.equal(found, area), np.greater(found, 0)


Table = RangeTable | AreaTable


def table_of(values: Array, is_sorted: bool) -> Table | None:
    """The table that answers for ranges of some values, None for values that have none."""
    if values.ndim == 1:
        return RangeTable(values, is_sorted)
    if values.ndim == 2 and values.dtype == np.bool_ and values.size <= MOST_CELLS:
        return AreaTable(values)
    return None
