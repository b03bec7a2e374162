"""What a kernel wants of a plan's boxes: at most so many rows and columns, one shape of rows per segment."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod

from attndsl.ir.attention import Attention
from attndsl.ir.expr import Expr, Index, Literal, Load, Op, ParamRef, Size, mentions, walk
from attndsl.schedule.build import build
from attndsl.schedule.plan import Layout
from attndsl.schedule.problem import Problem
from attndsl.schedule.tiles import Tile


@dataclass(frozen=True)
class Tiling:
    """Boxes of `rows` times `columns` positions on a line. On a grid the shapes `q_box` and `k_box` where a segment has
    as many axes; otherwise the cost model's shapes, cut to that.

    With `step`, lengths and offsets are rounded to multiples of it where the mask allows: one plan for many calls,
    of a row tile that holds theirs and of at least as many keys."""

    rows: int
    columns: int
    q_box: tuple[int, ...] = ()
    k_box: tuple[int, ...] = ()
    step: int = 0

    def problem(self, attention: Attention, problem: Problem) -> Problem:
        """The problem that is planned for a call."""
        step, offset = self.step, problem.q_offset
        if not step or not isinstance(offset, int) or not positions_alone(attention):
            return problem
        first = offset // step * step
        rows = -(-(offset + problem.sizes["Lq"] - first) // step) * step
        keys = -(-problem.sizes["Lk"] // step) * step
        if min(first, first + rows, keys - 1) < -(2**31) or max(first + rows, keys) >= 2**31:
            return problem
        return replace(problem, sizes={**problem.sizes, "Lq": rows, "Lk": keys, "L": keys}, q_offset=first)

    def tile(self, attention: Attention, problem: Problem) -> Tile | None:
        """The boxes for a problem, as `build` takes them; None where there is nothing to see."""
        spaces = [s for s in (attention.q_space, attention.k_space) if s is not None]
        if self.step and positions_alone(attention):
            return max(problem.sizes["Lq"], 1), self.columns
        if problem.moved or all(len(segment.axes) == 1 for s in spaces for segment in s.segments):
            return self.rows, self.columns
        found: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
        weight: dict[tuple[str, str], int] = {}
        rows: dict[str, tuple[int, ...]] = {}
        columns: dict[str, tuple[int, ...]] = {}
        for piece in build(attention, problem).forward.pieces:
            size = prod(piece.rows.extents) * prod(piece.cols.extents)
            for side, layout, boxes, most in (
                ("q", piece.rows, rows, self.rows),
                ("k", piece.cols, columns, self.columns),
            ):
                if size > weight.get((side, layout.segment), 0):
                    weight[side, layout.segment] = size
                    given = self.q_box if side == "q" else self.k_box
                    usual = _box(layout)
                    boxes[layout.segment] = given if given and len(given) == len(usual) else _cut(usual, most)
        for name in rows.keys() | columns.keys():
            either = rows.get(name) or columns[name]
            found[name] = (rows.get(name, either), columns.get(name, either))
        if not found:
            return None
        return found[""] if "" in found else dict(found)


@lru_cache(maxsize=256)
def positions_alone(attention: Attention) -> bool:
    """Whether the mask of a pair follows from its positions, batch, head and scalars, and residues split no axis: then
    it is the same in a longer problem."""
    if attention.q_space is not None or attention.k_space is not None:
        return False

    def plain(node: Expr) -> bool:
        match node:
            case Op(op=name):
                return name != "mod"
            case Load(indices=indices):
                return not any(mentions(i, _is_position) for i in indices)
            case _:
                own = isinstance(node, Size) and node.name not in ("Lq", "Lk", "L")
                return own or isinstance(node, Index | Literal | ParamRef)

    return all(plain(node) for node in walk(attention.mask))


def _is_position(node: Expr) -> bool:
    return isinstance(node, Index) and node.name in ("q", "k", "row")


def _box(layout: Layout) -> tuple[int, ...]:
    return tuple(a.box for a in layout.axes if not a.name.startswith("#"))


def _cut(box: tuple[int, ...], most: int) -> tuple[int, ...]:
    """The box with its longest sides halved until it holds at most so many positions."""
    sides = list(box)
    while prod(sides) > most:
        i = max(range(len(sides)), key=lambda i: sides[i])
        sides[i] //= 2
    return tuple(sides)
