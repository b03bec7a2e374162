"""The Triton kernel of an attention behind the interface that every backend has."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from attndsl.codegen.expr_triton import UnsupportedError
from attndsl.codegen.triton import TritonModule, generate, unsupported
from attndsl.codegen.triton_bands import searches_of
from attndsl.codegen.triton_form import Dtype, Form
from attndsl.ir.attention import Attention
from attndsl.runtime.call import Call
from attndsl.runtime.failures import KernelError
from attndsl.runtime.triton.choices import Choices, Facts
from attndsl.runtime.triton.config import Config
from attndsl.runtime.triton.decode import Decode
from attndsl.runtime.triton.launch import Launch, interpreting, launch
from attndsl.runtime.triton.machine import machine_of
from attndsl.runtime.triton.tables import LaunchTables, QSegment, joined, launches, looked_up
from attndsl.runtime.triton.walks import Walked, plain, specialized, walked
from attndsl.schedule.plan import Plan
from attndsl.schedule.problem import moved
from attndsl.schedule.tiling import Tiling

_DTYPES: dict[torch.dtype, Dtype] = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}


@dataclass(frozen=True)
class OnDevice:
    """A launch's tables and their copy on a device."""

    tables: LaunchTables
    views: Mapping[tuple[str, int], Tensor]


class TritonKernel:
    """Forward on CUDA tensors (under `TRITON_INTERPRET=1` on CPU tensors)."""

    def __init__(self, attention: Attention) -> None:
        self.attention = attention
        self._modules: dict[Form, TritonModule] = {}
        self._on_device: dict[tuple[int, int, torch.device], tuple[OnDevice, ...]] = {}
        self._lock = Lock()
        self._choices = Choices(attention)
        self._searches = searches_of(attention)
        self._walks: dict[tuple[Form, bool, Config], Walked] = {}
        self._decode = Decode(attention)

    def tiling(self, call: Call) -> Tiling:
        """The boxes that plans are made of."""
        if self._decode.wanted(call):
            return self._decode.tiling(call, self._dtype(call))
        config = self._config(call)
        return Tiling(config.rows, config.columns, config.q_box, config.k_box)

    def module(self, form: Form) -> TritonModule:
        """The generated code for a form, made once."""
        if form not in self._modules:
            try:
                self._modules[form] = generate(self.attention, form)
            except UnsupportedError as error:
                raise unsupported(self.attention, error) from error
        return self._modules[form]

    def forward(
        self, call: Call, plan: Plan, need_lse: bool, save: bool
    ) -> tuple[Tensor, Tensor | None, tuple[Tensor, ...]]:
        """As `Kernel.forward`. ValueError names a feature that this backend does not have."""
        dtype = call.q.dtype
        if interpreting() and dtype == torch.bfloat16:
            # the interpreter's bf16 arithmetic is wrong; every bf16 number is an fp32 one
            call = call.with_tensors(call.q.float(), call.k.float(), call.v.float(), call.inputs)
        B, H, Lq, _ = call.q.shape
        out = torch.empty((B, H, Lq, call.v.shape[-1]), dtype=call.q.dtype, device=call.q.device)
        lse = torch.empty((B, H, Lq), dtype=torch.float32, device=call.q.device)
        few = self._decode.wanted(call)
        if few and self._decode.forward(call, plan, self._dtype(call), _aligned(call), out, lse, need_lse):
            return out.to(dtype), lse if need_lse else None, ()
        if out.numel() or lse.numel():
            for found in self._tables(call, plan):
                self._launch(call, found, out, lse, need_lse)
        return out.to(dtype), lse if need_lse else None, ()

    def backward(
        self,
        call: Call,
        plan: Plan,
        saved: tuple[Tensor, ...],
        grad_out: Tensor | None,
        grad_lse: Tensor | None,
        needs: frozenset[str],
    ) -> Mapping[str, Tensor]:
        """Not in this version."""
        raise NotImplementedError(
            f"{self.attention.name}: backend 'triton' has no backward pass in this version; backend 'cpu' has one"
        )

    # How a call is run

    def _launch(self, call: Call, found: OnDevice, out: Tensor, lse: Tensor, need_lse: bool) -> None:
        wished, form = self._config(call), self._form(call, found.tables)
        key = form, found.tables.bare, wished
        it = self._walks.get(key)
        if it is None:
            it = self._walks[key] = walked(self.attention, form, found.tables, wished, self._capability(call))

        def run(it: Walked) -> Any:
            module = self.module(it.form)
            return launch(Launch(call, it.form, module, found.tables, found.views, it.config, out, lse, need_lse))

        try:
            compiled = run(it)
        except KernelError as error:
            if it.form.walk != "specialized":
                raise
            it = self._walks[key] = Walked(form, plain(wished), f"Triton does not compile them: {error.words}")
            run(it)
            return
        if it.form.walk == "specialized" and compiled is not None and not specialized(compiled):
            self._walks[key] = Walked(form, plain(wished), "Triton compiled the loop without them")

    @property
    def reasons(self) -> dict[Form, str]:
        """Why kernels have no specialised warps although their configuration asks for them."""
        return {key[0]: it.reason for key, it in self._walks.items() if it.reason}

    def _config(self, call: Call) -> Config:
        return self._choices.config("forward", self.facts(call))

    def _capability(self, call: Call) -> int:
        machine = machine_of(call.q.device)
        return 90 if machine is None else machine.capability

    def facts(self, call: Call) -> Facts:
        """What the configurations of a call depend on."""
        on_line = self.attention.q_space is None or _moved(call)
        q_extents, k_extents = ({}, {}) if on_line else (call.q_extents, call.k_extents)
        return Facts(machine_of(call.q.device), self._dtype(call), call.sizes, q_extents, k_extents)

    def _dtype(self, call: Call) -> Dtype:
        if call.q.dtype not in _DTYPES:
            raise ValueError(
                f"{self.attention.name}: backend 'triton' runs fp16, bf16 and fp32, got {call.q.dtype}; "
                "backend 'cpu' runs it on CPU tensors"
            )
        if max(call.q.shape[-1], call.v.shape[-1]) > 256:
            raise ValueError(
                f"{self.attention.name}: backend 'triton' has heads of at most 256 components; "
                "backend 'cpu' has no limit"
            )
        return _DTYPES[call.q.dtype]

    def _form(self, call: Call, tables: LaunchTables) -> Form:
        pieces = tuple(p.form for p in tables.pieces)
        aligned = _aligned(call)
        tma = aligned and bool(pieces) and not any(p.side.any_split for p in pieces) and _has_tma(call)
        wide = any(t.numel() and sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True)) >= 2**31
                   for t in call.inputs.values())  # fmt: skip
        return Form(
            self._dtype(call), call.q.shape[-1], call.v.shape[-1], tables.q, pieces,
            on_grid=tables.on_grid, tma=tma, aligned=aligned, wide=wide, batch_offset=isinstance(call.q_offset, Tensor),
            negative=call.scale < 0, interpreted=interpreting(), searched=bool(tables.searches and pieces),
        )  # fmt: skip

    def _tables(self, call: Call, plan: Plan) -> tuple[OnDevice, ...]:
        # plans of few rows serve calls of several lengths
        key = id(plan), call.sizes["Lq"], call.q.device
        with self._lock:
            found = self._on_device.get(key)
        if found is None:
            on_grid = self.attention.q_space is not None and not _moved(call)
            places = self._places(call)
            made = launches(plan, self._segments(call, on_grid), self._config(call).rows, on_grid, spans=True)
            found = tuple(_uploaded(replace(t, searches=places), call.q.device) for t in made)
            with self._lock:
                self._on_device[key] = found
            weakref.finalize(plan, self._on_device.pop, key, None)
        return found

    def _places(self, call: Call) -> tuple[Any, ...]:
        """Bounds of rows that are places in sorted tensors."""
        sizes, wanted = call.sizes, self._searches
        if isinstance(call.q_offset, Tensor) or call.q_offset != 0 or any(s.tensor not in call.tables for s in wanted):
            return ()
        return looked_up(wanted, sizes["Lq"], sizes["Lk"], call.tables)

    def _segments(self, call: Call, on_grid: bool) -> list[QSegment]:
        if not on_grid:
            return [QSegment("", 0, call.sizes["Lq"])]
        space = self.attention.q_space
        assert space is not None
        found: list[QSegment] = []
        start = 0
        for s in space.segments:
            length = prod(call.q_extents[s.name])
            found.append(QSegment(s.name, start, length))
            start += length
        return found


def _moved(call: Call) -> bool:
    offset = None if isinstance(call.q_offset, Tensor) else call.q_offset
    return moved(offset, call.sizes, call.q_extents, call.k_extents)


def _uploaded(tables: LaunchTables, device: torch.device) -> OnDevice:
    whole, places = joined(tables)
    on_device: Any = torch.from_numpy(whole).to(device)
    return OnDevice(tables, {key: on_device[a:b] for key, (a, b) in places.items()})


def _has_tma(call: Call) -> bool:
    """Whether tensor descriptors can load k and v and store the output on this device."""
    if call.q.device.type == "cuda" and torch.cuda.get_device_capability(call.q.device)[0] < 9:
        return False
    return call.v.shape[-1] * call.q.element_size() % 16 == 0


def _aligned(call: Call) -> bool:
    """Whether addresses and strides of q, k and v are multiples of 16 bytes."""
    for t in (call.q, call.k, call.v):
        if not t.numel() or t.data_ptr() % 16 or t.stride(-1) != 1 or t.stride(2) <= 0:
            return False
        if any(s * t.element_size() % 16 for s in t.stride()[:-1]):
            return False
    return True
