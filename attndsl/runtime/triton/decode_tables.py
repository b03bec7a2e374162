"""The boxes of few rows as the decode kernel reads them: heads that share keys share a list, and lists are split."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from attndsl.codegen.triton_form import PieceForm, SideForm
from attndsl.runtime.triton.locate import Located
from attndsl.runtime.triton.tables import LaunchTables, PieceTables

Ints = npt.NDArray[np.int32]


@dataclass(frozen=True)
class DecodeTables:
    """Tables of one launch. `rows` [tiles, start, stop(, residue)] positions of a row tile, at most `most_rows`;
    `bounds` [classes, tiles, 4]: where FULL entries begin, PARTIAL ones begin, they end in `boxes`, and how many boxes
    they are; `boxes` [n, first(, count)(, residue)(, boxes before it)]; `class_of` [1|B, 1|Hkv]."""

    q: SideForm
    piece: PieceForm
    box: int
    split_q: int
    split_k: int
    rows: Ints
    bounds: Ints
    boxes: Ints
    class_of: Ints

    @property
    def tiles(self) -> int:
        return len(self.rows)

    @cached_property
    def most_rows(self) -> int:
        """Positions of the row tile that has most."""
        return int((self.rows[:, 1] - self.rows[:, 0]).max(initial=1))

    @cached_property
    def most_boxes(self) -> int:
        """Boxes of the longest list."""
        return int(self.bounds[:, :, 3].max(initial=0))


def known_of(located: Located) -> DecodeTables:
    """What the host knows of tables that every call makes on the device."""
    sizes, tables = located.sizes, located.tables
    start = np.arange(sizes.tiles, dtype=np.int32) * sizes.height
    rows = np.stack([start, np.minimum(start + sizes.height, sizes.rows)], axis=1).astype(np.int32)
    (piece,) = tables.pieces
    return DecodeTables(
        tables.q, piece.form, sizes.box, 1, 1, rows, np.full((1, 1, 4), sizes.lists, np.int32),
        np.zeros((0, 1), np.int32), piece.class_of,
    )  # fmt: skip


@dataclass(frozen=True)
class _Entries:
    """Runs of boxes, [n] each; FULL ones first."""

    first: Ints
    count: Ints
    residue: Ints
    full: npt.NDArray[np.bool_]


def decode_tables(tables: LaunchTables, batches: int, heads: int, group: int, sure: int | None) -> DecodeTables:
    """The tables of a launch over one segment of keys on a line, for `group` heads to a head of keys.

    FULL boxes that reach past `sure` become PARTIAL: the plan was made for as many keys or more.
    """
    (piece,) = tables.pieces
    (box,) = piece.box
    lists = _lists(piece, tables.tiles)
    if sure is not None:
        lists = [[_demoted(e, box, sure) for e in of_class] for of_class in lists]
    sets, class_of = _sets(piece.class_of, batches, heads, group)
    merged = [[_union([lists[c][t] for c in s], box) for t in range(tables.tiles)] for s in sets]
    flat = piece.form.flat
    split = piece.form.side.any_split
    bounds = np.zeros((len(merged), tables.tiles, 4), np.int64)
    parts: list[npt.NDArray[Any]] = []
    done = 0
    for i, of_set in enumerate(merged):
        for t, e in enumerate(of_set):
            e = _one_by_one(e, box) if flat else e
            total = int(e.count.sum())
            bounds[i, t] = (done, done + int(e.full.sum()), done + len(e.first), total)
            done += len(e.first)
            columns = [e.first]
            columns += [] if flat else [e.count]
            columns += [e.residue] if split else []
            columns += [] if flat else [np.cumsum(e.count) - e.count]
            parts.append(np.stack(columns, axis=1))
    return DecodeTables(
        tables.q, piece.form, box, tables.splits[0], piece.splits[0], tables.rows, bounds.astype(np.int32),
        np.concatenate(parts).astype(np.int32), class_of,
    )  # fmt: skip


def _lists(piece: PieceTables, tiles: int) -> list[list[_Entries]]:
    """The entries of every class and row tile."""
    columns = piece.boxes.T
    first = columns[0]
    count = np.ones_like(first) if piece.form.flat else columns[1]
    residue = columns[-1] if piece.form.side.any_split else np.zeros_like(first)
    found: list[list[_Entries]] = []
    for of_class in piece.bounds:
        own: list[_Entries] = []
        for t in range(tiles):
            begin, middle, end = map(int, of_class[t])
            here = slice(begin, end)
            own.append(_Entries(first[here], count[here], residue[here], np.arange(begin, end) < middle))
        found.append(own)
    return found


def _demoted(e: _Entries, box: int, sure: int) -> _Entries:
    """Boxes that reach past `sure` as PARTIAL."""
    fit = np.clip((sure - e.first) // box, 0, e.count)
    cut = e.full & (fit < e.count)
    if not cut.any():
        return e
    kept = replace(e, count=np.where(cut, fit, e.count).astype(np.int32))
    rest = _Entries(
        (e.first + fit * box)[cut], (e.count - fit)[cut], e.residue[cut], np.zeros(int(cut.sum()), np.bool_)
    )  # fmt: skip
    return _ordered([kept, rest])


def _ordered(several: list[_Entries]) -> _Entries:
    """All entries that hold boxes, FULL ones first."""
    first, count, residue, full = (
        np.concatenate([getattr(e, n) for e in several]) for n in ("first", "count", "residue", "full")
    )
    order = np.flatnonzero(count)
    order = order[np.argsort(~full[order], kind="stable")]
    return _Entries(first[order], count[order], residue[order], full[order])


def _sets(class_of: Ints, batches: int, heads: int, group: int) -> tuple[list[tuple[int, ...]], Ints]:
    """The sets of classes that the heads of a group have, and the set of every batch and group, [1|B, 1|Hkv]."""
    if class_of.shape[1] == 1:
        sets = [(c,) for c in range(int(class_of.max(initial=0)) + 1)]
        return sets, class_of
    numbers: dict[tuple[int, ...], int] = {}
    grouped = class_of.reshape(class_of.shape[0], heads // group, group)
    found = np.zeros(grouped.shape[:2], np.int32)
    for at in np.ndindex(*found.shape):
        members = tuple(sorted(set(map(int, grouped[at]))))
        found[at] = numbers.setdefault(members, len(numbers))
    return list(numbers), found


def _union(members: list[_Entries], box: int) -> _Entries:
    """What any of several lists visits, each key once; PARTIAL where the lists differ."""
    if len(members) == 1:
        return members[0]
    first, count, residue = (np.concatenate([getattr(e, n) for e in members]) for n in ("first", "count", "residue"))
    starts: list[int] = []
    counts: list[int] = []
    residues: list[int] = []
    for i in np.lexsort((first, residue)):
        start, stop = int(first[i]), int(first[i] + count[i] * box)
        if starts and residues[-1] == residue[i] and start <= starts[-1] + counts[-1] * box:
            counts[-1] = max(counts[-1], -(-(stop - starts[-1]) // box))
        else:
            starts.append(start)
            counts.append(int(count[i]))
            residues.append(int(residue[i]))
    a, b, c = (np.asarray(x, np.int32) for x in (starts, counts, residues))
    return _Entries(a, b, c, np.zeros(len(starts), np.bool_))


def _one_by_one(e: _Entries, box: int) -> _Entries:
    """Every box as an entry."""
    source = np.repeat(np.arange(len(e.count)), e.count)
    nth = np.arange(len(source)) - np.repeat(np.cumsum(e.count) - e.count, e.count)
    return _Entries(
        (e.first[source] + nth * box).astype(np.int32), np.ones(len(source), np.int32), e.residue[source],
        e.full[source],
    )  # fmt: skip


def joined(tables: DecodeTables) -> tuple[Ints, dict[str, tuple[int, int]]]:
    """All tables in one array, each at a multiple of 32 elements, and where."""
    parts = {"rows": tables.rows, "bounds": tables.bounds, "boxes": tables.boxes, "classes": tables.class_of}
    places: dict[str, tuple[int, int]] = {}
    at = 0
    for name, part in parts.items():
        # a view of nothing has no address
        places[name] = (at, at + max(part.size, 1))
        at += -(-max(part.size, 1) // 32) * 32
    whole = np.zeros(at, np.int32)
    for name, part in parts.items():
        begin, _ = places[name]
        whole[begin : begin + part.size] = part.ravel()
    return whole, places
