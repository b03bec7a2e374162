"""Make the plan of a call: masks of segments and classes, box shapes, tables for the forward and backward pass."""

from __future__ import annotations

from math import prod

from attndsl.ir.attention import Attention
from attndsl.schedule.bounds import plan_bounds
from attndsl.schedule.classes import ClassMask, Ints, classes
from attndsl.schedule.piece import Analysed, Findings, Shape, analyse, empty, make_piece
from attndsl.schedule.plan import Piece, Plan, TilePass
from attndsl.schedule.problem import Problem
from attndsl.schedule.shapes import choose
from attndsl.schedule.space import pairs
from attndsl.schedule.tiles import Tile, shapes
from attndsl.schedule.words import closed_forms


def build(attention: Attention, problem: Problem, tile: Tile | None = None, *, split: bool = True) -> Plan:
    """The plan of a call. `tile` fixes the boxes instead of the cost model. Without `split` no axis is split by the
    residues that a mask compares.

    Raises ValueError for a `tile` of another form or with other axes than the grid.
    """
    found = Findings()
    groups: list[tuple[Ints, tuple[ClassMask, ...], Shape]] = []
    forward: list[Piece] = []
    forms: dict[str, None] = {}
    total = 0
    every = tuple(pairs(attention, problem))
    for pair, given in zip(every, shapes(tile, every), strict=True):
        if not prod(pair.q.extents) or not prod(pair.k.extents):
            continue
        class_of, items = classes(attention, problem, pair)
        analysed = analyse_all(items, rows_are_q=True, split=split)
        shape = given or choose(analysed)
        total += len(items) * _dense_boxes(analysed[0], shape)
        if all(empty(a) for a in analysed):
            continue
        groups.append((class_of, items, shape))
        forward.append(make_piece(class_of, analysed, shape, True, found))
        forms.update(dict.fromkeys(closed_forms(analysed, named=len(every) > 1)))

    def make_dkdv() -> TilePass:
        turned = Findings()
        pieces = [
            make_piece(class_of, analyse_all(items, rows_are_q=False, split=split), shape, False, turned)
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
        lambda tiling: build(attention, problem, tiling.tile(attention, problem), split=split),
        (lambda: build(attention, problem, tile, split=False)) if split else None,
    )


def analyse_all(items: tuple[ClassMask, ...], *, rows_are_q: bool, split: bool = True) -> tuple[Analysed, ...]:
    """The classes, with one layout: they are split by residues alike or not at all."""
    found = tuple(analyse(i, rows_are_q=rows_are_q, split=split) for i in items)
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
