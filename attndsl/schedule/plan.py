"""`Plan`: which tiles of q and k a kernel visits, and which of them need mask code.

A plan is concrete: sizes, scalars and the tables in the mask have values. It is compact: an axis of a
grid has its own table of ranges and axes multiply; nothing grows with the number of pairs.

Every backend consumes a `TilePass`. In the forward (and dQ) pass rows are q and columns are k; in the
`dkdv` pass rows are k and columns are q. Coordinates are those of a segment's axes; a linear sequence
is a segment of one axis. An axis that is `split` by d holds the positions of one residue class at a
time: coordinate c of residue g is the position g + d * c.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal as Lit

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]


class TileClass(IntEnum):
    """What the mask is on a box. EMPTY boxes are not in a plan."""

    PARTIAL = 1
    FULL = 2


@dataclass(frozen=True)
class AxisLayout:
    """How one axis is cut. Row tiles stand on a raster, column boxes where the ranges say.

    `extent` positions; `split` the number of residue classes (1: none); `box` coordinates per tile.
    """

    name: str
    extent: int
    box: int
    split: int = 1


@dataclass(frozen=True)
class Layout:
    """A segment's axes, row-major, and the linear position of its first token."""

    segment: str
    start: int
    axes: tuple[AxisLayout, ...]

    @property
    def box(self) -> tuple[int, ...]:
        return tuple(a.box for a in self.axes)

    @property
    def extents(self) -> tuple[int, ...]:
        return tuple(a.extent for a in self.axes)


@dataclass(frozen=True)
class AxisRanges:
    """For each row tile of an axis, the column boxes it visits on the matching axis.

    Row tile t covers coordinates [row_start[t], row_stop[t]) of residue row_residue[t]. Its ranges are
    entries indptr[t]..indptr[t+1] of `first` (coordinate of the first box's first element; may lie
    outside [0, extent), whose elements are then invisible), `count` (boxes, one after another), `residue`
    (of the column positions) and `kind` (a TileClass). Ranges of a row tile never overlap.
    """

    row_start: Ints
    row_stop: Ints
    row_residue: Ints
    indptr: Ints
    first: Ints
    count: Ints
    residue: Ints
    kind: npt.NDArray[np.uint8]

    @property
    def tiles(self) -> int:
        return len(self.row_start)

    @property
    def nbytes(self) -> int:
        return sum(a.nbytes for a in vars(self).values())


@dataclass(frozen=True)
class Product:
    """Axes multiply: a row tile's boxes are the product of its axes' boxes, FULL where all are."""

    axes: tuple[AxisRanges, ...]


@dataclass(frozen=True)
class Blocks:
    """A list of boxes per row tile, for masks whose axes do not separate.

    Row tiles are row-major over the row layout's axes; boxes of row tile t are indptr[t]..indptr[t+1] of
    `first` [n, axes] (coordinates of the first element, on the raster) and `kind`.
    """

    indptr: Ints
    first: Ints
    kind: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Hull:
    """One run of boxes per row tile, all PARTIAL: what is left for masks without structure that are too large
    to look at box by box. Row tile t visits boxes [first[t], first[t] + count[t]) of the linear raster."""

    first: Ints
    count: Ints


Source = Product | Blocks | Hull


@dataclass(frozen=True)
class Piece:
    """The boxes between one row segment and one column segment.

    `class_of` [Bc, Hc] (Bc in {1, B}, Hc in {1, H}) selects a source per batch and head.
    """

    rows: Layout
    cols: Layout
    class_of: Ints
    sources: tuple[Source, ...]


@dataclass(frozen=True)
class BoxRun:
    """One row tile and one run of column boxes, as `TilePass.runs` yields them.

    Boxes of a run are the product over axes of `count` boxes starting at `first`, all of class `kind`.
    """

    row_start: tuple[int, ...]
    row_stop: tuple[int, ...]
    row_residue: tuple[int, ...]
    first: tuple[int, ...]
    count: tuple[int, ...]
    residue: tuple[int, ...]
    kind: TileClass


@dataclass(frozen=True)
class TilePass:
    """One sweep over tiles: `forward` (also dQ) or `dkdv`."""

    kind: Lit["forward", "dkdv"]
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Bounds:
    """What limits the work: visible `pairs` over the dense ones (None where not counted exactly), and the tiles
    (visited area over dense area, mean and worst row tile)."""

    dense_over_pairs: float | None
    dense_over_tiles: float
    boxes_mean: float
    boxes_worst: int


@dataclass(frozen=True)
class Plan:
    """The schedule of one call.

    `visited`, `full`, `partial`, `total` count the boxes of the forward pass over the distinct batch and head
    classes. `exact`: every PARTIAL box has a visible and an invisible pair and no visited box is empty.
    `reasons` says in words what was found and why something is not exact.
    """

    forward: TilePass
    dkdv: TilePass
    visited: int
    full: int
    partial: int
    total: int
    exact: bool
    bounds: Bounds
    reasons: tuple[str, ...]
    closed_form: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all tables."""
        raise NotImplementedError


def runs(source: Source, piece: Piece, tile: int) -> Iterator[BoxRun]:
    """The runs of one row tile."""
    raise NotImplementedError
