"""Tables of calls on grids whose visible pairs only the device knows: their mask reads tensors, or scalars that are.

The host plans what it knows of the mask: its boxes are candidates, listed once for calls that are alike. Small kernels
look at these alone and write the lists that the kernels of the attention read, in places that follow from the
candidates. Nothing waits for the device, and a captured graph finds the boxes of whatever its tensors hold when it is
replayed.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate
from math import prod
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attndsl.codegen.triton import TritonModule
from attndsl.codegen.triton_classify import by_batch, by_head
from attndsl.codegen.triton_form import SideForm
from attndsl.codegen.triton_sift import SiftForm, open_conditions
from attndsl.ir.attention import Attention, Input
from attndsl.ir.expr import Expr, Load, ParamRef, walk
from attndsl.runtime.call import Call
from attndsl.runtime.triton.compilation import Wanted
from attndsl.runtime.triton.filling import Step, Steps, inputs_of, looks, placed, read
from attndsl.runtime.triton.generated import pack_module, sift_module
from attndsl.runtime.triton.launch import keep_tables
from attndsl.runtime.triton.reach import moved, wide
from attndsl.runtime.triton.sweeps import OnDevice, loaded, segments_of, uploaded
from attndsl.runtime.triton.tables import Candidates, LaunchTables, PieceTables, launches
from attndsl.schedule.build import build
from attndsl.schedule.candidates import MOST_LISTED, loosened
from attndsl.schedule.plan import Layout, Piece
from attndsl.schedule.tiling import Tiling

CHUNK = 32
"""Candidates that a program of `sift` looks at."""
PAIRS = 32
"""Columns whose pairs it looks at at once."""
PACKED = 256
RANKED = 32
FULL_COST, PARTIAL_COST = 10, 13
"""Of a box with 16 columns."""


@dataclass(frozen=True)
class SiftedPiece:
    """A piece of a launch whose boxes are sifted, and how."""

    number: int
    form: SiftForm
    module: TritonModule
    candidates: Candidates
    most: int
    """Candidates that a tile has at most."""
    look: bool

    @property
    def parts(self) -> int:
        """Programs of a tile."""
        return max(1, -(-self.most // CHUNK))


@dataclass
class Sifted:
    """A launch of calls that are alike: `known` are the tables that the host made, `places` the first elements of the
    others in the buffer that `fill` makes."""

    known: OnDevice
    pieces: tuple[SiftedPiece, ...]
    batches: int
    heads: int
    steps: Steps
    places: Mapping[str, int]
    total: int
    _streams: set[int] = field(default_factory=set[int])

    @property
    def tables(self) -> LaunchTables:
        return self.known.tables

    @property
    def named(self) -> Mapping[tuple[str, int], int]:
        """Places by the names that launches give tables."""
        found = {("order", -1): self.places["order"]}
        for p in self.pieces:
            found |= {(n, p.number): self.places[f"{n}{p.number}"] for n in ("bounds", "boxes")}
        return found

    def room(self, call: Call) -> Tensor:
        """Memory for the tables of a call."""
        return call.q.new_empty(self.total, dtype=torch.int32)

    def fill(self, call: Call, buffer: Tensor | None = None) -> Tensor:
        """The tables of a call, on its device, in the `room` that is given."""
        buffer = self.room(call) if buffer is None else buffer
        self.steps.run(call, self._values(call, buffer), self._keep)
        return buffer

    def wanted(self, call: Call, buffer: Tensor) -> list[Wanted]:
        """The kernels that `fill` is going to compile on the current device."""
        return self.steps.wanted(call, lambda: self._values(call, buffer))

    def _keep(self, stream: int) -> None:
        keep_tables(self.known.views, self._streams, stream)

    def numbers(self, p: SiftedPiece) -> dict[str, int]:
        """What the kernels of a piece are given beside tables and what a call brings, by the names of arguments."""
        tables, piece = self.tables, self.tables.pieces[p.number]
        own_side, other_side = p.form.sides
        columns = max(1, prod(piece.box) // 16)
        return {
            "tiles": tables.tiles, "kinds": self.batches * self.heads, "parts": p.parts, "class_heads": self.heads,
            "look": int(p.look), f"{own_side}_start": tables.start, f"{other_side}_start": piece.start,
            **{f"split_{own_side}_{i}": n for i, n in enumerate(tables.splits)},
            **{f"split_{other_side}_{i}": n for i, n in enumerate(piece.splits)},
            **_sizes("BM", tables.box), **_sizes("BN", piece.box),
            "CHUNK": CHUNK, "PAIRS": min(prod(piece.box), PAIRS),
            "full_cost": FULL_COST * columns, "partial_cost": PARTIAL_COST * columns,
        }  # fmt: skip

    @property
    def codes(self) -> tuple[int, ...]:
        """Where what is known of the candidates of each piece begins, and how many there are."""
        return tuple(accumulate((p.candidates.count for p in self.pieces), initial=0))

    def _values(self, call: Call, buffer: Tensor) -> list[list[Any]]:
        """The arguments of the kernels, in order."""
        *firsts, count = self.codes
        codes = call.q.new_empty(count, dtype=torch.int8)
        tables, views = self.tables, self.known.views
        found: list[list[Any]] = []
        kinds, cost = self.batches * self.heads, buffer[self.places["cost"] :]
        for nth, (p, first) in enumerate(zip(self.pieces, firsts, strict=True)):
            bounds, boxes, candidates = (views[n, p.number] for n in ("bounds", "boxes", "candidates"))
            own, known = codes[first:], self.numbers(p)
            given: dict[str, Any] = {
                **known, **{n: call.sizes[n] for n in ("H", "Hkv", "Lq", "Lk")}, "q_offset": call.q_offset,
                "codes": own, "rows": views["rows", -1], "candidates": candidates, "bounds": bounds, "boxes": boxes,
            }  # fmt: skip
            found.append(read(call, p.module.arguments, inputs_of(call, p.module.arguments), given))
            found.append([
                own, candidates, bounds, boxes, *(buffer[self.places[f"{n}{p.number}"] :] for n in ("bounds", "boxes")),
                cost[nth * kinds * tables.tiles :], tables.tiles, kinds, known["full_cost"], known["partial_cost"],
                PACKED,
            ])  # fmt: skip
        order = buffer[self.places["order"] :]
        found.append([cost, views["base", -1], order, tables.tiles, len(self.pieces) * kinds, RANKED])
        return found


def _sizes(name: str, box: tuple[int, ...]) -> dict[str, int]:
    return {name: prod(box), **{f"{name}_{i}": n for i, n in enumerate(box)}}


class Sifter:
    """The sweeps of an attention on grids whose boxes are found on the device."""

    def __init__(self, attention: Attention) -> None:
        self.attention = attention
        inputs = {p.name for p in attention.params if isinstance(p, Input)}
        nodes = list(walk(attention.mask))
        self._on_grid = attention.gridded
        self._read = frozenset(n.tensor for n in nodes if isinstance(n, Load)) & inputs
        self._scalars = frozenset(n.name for n in nodes if isinstance(n, ParamRef))
        self._known: dict[tuple[str, ...], Attention] = {}
        self._modules: dict[SiftForm, TritonModule] = {}
        self._open: dict[tuple[str, str, bool, tuple[str, ...]], bool] = {}
        self._compiled: dict[Hashable, Any] = {}
        self._lock = Lock()

    def wanted(self, call: Call) -> bool:
        """Whether the boxes of a call are found here."""
        return self._on_grid and bool(self._read or self._loaded(call)) and not moved(call)

    def sweeps(self, call: Call, rows: int, tiling: Tiling, *, turned: bool = False) -> tuple[OnDevice, ...]:
        """The launches of a sweep; `turned` with keys as rows. Segments that see nothing have tiles of `rows` rows.
        UnsupportedError names a missing feature."""
        known = self._known_of(call)
        scalars = {n: v for n, v in call.scalars.items() if not isinstance(v, Tensor)}
        problem = replace(call.problem, tables={}, scalars=scalars)
        plan = build(known, problem, tiling.tile(known, problem))
        segments = segments_of(self.attention, call, True, turned)

        def listed(piece: Piece) -> bool:
            return self._is_open(call, _side_of(piece.rows), _side_of(piece.cols), turned)

        made = launches(plan, segments, rows, True, spans=True, turned=turned, listed=listed)
        return tuple(self._launch(call, tables, turned) for tables in made)

    def _loaded(self, call: Call) -> tuple[str, ...]:
        return tuple(n for n in loaded(call) if n in self._scalars)

    def _unknown(self, call: Call, node: Expr) -> bool:
        if isinstance(node, Load):
            return node.tensor in self._read
        return isinstance(node, ParamRef) and node.name in self._loaded(call)

    def _known_of(self, call: Call) -> Attention:
        """The attention with what the host knows of its mask."""
        key = self._loaded(call)
        with self._lock:
            found = self._known.get(key)
            if found is None:
                mask = loosened(self.attention.mask, lambda n: self._unknown(call, n))
                found = self._known[key] = replace(self.attention, mask=mask)
            return found

    def _is_open(self, call: Call, rows: SideForm, columns: SideForm, turned: bool) -> bool:
        """Whether the host's plan does not settle what is visible between two segments."""
        key = rows.segment, columns.segment, turned, self._loaded(call)
        found = self._open.get(key)
        if found is None:
            form, known = SiftForm(rows, columns, turned), self._known_of(call).mask
            found = self._open[key] = bool(open_conditions(self.attention, known, form))
        return found

    def _module(self, call: Call, form: SiftForm) -> TritonModule:
        known = self._known_of(call).mask
        with self._lock:
            found = self._modules.get(form)
            if found is None:
                found = self._modules[form] = sift_module(self.attention, known, form)
            return found

    def _launch(self, call: Call, tables: LaunchTables, turned: bool) -> OnDevice:
        batches = max(call.sizes["B"], 1) if by_batch(self.attention, False) else 1
        heads = call.sizes["H"] if by_head(self.attention) else 1
        every: list[PieceTables] = []
        sifted: list[int] = []
        for piece in tables.pieces:
            if self._is_open(call, tables.q, piece.form.side, turned):
                piece, candidates = _with_candidates(piece, batches, heads)
                if candidates:
                    sifted.append(len(every))
            every.append(piece)
        tables = replace(tables, pieces=tuple(every))
        if not sifted:
            return uploaded(tables, call.q.device)
        work = np.zeros(tables.tiles) if tables.work is None else tables.work
        tables = replace(tables, base=(work * (FULL_COST / 16 * batches * heads)).astype(np.int32))
        known = uploaded(tables, call.q.device)
        pieces = tuple(self._piece(call, tables, i, turned) for i in sifted)
        kinds = batches * heads
        counts = {"order": tables.tiles, "cost": len(pieces) * kinds * tables.tiles}
        for p in pieces:
            counts[f"bounds{p.number}"] = kinds * tables.tiles * 3
            counts[f"boxes{p.number}"] = p.candidates.count * p.form.width
        places, total = placed(counts)
        steps = Steps(self.attention, _steps(tables, pieces, kinds), self._compiled)
        return OnDevice(tables, known.views, Sifted(known, pieces, batches, heads, steps, places, total))

    def _piece(self, call: Call, tables: LaunchTables, number: int, turned: bool) -> SiftedPiece:
        piece = tables.pieces[number]
        assert piece.candidates is not None
        form = SiftForm(tables.q, piece.form.side, turned, wide(call.inputs), self._loaded(call))
        most = int((piece.bounds[..., 2] - piece.bounds[..., 0]).max(initial=0))
        pairs = piece.candidates.count * prod(tables.box) * prod(piece.box)
        look = looks(pairs, piece.candidates.kinds, call)
        return SiftedPiece(number, form, self._module(call, form), piece.candidates, most, look)


def _side_of(layout: Layout) -> SideForm:
    axes = tuple(a.name for a in layout.axes if not a.name.startswith("#"))
    return SideForm(layout.segment, axes, (False,) * len(axes))


def _with_candidates(piece: PieceTables, batches: int, heads: int) -> tuple[PieceTables, bool]:
    """A piece whose boxes are sifted for so many batches and heads, and True; where their lists would be too long,
    with mask code on all boxes, and False."""
    kinds = batches * heads
    listed = np.broadcast_to(piece.class_of, (batches, heads)).reshape(kinds)
    first, stop = piece.bounds[:, 0, 0].astype(np.int64), piece.bounds[:, -1, 2].astype(np.int64)
    lengths = (stop - first)[listed]
    count = int(lengths.sum())
    if count > MOST_LISTED:
        bounds = piece.bounds.copy()
        bounds[..., 1] = bounds[..., 0]
        return replace(piece, bounds=bounds), False
    place = np.cumsum(lengths) - lengths - first[listed]
    candidates = Candidates(listed.astype(np.int32), place.astype(np.int32), count)
    class_of = np.arange(kinds, dtype=np.int32).reshape(batches, heads)
    return replace(piece, class_of=class_of, candidates=candidates), True


def _steps(tables: LaunchTables, pieces: tuple[SiftedPiece, ...], kinds: int) -> tuple[Step, ...]:
    """The kernels of a launch and their programs."""
    found: list[Step] = []
    tiles = kinds * tables.tiles
    for p in pieces:
        pack, rank = pack_module(p.form.width)
        box = tables.pieces[p.number].box
        words = f"tile {prod(tables.box)}x{prod(box)}", "the boxes of a call"
        found += [Step(p.module, tiles * p.parts, (tables.box, box), words), Step(pack, tiles, (), words)]
        if p is pieces[-1]:
            found.append(Step(rank, -(-tables.tiles // RANKED), (), words))
    return tuple(found)
