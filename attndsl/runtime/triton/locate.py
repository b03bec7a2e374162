"""Tables of calls whose visible pairs only the device knows: their mask reads tensors, or their offset is one.

The host knows sizes. From these follow how many tiles there are, how many boxes a tile may have at most, and where
tables lie in one buffer; three small kernels fill it on the stream of the call, and the kernels of the attention read
it. Nothing waits for the device, and a captured graph finds the boxes of whatever its tensors hold when it is replayed.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attndsl.codegen.triton_bands import searches_of
from attndsl.codegen.triton_classify import (
    LINE,
    ClassifyForm,
    ClassifyModule,
    by_batch,
    by_head,
    told_by_spans,
)
from attndsl.codegen.triton_form import FULL_SPANS, PARTIAL_SPANS
from attndsl.codegen.triton_sides import on_a_line
from attndsl.ir.attention import Attention
from attndsl.ir.expr import ParamRef, walk
from attndsl.ir.free import tensors as tensors_read
from attndsl.runtime.call import Call
from attndsl.runtime.triton.compilation import Wanted
from attndsl.runtime.triton.filling import Step, Steps, inputs_of, looks, placed, read
from attndsl.runtime.triton.generated import classify_module
from attndsl.runtime.triton.reach import moved, wide
from attndsl.runtime.triton.tables import LaunchTables, PieceTables
from attndsl.schedule.candidates import MOST_LISTED

CHUNK = 32
"""Boxes that a program of `classify` looks at."""
PAIRS = 32
"""Columns whose pairs it looks at at once."""
GATHERED = 256
RANKED = 32
SEARCHED = 256


@dataclass(frozen=True)
class Sizes:
    """One sweep: `rows` positions in tiles of `height`, against `columns` in boxes of `box`, for so many classes of
    batches and heads."""

    rows: int
    height: int
    columns: int
    box: int
    batches: int
    heads: int

    @property
    def kinds(self) -> int:
        return self.batches * self.heads

    @property
    def tiles(self) -> int:
        return -(-self.rows // self.height)

    @property
    def lists(self) -> int:
        """Boxes that a tile has at most."""
        return -(-self.columns // self.box)


@dataclass
class Located:
    """A sweep of calls that are alike: `places` are the first elements of its tables in the buffer that `fill` makes,
    `tables` what the host knows of them."""

    attention: Attention
    form: ClassifyForm
    module: ClassifyModule
    sizes: Sizes
    call_sizes: Mapping[str, int]
    places: dict[str, int]
    total: int
    tables: LaunchTables
    look: bool
    block: int
    steps: Steps
    """The kernels that fill them."""

    @property
    def named(self) -> dict[tuple[str, int], int]:
        """Places by the names that launches give tables."""
        names = {("order", -1): "order", ("rows", -1): "rows"}
        names |= {(n, 0): n for n in ("bounds", "boxes", "classes")}
        names |= {(n, -1): n for n in self.places if n.startswith("search")}
        return {key: self.places[name] for key, name in names.items()}

    def view(self, buffer: Tensor, name: str) -> Tensor:
        """A table, and whatever follows it."""
        return buffer[self.places[name] :]

    def room(self, call: Call) -> Tensor:
        """Memory for the tables of a call."""
        return call.q.new_empty(self.total, dtype=torch.int32)

    def fill(self, call: Call, buffer: Tensor | None = None) -> Tensor:
        """The tables of a call, on its device, in the `room` that is given."""
        buffer = self.room(call) if buffer is None else buffer
        self.steps.run(call, self._values(call, buffer))
        return buffer

    def wanted(self, call: Call, buffer: Tensor) -> list[Wanted]:
        """The kernels that `fill` is going to compile on the current device."""
        return self.steps.wanted(call, lambda: self._values(call, buffer))

    def _values(self, call: Call, buffer: Tensor) -> list[list[Any]]:
        """The arguments of the kernels, in order."""
        s = self.sizes
        codes = call.q.new_empty(s.kinds * s.tiles * s.lists, dtype=torch.int8)
        inputs = inputs_of(call, (*self.module.arguments, *self.module.lookup))
        offsets = call.q_offset.to(torch.int32) if isinstance(call.q_offset, Tensor) else buffer
        numbers: dict[str, Any] = {
            "H": self.call_sizes["H"], "Hkv": self.call_sizes["Hkv"], "tiles": s.tiles, "lists": s.lists,
            "length": s.rows, "width": s.columns, "height": s.height, "class_heads": s.heads,
            "q_offset": call.q_offset, "codes": codes, "offsets": offsets,
            "BM": self.block, "BN": s.box, "CHUNK": CHUNK, "PAIRS": min(s.box, PAIRS), "look": int(self.look),
        }  # fmt: skip
        first = read(call, self.module.arguments, inputs, numbers)
        rows, bounds, boxes, classes, cost = (
            self.view(buffer, n) for n in ("rows", "bounds", "boxes", "classes", "cost")
        )
        found = [
            first,
            [codes, rows, bounds, boxes, classes, cost, s.tiles, s.lists, s.rows, s.height, s.box, GATHERED],
        ]
        if not self.form.decode:
            found.append([cost, self.view(buffer, "order"), s.tiles, s.kinds, RANKED])
        if self.form.searched:
            numbers |= {n: self.view(buffer, n) for n in self.places if n.startswith("search")}
            found.append(read(call, self.module.lookup, inputs, {**numbers, "BLOCK": SEARCHED}))
        return found


class Locator:
    """The sweeps of an attention whose boxes are found on the device, where positions follow a line: without a grid,
    or with rows that are no whole one."""

    def __init__(self, attention: Attention) -> None:
        self.on_line = not attention.gridded
        self.attention = attention if self.on_line else on_a_line(attention)
        self._reads = bool(tensors_read(attention.mask))
        self._scalars = tuple(sorted({n.name for n in walk(attention.mask) if isinstance(n, ParamRef)}))
        self._heads = by_head(attention)
        self._searches = searches_of(attention) if self.on_line else ()
        self._few = told_by_spans(self.attention)
        self._modules: dict[ClassifyForm, ClassifyModule] = {}
        self._compiled: dict[Hashable, Any] = {}
        self._lock = Lock()

    def wanted(self, call: Call) -> bool:
        """Whether the boxes of a call are found here."""
        known = isinstance(call.q_offset, int) and not self._loaded(call)
        return (self._reads or not known) and (self.on_line or moved(call))

    def sweep(self, call: Call, rows: int, columns: int, *, turned: bool = False, searched: bool = False) -> Located:
        """The sweep of tiles of `rows` and boxes of `columns`; `turned` with keys as rows, `searched` with the places
        of rows in sorted tensors where bounds are such."""
        sizes = self._sizes(call, rows, columns, turned, decode=False)
        entries = sizes.kinds * sizes.tiles * sizes.lists
        spans = (self._few and not turned) or entries > MOST_LISTED
        searched = searched and self._searchable(call)
        form = ClassifyForm(turned=turned, spans=spans, searched=searched, **self._facts(call))
        return self._located(call, form, sizes, rows)

    def _searchable(self, call: Call) -> bool:
        """Whether bounds of rows are places in sorted tensors, none of which is read outside."""
        if isinstance(call.q_offset, Tensor) or call.q_offset != 0:
            return False
        most = max(call.sizes["Lq"], call.sizes["Lk"])
        return bool(self._searches) and all(len(call.inputs[s.tensor]) >= most for s in self._searches)

    def few(self, call: Call, rows: int, columns: int) -> Located:
        """The sweep of the decode kernel, whose rows are those of all heads that share keys."""
        sizes = self._sizes(call, min(rows, call.sizes["Lq"]), columns, False, decode=True)
        group = call.sizes["H"] // call.sizes["Hkv"] if self._heads else 1
        return self._located(call, ClassifyForm(decode=True, **self._facts(call)), sizes, sizes.height * group)

    def _facts(self, call: Call) -> dict[str, Any]:
        moved = isinstance(call.q_offset, Tensor)
        return {"batch_offset": moved, "wide": wide(call.inputs), "loaded": self._loaded(call)}

    def _loaded(self, call: Call) -> tuple[str, ...]:
        return tuple(n for n in self._scalars if isinstance(call.scalars[n], Tensor))

    def _sizes(self, call: Call, rows: int, columns: int, turned: bool, *, decode: bool) -> Sizes:
        sizes = call.sizes
        lengths = sizes["Lq"], sizes["Lk"]
        own, other = lengths[::-1] if turned else lengths
        batches = sizes["B"] if by_batch(self.attention, isinstance(call.q_offset, Tensor)) else 1
        heads = 1 if not self._heads else sizes["Hkv"] if decode else sizes["H"]
        return Sizes(own, rows, other, columns, batches, heads)

    def _module(self, form: ClassifyForm) -> ClassifyModule:
        with self._lock:
            found = self._modules.get(form)
            if found is None:
                found = self._modules[form] = classify_module(self.attention, form)
            return found

    def _located(self, call: Call, form: ClassifyForm, sizes: Sizes, rows: int) -> Located:
        look = looks(sizes.kinds * sizes.rows * sizes.columns, sizes.kinds, call)
        kinds, tiles = sizes.kinds, sizes.tiles
        wanted = {
            "order": tiles, "rows": 2 * tiles, "bounds": kinds * tiles * form.numbers, "classes": kinds,
            "cost": kinds * tiles, "boxes": 0 if form.spans else kinds * tiles * sizes.lists,
        }  # fmt: skip
        searches = self._searches if form.searched else ()
        wanted |= {f"search{i}": sizes.rows for i in range(len(searches))}
        places, total = placed(wanted)
        block = 1 << (rows - 1).bit_length()
        module = self._module(form)
        return Located(
            self.attention, form, module, sizes, call.sizes, places, total, _tables(form, sizes, len(searches)), look,
            block, Steps(self.attention, _steps(form, module, sizes, block), self._compiled),
        )  # fmt: skip


def _steps(form: ClassifyForm, module: ClassifyModule, sizes: Sizes, block: int) -> tuple[Step, ...]:
    """The kernels of a sweep and their programs."""
    programs = {
        "classify": sizes.kinds * sizes.tiles * -(-sizes.lists // CHUNK),
        "gather": sizes.kinds * sizes.tiles,
        "rank": 0 if form.decode else -(-sizes.tiles // RANKED),
        "lookup": -(-sizes.rows // SEARCHED),
    }
    words = f"tile {block}x{sizes.box}", "the boxes of a call"
    every = (Step(m, programs[m.name], (block, sizes.box), words) for m in module.kernels)
    return tuple(step for step in every if step.module.name != "rank" or not form.decode)


def _tables(form: ClassifyForm, sizes: Sizes, searches: int) -> LaunchTables:
    """What the host knows of tables: how many there are of everything, and that boxes may be PARTIAL."""
    bounds = np.zeros((1, 1, form.numbers), np.int32)
    bounds[..., FULL_SPANS + PARTIAL_SPANS - 1 if form.spans else 2 :] = sizes.lists
    piece = PieceTables(
        form.piece, (sizes.box,), 0, (1,), bounds, np.zeros((0, 1), np.int32),
        np.zeros((sizes.batches, sizes.heads), np.int32),
    )  # fmt: skip
    order = np.zeros(sizes.tiles, np.int32)
    return LaunchTables(
        LINE, (sizes.height,), 0, (1,), np.zeros((0, 2), np.int32), order, (piece,), False, (order,) * searches
    )
