"""What a plan is made for: the sizes, scalars, tables and grids of one call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
