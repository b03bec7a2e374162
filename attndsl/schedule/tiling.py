"""What a kernel wants of a plan's boxes: at most so many rows and columns, one shape of rows per segment."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from attndsl.ir.attention import Attention
from attndsl.schedule.build import build
from attndsl.schedule.plan import Layout
from attndsl.schedule.problem import Problem
from attndsl.schedule.tiles import Tile


@dataclass(frozen=True)
class Tiling:
    """Boxes of `rows` times `columns` positions on a line. On a grid the shapes `q_box` and `k_box` where a segment has
    as many axes; otherwise the cost model's shapes, cut to that."""

    rows: int
    columns: int
    q_box: tuple[int, ...] = ()
    k_box: tuple[int, ...] = ()

    def tile(self, attention: Attention, problem: Problem) -> Tile | None:
        """The boxes for a problem, as `build` takes them; None where there is nothing to see."""
        moved = not isinstance(problem.q_offset, int) or problem.q_offset != 0
        spaces = [s for s in (attention.q_space, attention.k_space) if s is not None]
        if moved or all(len(segment.axes) == 1 for s in spaces for segment in s.segments):
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


def _box(layout: Layout) -> tuple[int, ...]:
    return tuple(a.box for a in layout.axes if not a.name.startswith("#"))


def _cut(box: tuple[int, ...], most: int) -> tuple[int, ...]:
    """The box with its longest sides halved until it holds at most so many positions."""
    sides = list(box)
    while prod(sides) > most:
        i = max(range(len(sides)), key=lambda i: sides[i])
        sides[i] //= 2
    return tuple(sides)
