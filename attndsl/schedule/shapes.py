"""Choose the boxes: the cost of a shape is the work of the boxes it makes the mask visit.

On separable masks the boxes of an axis depend on that axis' box sizes alone, so the counts of all shapes follow
from a small table per axis. Long axes are sampled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from math import prod

import numpy as np

from attndsl.schedule.axis import SolvedAxis, row_tiles
from attndsl.schedule.piece import Analysed, Shape
from attndsl.schedule.place import place
from attndsl.schedule.plan import TileClass
from attndsl.schedule.rows import RowTiles, touched

SAMPLE = 128
SIDES = (128, 64)
"""Positions per box that kernels are written for."""


@dataclass(frozen=True)
class Costs:
    """What a kernel pays, in units of one pair of a 128 x 128 box without mask code.

    `partial` per pair of a PARTIAL box on top, `box` per box, `tile` per row tile; `efficiency` of smaller boxes as a
    factor per side of 64; `strip` what a box with a short last axis pays.
    """

    partial: float = 0.25
    box: float = 600.0
    tile: float = 9000.0
    half_side: float = 1.09
    strip: float = 1.01


COSTS = Costs()


def choose(items: tuple[Analysed, ...]) -> Shape:
    """The cheapest shape for the classes of one pair of segments."""
    first = items[0]
    if not all(i.separated.solved for i in items):
        return _fallback(first)
    sampled = items[:: max(1, len(items) // 4)]
    best: tuple[float, Shape] | None = None
    tables = [[_AxisCounts(a) for a in item.separated.axes] for item in sampled]
    for shape in _candidates(first):
        cost = sum(_cost(axes, shape) for axes in tables)
        if best is None or cost < best[0]:
            best = (cost, shape)
    return best[1] if best is not None else _fallback(first)


def _fallback(item: Analysed) -> Shape:
    """Boxes near cubes, for masks that are looked at box by box."""
    return Shape(_cubic(item.rows.extents), _cubic(item.columns.extents))


def _cubic(extents: tuple[int, ...]) -> tuple[int, ...]:
    sizes = [1] * len(extents)
    while prod(sizes) < SIDES[0]:
        growing = [i for i, (s, e) in enumerate(zip(sizes, extents, strict=True)) if s < e]
        i = min(growing, key=lambda j: (sizes[j], -j)) if growing else len(sizes) - 1
        sizes[i] *= 2
    return tuple(sizes)


def _candidates(item: Analysed) -> Iterator[Shape]:
    extents, other = item.rows.extents, item.columns.extents
    for q_side in SIDES:
        for k_side in SIDES:
            for q in _boxes(extents, q_side):
                for k in _boxes(other, k_side):
                    yield Shape(q, k)


@cache
def _boxes(extents: tuple[int, ...], volume: int) -> tuple[tuple[int, ...], ...]:
    """Boxes of powers of two with a given volume, no side longer than it needs to be."""
    if len(extents) == 1:
        return ((volume,),)
    found: list[tuple[int, ...]] = []
    side = 1
    while side <= volume and side < 2 * extents[0]:
        found += [(side, *rest) for rest in _boxes(extents[1:], volume // side)]
        side *= 2
    return tuple(found)


class _AxisCounts:
    """Boxes and FULL boxes of one axis for any pair of box sizes, computed when asked for."""

    def __init__(self, solved: SolvedAxis) -> None:
        self.solved = solved
        self.visible_denied = cache(self._visible_denied)
        self.counts = cache(self._counts)

    def _visible_denied(self, row_box: int, column_box: int) -> tuple[RowTiles, float, tuple[object, object]]:
        tiles, _, _ = row_tiles(self.solved, row_box)
        sampled = tiles
        if tiles.count > SAMPLE:
            at = np.linspace(0, tiles.count - 1, SAMPLE).astype(np.int64)
            columns = tiles.columns if isinstance(tiles.columns, int) else tiles.columns[at]
            given = {n: v[at] for n, v in tiles.given.items()}
            sampled = replace(tiles, start=tiles.start[at], stop=tiles.stop[at], given=given, columns=columns, known={})
        scale = tiles.count / max(sampled.count, 1)
        visible = touched(self.solved.visible, sampled, column_box)
        denied = touched(self.solved.denied, sampled, column_box)
        return sampled, scale, (visible, denied)

    def _counts(self, row_box: int, column_box: int) -> tuple[float, float, float]:
        """Boxes, FULL boxes, row tiles."""
        periodic = any(c.residues for c in (*self.solved.visible, *self.solved.denied))
        tiles, scale, pair = self.visible_denied(row_box, column_box if periodic else 1)
        boxes = place(*pair, tiles.columns, column_box, tiles.count)  # type: ignore[arg-type]
        full = int(boxes.count[boxes.kind == TileClass.FULL].sum())
        return int(boxes.count.sum()) * scale, full * scale, tiles.count * scale


def _cost(axes: list[_AxisCounts], shape: Shape) -> float:
    boxes = full = tiles = 1.0
    for axis, r, c in zip(axes, shape.q, shape.k, strict=True):
        b, f, t = axis.counts(r, c)
        boxes, full, tiles = boxes * b, full * f, tiles * t
    rows, columns = prod(shape.q), prod(shape.k)
    halves = COSTS.half_side ** ((rows < SIDES[0]) + (columns < SIDES[0]))
    strips = COSTS.strip ** ((shape.q[-1] < 8) + (shape.k[-1] < 8)) if len(shape.q) > 1 else 1.0
    work = (boxes + COSTS.partial * (boxes - full)) * rows * columns * halves * strips
    return work + COSTS.box * boxes + COSTS.tile * tiles
