"""Where a call's positions are, and which offsets leave 32 bits: kernels are generated with wide ones where some do."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from torch import Tensor

from attndsl.runtime.call import Call
from attndsl.runtime.triton.tables import LaunchTables
from attndsl.schedule import problem

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


def far_tiles(tables: LaunchTables, call: Call, *, turned: bool) -> bool:
    """Whether the rows of a tile, or the columns of a box on a line, are that far apart in the tensors of a call. With
    `turned` rows are keys."""
    rows, columns = ((call.k, call.v), (call.q,)) if turned else ((call.q,), (call.k, call.v))
    # a tile of several axes may reach over the whole segment
    span = rows[0].shape[2] if len(tables.box) > 1 else prod(tables.box) * max(tables.splits)
    boxes = [prod(p.box) * max(p.splits) for p in tables.pieces if len(p.box) == 1]
    results = span * max(t.shape[-1] for t in (call.q, call.v)) >= LIMIT
    return results or far(span, *rows) or any(far(n, *columns) for n in boxes)


def moved(call: Call) -> bool:
    """Whether a call's rows are no whole grid."""
    offset = None if isinstance(call.q_offset, Tensor) else call.q_offset
    return problem.moved(offset, call.sizes, call.q_extents, call.k_extents)
