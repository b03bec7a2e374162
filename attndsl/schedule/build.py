"""Make the plan of a call: masks of segments and classes, box shapes, tables for the forward and backward pass."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from attndsl.ir.attention import Attention
from attndsl.schedule.bounds import plan_bounds
from attndsl.schedule.classes import ClassMask, Ints, classes
from attndsl.schedule.piece import Analysed, Findings, Shape, analyse, empty, make_piece
from attndsl.schedule.plan import Piece, Plan, TilePass
from attndsl.schedule.problem import Problem
from attndsl.schedule.shapes import choose
from attndsl.schedule.space import pairs
from attndsl.schedule.words import closed_forms

Box = int | tuple[int, ...]
Tile = tuple[Box, Box] | Mapping[str, tuple[Box, Box]]
"""(q box, k box), coordinates per axis; or one such pair per segment name."""


def build(attention: Attention, problem: Problem, tile: Tile | None = None) -> Plan:
    """The plan of a call. `tile` fixes the boxes instead of the cost model.

    Raises ValueError where `tile` does not fit the axes.
    """
    found = Findings()
    groups: list[tuple[Ints, tuple[ClassMask, ...], Shape]] = []
    forward: list[Piece] = []
    forms: dict[str, None] = {}
    total = 0
    for pair in pairs(attention, problem):
        if not prod(pair.q.extents) or not prod(pair.k.extents):
            continue
        class_of, items = classes(attention, problem, pair)
        analysed = _analyse_all(items, rows_are_q=True)
        shape = _given_shape(tile, pair.q.segment, pair.k.segment, analysed[0]) or choose(analysed)
        total += len(items) * _dense_boxes(analysed[0], shape)
        if all(empty(a) for a in analysed):
            continue
        groups.append((class_of, items, shape))
        forward.append(make_piece(class_of, analysed, shape, True, found))
        forms.update(dict.fromkeys(closed_forms(analysed)))

    def make_dkdv() -> TilePass:
        turned = Findings()
        pieces = [
            make_piece(class_of, _analyse_all(items, rows_are_q=False), shape, False, turned)
            for class_of, items, shape in groups
        ]
        return TilePass("dkdv", tuple(pieces), turned.exact)

    return Plan(
        TilePass("forward", tuple(forward), found.exact),
        total,
        tuple(found.reasons),
        tuple(forms),
        make_dkdv,
        lambda sweep: plan_bounds(attention, problem, sweep, total),
    )


def _analyse_all(items: tuple[ClassMask, ...], *, rows_are_q: bool) -> tuple[Analysed, ...]:
    """The classes, with one layout: they are split by residues alike or not at all."""
    found = tuple(analyse(i, rows_are_q=rows_are_q, split=True) for i in items)
    splits = {tuple(a.split for a in f.separated.axes) for f in found}
    unsolved_split = any(not f.separated.solved and max(a.split for a in f.separated.axes) > 1 for f in found)
    if len(splits) > 1 or unsolved_split:
        found = tuple(analyse(i, rows_are_q=rows_are_q, split=False) for i in items)
    return found


def _dense_boxes(item: Analysed, shape: Shape) -> int:
    counts = 1
    for side, box in ((item.rows, shape.q), (item.columns, shape.k)):
        for extent, size in zip(side.extents, box, strict=True):
            counts *= -(-extent // size)
    return counts


def _given_shape(tile: Tile | None, q_segment: str, k_segment: str, item: Analysed) -> Shape | None:
    if tile is None:
        return None
    if isinstance(tile, Mapping):
        q = tile[q_segment][0] if q_segment in tile else None
        k = tile[k_segment][1] if k_segment in tile else None
        if q is None or k is None:
            return None
        return Shape(_box(q, item, "q"), _box(k, item, "k"))
    fits = all(len(_axes(b)) <= len(item.rows.axes) for b in tile)
    real = max(_real(item, "q"), _real(item, "k"))
    if not fits or (len(tile[0]) if isinstance(tile[0], tuple) else 1) != real:
        if real == 1:
            return None
        raise ValueError(f"tile: boxes {tile!r} do not have the {real} axes of the grid")
    return Shape(_box(tile[0], item, "q"), _box(tile[1], item, "k"))


def _real(item: Analysed, side: str) -> int:
    box = item.item.pair.q if side == "q" else item.item.pair.k
    return sum(not a.startswith("#") for a in box.axes)


def _axes(box: Box) -> tuple[int, ...]:
    return box if isinstance(box, tuple) else (box,)


def _box(box: Box, item: Analysed, side: str) -> tuple[int, ...]:
    sizes = _axes(box)
    if any(isinstance(s, bool) or s < 1 for s in sizes):
        raise ValueError(f"tile: the {side} box {box!r} must have positive sizes")
    axes = len(item.rows.axes)
    real = _real(item, side)
    if len(sizes) > real:
        # a segment without a grid beside a grid: as many positions in its one axis
        sizes = (prod(sizes),)
    return (1,) * (axes - len(sizes)) + sizes
