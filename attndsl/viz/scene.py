"""A drawing as data: rectangles and texts, which the SVG and PNG writers turn into files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal as Lit

import numpy as np
import numpy.typing as npt

Anchor = Lit["start", "middle", "end"]


@dataclass(frozen=True)
class Text:
    """`x`, `y` is the baseline's start, middle or end, as `anchor` says; `size` in pixels."""

    x: float
    y: float
    text: str
    size: float = 12
    anchor: Anchor = "start"
    colour: str = "#222222"
    bold: bool = False


@dataclass(frozen=True)
class Rect:
    x: float
    y: float
    width: float
    height: float
    fill: str
    stroke: str = ""


@dataclass
class Scene:
    """Shapes in drawing order on a white ground. `title` and `text` describe it to those who cannot see it."""

    width: float
    height: float
    title: str
    description: str = ""
    shapes: list[Rect | Text] = field(default_factory=list["Rect | Text"])

    def rect(self, x: float, y: float, width: float, height: float, fill: str, stroke: str = "") -> None:
        self.shapes.append(Rect(x, y, width, height, fill, stroke))

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: float = 12,
        anchor: Anchor = "start",
        colour: str = "#222222",
        bold: bool = False,
    ) -> None:
        self.shapes.append(Text(x, y, text, size, anchor, colour, bold))

    def raster(self, x: float, y: float, cell: float, values: npt.NDArray[np.uint8], colours: dict[int, str]) -> None:
        """Cells of a matrix as few rectangles, colour by colour: equal cells of a row join, equal runs of rows join.
        Values without a colour are left out."""
        found: dict[int, list[Rect]] = {value: [] for value in colours}
        open_runs: dict[tuple[int, int, int], int] = {}
        rows = values.shape[0]
        for row in range(rows + 1):
            runs = set(_runs(values[row])) if row < rows else set[tuple[int, int, int]]()
            for run in [r for r in open_runs if r not in runs]:
                first, stop, value = run
                top = open_runs.pop(run)
                if value in colours:
                    size = (stop - first) * cell, (row - top) * cell
                    found[value].append(Rect(x + first * cell, y + top * cell, *size, colours[value]))
            for run in sorted(runs):
                open_runs.setdefault(run, row)
        for rects in found.values():
            self.shapes += rects


def _runs(row: npt.NDArray[np.uint8]) -> list[tuple[int, int, int]]:
    """(first, stop, value) of each run of equal values."""
    edges = np.flatnonzero(np.diff(row)) + 1
    starts = [0, *edges.tolist()]
    return [(a, b, int(row[a])) for a, b in zip(starts, [*starts[1:], len(row)], strict=True) if b > a]
