"""Which offsets of a call leave 32 bits: kernels are generated with wide ones where some do."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from torch import Tensor

from attndsl.runtime.triton.tables import LaunchTables

LIMIT = 2**31


def wide(inputs: Mapping[str, Tensor]) -> bool:
    """Whether an input has elements 2^31 or more apart."""
    return any(
        t.numel() and sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True)) >= LIMIT
        for t in inputs.values()
    )


def far(span: int, *tensors: Tensor) -> bool:
    """Whether positions of k or v that are `span` apart are 2^31 or more elements apart."""
    return any(span * t.stride(2) >= LIMIT for t in tensors)


def far_tiles(tables: LaunchTables, Lq: int, k: Tensor, v: Tensor) -> bool:
    """Whether the rows of a tile in the output, or the keys of a box on a line, are that far apart."""
    # a tile of several axes may reach over the whole segment
    rows = Lq if len(tables.box) > 1 else prod(tables.box) * max(tables.splits)
    boxes = (prod(p.box) * max(p.splits) for p in tables.pieces if len(p.box) == 1)
    return rows * v.shape[-1] >= LIMIT or any(far(n, k, v) for n in boxes)
