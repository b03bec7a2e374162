"""Queries laid out tile by tile, for kernels whose descriptors load a tile's rows as neighbours."""
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from math import prod

import numpy as np
import torch
from torch import Tensor

from attndsl.runtime.triton.tables import Ints, LaunchTables

GATHER = "gather", -1
"""Its table: the place of every row of every tile."""


def places(tables: LaunchTables, extents: tuple[int, ...]) -> Ints:
    """The position of every row of every tile [tiles * rows], of tiles in a segment of these extents. Rows outside of
    the segment have the place of the last one inside."""
    axes = len(tables.box)
    local = np.stack(np.unravel_index(np.arange(prod(tables.box)), tables.box), axis=1)
    start, stop = tables.rows[:, None, :axes], tables.rows[:, None, axes : 2 * axes]
    at = np.minimum(start + local[None], stop - 1)
    position = np.ravel_multi_index([at[..., i] for i in range(axes)], extents)
    return (position.ravel() + tables.start).astype(np.int32)


def gathered(q: Tensor, index: Tensor) -> Tensor:
    """Rows of `q` [B, H, Lq, D] at `index`, one after another: [B, H, rows, D]."""
    if q.device.type == "cuda":
        index.record_stream(torch.cuda.current_stream(q.device))
    # numbers of 8 bytes move faster, and rows are multiples of 16 bytes
    wide = q.view(torch.int64) if q.element_size() < 8 else q
    return wide.index_select(2, index).view(q.dtype)
