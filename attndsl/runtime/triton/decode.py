"""Calls of few rows: when their keys are split over programs, over how many, and the launches.

Chosen by shape, for positions on a line:

- at most `FEW` rows of a head, or at most `PACKED` rows of all heads that share keys: then such rows fit one tile, and
  keys are read once for all of them;
- or at least `LONG` keys and so few rows that the forward kernel's tiles leave half of the multiprocessors idle.

`configured(decode=config)` asks for it whatever the shape, `configured(decode=None)` for the forward kernel.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from threading import Lock

import torch
from torch import Tensor

from attndsl.codegen.expr_triton import UnsupportedError
from attndsl.codegen.triton import unsupported
from attndsl.codegen.triton_decode import DecodeModule
from attndsl.codegen.triton_form import Dtype, Form
from attndsl.ir.attention import Attention
from attndsl.ir.expr import ParamRef, walk
from attndsl.runtime.call import Call
from attndsl.runtime.triton import machine
from attndsl.runtime.triton.choices import settings
from attndsl.runtime.triton.config import Config, choose, decode_asked
from attndsl.runtime.triton.decode_launch import Placed, Prepared, prepared_key
from attndsl.runtime.triton.decode_line import few_tables, is_closed
from attndsl.runtime.triton.decode_tables import DecodeTables, decode_tables, joined, known_of
from attndsl.runtime.triton.generated import decode_module
from attndsl.runtime.triton.launch import SHARED_MEMORY, interpreting
from attndsl.runtime.triton.locate import Locator
from attndsl.runtime.triton.reach import far, wide
from attndsl.runtime.triton.several import sums_components
from attndsl.runtime.triton.sweeps import dtype_of, is_aligned, loaded
from attndsl.runtime.triton.tables import LaunchTables, QSegment, launches
from attndsl.schedule.plan import Plan
from attndsl.schedule.problem import moved
from attndsl.schedule.tiling import Tiling

FEW = 16
"""Rows of a head that are few whatever the number of heads."""
PACKED = 64
"""Rows of a tile, over the heads that share keys."""
LONG = 2048
"""Keys that are worth splitting where rows alone do not fill the GPU."""
FORWARD_ROWS = 128
"""Rows of the forward kernel's tiles."""
STEP = 64
"""Lengths and offsets for which one plan serves."""
REGISTERS = 27_000
"""Of a program with boxes of 64 keys of 128 components in two bytes, as compiled; others in proportion."""
MOST_SHARES = 256
KEPT = 64
"""Tables in closed form that are kept."""
LEAST_BOXES = 2
"""Boxes that a share has at least."""
START, MERGE = 2, 2
"""What a program costs beside its boxes, and what merging costs, in boxes."""


@lru_cache(maxsize=4096)
def share_count(groups: int, boxes: int, slots: int) -> int:
    """Over how many programs to split lists of `boxes`, of `groups` of rows, where `slots` programs run side by side.

    Programs run in waves; a wave takes as long as a program's boxes and its start.
    """
    best, least = 1, float("inf")
    for n in range(1, max(1, min(boxes // LEAST_BOXES, MOST_SHARES)) + 1):
        waves = -(-groups * n // slots)
        cost = waves * (-(-boxes // n) + START) + (MERGE if n > 1 else 0)
        if cost < least:
            best, least = n, cost
    return best


@dataclass(frozen=True)
class Device:
    """What the number of shares depends on."""

    multiprocessors: int
    capability: int

    @property
    def shared_memory(self) -> int:
        """Bytes for a program."""
        return SHARED_MEMORY.get(self.capability // 10, 99 << 10)


@lru_cache(maxsize=64)
def device_of(device: torch.device) -> Device:
    """Of a GPU; under the interpreter an H100's."""
    if not machine.on_gpu(device):
        return Device(132, 90)
    found = torch.cuda.get_device_properties(device)
    return Device(found.multi_processor_count, found.major * 10 + found.minor)


class Decode:
    """The decode kernels of one attention."""

    def __init__(
        self,
        attention: Attention,
        chosen: Callable[[Call], Config] | None = None,
        locator: Locator | None = None,
    ) -> None:
        """`chosen` says which configuration a call has; the default without it. `locator` finds boxes on the device."""
        self._locator = locator or Locator(attention)
        self.attention = attention
        self._chosen = chosen
        self._modules: dict[Form, DecodeModule] = {}
        self._ready: dict[tuple[int, torch.device], Placed | None] = {}
        self._scalars = frozenset(n.name for n in walk(attention.mask) if isinstance(n, ParamRef))
        self._known: OrderedDict[Hashable, Placed | None] = OrderedDict()
        self._lock = Lock()

    # Choices

    def wanted(self, call: Call) -> bool:
        """Whether a call is run here. It depends on shapes, the device and what `configured` asks for. Pairs of several
        dot products run in tiles of many rows."""
        asked = decode_asked()
        if (
            asked == "off"
            or self.attention.products
            or sums_components(self.attention)
            or not call.q.numel()
            or not call.k.numel()
            or not self._on_line(call)
        ):
            return False
        if asked == "on":
            return True
        sizes = call.sizes
        H, Lq = sizes["H"], sizes["Lq"]
        if Lq <= FEW or Lq * (H // sizes["Hkv"]) <= PACKED:
            return True
        tiles = sizes["B"] * H * -(-Lq // FORWARD_ROWS)
        return sizes["Lk"] >= LONG and 2 * tiles <= device_of(call.q.device).multiprocessors

    def _on_line(self, call: Call) -> bool:
        if not self.attention.gridded:
            return True
        offset = None if isinstance(call.q_offset, Tensor) else call.q_offset
        return moved(offset, call.sizes, call.q_extents, call.k_extents)

    def config(self, call: Call, dtype: Dtype) -> Config:
        """Tile and launch options of a call."""
        if self._chosen is not None:
            return self._chosen(call)
        return choose("decode", dtype, call.q.shape[-1], call.v.shape[-1], device_of(call.q.device).capability)

    def tiling(self, call: Call, dtype: Dtype) -> Tiling:
        """The boxes of a plan for a call: as many positions as fit a tile with all heads that share keys."""
        found = decode_tiling(self.config(call, dtype), call.sizes)
        # boxes that the device finds are those of a length
        return replace(found, step=0) if self._locator.wanted(call) else found

    def closed(self, call: Call) -> bool:
        """Whether the tables of a call that is run here follow from its bounds, without a plan."""
        if not isinstance(call.q_offset, int) or self._locator.wanted(call):
            return False
        tiling = self.tiling(call, dtype_of(self.attention, call))
        return is_closed(self.attention, tiling.step, tiling.columns)

    # Running

    def forward(self, call: Call, plan: Plan | None, out: Tensor, lse: Tensor, need_lse: bool) -> bool:
        """Fill `out` and, if asked for, `lse`; False where this is not the kernel to run, or no key is visible."""
        # a trial of tuning runs one call with many plans and settings
        memo = "few rows", need_lse, id(plan), settings()
        prepared: Prepared | None
        _, prepared = call.memo.get(memo, (plan, None))
        if prepared is None:
            ready = None
            if self.wanted(call):
                if plan is not None:
                    ready = self._tables(call, plan)
                elif self._locator.wanted(call):
                    ready = self._located(call)
                elif self.closed(call):
                    ready = self._closed(call)
            if ready is None:
                return False
            dtype = dtype_of(self.attention, call)
            prepared = self._found(call, dtype, ready, need_lse)
            call.memo[memo] = plan, prepared
        prepared.run(call, out, lse)
        return True

    def _found(self, call: Call, dtype: Dtype, ready: Placed, need_lse: bool) -> Prepared:
        config, is_wide = self.config(call, dtype), wide(call.inputs)
        key = prepared_key(call, config, is_wide, need_lse)
        found = ready.prepared.get(key)
        if found is None:
            form = Form(
                dtype, call.q.shape[-1], call.v.shape[-1], ready.tables.q, (ready.tables.piece,),
                aligned=is_aligned(call), wide=is_wide, batch_offset=isinstance(call.q_offset, Tensor),
                negative=call.scale < 0, interpreted=interpreting(), loaded=loaded(call),
                far=far(ready.tables.box * ready.tables.split_k, call.k, call.v),
            )  # fmt: skip
            found = ready.prepared[key] = self._prepared(call, form, ready, config, need_lse)
        return found

    def _prepared(self, call: Call, form: Form, ready: Placed, config: Config, need_lse: bool) -> Prepared:
        device = device_of(call.q.device)
        shares = shares_of(config, form, ready.tables, call.sizes, device)
        return Prepared(call, form, self.module(form), ready, config, shares, need_lse, device.capability)

    def module(self, form: Form) -> DecodeModule:
        """The generated code for a form, made once."""
        if form not in self._modules:
            try:
                self._modules[form] = decode_module(self.attention, form)
            except UnsupportedError as error:
                raise unsupported(self.attention, error) from error
        return self._modules[form]

    def _tables(self, call: Call, plan: Plan) -> Placed | None:
        key = id(plan), call.q.device
        with self._lock:
            if key in self._ready:
                return self._ready[key]
        made = launches(plan, [QSegment("", 0, call.sizes["Lq"])], FORWARD_ROWS, False)
        fits = len(made) == 1 and len(made[0].pieces) == 1 and len(made[0].q.axes) == 1
        found = self._made(call, made[0]) if fits else None
        with self._lock:
            self._ready[key] = found
        weakref.finalize(plan, self._ready.pop, key, None)
        return found

    def _closed(self, call: Call) -> Placed | None:
        """Tables in closed form, those of the last calls kept: lengths are rounded."""
        tiling = self.tiling(call, dtype_of(self.attention, call))
        problem = call.problem
        rounded = tiling.problem(self.attention, problem)
        key = (
            tiling, rounded.q_offset, call.q.device, *rounded.sizes.items(),
            # a bool and an int that compare equal, or -0.0 and 0.0, mean other bounds
            *((n, repr(v)) for n, v in sorted(call.scalars.items()) if n in self._scalars),
        )  # fmt: skip
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        made = few_tables(self.attention, tiling, problem)
        found = None if made is None else self._made(call, made)
        with self._lock:
            self._known[key] = found
            while len(self._known) > KEPT:
                self._known.popitem(last=False)
        return found

    def _located(self, call: Call) -> Placed:
        """Tables that every call makes on the device."""
        tiling = self.tiling(call, dtype_of(self.attention, call))
        try:
            located = self._locator.few(call, tiling.rows, tiling.columns)
        except UnsupportedError as error:
            raise unsupported(self.attention, error) from error
        return Placed(known_of(located), {}, located=located)

    def _made(self, call: Call, launch: LaunchTables) -> Placed:
        B, H, Hkv = (call.sizes[n] for n in ("B", "H", "Hkv"))
        tables = decode_tables(launch, B, H, H // Hkv, sure_keys(launch, call.sizes["Lk"]))
        whole, places = joined(tables)
        on_device = torch.from_numpy(whole).to(call.q.device)
        return Placed(tables, {name: on_device[a:b] for name, (a, b) in places.items()})


def decode_tiling(config: Config, sizes: Mapping[str, int]) -> Tiling:
    """The boxes of a plan for calls of these sizes."""
    rows = 1 << (max(1, config.rows // (sizes["H"] // sizes["Hkv"])).bit_length() - 1)
    return Tiling(rows, config.columns, step=STEP if sizes["Lq"] <= rows else 0)


def shares_of(config: Config, form: Form, tables: DecodeTables, sizes: Mapping[str, int], device: Device) -> int:
    """Over how many programs the keys of a row are split."""
    groups = sizes["B"] * sizes["Hkv"] * tables.tiles
    return config.splits or share_count(groups, tables.most_boxes, _slots(config, form, device))


def sure_keys(launch: LaunchTables, Lk: int) -> int:
    """Keys that are there for every call that shares a plan with one of `Lk` keys."""
    return (Lk - 1) // STEP * STEP if launch.tiles == 1 else Lk


def _slots(config: Config, form: Form, device: Device) -> int:
    """Programs that run side by side on a GPU."""
    return device.multiprocessors * side_by_side(config, form.D, form.Dv, 2 if form.low_precision else 4, device)


def side_by_side(config: Config, D: int, Dv: int, element: int, device: Device) -> int:
    """Programs of a multiprocessor: as many as its shared memory and registers hold."""
    shared = max(1, config.stages - 1) * config.columns * (D + Dv) * element
    registers = config.columns * max(D, Dv) * element // 2 * REGISTERS // (64 * 128)
    return max(1, min(device.shared_memory // max(shared, 1), 65536 // max(registers, 1), 16 // config.warps))
