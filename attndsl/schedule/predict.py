"""How long a plan should take on a GPU: its boxes at the rate of a good kernel, or its bytes if they take longer."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from attndsl.schedule.plan import Plan, row_tile_count
from attndsl.schedule.problem import Problem
from attndsl.schedule.shapes import COSTS


@dataclass(frozen=True)
class Machine:
    """A GPU as the cost model sees it: what a good bf16 kernel reaches, not the data sheet."""

    name: str
    flops: float
    """Matrix work per second on FULL boxes of 128 x 128 at head size 128."""
    bytes: float
    """Bytes per second between memory and chip."""


H200 = Machine("H200", 5.0e14, 4.0e12)
"""Rates that FlexAttention's and cuDNN's forward kernels and a device copy reach on one."""


@dataclass(frozen=True)
class Prediction:
    """Seconds of a forward pass, of all its batches and heads: what matrix work takes, what bytes take."""

    machine: str
    work: float
    bytes: float

    @property
    def seconds(self) -> float:
        return max(self.work, self.bytes)


def predict(plan: Plan, problem: Problem, machine: Machine = H200, itemsize: int = 2) -> Prediction:
    """The predicted forward pass of a plan for numbers of `itemsize` bytes."""
    sizes = problem.sizes
    pairs = 0.0
    for piece in plan.forward.pieces:
        area = prod(piece.rows.box) * prod(piece.cols.box)
        shares = np.bincount(piece.class_of.ravel(), minlength=len(piece.sources)) / piece.class_of.size
        for share, source in zip(shares, piece.sources, strict=True):
            masked = COSTS.partial * (source.visited - source.full)
            overhead = COSTS.box * source.visited + COSTS.tile * row_tile_count(piece, source)
            pairs += float(share) * ((source.visited + masked) * area + overhead)
    flops = 2.0 * (sizes["D"] + sizes["Dv"]) * pairs * sizes["B"] * sizes["H"]
    rows, columns = sizes["B"] * sizes["H"] * sizes["Lq"], sizes["B"] * sizes["Hkv"] * sizes["Lk"]
    moved = itemsize * (sizes["D"] + sizes["Dv"]) * (rows + columns)
    return Prediction(machine.name, flops / machine.flops, moved / machine.bytes)
