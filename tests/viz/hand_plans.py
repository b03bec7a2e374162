"""Plans written by hand, so that pictures are tested without the scheduler."""

from __future__ import annotations

from itertools import product

import numpy as np

from attndsl.frontend.compile import compile_text
from attndsl.ir.attention import Attention
from attndsl.schedule.plan import AxisLayout, AxisRanges, Bounds, Layout, Piece, Plan, Product, TilePass
from attndsl.schedule.problem import Problem


def window_1d(i: int, j: int) -> bool:
    return 0 <= i - j < 24


def near(i: int, j: int) -> bool:
    return abs(i - j) <= 2


def axis_ranges(extent: int, box: int, sees: object) -> AxisRanges:
    """Every raster box of an axis, classified by looking at all its pairs."""
    assert callable(sees)
    tiles = -(-extent // box)
    first: list[int] = []
    kind: list[int] = []
    indptr = [0]
    for t in range(tiles):
        rows = range(t * box, min(extent, (t + 1) * box))
        for u in range(tiles):
            pairs = [sees(i, j) and j < extent for i, j in product(rows, range(u * box, (u + 1) * box))]
            if any(pairs):
                first.append(u * box)
                kind.append(2 if all(pairs) else 1)
        indptr.append(len(first))
    starts = np.arange(tiles, dtype=np.int32) * box
    zeros = np.zeros(tiles, np.int32)
    return AxisRanges(
        starts, np.minimum(starts + box, extent).astype(np.int32), zeros, np.array(indptr, np.int32),
        np.array(first, np.int32), np.ones(len(first), np.int32), np.zeros(len(first), np.int32),
        np.array(kind, np.uint8),
    )  # fmt: skip


def plan_of(segment: str, axes: list[AxisLayout], sees: object) -> Plan:
    layout = Layout(segment, 0, tuple(axes))
    source = Product(tuple(axis_ranges(a.extent, a.box, sees) for a in axes))
    piece = Piece(layout, layout, np.zeros((1, 1), np.int32), (source,))
    sweep = TilePass("forward", (piece,), True)
    total = int(np.prod([(-(-a.extent // a.box)) ** 2 for a in axes]))
    bounds = Bounds(None, total / source.visited, float(np.prod([a.boxes.mean() for a in source.axes])), source.most)
    return Plan(sweep, total, (), (), lambda: sweep, lambda _: bounds)


def linear() -> tuple[Attention, Problem, Plan]:
    """A causal window of 24 keys over 128 positions in tiles of 16."""
    (attention,) = compile_text("attention window { mask k <= q and q - k < 24 }")
    problem = Problem({"B": 1, "H": 2, "Hkv": 2, "Lq": 128, "Lk": 128, "L": 128, "D": 16, "Dv": 16})
    return attention, problem, plan_of("", [AxisLayout("", 128, 16)], window_1d)


def grid() -> tuple[Attention, Problem, Plan]:
    """Two pixels around on an image of 12 x 20, in tiles of 4 x 4."""
    text = """
    fn near(i, j) = abs(i - j) <= 2
    attention image { grid image(y, x) mask all(near(q.image, k.image)) }
    """
    (attention,) = compile_text(text)
    sizes = {"B": 1, "H": 2, "Hkv": 2, "Lq": 240, "Lk": 240, "L": 240, "D": 16, "Dv": 16}
    extents = {"image": (12, 20)}
    problem = Problem(sizes, q_extents=extents, k_extents=extents)
    return attention, problem, plan_of("image", [AxisLayout("y", 12, 4), AxisLayout("x", 20, 4)], near)
