"""Checks a plan against the mask pair by pair, from nothing but what `plan.py` says a plan means."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from attndsl.schedule.plan import BoxRun, Layout, Piece, Plan, Source, TileClass, TilePass, row_tile_count, runs

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


@dataclass
class Box:
    """The linear positions of a box's rows and of its columns, -1 for columns that lie outside."""

    rows: Ints
    cols: Ints
    kind: TileClass


def check_plan(plan: Plan, visible: Bools) -> list[str]:
    """What is wrong with a plan for the visible pairs `[B, H, Lq, Lk]`; empty if nothing is."""
    return [*_check_pass(plan.forward, visible), *_check_pass(plan.dkdv, visible.swapaxes(2, 3))]


def _check_pass(tile_pass: TilePass, visible: Bools) -> list[str]:
    """`visible` is [B, H, rows, columns] of this pass."""
    wrong: list[str] = []
    painted: dict[tuple[tuple[int, int], ...], tuple[Ints, Bools, list[Box]]] = {}
    seen_by: dict[tuple[tuple[int, int], ...], list[Bools]] = {}
    B, H, n_rows, n_cols = visible.shape
    for b, h in product(range(B), range(H)):
        key = tuple((i, _class_of(piece, b, h)) for i, piece in enumerate(tile_pass.pieces))
        if key not in painted:
            painted[key] = _paint(tile_pass, dict(key), n_rows, n_cols)
            seen_by[key] = []
        count, full, boxes = painted[key]
        seen = visible[b, h]
        where = f"{tile_pass.kind} b={b} h={h}"
        if missing := np.argwhere(seen & (count == 0)).tolist():
            wrong.append(f"{where}: visible pair {missing[0]} is in no box ({len(missing)} such)")
        if twice := np.argwhere(count > 1).tolist():
            wrong.append(f"{where}: pair {twice[0]} is in {count[tuple(twice[0])]} boxes ({len(twice)} such)")
        if false := np.argwhere(full & ~seen).tolist():
            wrong.append(f"{where}: invisible pair {false[0]} is in a FULL box ({len(false)} such)")
        if any(box.kind == TileClass.FULL and (box.cols < 0).any() for box in boxes):
            wrong.append(f"{where}: a FULL box reaches outside")
        seen_by[key].append(seen)
        if wrong:
            return wrong
    if tile_pass.exact:
        for key, (_, _, boxes) in painted.items():
            wrong += _check_exact(tile_pass, boxes, seen_by[key])
    return wrong


def _class_of(piece: Piece, b: int, h: int) -> int:
    rows, cols = piece.class_of.shape
    return int(piece.class_of[b if rows > 1 else 0, h if cols > 1 else 0])


def _paint(tile_pass: TilePass, classes: dict[int, int], n_rows: int, n_cols: int) -> tuple[Ints, Bools, list[Box]]:
    """How often each pair is visited, whether in a FULL box, and the boxes."""
    count = np.zeros((n_rows, n_cols), np.int64)
    full = np.zeros((n_rows, n_cols), np.bool_)
    boxes: list[Box] = []
    for i, piece in enumerate(tile_pass.pieces):
        for box in boxes_of(piece, piece.sources[classes[i]]):
            boxes.append(box)
            inside = box.cols[box.cols >= 0]
            count[np.ix_(box.rows, inside)] += 1
            if box.kind == TileClass.FULL:
                full[np.ix_(box.rows, inside)] = True
    return count, full, boxes


def _check_exact(tile_pass: TilePass, boxes: list[Box], seen: list[Bools]) -> list[str]:
    """A PARTIAL box of an exact pass has a visible pair, and one that is not (or lies outside)."""
    for box in boxes:
        if box.kind != TileClass.PARTIAL:
            continue
        inside = box.cols[box.cols >= 0]
        at = np.ix_(box.rows, inside)
        where = f"{tile_pass.kind}: box rows {_span(box.rows)} columns {_span(inside)}"
        if not any(v[at].any() for v in seen):
            return [f"{where}: PARTIAL in an exact pass, but has no visible pair"]
        if len(inside) == len(box.cols) and all(v[at].all() for v in seen):
            return [f"{where}: PARTIAL in an exact pass, but has no invisible pair"]
    return []


def _span(x: Ints) -> str:
    return f"{x.min()}..{x.max()}" if len(x) else "none"


def boxes_of(piece: Piece, source: Source) -> Iterator[Box]:
    """Every box of a source."""
    for tile in range(row_tile_count(piece, source)):
        for run in runs(source, piece, tile):
            yield from _boxes_of_run(piece, run)


def _boxes_of_run(piece: Piece, run: BoxRun) -> Iterator[Box]:
    axes = zip(piece.rows.axes, run.row_start, run.row_stop, run.row_residue, strict=True)
    row_axes = [r + a.split * np.arange(start, stop) for a, start, stop, r in axes]
    row_axes = [x[x < a.extent] for x, a in zip(row_axes, piece.rows.axes, strict=True)]
    rows = _linear(piece.rows, row_axes)
    for which in product(*[range(c) for c in run.count]):
        at = zip(piece.cols.axes, run.first, which, run.residue, strict=True)
        col_axes = [r + a.split * (first + a.box * i + np.arange(a.box)) for a, first, i, r in at]
        yield Box(rows, _linear(piece.cols, col_axes), TileClass(run.kind))


def _linear(layout: Layout, axes: list[Ints]) -> Ints:
    """Linear positions of a product of axis positions; -1 where one lies outside its axis."""
    out, inside = np.zeros((), np.int64), np.ones((), np.bool_)
    for a, x in zip(layout.axes, axes, strict=True):
        out = out[..., None] * a.extent + x
        inside = inside[..., None] & (x >= 0) & (x < a.extent)
    return np.where(inside, layout.start + out, -1).reshape(-1)
