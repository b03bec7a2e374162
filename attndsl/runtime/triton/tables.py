"""A plan as the tables that a kernel reads: rows of tiles, and for every tile its FULL and PARTIAL boxes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from attndsl.codegen.expr_triton import UnsupportedError
from attndsl.codegen.triton_form import FULL_SPANS, PARTIAL_SPANS, PieceForm, SideForm
from attndsl.ir.evaluate import Env, evaluate
from attndsl.ir.expr import Index, Search
from attndsl.ir.types import INT
from attndsl.schedule.plan import AxisRanges, Blocks, Layout, Piece, Plan, Product, Source, TileClass

Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
PARTIAL_COST = 1.3
SKEW = 4.0
"""A tile that takes this many times the mean would run alone at the end, did it not begin first."""
RUN_LENGTH = 4
"""Runs of fewer boxes than this on average are listed box by box."""


@dataclass(frozen=True)
class Candidates:
    """Boxes of a list that may be visited: which are, and their classes, only the device knows. `listed` [kinds] is the
    list that a kind of batches and heads takes them from, `place` [kinds] what is added to a place in that list to get
    one in the list of the kind, `count` the length of all kinds' lists."""

    listed: Ints
    place: Ints
    count: int

    @property
    def kinds(self) -> int:
        return len(self.listed)


@dataclass(frozen=True)
class PieceTables:
    """`bounds` [classes, tiles, form.numbers]: where a tile's FULL boxes begin, its PARTIAL ones begin, and they end in
    `boxes` [n, first... | first count, residues...]; or spans, and no `boxes`. `class_of` [1|B, 1|H].

    A span is a run of boxes. Boxes count from 0, those of FULL spans first; box i of a span starts at i * box + origin.
    With `candidates` boxes are those that may be visited, FULL where all conditions that the host knows hold.
    """

    form: PieceForm
    box: tuple[int, ...]
    start: int
    splits: tuple[int, ...]
    bounds: Ints
    boxes: Ints
    class_of: Ints
    candidates: Candidates | None = None

    @cached_property
    def begins_even(self) -> bool:
        """Whether all boxes begin at multiples of four of the last axis, and so does their segment. None do where a box
        has less than 128 bytes of such numbers: boxes side by side are not aligned for TMA then."""
        if prod(self.box) < 32:
            return False
        last = len(self.form.side.axes) - 1
        if self.form.spans:
            edges = FULL_SPANS + PARTIAL_SPANS
            begin = self.bounds[..., edges : 2 * edges]
        else:
            begin = self.boxes[:, last]
        return self.start % 4 == 0 and self.box[-1] % 4 == 0 and not np.any(begin % 4)

    @property
    def middle_and_end(self) -> tuple[Ints, Ints]:
        """Where PARTIAL boxes begin and where they end, [classes, tiles]."""
        middle, end = (FULL_SPANS - 1, FULL_SPANS + PARTIAL_SPANS - 1) if self.form.spans else (1, 2)
        return self.bounds[..., middle], self.bounds[..., end]


@dataclass(frozen=True)
class LaunchTables:
    """One kernel launch: the tiles of a q segment. `rows` [tiles, start... stop... (residue...)], `order` the tiles,
    longest first, `skewed` where some are far longer than most. `searches` [Lq] are places in sorted tensors, for every
    row. `work` [tiles] is what boxes cost of pieces that are not `listed`, in columns; `base` the same in the unit of
    what the device finds. With `whole`, that launch begins with these tiles but for the last ones, which `rows` and
    bounds are of alone, and its order ends with theirs. `known_bare` is `bare` where whoever made them knows it."""

    q: SideForm
    box: tuple[int, ...]
    start: int
    splits: tuple[int, ...]
    rows: Ints
    order: Ints
    pieces: tuple[PieceTables, ...]
    on_grid: bool
    searches: tuple[Ints, ...] = ()
    skewed: bool = False
    work: npt.NDArray[np.float64] | None = None
    base: Ints | None = None
    whole: LaunchTables | None = None
    known_bare: bool | None = field(default=None, compare=False)

    @property
    def tiles(self) -> int:
        return len(self.order)

    @property
    def complete(self) -> LaunchTables:
        """The same with all tiles, where `whole` has most of them."""
        if self.whole is None:
            return self
        same = self.tiles - len(self.rows)
        pieces = tuple(
            replace(p, bounds=np.concatenate([w.bounds[:, :same], p.bounds], axis=1))
            for w, p in zip(self.whole.pieces, self.pieces, strict=True)
        )
        return replace(self, rows=np.concatenate([self.whole.rows[:same], self.rows]), pieces=pieces, whole=None)

    @cached_property
    def kind(self) -> Hashable:
        """Equal for tables that kernels take as one another's: but for numbers, they are alike."""
        pieces = tuple((p.form, p.box, p.splits, p.class_of.shape, p.candidates is None) for p in self.pieces)
        return self.q, self.box, self.splits, self.on_grid, self.bare, len(self.searches), pieces

    @cached_property
    def bare(self) -> bool:
        """Whether all boxes are FULL."""
        if self.known_bare is not None:
            return self.known_bare
        return all(p.candidates is None and np.array_equal(*p.middle_and_end) for p in self.pieces)

    def begin_even(self, extents: Mapping[str, tuple[int, ...]]) -> bool:
        """Whether all boxes, in tensors of a number for every position, begin at multiples of four numbers. `extents`
        are those of the grids that boxes lie on."""
        whole = self.whole is None or self.whole.begin_even(extents)
        return whole and all(p.begins_even and self._even_lines(p.form.side, extents) for p in self.pieces)

    def _even_lines(self, side: SideForm, extents: Mapping[str, tuple[int, ...]]) -> bool:
        return len(side.axes) == 1 or extents[side.segment][-1] % 4 == 0

    @property
    def nbytes(self) -> int:
        """Bytes that go to the device."""
        own = self.rows.nbytes + self.order.nbytes + sum(s.nbytes for s in self.searches)
        return own + sum(p.bounds.nbytes + p.boxes.nbytes + p.class_of.nbytes for p in self.pieces)


@dataclass(frozen=True)
class QSegment:
    """A segment of the rows: its name, first position and length."""

    name: str
    start: int
    length: int


def launches(
    plan: Plan,
    segments: Sequence[QSegment],
    rows_per_tile: int,
    on_grid: bool,
    *,
    spans: bool = False,
    turned: bool = False,
    listed: Callable[[Piece], bool] = lambda _: False,
) -> tuple[LaunchTables, ...]:
    """The launches of a forward pass, or with `turned` of the sweep whose rows are keys (`segments` are those of k). A
    segment that sees nothing gets tiles of `rows_per_tile` rows without boxes.

    With `spans` tiles of few runs of boxes have them told by spans; pieces that are to be `listed` list every box.
    A tile of rows visits all segments of columns: where residues split its axes for some of them alone, none is split.
    """
    by_segment = _by_segment(plan, turned)
    if any(len({_splits(piece) for piece in pieces}) > 1 for pieces in by_segment.values()):
        by_segment = _by_segment(plan.whole, turned)
    found: list[LaunchTables] = []
    for s in segments:
        if s.length == 0:
            continue
        pieces = by_segment.get(s.name)
        found.append(_bare(s, rows_per_tile) if pieces is None else _launch(pieces, on_grid, spans, listed))
    return tuple(found)


def _by_segment(plan: Plan, turned: bool) -> dict[str, list[Piece]]:
    """The pieces of a sweep by the segment of their rows."""
    found: dict[str, list[Piece]] = {}
    for piece in (plan.dkdv if turned else plan.forward).pieces:
        found.setdefault(piece.rows.segment, []).append(piece)
    return found


def _splits(piece: Piece) -> tuple[int, ...]:
    """Residue classes of the rows' axes."""
    return tuple(piece.rows.axes[i].split for i in _real(piece.rows))


def _bare(segment: QSegment, box: int) -> LaunchTables:
    start = np.arange(0, segment.length, box, dtype=np.int32)
    rows = np.stack([start, np.minimum(start + box, segment.length)], axis=1).astype(np.int32)
    order = np.arange(len(rows), dtype=np.int32)
    side = SideForm("", ("0",), (False,))
    return LaunchTables(side, (box,), segment.start, (1,), rows, order, (), False)


def _launch(pieces: Sequence[Piece], on_grid: bool, spans: bool, listed: Callable[[Piece], bool]) -> LaunchTables:
    first = pieces[0]
    keep = _real(first.rows)
    splits = _splits(first)
    rows = _rows(first, keep)
    cost, work = np.zeros((2, len(rows)))
    made: list[PieceTables] = []
    for piece in pieces:
        own = _real(piece.rows)
        if not np.array_equal(_rows(piece, own), rows):
            raise UnsupportedError("tiles of rows that differ between segments of keys")
        tables, share = _piece(piece, spans, listed(piece))
        made.append(tables)
        cost += share
        if not listed(piece):
            work += share
    side = SideForm(first.rows.segment, tuple(first.rows.axes[i].name for i in keep), tuple(s > 1 for s in splits))
    box = tuple(first.rows.axes[i].box for i in keep)
    order = np.argsort(-cost, kind="stable").astype(np.int32)
    skewed = bool(cost.max(initial=0.0) > SKEW * cost.mean()) if cost.size else False
    return LaunchTables(
        side, box, first.rows.start, splits, rows, order, tuple(made), on_grid, skewed=skewed, work=work
    )  # fmt: skip


def _real(layout: Layout) -> list[int]:
    """Axes that are not there only to match the other side's."""
    return [i for i, a in enumerate(layout.axes) if not a.name.startswith("#")]


def _rows(piece: Piece, keep: Sequence[int]) -> Ints:
    """[tiles, start... stop... (residue...)] of the real axes."""
    axes = [_tiles_of_axis(piece, i) for i in range(len(piece.rows.axes))]
    counts = [len(a[0]) for a in axes]
    at = np.unravel_index(np.arange(prod(counts)), counts)
    columns = [axes[i][0][at[i]] for i in keep] + [axes[i][1][at[i]] for i in keep]
    if any(piece.rows.axes[i].split > 1 for i in keep):
        columns += [axes[i][2][at[i]] for i in keep]
    return np.stack(columns, axis=1).astype(np.int32)


def _tiles_of_axis(piece: Piece, i: int) -> tuple[Longs, Longs, Longs]:
    """Start, stop and residue of the row tiles of an axis."""
    for source in piece.sources:
        if isinstance(source, Product):
            a = source.axes[i]
            return a.row_start.astype(np.int64), a.row_stop.astype(np.int64), np.asarray(a.row_residue, np.int64)
    axis = piece.rows.axes[i]
    start = np.arange(0, axis.extent, axis.box, dtype=np.int64)
    return start, np.minimum(start + axis.box, axis.extent), np.zeros_like(start)


def _piece(piece: Piece, by_spans: bool, listed: bool) -> tuple[PieceTables, npt.NDArray[np.float64]]:
    keep = _real(piece.cols)
    layout = [piece.cols.axes[i] for i in keep]
    splits = tuple(a.split for a in layout)
    tiles = len(_rows(piece, _real(piece.rows)))
    steps = tuple(a.box for a in layout)
    side = SideForm(piece.cols.segment, tuple(a.name for a in layout), tuple(s > 1 for s in splits))
    lists: list[_Entries] = []
    spans: list[Longs] | None = None
    flat = listed or len(layout) > 1
    if not flat:
        lists = [_entries(s, piece, tiles, False) for s in piece.sources]
        spans = _all_spans(lists, tiles, steps[-1], keep[0], side.any_split) if by_spans else None
        flat = spans is None and _short_runs(piece.sources)
    if flat:
        lists = [_entries(s, piece, tiles, True) for s in piece.sources]
    cost = np.zeros(tiles)
    for found in lists:
        weight = found.count * np.where(found.full, 1.0, PARTIAL_COST)
        cost += np.bincount(found.tile, weights=weight, minlength=tiles) / len(lists)
    if spans is None:
        bounds, boxes = _listed(lists, tiles, keep, flat, side.any_split)
    else:
        bounds, boxes = np.stack(spans), np.zeros((0, 1), np.int64)
    tables = PieceTables(
        PieceForm(side, flat, spans is not None), steps, piece.cols.start, splits,
        bounds.astype(np.int32), boxes.astype(np.int32), piece.class_of.astype(np.int32),
    )  # fmt: skip
    return tables, cost * prod(steps)


def _listed(lists: Sequence[_Entries], tiles: int, keep: Sequence[int], flat: bool, split: bool) -> tuple[Longs, Longs]:
    """`bounds` and `boxes` of lists of boxes or runs."""
    bounds = np.zeros((len(lists), tiles, 3), np.int64)
    boxes: list[Longs] = []
    done = 0
    for i, found in enumerate(lists):
        order = np.lexsort((~found.full, found.tile))
        counts = np.bincount(found.tile, minlength=tiles)
        full = np.bincount(found.tile[found.full], minlength=tiles)
        begin = done + np.cumsum(counts) - counts
        bounds[i] = np.stack([begin, begin + full, begin + counts], axis=1)
        done += len(found.tile)
        columns = [found.first[order][:, keep]]
        if not flat:
            columns.append(found.count[order][:, None])
        if split:
            columns.append(found.residue[order][:, keep])
        boxes.append(np.concatenate(columns, axis=1))
    return bounds, np.concatenate(boxes)


def _all_spans(lists: Sequence[_Entries], tiles: int, step: int, axis: int, split: bool) -> list[Longs] | None:
    """The spans of every class; None where a tile has too many."""
    found = [_spans(entries, tiles, step, axis, split) for entries in lists]
    return None if any(s is None for s in found) else [s for s in found if s is not None]


def _spans(found: _Entries, tiles: int, step: int, axis: int, split: bool) -> Longs | None:
    """[tiles, ends of spans..., origins of spans..., (residue)]."""
    full = np.bincount(found.tile[found.full], minlength=tiles)
    counts = np.bincount(found.tile, minlength=tiles)
    if full.max(initial=0) > FULL_SPANS or (counts - full).max(initial=0) > PARTIAL_SPANS:
        return None
    order = np.lexsort((found.first[:, axis], ~found.full, found.tile))
    tile = found.tile[order]
    rank = np.arange(len(tile)) - (np.cumsum(counts) - counts)[tile]
    slot = np.where(found.full[order], rank, rank - full[tile] + FULL_SPANS)
    lengths, firsts = np.zeros((2, tiles, FULL_SPANS + PARTIAL_SPANS), np.int64)
    lengths[tile, slot] = found.count[order]
    firsts[tile, slot] = found.first[order, axis]
    ends = np.cumsum(lengths, axis=1)
    parts = [ends, firsts - (ends - lengths) * step]
    if split:
        residue = np.zeros((tiles, 1), np.int64)
        residue[tile, 0] = found.residue[order, axis]
        if np.any(residue[tile, 0] != found.residue[order, axis]):
            return None
        parts.append(residue)
    return np.concatenate(parts, axis=1)


def _short_runs(sources: Sequence[Source]) -> bool:
    runs = sum(len(s.count) if isinstance(s, Blocks) else len(s.axes[-1].count) for s in sources)
    boxes = sum(int(s.count.sum()) if isinstance(s, Blocks) else int(s.axes[-1].count.sum()) for s in sources)
    return are_short(runs, boxes)


def are_short(runs: int, boxes: int) -> bool:
    """Whether so many runs of so many boxes are listed box by box."""
    return boxes < RUN_LENGTH * runs


@dataclass(frozen=True)
class _Entries:
    """Runs of boxes along the last axis (single boxes where flat), in no order: [n], [n, axes]."""

    tile: Longs
    first: Longs
    residue: Longs
    count: Longs
    full: npt.NDArray[np.bool_]


def _entries(source: Source, piece: Piece, tiles: int, flat: bool) -> _Entries:
    steps = [a.box for a in piece.cols.axes]
    if isinstance(source, Blocks):
        tile = np.repeat(np.arange(tiles), np.diff(source.indptr))
        first = np.asarray(source.first, np.int64).reshape(len(tile), len(steps))
        found = _Entries(
            tile, first, np.zeros_like(first), source.count.astype(np.int64), source.kind == TileClass.FULL
        )  # fmt: skip
        return _boxes(found, steps[-1]) if flat else found
    whole: _Entries | None = None
    for axis, step in zip(source.axes, steps, strict=True):
        own = _axis_entries(axis)
        own = _boxes(own, step) if flat else own
        whole = own if whole is None else _crossed(whole, own, axis.tiles)
    assert whole is not None
    if source.masked:
        whole = _Entries(whole.tile, whole.first, whole.residue, whole.count, np.zeros(len(whole.tile), np.bool_))
    return whole


def _axis_entries(axis: AxisRanges) -> _Entries:
    tile = np.repeat(np.arange(axis.tiles), np.diff(axis.indptr))
    residue = np.broadcast_to(np.asarray(axis.residue, np.int64), axis.first.shape)
    return _Entries(
        tile, axis.first.astype(np.int64)[:, None], residue[:, None], axis.count.astype(np.int64),
        axis.kind == TileClass.FULL,
    )  # fmt: skip


def _boxes(runs: _Entries, step: int) -> _Entries:
    """Every box as an entry."""
    source = np.repeat(np.arange(len(runs.count)), runs.count)
    nth = np.arange(len(source)) - np.repeat(np.cumsum(runs.count) - runs.count, runs.count)
    first = runs.first[source].copy()
    first[:, -1] += nth * step
    ones = np.ones(len(source), np.int64)
    return _Entries(runs.tile[source], first, runs.residue[source], ones, runs.full[source])


def _crossed(a: _Entries, b: _Entries, tiles_b: int) -> _Entries:
    """Entries of the product of two axes: every pair of tiles, every pair of their entries."""
    tiles_a = int(a.tile.max(initial=-1)) + 1
    n_a, n_b = np.bincount(a.tile, minlength=tiles_a), np.bincount(b.tile, minlength=tiles_b)
    start_a, start_b = np.cumsum(n_a) - n_a, np.cumsum(n_b) - n_b
    pair_a, pair_b = (x.ravel() for x in np.meshgrid(np.arange(tiles_a), np.arange(tiles_b), indexing="ij"))
    counts = n_a[pair_a] * n_b[pair_b]
    pair = np.repeat(np.arange(len(counts)), counts)
    nth = np.arange(len(pair)) - np.repeat(np.cumsum(counts) - counts, counts)
    at_a = start_a[pair_a[pair]] + nth // n_b[pair_b[pair]]
    at_b = start_b[pair_b[pair]] + nth % n_b[pair_b[pair]]
    return _Entries(
        pair_a[pair] * tiles_b + pair_b[pair],
        np.concatenate([a.first[at_a], b.first[at_b]], axis=1),
        np.concatenate([a.residue[at_a], b.residue[at_b]], axis=1),
        a.count[at_a] * b.count[at_b],
        a.full[at_a] & b.full[at_b],
    )


def looked_up(
    searches: Sequence[Search], rows: int, keys: int, tables: Mapping[str, npt.NDArray[Any]]
) -> tuple[Ints, ...]:
    """The places of every row, for positions from 0 on; none where a tensor would be read outside."""
    if not searches or any(len(tables[s.tensor]) < max(rows, keys) for s in searches):
        return ()
    at = np.arange(rows)
    env = Env({Index(INT, "q"): at, Index(INT, "row"): at}, tables)
    return tuple(np.broadcast_to(evaluate(s, env), (rows,)).astype(np.int32) for s in searches)


def joined(tables: LaunchTables) -> tuple[npt.NDArray[Any], dict[tuple[str, int], tuple[int, int]]]:
    """All tables in one array, each at a multiple of 32 elements, and where: (table, piece) to (start, stop)."""
    parts: dict[tuple[str, int], Ints] = {("order", -1): tables.order, ("rows", -1): tables.rows}
    for i, p in enumerate(tables.pieces):
        parts |= {("bounds", i): p.bounds, ("boxes", i): p.boxes, ("classes", i): p.class_of}
        if p.candidates is not None:
            parts["candidates", i] = np.concatenate([p.candidates.listed, p.candidates.place])
    if tables.base is not None:
        parts["base", -1] = tables.base
    parts |= {(f"search{i}", -1): places_of_rows for i, places_of_rows in enumerate(tables.searches)}
    places: dict[tuple[str, int], tuple[int, int]] = {}
    at = 0
    for key, part in parts.items():
        # a view of nothing has no address, and loops read an entry ahead even where there is none
        places[key] = (at, at + max(part.size, 1))
        at += -(-max(part.size, 1) // 32) * 32
    whole = np.zeros(at + 32, np.int32)
    for key, part in parts.items():
        begin, _ = places[key]
        whole[begin : begin + part.size] = part.ravel()
    return whole, places
