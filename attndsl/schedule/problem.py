"""What a plan is made for: the sizes, scalars, tables and grids of one call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt


def _no_scalars() -> dict[str, bool | int | float]:
    return {}


def _no_tables() -> dict[str, npt.NDArray[Any]]:
    return {}


def _no_extents() -> dict[str, tuple[int, ...]]:
    return {}


@dataclass(frozen=True)
class Problem:
    """The run-time facts that a schedule depends on.

    `sizes` maps `B H Hkv Lq Lk L D Dv` and fresh names to numbers. `tables` holds inputs that masks read, as
    numpy arrays; one that is absent is unknown and the plan stays sound without it. `q_extents` and
    `k_extents` map segment names to the extents of their axes, row-major; empty without a grid. `q_offset`
    is the position of the first row, an int or one int per batch.
    """

    sizes: Mapping[str, int]
    scalars: Mapping[str, bool | int | float] = field(default_factory=_no_scalars)
    tables: Mapping[str, npt.NDArray[Any]] = field(default_factory=_no_tables)
    q_extents: Mapping[str, tuple[int, ...]] = field(default_factory=_no_extents)
    k_extents: Mapping[str, tuple[int, ...]] = field(default_factory=_no_extents)
    q_offset: int | npt.NDArray[np.int64] = 0

    @property
    def moved(self) -> bool:
        """Whether positions follow a line though the attention has a grid: rows have an offset, or a side of the call
        is shorter than the grid."""
        offset = self.q_offset if isinstance(self.q_offset, int) else None
        return moved(offset, self.sizes, self.q_extents, self.k_extents)


def moved(
    q_offset: int | None,
    sizes: Mapping[str, int],
    q_extents: Mapping[str, tuple[int, ...]],
    k_extents: Mapping[str, tuple[int, ...]],
) -> bool:
    """As `Problem.moved`; an offset of None is one for each batch."""
    sides = ((q_extents, sizes["Lq"]), (k_extents, sizes["Lk"]))
    return q_offset != 0 or any(e and sum(map(prod, e.values())) != n for e, n in sides)
