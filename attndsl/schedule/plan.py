"""`Plan`: which tiles of q and k a kernel visits, and which of them need mask code.

A plan is concrete: sizes, scalars and the tables in the mask have values. It is compact: an axis of a
grid has its own table of ranges and axes multiply; nothing grows with the number of pairs.

Every backend consumes a `TilePass`. In the forward (and dQ) pass rows are q and columns are k; in the
`dkdv` pass rows are k and columns are q. Coordinates are those of a segment's axes; a linear sequence
is a segment of one axis. An axis that is `split` by d holds the positions of one residue class at a
time: coordinate c of residue g is the position g + d * c.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from itertools import product
from math import prod
from typing import Any
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
        """Bytes held; residues of an axis without a split are one shared zero."""
        return sum(a.nbytes for a in vars(self).values() if a.ndim == 0 or a.strides[0])

    @cached_property
    def boxes(self) -> Ints:
        """Boxes of each row tile."""
        return _per_tile(self.indptr, self.count)

    @cached_property
    def full(self) -> Ints:
        """FULL boxes of each row tile."""
        return _per_tile(self.indptr, np.where(self.kind == TileClass.FULL, self.count, 0))

    def of(self, tile: int) -> slice:
        """The entries of one row tile."""
        return slice(int(self.indptr[tile]), int(self.indptr[tile + 1]))


def _per_tile(indptr: Ints, values: npt.NDArray[Any]) -> Ints:
    sums = np.concatenate(([0], np.cumsum(values, dtype=np.int64)))
    return (sums[indptr[1:]] - sums[indptr[:-1]]).astype(np.int32)


@dataclass(frozen=True)
class Product:
    """Axes multiply: a row tile's boxes are the product of its axes' boxes, FULL where all are.

    With `masked` the axes alone do not decide: no box is FULL, whatever the axes say.
    """

    axes: tuple[AxisRanges, ...]
    masked: bool = False

    @property
    def nbytes(self) -> int:
        return sum(a.nbytes for a in self.axes)

    @property
    def visited(self) -> int:
        """Boxes of all row tiles."""
        return prod(int(a.count.sum(dtype=np.int64)) for a in self.axes)

    @property
    def full(self) -> int:
        """FULL boxes of all row tiles."""
        return 0 if self.masked else prod(int(a.full.sum(dtype=np.int64)) for a in self.axes)

    @property
    def most(self) -> int:
        """Boxes of the row tile that has most."""
        return prod(int(a.boxes.max(initial=0)) for a in self.axes)


@dataclass(frozen=True)
class Blocks:
    """A list of boxes per row tile, for masks whose axes do not separate.

    Row tiles are row-major over the row layout's axes; the entries of row tile t are indptr[t]..indptr[t+1]. An
    entry is a run of `count` boxes of one class along the last axis: `first` [n, axes] is the first element of its
    first box, on the raster.
    """

    indptr: Ints
    first: Ints
    count: Ints
    kind: npt.NDArray[np.uint8]

    @property
    def nbytes(self) -> int:
        return self.indptr.nbytes + self.first.nbytes + self.count.nbytes + self.kind.nbytes

    @property
    def visited(self) -> int:
        """Boxes of all row tiles."""
        return int(self.count.sum(dtype=np.int64))

    @property
    def full(self) -> int:
        """FULL boxes of all row tiles."""
        return int(self.count[self.kind == TileClass.FULL].sum(dtype=np.int64))

    @property
    def most(self) -> int:
        """Boxes of the row tile that has most."""
        return int(_per_tile(self.indptr, self.count).max(initial=0))


Source = Product | Blocks


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
    """One sweep over tiles: `forward` (also dQ) or `dkdv`. Pieces cover different rows or columns.

    `exact`: every PARTIAL box has a visible and an invisible pair and no visited box is empty.
    """

    kind: Lit["forward", "dkdv"]
    pieces: tuple[Piece, ...]
    exact: bool = False

    @property
    def nbytes(self) -> int:
        return sum(s.nbytes for p in self.pieces for s in p.sources)

    @property
    def visited(self) -> int:
        """Boxes over the distinct batch and head classes."""
        return sum(s.visited for p in self.pieces for s in p.sources)

    @property
    def full(self) -> int:
        """FULL boxes over the distinct batch and head classes."""
        return sum(s.full for p in self.pieces for s in p.sources)


@dataclass(frozen=True)
class Bounds:
    """What limits the work, as factors over dense attention: the visible pairs (counted in evenly spaced rows
    where there are many, None where they were not counted)
    and the area of the visited tiles; and boxes of the mean and the worst row tile of the forward pass."""

    dense_over_pairs: float | None
    dense_over_tiles: float
    boxes_mean: float
    boxes_worst: int


@dataclass(frozen=True)
class Plan:
    """The schedule of one call.

    `total` counts the boxes that a dense forward pass would visit, over the distinct batch and head classes.
    `reasons` says in words what was found and why the forward pass is not exact; `closed_form` how the visible
    columns follow from the row.
    """

    forward: TilePass
    total: int
    reasons: tuple[str, ...]
    closed_form: tuple[str, ...]
    make_dkdv: Callable[[], TilePass] = field(repr=False, compare=False)
    make_bounds: Callable[[TilePass], Bounds] = field(repr=False, compare=False)
    make_tiled: Callable[[Any], Plan] | None = field(default=None, repr=False, compare=False)
    make_whole: Callable[[], Plan] | None = field(default=None, repr=False, compare=False)
    _tiled: dict[Any, Plan] = field(default_factory=dict[Any, "Plan"], repr=False, compare=False, init=False)

    def tiled(self, tiling: Any) -> Plan:
        """The same pairs in the boxes of a `Tiling`, made when first asked for; this plan where it cannot be cut
        anew."""
        if self.make_tiled is None:
            return self
        if tiling not in self._tiled:
            self._tiled[tiling] = self.make_tiled(tiling)
        return self._tiled[tiling]

    @cached_property
    def whole(self) -> Plan:
        """The same pairs in boxes of axes that no residue splits: this plan where none does."""
        return self if self.make_whole is None else self.make_whole()

    @cached_property
    def dkdv(self) -> TilePass:
        """The backward sweep: the same pairs, each once, rows k and columns q. Made when first asked for."""
        return self.make_dkdv()

    @cached_property
    def bounds(self) -> Bounds:
        """What limits the work; counting the pairs takes longer than the plan."""
        return self.make_bounds(self.forward)

    @property
    def exact(self) -> bool:
        """Whether the forward pass is; the backward one says it of itself."""
        return self.forward.exact

    @property
    def visited(self) -> int:
        return self.forward.visited

    @property
    def full(self) -> int:
        return self.forward.full

    @property
    def partial(self) -> int:
        return self.visited - self.full

    @property
    def nbytes(self) -> int:
        """Bytes of the tables of both passes."""
        return self.forward.nbytes + self.dkdv.nbytes


def row_tile_count(piece: Piece, source: Source) -> int:
    """Row tiles of a piece."""
    if isinstance(source, Product):
        return prod(a.tiles for a in source.axes)
    return len(source.indptr) - 1


def runs(source: Source, piece: Piece, tile: int) -> Iterator[BoxRun]:
    """The runs of row tile `tile`; row tiles count row-major over the axes' tiles."""
    if isinstance(source, Product):
        yield from _product_runs(source, tile)
    else:
        yield from _block_runs(source, piece, tile)


def _product_runs(source: Product, tile: int) -> Iterator[BoxRun]:
    at = np.unravel_index(tile, [a.tiles for a in source.axes])
    axes = [(a, int(t)) for a, t in zip(source.axes, at, strict=True)]
    start = tuple(int(a.row_start[t]) for a, t in axes)
    stop = tuple(int(a.row_stop[t]) for a, t in axes)
    residue = tuple(int(a.row_residue[t]) for a, t in axes)
    for entries in product(*(range(a.indptr[t], a.indptr[t + 1]) for a, t in axes)):
        picked = [(a, e) for (a, _), e in zip(axes, entries, strict=True)]
        full = not source.masked and all(a.kind[e] == TileClass.FULL for a, e in picked)
        yield BoxRun(
            start,
            stop,
            residue,
            tuple(int(a.first[e]) for a, e in picked),
            tuple(int(a.count[e]) for a, e in picked),
            tuple(int(a.residue[e]) for a, e in picked),
            TileClass.FULL if full else TileClass.PARTIAL,
        )


def _block_runs(source: Blocks, piece: Piece, tile: int) -> Iterator[BoxRun]:
    axes = piece.rows.axes
    at = np.unravel_index(tile, [-(-a.extent // a.box) for a in axes])
    start = tuple(int(t) * a.box for t, a in zip(at, axes, strict=True))
    stop = tuple(min(s + a.box, a.extent) for s, a in zip(start, axes, strict=True))
    none, ones = (0,) * len(axes), (1,) * (len(axes) - 1)
    for entry in range(source.indptr[tile], source.indptr[tile + 1]):
        first = tuple(int(c) for c in source.first[entry])
        count = (*ones, int(source.count[entry]))
        yield BoxRun(start, stop, none, first, count, none, TileClass(int(source.kind[entry])))
