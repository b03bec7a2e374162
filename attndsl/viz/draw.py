"""Lays a picture out: the mask over q and k with its tile classes, and the neighborhood of one query."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attndsl.ir.attention import Attention
from attndsl.schedule.plan import Plan
from attndsl.schedule.problem import Problem
from attndsl.viz.neighborhood import (
    MASKED,
    NOT_VISITED,
    QUERY,
    SEEN_FULL,
    SEEN_PARTIAL,
    Neighborhood,
    cells,
    neighborhood,
)
from attndsl.viz.sample import evenly, sample
from attndsl.viz.scene import Scene

COLOURS = {
    NOT_VISITED: "#f2f2f2",
    MASKED: "#f7dcae",
    SEEN_PARTIAL: "#e69f00",
    SEEN_FULL: "#0072b2",
    QUERY: "#d55e00",
}
"""Okabe and Ito's palette: apart for every kind of colour blindness, and in grey by lightness."""

LEGEND = (
    (SEEN_FULL, "FULL tile: every pair visible"),
    (SEEN_PARTIAL, "PARTIAL tile: visible pair"),
    (MASKED, "PARTIAL tile: masked pair"),
    (NOT_VISITED, "skipped: never visited"),
)
MARGIN, LEFT, TOP = 20, 64, 66
SIDE = 384
"""Pixels of the larger side of the mask."""
SAMPLES = 192
"""Most rows or columns looked at."""
PANEL = 230
SLICES = 12
"""Most slices of a neighborhood that are drawn."""


@dataclass(frozen=True)
class Picture:
    """What to draw. `query` adds the neighborhood of a linear position on a grid."""

    attention: Attention
    problem: Problem
    plan: Plan
    subtitle: str
    head: int = 0
    batch: int = 0
    query: int | None = None


def draw(picture: Picture) -> Scene:
    """The scene of a picture; nothing of size Lq x Lk is looked at, only a sample of it."""
    lq, lk = picture.problem.sizes["Lq"], picture.problem.sizes["Lk"]
    unit = SIDE / max(lq, lk, 1)
    width, height = max(lk * unit, 24), max(lq * unit, 24)
    found: list[Neighborhood] = []
    if picture.query is not None:
        p = picture
        found = neighborhood(p.attention, p.problem, p.plan, picture.query, p.head, p.batch)
    panels = [(n, label, cut) for n in found for label, cut in n.slices]
    columns = 0 if not panels else 1 if len(panels) <= 2 else 2 if len(panels) <= 6 else 3
    shown = panels[:SLICES]
    sizes = [_panel_size(cut) for _, _, cut in shown]
    rows = -(-len(shown) // columns) if columns else 0
    row_heights = [max(h for _, h in sizes[r * columns : (r + 1) * columns]) + 34 for r in range(rows)]
    right = LEFT + width + 46
    total_width = max(right + columns * (PANEL + 18) if columns else LEFT + width + MARGIN, 520)
    legend_y = TOP + height + 52
    total_height = max(legend_y + 20 * len(LEGEND) + 8, TOP + sum(row_heights) + 30)
    title = f"{picture.attention.name}: {picture.plan.visited:,} of {picture.plan.total:,} tiles visited"
    scene = Scene(total_width, total_height, title, picture.subtitle)
    scene.text(MARGIN, 28, title, 17, bold=True)
    scene.text(MARGIN, 46, picture.subtitle, 12, colour="#555555")
    _mask(scene, picture, width, height)
    _legend(scene, legend_y, bool(found and any(n.at for n in found)))
    _panels(scene, shown, len(panels), right, columns, row_heights)
    return scene


def _mask(scene: Scene, picture: Picture, width: float, height: float) -> None:
    lq, lk = picture.problem.sizes["Lq"], picture.problem.sizes["Lk"]
    rows, cols = evenly(lq, SAMPLES), evenly(lk, SAMPLES)
    found = sample(picture.attention, picture.problem, picture.plan, rows, cols, picture.head, picture.batch)
    values = cells(found.kind, found.seen)
    scene.rect(LEFT, TOP, width, height, COLOURS[NOT_VISITED])
    if values.size:
        cell = max(width / len(cols), height / len(rows))
        scene.raster(LEFT, TOP, cell, values, {k: c for k, c in COLOURS.items() if k != NOT_VISITED})
    scene.rect(LEFT, TOP, width, height, "none", "#888888")
    for fraction in (0, 0.5, 1):
        scene.text(LEFT + width * fraction, TOP + height + 16, f"{round(lk * fraction):,}", 11, "middle", "#555555")
        scene.text(LEFT - 6, TOP + height * fraction + 4, f"{round(lq * fraction):,}", 11, "end", "#555555")
    scene.text(LEFT + width / 2, TOP + height + 32, "key position k", 12, "middle")
    scene.text(LEFT - 6, TOP + height * 0.25 + 4, "query q", 12, "end")


def _legend(scene: Scene, y: float, with_query: bool) -> None:
    entries = [*LEGEND, (QUERY, "the query")] if with_query else list(LEGEND)
    for i, (value, label) in enumerate(entries):
        column, row = divmod(i, 3)
        x = LEFT + column * 214
        scene.rect(x, y + row * 20, 14, 14, COLOURS[value], "#888888")
        scene.text(x + 20, y + row * 20 + 12, label, 12)


def _panel_size(cut: npt.NDArray[np.uint8]) -> tuple[float, float]:
    cell = min(PANEL / cut.shape[1], PANEL / cut.shape[0], 14)
    return cut.shape[1] * cell, max(cut.shape[0] * cell, 4)


def _panels(
    scene: Scene,
    shown: list[tuple[Neighborhood, str, npt.NDArray[np.uint8]]],
    total: int,
    left: float,
    columns: int,
    row_heights: list[float],
) -> None:
    if not shown:
        return
    more = f", {total - len(shown)} more slices not drawn" if total > len(shown) else ""
    scene.text(left, TOP - 6, f"keys of the query at {shown[0][0].label}{more}", 12, bold=True)
    for i, (found, label, cut) in enumerate(shown):
        row, column = divmod(i, columns)
        x, y = left + column * (PANEL + 18), TOP + sum(row_heights[:row]) + 18
        width, height = _panel_size(cut)
        name = " ".join(p for p in (found.segment.name, label) if p)
        axes = found.segment.axes
        inner = f"{axes[-1]} right" if len(axes) == 1 else f"{axes[-2]} down, {axes[-1]} right"
        scene.text(x, y - 4, f"{name}  ({inner})" if name else inner, 11, colour="#555555")
        scene.rect(x, y, width, height, COLOURS[NOT_VISITED])
        colours = {k: c for k, c in COLOURS.items() if k != NOT_VISITED}
        scene.raster(x, y, width / cut.shape[1], cut, colours)
        scene.rect(x, y, width, height, "none", "#888888")
