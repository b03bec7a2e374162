"""Grids: their declaration, `q.video`, `q.t`, `size(video)`, `q in video`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attndsl.diagnostics.source import Span
from attndsl.frontend import tree
from attndsl.frontend.check import names
from attndsl.frontend.check.values import POISON, Poison, SegmentValue, TupleValue, Value, describe
from attndsl.ir.expr import Coord, Expr, Extent, Index, Member, Side
from attndsl.ir.types import BOOL, INT

if TYPE_CHECKING:
    from attndsl.frontend.check.expression import Checker


def attribute(checker: Checker, node: tree.Attribute) -> Value:
    """`q.video`, the coordinate tuple (a number if the segment has one axis), or `q.t`, one coordinate."""
    base = checker.value(node.base)
    if isinstance(base, Poison) or checker.broken_grids:
        return POISON
    if not isinstance(base, Index) or base.name not in ("q", "k"):
        help_ = f"write `q.{node.name}` or `k.{node.name}`"
        return checker.report(
            "E0205", "only q and k have coordinates", node.base.span, f"this is {describe(base)}", help_
        )
    side: Side = "q" if base.name == "q" else "k"
    space = checker.grids.side(side)
    if space is None:
        return _no_grid(checker, node.name, side, node.span)
    axes = checker.grids.axes(side)
    if node.name in axes:
        return _coordinate(checker, side, axes[node.name], node.name, node)
    for segment in space.segments:
        if segment.name and segment.name == node.name:
            items = tuple(_coordinate(checker, side, segment.name, a, node) for a in segment.axes)
            return items[0] if len(items) == 1 else TupleValue(items)
    known = {*axes, *(s.name for s in space.segments if s.name)}
    other: Side = "k" if side == "q" else "q"
    if node.name in checker.grids.axes(other) or other in checker.grids.segments().get(node.name, []):
        help_ = f"`{node.name}` belongs to the grid of {other}: write `{other}.{node.name}`"
    else:
        shown = ", ".join(f"`{side}.{n}`" for n in sorted(known))
        help_ = names.did_you_mean(names.suggestion(node.name, known)) or f"the grid has {shown}"
    return checker.report("E0205", f"{side} has no coordinate `{node.name}`", node.span, "", help_)


def _coordinate(checker: Checker, side: Side, segment: str, axis: str, node: tree.Node) -> Expr:
    return checker.build.make(Coord(INT, side, segment, axis, span=checker.at(node)))


def _no_grid(checker: Checker, name: str, side: str, span: Span) -> Poison:
    of = "" if checker.grids.shared else f"{side} "
    message = f"{side} has no coordinate `{name}`: no grid is declared for it"
    help_ = f"declare one, such as `grid {of}{'video' if not of else ''}(t, y, x)`"
    return checker.report("E0205", message, span, "", help_)


def member(
    checker: Checker, left: Value, right: Value, nodes: tuple[tree.TreeExpr, tree.TreeExpr], span: Span
) -> Expr | Poison:
    """`q in video`."""
    if isinstance(left, Poison) or isinstance(right, Poison):
        return POISON
    if not isinstance(right, SegmentValue):
        message = f"the right side of `in` is {describe(right)}"
        return checker.report("E0306", message, nodes[1].span, "the name of a grid's segment was expected")
    if not isinstance(left, Index) or left.name not in ("q", "k"):
        message = f"the left side of `in` is {describe(left)}"
        return checker.report("E0306", message, nodes[0].span, "q or k was expected")
    side: Side = "q" if left.name == "q" else "k"
    if checker.broken_grids:
        return POISON
    if side not in checker.grids.segments()[right.name]:
        message = f"`{right.name}` is not a segment of {side}'s grid"
        return checker.report("E0306", message, nodes[1].span)
    return checker.build.make(Member(BOOL, side, right.name, span=span))


def size(checker: Checker, node: tree.Call) -> Value:
    """`size(video)`, `size(t)`, `size(q)` for an unnamed grid."""
    argument = node.arguments[0]
    grids = checker.grids
    if not isinstance(argument, tree.Name):
        return _bad_size(checker, argument, "")
    name = argument.id
    value = checker.frame.names.get(name)
    if isinstance(value, SegmentValue | Index):
        name = value.name
    elif checker.frame.closed:
        if value is None:
            return POISON
        return _bad_size(checker, argument, "pass the segment itself to the function")
    found: list[tuple[Side, str, tuple[str, ...]]] = []
    for side in grids.sides:
        space = grids.side(side)
        for segment in space.segments if space else ():
            if name == (segment.name or side) or (not segment.name and grids.shared and name == "k"):
                found.append((side, segment.name, segment.axes))
            if name in segment.axes:
                found.append((side, segment.name, (name,)))
    if len(found) > 1:
        message = f"both grids have a `{name}`: which one is meant?"
        return checker.report("E0205", message, argument.span, "", "give the axes of q and k different names")
    if not found:
        return _bad_size(checker, argument, "")
    side, segment_name, axes = found[0]
    at = checker.at(node)
    extents = tuple(checker.build.make(Extent(INT, side, segment_name, a, span=at)) for a in axes)
    return extents[0] if len(extents) == 1 else TupleValue(extents)


def _bad_size(checker: Checker, argument: tree.TreeExpr, help_: str) -> Poison:
    grids = checker.grids
    if checker.broken_grids:
        return POISON
    known = {a for side in grids.sides for a in grids.axes(side)} | set(grids.segments())
    name = argument.id if isinstance(argument, tree.Name) else ""
    if name in names.VALUES and name not in ("q", "k"):
        help_ = help_ or (
            f"`{name}` is an int already" if name in ("B", "H", "Hkv", "Lq", "Lk", "L", "D", "Dv") else ""
        )
    elif not known:
        help_ = help_ or "declare a grid, such as `grid video(t, y, x)`; sizes of tensors are L, Lq, Lk, H, D, ..."
    else:
        help_ = help_ or names.did_you_mean(names.suggestion(name, known)) or f"the grid has {', '.join(sorted(known))}"
    what = f"`{name}` is no segment and no axis of a grid" if name else "`size` takes the name of a segment or an axis"
    return checker.report("E0205", what, argument.span, "a segment or an axis was expected", help_)
