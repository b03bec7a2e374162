"""Tables of calls whose visible pairs only the device knows: their mask reads tensors, or their offset is one.

The host knows sizes. From these follow how many tiles there are, how many boxes a tile may have at most, and where
tables lie in one buffer; three small kernels fill it on the stream of the call, and the kernels of the attention read
it. Nothing waits for the device, and a captured graph finds the boxes of whatever its tensors hold when it is replayed.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attndsl.codegen.triton_arguments import Argument
from attndsl.codegen.triton_bands import searches_of
from attndsl.codegen.triton_classify import (
    LINE,
    ClassifyForm,
    ClassifyModule,
    by_batch,
    by_head,
    generate_classify,
    told_by_spans,
)
from attndsl.codegen.triton_form import FULL_SPANS, PARTIAL_SPANS
from attndsl.ir.attention import Attention
from attndsl.ir.expr import ParamRef, walk
from attndsl.ir.free import tensors as tensors_read
from attndsl.runtime.call import Call
from attndsl.runtime.triton import machine
from attndsl.runtime.triton.compilation import Wanted, first_run, wanted
from attndsl.runtime.triton.failures import Attempt, run_time_attempt
from attndsl.runtime.triton.launch import input_of, readable
from attndsl.runtime.triton.modules import load_module
from attndsl.runtime.triton.reach import wide
from attndsl.runtime.triton.submit import Ready, raw_stream
from attndsl.runtime.triton.tables import LaunchTables, PieceTables

CHUNK = 32
"""Boxes that a program of `classify` looks at."""
PAIRS = 32
"""Columns whose pairs it looks at at once."""
WARPS = 4
OPTIONS = {"num_warps": WARPS, "num_stages": 3}
GATHERED = 256
RANKED = 32
SEARCHED = 256
MOST_ENTRIES = 1 << 26
"""Entries of lists; where there could be more, tables hold spans, which are not exact where runs are many."""
LOOKED = 1 << 28
"""Pairs up to which every box that its ranges leave open is looked at."""
SHARING = 4
MOST_LOOKED = 1 << 34
"""Pairs up to which that is so where as many heads share what is found."""
ALIGNED = 32
"""Elements that tables begin at multiples of."""


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
    compiled: dict[tuple[Any, ...], list[Any]]
    """Kernels by device, alignment of inputs and block, which sweeps of all sizes share."""
    _stages: dict[tuple[Any, ...], list[Ready]] = field(default_factory=dict[tuple[Any, ...], list[Ready]])

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
        filling = self._filling(call, self.room(call) if buffer is None else buffer)
        device = call.q.device
        if not machine.on_gpu(device):
            for (function, programs), values in zip(self._kernels, self._values(filling), strict=True):
                function[programs,](*values)
        elif device.index == torch.cuda.current_device():
            self._run(filling)
        else:
            with torch.cuda.device(device):
                self._run(filling)
        return filling.buffer

    def wanted(self, call: Call, buffer: Tensor) -> list[Wanted]:
        """The kernels that `fill` is going to compile on the current device."""
        filling = self._filling(call, buffer)
        if self._shared(filling) in self.compiled:
            return []
        kernels = zip(self._kernels, self._values(filling), strict=True)
        return [wanted(k, v, OPTIONS, call.q.device.index, _capability(call)) for (k, _), v in kernels]

    def _filling(self, call: Call, buffer: Tensor) -> Filling:
        s = self.sizes
        codes = call.q.new_empty(s.kinds * s.tiles * s.lists, dtype=torch.int8)
        arguments = (*self.module.arguments, *self.module.lookup)
        names = {str(a.key[0]): None for a in arguments if a.role == "input"}
        inputs = {n: input_of(call, n) for n in names}
        loaded = tuple(t for t in call.scalars.values() if isinstance(t, Tensor))
        offsets = call.q_offset.to(torch.int32) if isinstance(call.q_offset, Tensor) else buffer
        return Filling(call, inputs, offsets, codes, buffer, loaded)

    def _run(self, filling: Filling) -> None:
        index: int = filling.call.q.device.index
        key = self._key(filling)
        known = self._stages.get(key)
        if known is None:
            shared = self._shared(filling)
            built = self.compiled.get(shared)
            if built is None:
                values = self._values(filling)
                self.compiled[shared] = [self._first(filling.call, i, list(v)) for i, v in enumerate(values)]
                return
            programs = [p for _, p in self._kernels]
            known = self._stages[key] = [Ready(c, p) for c, p in zip(built, programs, strict=True)]
        stream = raw_stream(index)
        for ready, values in zip(known, self._values(filling), strict=True):
            ready.run([v.data_ptr() if isinstance(v, Tensor) else v for v in values], index, stream)

    def _key(self, filling: Filling) -> tuple[Any, ...]:
        tensors = (filling.offsets, *filling.inputs.values(), *filling.loaded)
        return filling.call.q.device.index, *(t.data_ptr() % 16 == 0 for t in tensors)

    def _shared(self, filling: Filling) -> tuple[Any, ...]:
        """What sweeps of all sizes find compiled kernels by."""
        types = tuple(t.dtype for t in (*filling.inputs.values(), *filling.loaded))
        return self._key(filling), self.form, self.block, self.sizes.box, types

    @property
    def _kernels(self) -> list[tuple[Any, int]]:
        functions, s = load_module(self.module.source), self.sizes
        found = [
            (functions.classify, s.kinds * s.tiles * -(-s.lists // CHUNK)),
            (functions.gather, s.kinds * s.tiles),
        ]
        if not self.form.decode:
            found.append((functions.rank, -(-s.tiles // RANKED)))
        if self.form.searched:
            found.append((functions.lookup, -(-s.rows // SEARCHED)))
        return found

    def _values(self, filling: Filling) -> list[list[Any]]:
        """The arguments of the kernels, in order."""
        call, inputs, buffer, codes = filling.call, filling.inputs, filling.buffer, filling.codes
        s = self.sizes
        numbers: dict[str, Any] = {
            "H": self.call_sizes["H"], "Hkv": self.call_sizes["Hkv"], "tiles": s.tiles, "lists": s.lists,
            "length": s.rows, "width": s.columns, "height": s.height, "class_heads": s.heads,
            "q_offset": call.q_offset, "codes": codes, "offsets": filling.offsets,
            "BM": self.block, "BN": s.box, "CHUNK": CHUNK, "PAIRS": min(s.box, PAIRS), "look": int(self.look),
        }  # fmt: skip
        first = _read(call, self.module.arguments, inputs, numbers)
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
            found.append(_read(call, self.module.lookup, inputs, {**numbers, "BLOCK": SEARCHED}))
        return found

    def _first(self, call: Call, i: int, values: list[Any]) -> Any:
        """Compile a kernel and run it."""
        kernel, programs = self._kernels[i]
        index: int = call.q.device.index
        stream = raw_stream(index)
        bare = [v.data_ptr() if isinstance(v, Tensor) else v for v in values]
        capability = _capability(call)

        def attempt(stages: int) -> Attempt:
            module: Any = self.module
            words = (f"tile {self.block}x{self.sizes.box}", "the boxes of a call")
            options = {**OPTIONS, "num_stages": stages}
            return run_time_attempt(self.attention, module, "classify", values, options, capability, words)

        return first_run(
            kernel, values, OPTIONS, index, capability, lambda built: Ready(built, programs).run(bare, index, stream),
            None if i else attempt,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Filling:
    """One call's tables while they are made: what its kernels read, and where they write."""

    call: Call
    inputs: Mapping[str, Tensor]
    offsets: Tensor
    codes: Tensor
    buffer: Tensor
    loaded: tuple[Tensor, ...]


def _capability(call: Call) -> int:
    major, minor = torch.cuda.get_device_capability(call.q.device)
    return major * 10 + minor


def _read(
    call: Call, arguments: Sequence[Argument], inputs: Mapping[str, Tensor], numbers: Mapping[str, Any]
) -> list[Any]:
    """The values of arguments: what expressions read, or one of `numbers`."""
    found: list[Any] = []
    for a in arguments:
        key = str(a.key[0]) if a.key else ""
        match a.role:
            case "input":
                found.append(inputs[key])
            case "input stride":
                found.append(inputs[key].stride(int(a.key[1])))
            case "input size":
                found.append(inputs[key].shape[int(a.key[1])])
            case "size":
                found.append(call.sizes[key])
            case "scalar":
                value = call.scalars[key]
                if isinstance(value, Tensor):
                    found.append(readable(value))
                    continue
                found.append(float(value) if a.type == "fp32" else int(value))
            case _:
                found.append(numbers[a.name])
    return found


class Locator:
    """The sweeps of an attention whose boxes are found on the device."""

    def __init__(self, attention: Attention) -> None:
        self.attention = attention
        self._reads = bool(tensors_read(attention.mask))
        self.scalars = tuple(sorted({n.name for n in walk(attention.mask) if isinstance(n, ParamRef)}))
        """Those that the mask reads."""
        self.on_line = attention.q_space is None and attention.k_space is None
        self._heads = by_head(attention)
        self._searches = searches_of(attention)
        self._few = told_by_spans(attention) if self.on_line else False
        self._modules: dict[ClassifyForm, ClassifyModule] = {}
        self._compiled: dict[tuple[Any, ...], list[Any]] = {}
        self._lock = Lock()

    def wanted(self, call: Call) -> bool:
        """Whether the boxes of a call are found here."""
        known = isinstance(call.q_offset, int) and not self._loaded(call)
        return self.on_line and (self._reads or not known)

    def sweep(self, call: Call, rows: int, columns: int, *, turned: bool = False, searched: bool = False) -> Located:
        """The sweep of tiles of `rows` and boxes of `columns`; `turned` with keys as rows, `searched` with the places
        of rows in sorted tensors where bounds are such."""
        sizes = self._sizes(call, rows, columns, turned, decode=False)
        entries = sizes.kinds * sizes.tiles * sizes.lists
        spans = (self._few and not turned) or entries > MOST_ENTRIES
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
        return tuple(n for n in self.scalars if isinstance(call.scalars[n], Tensor))

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
                found = self._modules[form] = generate_classify(self.attention, form)
            return found

    def _located(self, call: Call, form: ClassifyForm, sizes: Sizes, rows: int) -> Located:
        pairs = sizes.kinds * sizes.rows * sizes.columns
        shared = call.sizes["B"] * call.sizes["H"] >= SHARING * sizes.kinds
        look = pairs <= LOOKED or (shared and pairs <= MOST_LOOKED)
        kinds, tiles = sizes.kinds, sizes.tiles
        wanted = {
            "order": tiles, "rows": 2 * tiles, "bounds": kinds * tiles * form.numbers, "classes": kinds,
            "cost": kinds * tiles, "boxes": 0 if form.spans else kinds * tiles * sizes.lists,
        }  # fmt: skip
        searches = self._searches if form.searched else ()
        wanted |= {f"search{i}": sizes.rows for i in range(len(searches))}
        places: dict[str, int] = {}
        total = 0
        for name, count in wanted.items():
            places[name] = total
            total += -(-max(count, 1) // ALIGNED) * ALIGNED
        block = 1 << (rows - 1).bit_length()
        # loops read one entry ahead
        return Located(
            self.attention, form, self._module(form), sizes, call.sizes, places, total + ALIGNED,
            _tables(form, sizes, len(searches)), look, block,
            self._compiled,
        )  # fmt: skip


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
