"""Conditions that are true, or false, for every pair of two segments become constants."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from attndsl.ir.expr import FALSE, TRUE, Expr, Load, Op, op, rewrite, walk
from attndsl.ir.passes.boolean import boolean_node
from attndsl.ir.passes.select import select_node
from attndsl.ir.types import BOOL, INT
from attndsl.schedule.classes import ClassMask
from attndsl.schedule.interval import Boxes, bounds
from attndsl.schedule.tables import Table, table_of


def full_ranges(item: ClassMask) -> Boxes:
    """The whole of both segments as one box."""
    ranges: dict[Expr, tuple[int, int]] = {}
    for box in (item.pair.q, item.pair.k):
        for node, extent in zip(box.nodes, box.extents, strict=True):
            ranges[node] = (0, max(extent - 1, 0))
    return Boxes(ranges, range_tables(item))


def range_tables(item: ClassMask) -> Mapping[str, Table]:
    """The tables of a class, ready to be asked for the bounds of a range."""
    made = {n: table_of(t, n in item.sorted_tables) for n, t in item.tables.items()}
    return {n: t for n, t in made.items() if t is not None}


def decide(item: ClassMask) -> Expr:
    """The mask without conditions that always or never hold."""
    boxes = full_ranges(item)

    def rule(node: Expr) -> Expr | None:
        if node.type == BOOL and isinstance(node, Op) and node.op not in ("and", "or", "not", "select"):
            sure, maybe = bounds(node, boxes)
            if np.all(sure):
                return TRUE
            if not np.any(maybe):
                return FALSE
        return _one_sided(node, boxes) or boolean_node(node) or select_node(node)

    return rewrite(item.pair.mask, rule)


def _one_sided(node: Expr, boxes: Boxes) -> Expr | None:
    """|x| of an x that keeps its sign; the min and max of values that keep their order."""
    if not isinstance(node, Op) or node.type != INT:
        return None
    if node.op == "abs":
        low, high = bounds(node.args[0], boxes)
        return node.args[0] if np.all(low >= 0) else op("neg", node.args[0]) if np.all(high <= 0) else None
    if node.op in ("min", "max"):
        a, b = node.args
        (a_low, a_high), (b_low, b_high) = bounds(a, boxes), bounds(b, boxes)
        if np.all(a_high <= b_low):
            return a if node.op == "min" else b
        if np.all(b_high <= a_low):
            return b if node.op == "min" else a
    return None


def sorted_in_range(item: ClassMask, mask: Expr) -> frozenset[str]:
    """Sorted tables that the mask never reads outside: their values rise with the position."""
    boxes = full_ranges(item)
    kept = set(item.sorted_tables)
    for node in walk(mask):
        if isinstance(node, Load) and node.tensor in kept:
            low, high = bounds(node.indices[0], boxes)
            if np.any(np.less(low, 0)) or np.any(np.greater_equal(high, len(item.tables[node.tensor]))):
                kept.discard(node.tensor)
    return frozenset(kept)
