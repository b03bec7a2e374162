"""Calls of few rows: when their keys are split over programs, over how many, and the launches.

Chosen by shape, for positions on a line:

- at most `FEW` rows of a head, or at most `PACKED` rows of all heads that share keys: then such rows fit one tile, and
  keys are read once for all of them;
- or at least `LONG` keys and so few rows that the forward kernel's tiles leave half of the multiprocessors idle.

`configured(decode=config)` asks for it whatever the shape, `configured(decode=None)` for the forward kernel.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingImports=false

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from attndsl.codegen.expr_triton import UnsupportedError
from attndsl.codegen.triton import unsupported
from attndsl.codegen.triton_decode import DecodeModule, generate_decode
from attndsl.codegen.triton_form import Dtype, Form
from attndsl.ir.attention import Attention
from attndsl.runtime.call import Call
from attndsl.runtime.triton.compiled import compiling
from attndsl.runtime.triton.config import Config, choose, decode_asked, stages_that_fit
from attndsl.runtime.triton.decode_tables import DecodeTables, decode_tables, joined
from attndsl.runtime.triton.failures import Attempt, reported, run_time_attempt, words_of
from attndsl.runtime.triton.launch import SHARED_MEMORY, Launch, interpreting
from attndsl.runtime.triton.modules import load_module
from attndsl.runtime.triton.tables import LaunchTables, QSegment, launches
from attndsl.schedule.plan import Plan
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
MOST_SHARES = 256
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
class _Ready:
    """Tables and their copy on a device."""

    tables: DecodeTables
    views: dict[str, Tensor]


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
    if device.type != "cuda":
        return Device(132, 90)
    found = torch.cuda.get_device_properties(device)
    return Device(found.multi_processor_count, found.major * 10 + found.minor)


class Decode:
    """The decode kernels of one attention."""

    def __init__(self, attention: Attention, chosen: Callable[[Call], Config] | None = None) -> None:
        """`chosen` says which configuration a call has; the default without it."""
        self.attention = attention
        self._chosen = chosen
        self._modules: dict[Form, DecodeModule] = {}
        self._ready: dict[tuple[int, torch.device], _Ready | None] = {}
        self._lock = Lock()

    # Choices

    def wanted(self, call: Call) -> bool:
        """Whether a call is run here. It depends on shapes, the device and what `configured` asks for."""
        asked = decode_asked()
        if asked == "off" or not call.q.numel() or not call.k.numel() or not self._on_line(call):
            return False
        if asked == "on":
            return True
        B, H, Hkv, Lq, Lk = (call.sizes[n] for n in ("B", "H", "Hkv", "Lq", "Lk"))
        if Lq <= FEW or Lq * (H // Hkv) <= PACKED:
            return True
        tiles = B * H * -(-Lq // FORWARD_ROWS)
        return Lk >= LONG and 2 * tiles <= device_of(call.q.device).multiprocessors

    def _on_line(self, call: Call) -> bool:
        moved = isinstance(call.q_offset, Tensor) or call.q_offset != 0
        return moved or (self.attention.q_space is None and self.attention.k_space is None)

    def config(self, call: Call, dtype: Dtype) -> Config:
        """Tile and launch options of a call."""
        if self._chosen is not None:
            return self._chosen(call)
        return choose("decode", dtype, call.q.shape[-1], call.v.shape[-1], device_of(call.q.device).capability)

    def tiling(self, call: Call, dtype: Dtype) -> Tiling:
        """The boxes of a plan for a call: as many positions as fit a tile with all heads that share keys."""
        config = self.config(call, dtype)
        group = call.sizes["H"] // call.sizes["Hkv"]
        rows = 1 << (max(1, config.rows // group).bit_length() - 1)
        one_tile = call.sizes["Lq"] <= rows
        return Tiling(rows, config.columns, step=STEP if one_tile else 0)

    # Running

    def forward(
        self, call: Call, plan: Plan, dtype: Dtype, aligned: bool, out: Tensor, lse: Tensor, need_lse: bool
    ) -> bool:
        """Fill `out` and, if asked for, `lse`; False where the plan is not for this kernel: no key is visible."""
        ready = self._tables(call, plan)
        if ready is None:
            return False
        tables, config, device = ready.tables, self.config(call, dtype), device_of(call.q.device)
        form = Form(
            dtype, call.q.shape[-1], call.v.shape[-1], tables.q, (tables.piece,), aligned=aligned,
            wide=_wide(call), batch_offset=isinstance(call.q_offset, Tensor), negative=call.scale < 0,
            interpreted=interpreting(),
        )  # fmt: skip
        module = self.module(form)
        B, H, Hkv, Lq = (call.sizes[n] for n in ("B", "H", "Hkv", "Lq"))
        width = min(tables.most_rows, Lq)
        rows = max(16, 1 << (width * (H // Hkv) - 1).bit_length())
        groups = B * Hkv * tables.tiles
        shares = config.splits or share_count(groups, tables.most_boxes, _slots(config, form, device))
        partial = _scratch(out, shares, len(module.state))
        values = _values(call, form, module, ready, out, lse, partial, width, shares)
        constants: dict[str, Any] = {"BM": rows, "BN": tables.box, "SPLIT": shares > 1, "LSE": need_lse}
        names = [a.name for a in module.arguments if a.role == "constexpr"]
        stages = stages_that_fit(config, call.q.element_size(), form.D, form.Dv, rows, tables.box, device.shared_memory)
        warps = config.warps * 2 if rows >= 128 else config.warps
        given = [*values, *(constants[n] for n in names)]
        tile = rows, tables.box
        _run(_Step(call, form, module, "decode", groups * shares, given, warps, stages, tile))
        if shares > 1:
            constants["BM"] = 1
            given = [*values, *(constants[n] for n in names)]
            _run(_Step(call, form, module, "merge", B * H * Lq, given, 4, 1, tile))
        return True

    def module(self, form: Form) -> DecodeModule:
        """The generated code for a form, made once."""
        if form not in self._modules:
            try:
                self._modules[form] = generate_decode(self.attention, form)
            except UnsupportedError as error:
                raise unsupported(self.attention, error) from error
        return self._modules[form]

    def _tables(self, call: Call, plan: Plan) -> _Ready | None:
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

    def _made(self, call: Call, launch: LaunchTables) -> _Ready:
        B, H, Hkv = (call.sizes[n] for n in ("B", "H", "Hkv"))
        tables = decode_tables(launch, B, H, H // Hkv, sure_keys(launch, call.sizes["Lk"]))
        whole, places = joined(tables)
        on_device = torch.from_numpy(whole).to(call.q.device)
        return _Ready(tables, {name: on_device[a:b] for name, (a, b) in places.items()})


def sure_keys(launch: LaunchTables, Lk: int) -> int:
    """Keys that are there for every call that shares a plan with one of `Lk` keys."""
    return (Lk - 1) // STEP * STEP if launch.tiles == 1 else Lk


def _slots(config: Config, form: Form, device: Device) -> int:
    """Programs that run side by side on a GPU."""
    element = 2 if form.low_precision else 4
    shared = max(1, config.stages - 1) * config.columns * (form.D + form.Dv) * element
    each = max(1, min(device.shared_memory // max(shared, 1), 16 // config.warps))
    return device.multiprocessors * each


def _wide(call: Call) -> bool:
    return any(
        t.numel() and sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True)) >= 2**31
        for t in call.inputs.values()
    )


def _scratch(out: Tensor, shares: int, state: int) -> Tensor:
    """Room for what shares leave."""
    if shares == 1:
        return out.new_empty(0, dtype=torch.float32)
    rows = prod(out.shape[:-1])
    return out.new_empty(shares * rows * (out.shape[-1] + state), dtype=torch.float32)


def _values(
    call: Call,
    form: Form,
    module: DecodeModule,
    ready: _Ready,
    out: Tensor,
    lse: Tensor,
    partial: Tensor,
    width: int,
    shares: int,
) -> list[Any]:
    """The value of every argument but the compile-time constants."""
    tables, unit = ready.tables, form.stride_unit
    batches, heads = tables.class_of.shape
    named: dict[str, Any] = {
        "q": call.q, "k": call.k, "v": call.v, "out": out, "lse": lse, "partial": partial, **ready.views, **call.sizes,
        "tiles": tables.tiles, "width": width, "splits": shares, "k_start": 0,
        "class_sb": heads if batches > 1 else 0, "class_sh": int(heads > 1),
        "split_q_0": tables.split_q, "split_0": tables.split_k,
        # a scale of zero would make 0 * inf of a masked score
        "scale": max(abs(call.scale), 1e-30),
    }  # fmt: skip
    if isinstance(call.q_offset, Tensor):
        named["offsets"] = call.q_offset.to(torch.int32)
    else:
        named["q_offset"] = call.q_offset
    for name, t in (("q", call.q), ("k", call.k), ("v", call.v)):
        for axis, step in zip("bhl", t.stride(), strict=False):
            named[f"{name}_s{axis}"] = step // unit
    rest: Launch | None = None
    values: list[Any] = []
    for a in module.arguments:
        if a.role in ("tensor", "table", "stride", "number"):
            values.append(named[a.name])
        elif a.role != "constexpr":
            rest = rest or _reader(call, form, module)
            values.append(rest.value(a))
    return values


def _reader(call: Call, form: Form, module: DecodeModule) -> Launch:
    """Knows the values of sizes, scalars and inputs."""
    nothing: Any = None
    return Launch(call, form, module, nothing, {}, nothing, call.q, call.q, False)


@dataclass(frozen=True)
class _Step:
    """One launch of a kernel of a module."""

    call: Call
    form: Form
    module: DecodeModule
    kernel: str
    programs: int
    values: list[Any]
    warps: int
    stages: int
    tile: tuple[int, int]


def _run(it: _Step) -> None:
    """Run a kernel, with fewer stages where so many do not fit."""
    functions, device = load_module(it.module.source), it.call.q.device
    kernel = getattr(functions, it.kernel)[it.programs,]
    if device.type != "cuda":
        kernel(*it.values)
        return
    from triton.runtime.errors import OutOfResources

    def forget() -> None:
        functions.decode.device_caches.clear()
        functions.merge.device_caches.clear()

    with torch.cuda.device(device):
        for fewer in range(it.stages, 0, -1):
            with reported(lambda fewer=fewer: _attempt(it, fewer)):
                try:
                    options = {"num_warps": it.warps, "num_stages": fewer}
                    compiling(lambda options=options: kernel(*it.values, **options), forget)
                    return
                except OutOfResources:
                    if fewer == 1:
                        raise


def _attempt(it: _Step, stages: int) -> Attempt:
    """What Triton was asked to compile, for the report of a failure."""
    capability = device_of(it.call.q.device).capability
    return run_time_attempt(
        it.call.attention, it.module, it.kernel, it.values, it.warps, stages, capability, words_of(it.form, *it.tile)
    )
