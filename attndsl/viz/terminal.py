"""Small pictures of a mask and its tiles for the terminal, in block characters or plain ASCII."""

from __future__ import annotations

import numpy as np

from attndsl.ir.attention import Attention
from attndsl.schedule.plan import Plan
from attndsl.schedule.problem import Problem
from attndsl.viz.neighborhood import MASKED, NOT_VISITED, QUERY, SEEN_FULL, SEEN_PARTIAL, neighborhood
from attndsl.viz.sample import FULL, PARTIAL, SKIPPED, Positions, tile_kinds

UNICODE = {SKIPPED: "·", PARTIAL: "▒", FULL: "█"}
ASCII = {SKIPPED: ".", PARTIAL: "+", FULL: "#"}
UNICODE_CELLS = {NOT_VISITED: "·", MASKED: "░", SEEN_PARTIAL: "▓", SEEN_FULL: "█", QUERY: "Q"}
ASCII_CELLS = {NOT_VISITED: ".", MASKED: "-", SEEN_PARTIAL: "+", SEEN_FULL: "#", QUERY: "Q"}

MOST = 32
"""Most lines of a picture."""


def tile_picture(problem: Problem, plan: Plan, unicode: bool, h: int = 0, b: int = 0) -> list[str]:
    """Lines of the mask's tiles, q down and k right. A cell is one tile where tiles are few, else a sample of several:
    full or skipped if all that was looked at is, partial otherwise."""
    lq, lk = problem.sizes["Lq"], problem.sizes["Lk"]
    if not lq or not lk:
        return [f"(no pairs: Lq={lq}, Lk={lk})"]
    chars = UNICODE if unicode else ASCII
    piece = plan.forward.pieces[0] if len(plan.forward.pieces) == 1 else None
    linear = piece is not None and len(piece.rows.axes) == 1 and piece.rows.axes[0].split == 1
    box = (piece.rows.axes[0].box, piece.cols.axes[0].box) if piece is not None and linear else (1, 1)
    step = [max(b, -(-n // MOST)) for n, b in zip((lq, lk), box, strict=True)]
    step = [s if s == b or b == 1 else -(-s // b) * b for s, b in zip(step, box, strict=True)]
    rows, row_cell = _samples(lq, step[0])
    cols, col_cell = _samples(lk, step[1])
    kinds = tile_kinds(plan, rows, cols, h, b)
    lines: list[str] = []
    for i in range(int(row_cell[-1]) + 1):
        line = ""
        for j in range(int(col_cell[-1]) + 1):
            part = kinds[np.ix_(row_cell == i, col_cell == j)]
            value = int(part[0, 0]) if (part == part[0, 0]).all() else PARTIAL
            line += chars[value] * 2
        lines.append(line)
    return lines


def tile_legend(unicode: bool) -> str:
    c = UNICODE if unicode else ASCII
    return f"tiles, q down, k right: {c[FULL]} full  {c[PARTIAL]} partial  {c[SKIPPED]} skipped"


def _samples(size: int, step: int) -> tuple[Positions, Positions]:
    """Up to four positions in each cell of `step`, and the cell of each."""
    cells = -(-size // step)
    starts = np.arange(cells, dtype=np.int64) * step
    offsets = np.unique(np.linspace(0, step - 1, 4).astype(np.int64))
    positions = (starts[:, None] + offsets[None, :]).ravel()
    keep = positions < size
    return positions[keep], np.repeat(np.arange(cells, dtype=np.int64), len(offsets))[keep]


def neighborhood_picture(
    attention: Attention, problem: Problem, plan: Plan, query: int, unicode: bool, h: int = 0, b: int = 0
) -> list[str]:
    """Lines of what one query of a grid sees: the slice it lies in, thinned to a terminal's width and height."""
    chars = UNICODE_CELLS if unicode else ASCII_CELLS
    lines: list[str] = []
    for found in neighborhood(attention, problem, plan, query, h, b):
        slices = found.slices
        if not slices:
            continue
        label, cut = next(((n, c) for n, c in slices if (c == QUERY).any()), slices[len(slices) // 2])
        x_step = max(1, -(-cut.shape[1] // 80))
        y_step = max(1, -(-cut.shape[0] // MOST))
        where = ", ".join(p for p in (found.segment.name, label) if p)
        others = f" (1 of {len(slices)} slices with visited keys)" if len(slices) > 1 else ""
        lines.append(f"keys of the query at {found.label}{': ' if where else ''}{where}{others}")
        wide = 2 if cut.shape[1] // x_step <= 40 else 1
        for y in range(0, cut.shape[0], y_step):
            blocks = (cut[y : y + y_step, x : x + x_step] for x in range(0, cut.shape[1], x_step))
            lines.append("".join(chars[int(block.max())] * wide for block in blocks))
    legend = (
        f"{chars[SEEN_FULL]} seen, full tile  {chars[SEEN_PARTIAL]} seen, partial tile  "
        f"{chars[MASKED]} masked, partial tile  {chars[NOT_VISITED]} skipped"
    )
    return [*lines, legend] if lines else []
