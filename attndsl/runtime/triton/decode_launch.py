"""The launches of a call of few rows: what is the same for calls that differ in lengths and addresses is kept."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor

from attndsl.codegen.triton_decode import DecodeModule
from attndsl.codegen.triton_form import Form
from attndsl.runtime.call import Call
from attndsl.runtime.triton import machine
from attndsl.runtime.triton.compilation import Wanted, begin, first_run, wanted
from attndsl.runtime.triton.config import Config, all_forced, stages_that_fit
from attndsl.runtime.triton.decode_tables import DecodeTables
from attndsl.runtime.triton.failures import run_time_attempt, words_of
from attndsl.runtime.triton.launch import SHARED_MEMORY, Launch, interpreting
from attndsl.runtime.triton.locate import Located
from attndsl.runtime.triton.modules import load_module
from attndsl.runtime.triton.submit import Ready, raw_stream

_OWN = frozenset(("size", "extent", "scalar", "input", "input stride", "input size"))
"""Roles of arguments that an attention's expressions read."""


@dataclass(frozen=True)
class Placed:
    """Tables, their copy on a device, and the launches that were prepared for them; with `located` every call makes its
    own tables there."""

    tables: DecodeTables
    views: dict[str, Tensor]
    located: Located | None = None
    prepared: dict[Hashable, Prepared] = field(default_factory=dict[Hashable, "Prepared"])


def prepared_key(call: Call, config: Config, wide: bool, need_lse: bool) -> Hashable:
    """Equal for calls with the same tables that differ in the number of keys, offsets, scalars and addresses alone."""
    inputs = tuple((t.dtype, t.data_ptr() % 16 == 0) for t in call.inputs.values())
    scalars = tuple(
        (n, v.dtype, v.data_ptr() % 16 == 0) for n, v in sorted(call.scalars.items()) if isinstance(v, Tensor)
    )  # fmt: skip
    places = [t.data_ptr() % 16 == 0 for t in (call.q, call.k, call.v)]
    return (
        call.q.dtype, call.q.shape, call.q.stride(), call.k.stride(), call.v.stride(), config, wide, need_lse,
        call.scale, isinstance(call.q_offset, Tensor), inputs, scalars, *places,
    )  # fmt: skip


class Prepared:
    """The launches of calls with equal keys."""

    def __init__(
        self,
        call: Call,
        form: Form,
        module: DecodeModule,
        ready: Placed,
        config: Config,
        shares: int,
        need_lse: bool,
        capability: int,
    ) -> None:
        B, H, Hkv, Lq = (call.sizes[n] for n in ("B", "H", "Hkv", "Lq"))
        tables = ready.tables
        width = min(tables.most_rows, Lq)
        rows, warps = tile_of_few(config, tables, call.sizes)
        self.form, self.module, self.shares, self.capability = form, module, shares, capability
        self.tile = rows, tables.box
        limit = SHARED_MEMORY.get(capability // 10, 99 << 10)
        stages = stages_that_fit(config, call.q.element_size(), form.D, form.Dv, rows, tables.box, limit)
        constants: dict[str, Any] = {"BM": rows, "BN": tables.box, "SPLIT": shares > 1, "LSE": need_lse}
        values = _fixed(call, form, ready, width, shares)
        self.values = [values.get(a.name, constants.get(a.name)) for a in module.arguments]
        place = {a.name: i for i, a in enumerate(module.arguments)}
        self.changing = {n: place[n] for n in ("q", "k", "v", "out", "lse", "partial", "offsets", "Lk", "q_offset")
                         if n in place}  # fmt: skip
        self.located = ready.located
        self.places = {n: place[n] for n in ("rows", "bounds", "boxes", "classes")}
        self.own = [(i, a) for i, a in enumerate(module.arguments) if a.role in _OWN]
        self.rows_at = place["BM"]
        self.room = 0 if shares == 1 else shares * prod(call.q.shape[:3]) * (form.Dv + len(module.state))
        self.decode = Step(self, "decode", B * Hkv * tables.tiles * shares, warps, stages)
        self.merge = Step(self, "merge", B * H * Lq, 4, 1)

    def run(self, call: Call, out: Tensor, lse: Tensor) -> None:
        """Fill `out` and, if it is asked for, `lse`."""
        values = self.values.copy()
        given: dict[str, Any] = {
            "q": call.q, "k": call.k, "v": call.v, "out": out, "lse": lse, "Lk": call.sizes["Lk"],
            "partial": out.new_empty(self.room, dtype=torch.float32),
        }  # fmt: skip
        if isinstance(call.q_offset, Tensor):
            given["offsets"] = call.q_offset.to(torch.int32)
        else:
            given["q_offset"] = call.q_offset
        for name, i in self.changing.items():
            values[i] = given[name]
        if self.located is not None:
            buffer = self.located.fill(call)
            for name, i in self.places.items():
                values[i] = self.located.view(buffer, name)
        if self.own:
            nothing: Any = None
            reader = Launch(call, self.form, self.module, nothing, {}, nothing, {"out": out, "lse": lse}, {})
            for i, a in self.own:
                values[i] = reader.value(a)
        device = call.q.device
        if machine.on_gpu(device) and device.index != torch.cuda.current_device():
            with torch.cuda.device(device):
                self._run(call, values)
        else:
            self._run(call, values)

    def _run(self, call: Call, values: list[Any]) -> None:
        both = self.shares > 1
        if not machine.on_gpu(call.q.device) or not self.decode.known or (both and not self.merge.known):
            rest = values.copy()
            rest[self.rows_at] = 1
            if both and not interpreting():
                begin(self.merge.wanted(call, rest))
            self.decode.first(call, values)
            if both:
                self.merge.first(call, rest)
            return
        # addresses cost less than tensors, whose kind Triton asks the driver for
        bare = [v.data_ptr() if isinstance(v, Tensor) else v for v in values]
        device: int = call.q.device.index
        stream = raw_stream(device)
        self.decode.again(bare, device, stream)
        if both:
            bare[self.rows_at] = 1
            self.merge.again(bare, device, stream)


def tile_of_few(config: Config, tables: DecodeTables, sizes: Mapping[str, int]) -> tuple[int, int]:
    """Rows of a tile, which holds those of all heads of a group, and warps of its program."""
    width = min(tables.most_rows, sizes["Lq"])
    rows = max(16, 1 << (width * (sizes["H"] // sizes["Hkv"]) - 1).bit_length())
    return rows, config.warps * 2 if rows >= 128 else config.warps


class Step:
    """A kernel of a module with its grid and options; once compiled, launched without Triton's look at arguments: keys
    hold all that it depends on."""

    def __init__(self, owner: Prepared, name: str, programs: int, warps: int, stages: int) -> None:
        self.form, self.module, self.tile, self.capability = owner.form, owner.module, owner.tile, owner.capability
        self.name, self.programs, self.warps, self.stages = name, programs, warps, stages
        self._ready: Ready | None = None

    @property
    def known(self) -> bool:
        """Whether it was compiled."""
        return self._ready is not None

    def again(self, values: list[Any], device: int, stream: int) -> None:
        """Launch what was compiled, on a stream of the current device. Pointers are tensors or addresses."""
        assert self._ready is not None
        self._ready.run(values, device, stream)

    def first(self, call: Call, values: list[Any]) -> None:
        """Run, and if it was not before compile, with fewer stages where so many do not fit."""
        if interpreting():
            self._kernel[self.programs,](*values)
            return
        index: int = call.q.device.index
        stream = raw_stream(index)
        bare = [v.data_ptr() if isinstance(v, Tensor) else v for v in values]
        if self._ready is None:
            compiled = first_run(
                self._kernel, values, self._options(self.stages), index, self.capability,
                lambda built: Ready(built, self.programs).run(bare, index, stream),
                lambda stages: run_time_attempt(
                    call.attention, self.module, self.name, values, self._options(stages), self.capability,
                    words_of(self.form, *self.tile),
                ),
                not all_forced(),
            )  # fmt: skip
            self._ready = Ready(compiled, self.programs)
        else:
            self.again(bare, index, stream)

    def wanted(self, call: Call, values: list[Any]) -> Wanted:
        """What `first` is going to compile."""
        return wanted(self._kernel, values, self._options(self.stages), call.q.device.index, self.capability)

    def _options(self, stages: int) -> dict[str, int]:
        return {"num_warps": self.warps, "num_stages": stages}

    @cached_property
    def _kernel(self) -> Any:
        return getattr(load_module(self.module.source), self.name)


def _fixed(call: Call, form: Form, ready: Placed, width: int, shares: int) -> dict[str, Any]:
    """Values of arguments that equal keys share, by name."""
    tables, unit = ready.tables, form.stride_unit
    batches, heads = tables.class_of.shape
    found: dict[str, Any] = {
        **ready.views, **{n: call.sizes[n] for n in ("B", "H", "Hkv", "Lq")},
        "tiles": tables.tiles, "width": width, "splits": shares, "k_start": 0,
        "class_sb": heads if batches > 1 else 0, "class_sh": int(heads > 1),
        "split_q_0": tables.split_q, "split_k_0": tables.split_k,
        # a scale of zero would make 0 * inf of a masked score
        "scale": max(abs(call.scale), 1e-30),
    }  # fmt: skip
    for name, t in (("q", call.q), ("k", call.k), ("v", call.v)):
        for axis, step in zip("bhl", t.stride(), strict=False):
            found[f"{name}_s{axis}"] = step // unit
    return found
