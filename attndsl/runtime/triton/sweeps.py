"""How a call is run: the forms of its kernels, and the tables of its sweeps on the device."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attndsl.codegen.expr_triton import UnsupportedError
from attndsl.codegen.triton import unsupported
from attndsl.codegen.triton_bands import searches_of
from attndsl.codegen.triton_form import Dtype, Form
from attndsl.ir.attention import Attention
from attndsl.runtime.call import Call
from attndsl.runtime.triton import machine
from attndsl.runtime.triton.filling import Filling
from attndsl.runtime.triton.launch import Views, interpreting, keep_tables
from attndsl.runtime.triton.lines import line_tables
from attndsl.runtime.triton.locate import Located
from attndsl.runtime.triton.reach import far_tiles, moved, wide
from attndsl.runtime.triton.several import check_depth
from attndsl.runtime.triton.submit import raw_stream
from attndsl.runtime.triton.tables import Ints, LaunchTables, QSegment, joined, launches, looked_up
from attndsl.schedule.plan import Plan

_DTYPES: dict[torch.dtype, Dtype] = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}

SHARED = 16
"""Tables on devices that an attention's calls of many lengths share."""
ALIGNED = 4
"""Numbers of 16 bytes."""
STAGED = 1 << 16
"""Bytes up to which CUDA copies from any memory on its own before it returns, without waiting for the device."""


@dataclass(frozen=True)
class OnDevice:
    """A launch's tables and their copy on a device, which has all tiles; with `located` every call makes some of its
    own there."""

    tables: LaunchTables
    views: Views
    located: Filling | None = None

    @staticmethod
    def of(located: Located) -> OnDevice:
        """A launch whose tables every call makes."""
        return OnDevice(located.tables, Views(), located)

    @property
    def places(self) -> Mapping[tuple[str, int], int] | None:
        """Where tables lie in what `located` fills."""
        return None if self.located is None else self.located.named


class Sweeps:
    """The tables of an attention's plans, copied to a device once and kept as long as the plan."""

    def __init__(self, attention: Attention) -> None:
        self.attention = attention
        self._known: dict[tuple[int, int, torch.device, bool], tuple[OnDevice, ...]] = {}
        self._lock = Lock()
        self._searches = searches_of(attention)
        self._shared: OrderedDict[tuple[int, torch.device], OnDevice] = OrderedDict()

    def of(
        self, call: Call, plan: Plan, rows: int, *, turned: bool = False, spans: bool = False
    ) -> tuple[OnDevice, ...]:
        """The launches of a plan's forward sweep, or with `turned` of the one whose rows are keys; `spans` as in
        `launches`."""
        # plans of few rows serve calls of several lengths
        key = id(plan), call.sizes["Lq"], call.q.device, turned
        with self._lock:
            found = self._known.get(key)
        if found is None:
            on_grid = self.attention.gridded and not moved(call)
            try:
                made = launches(
                    plan, segments_of(self.attention, call, on_grid, turned), rows, on_grid, turned=turned, spans=spans
                )
            except UnsupportedError as error:
                raise unsupported(self.attention, error) from error
            places = self._places(call) if spans else ()
            found = tuple(uploaded(replace(t, searches=places), call.q.device) for t in made)
            with self._lock:
                self._known[key] = found
            weakref.finalize(plan, self._known.pop, key, None)
        return found

    def line(self, call: Call, rows: int, columns: int, *, turned: bool = False) -> OnDevice | None:
        """The launch of a sweep in closed form, without a plan; None where it has none."""
        tables = line_tables(self.attention, call, rows, columns, turned=turned)
        if tables is None:
            return None
        # what is copied while a graph is captured is the graph's
        if tables.whole is None or _captures(call.q.device):
            return uploaded(tables.complete, call.q.device)
        return first_of(self._whole(tables.whole, call.q.device), tables)

    def _whole(self, tables: LaunchTables, device: torch.device) -> OnDevice:
        """Tables that calls of many lengths share, on a device."""
        key = id(tables), device
        with self._lock:
            found = self._shared.get(key)
            if found is None:
                found = self._shared[key] = _shifted(uploaded(tables, device))
                while len(self._shared) > SHARED:
                    self._shared.popitem(last=False)
            else:
                self._shared.move_to_end(key)
        return found

    def _places(self, call: Call) -> tuple[Any, ...]:
        """Bounds of rows that are places in sorted tensors."""
        wanted = self._searches
        if isinstance(call.q_offset, Tensor) or call.q_offset != 0 or any(s.tensor not in call.tables for s in wanted):
            return ()
        return looked_up(wanted, call.sizes["Lq"], call.sizes["Lk"], call.tables)


def segments_of(attention: Attention, call: Call, on_grid: bool, turned: bool) -> list[QSegment]:
    """The segments of a call's rows; `turned` those of its keys."""
    if not on_grid:
        return [QSegment("", 0, call.sizes["Lk" if turned else "Lq"])]
    space = attention.k_space if turned else attention.q_space
    extents = call.k_extents if turned else call.q_extents
    if space is None:
        return [QSegment("", 0, call.sizes["Lk" if turned else "Lq"])]
    found: list[QSegment] = []
    start = 0
    for s in space.segments:
        length = prod(extents[s.name])
        found.append(QSegment(s.name, start, length))
        start += length
    return found


def exact(call: Call) -> Call:
    """The call, with tensors that kernels compute right on: the interpreter's bf16 arithmetic is wrong, and every bf16
    number is an fp32 one."""
    if call.q.dtype is torch.bfloat16 and call.q.device.type == "cpu" and interpreting():
        inputs = {**call.inputs, **{n: t.float() for n, t in operands_of(call).items()}}
        return call.with_tensors(call.q.float(), call.k.float(), call.v.float(), inputs)
    return call


def operands_of(call: Call) -> dict[str, Tensor]:
    """The vectors of further dot products, by the names of their inputs."""
    return {p.name: call.inputs[p.name] for pair in call.attention.products for p in pair}


def form_of(attention: Attention, call: Call, tables: LaunchTables, *others: Tensor, turned: bool = False) -> Form:
    """The form of a launch. `others` are tensors like q, k and v that its kernel loads or stores."""
    pieces = tuple(p.form for p in tables.pieces)
    vectors = operands_of(call)
    aligned = is_aligned(call, *others, *vectors.values())
    tma = aligned and bool(pieces) and not any(p.side.any_split for p in pieces) and _has_tma(call)
    return Form(
        dtype_of(attention, call), call.q.shape[-1], call.v.shape[-1], tables.q, pieces,
        on_grid=tables.on_grid, tma=tma, aligned=aligned, wide=wide(call.inputs),
        batch_offset=isinstance(call.q_offset, Tensor), negative=call.scale < 0, interpreted=interpreting(),
        far=far_tiles(tables, call, turned=turned), turned=turned,
        searched=bool(tables.searches and pieces), loaded=loaded(call),
        boxed_stats=turned and tma and tables.begin_even(call.q_extents),
        products=tuple(call.inputs[q.name].shape[-1] for q, _ in attention.products),
    )  # fmt: skip


def dtype_of(attention: Attention, call: Call) -> Dtype:
    """The element type. ValueError for one, or a head size, that this backend does not have."""
    if call.q.dtype not in _DTYPES:
        raise ValueError(
            f"{attention.name}: backend 'triton' runs fp16, bf16 and fp32, got {call.q.dtype}; "
            "backend 'cpu' runs it on CPU tensors"
        )
    if max(call.q.shape[-1], call.v.shape[-1]) > 256:
        raise ValueError(
            f"{attention.name}: backend 'triton' has heads of at most 256 components; backend 'cpu' has no limit"
        )
    check_depth(attention, call.sizes)
    return _DTYPES[call.q.dtype]


def loaded(call: Call) -> tuple[str, ...]:
    """Scalars that are tensors: only the device knows them."""
    return tuple(sorted(n for n, v in call.scalars.items() if isinstance(v, Tensor)))


def differentiated(call: Call) -> bool:
    """Whether this call's gradients may be asked for."""
    tensors = (call.q, call.k, call.v, *call.inputs.values())
    return call.differentiated or (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))


def is_aligned(call: Call, *others: Tensor) -> bool:
    """Whether addresses and strides of q, k, v and others are multiples of 16 bytes."""
    return all(_aligned(t) for t in (call.q, call.k, call.v, *others))


def uploaded(tables: LaunchTables, device: torch.device) -> OnDevice:
    """A launch with a copy of its tables on a device."""
    whole, places = joined(tables)
    on_device = _copied(whole, device)
    return OnDevice(tables, _ready({key: on_device[a:b] for key, (a, b) in places.items()}, device))


def _shifted(whole: OnDevice) -> OnDevice:
    """With the order of its tiles at every offset from an aligned address, so that all ends of it begin at one: Triton
    compiles a kernel anew for addresses of other alignment."""
    order, views = whole.views["order", -1], whole.views
    shifted = order.new_zeros((ALIGNED, -(-(whole.tables.tiles + ALIGNED) // ALIGNED) * ALIGNED))
    for i in range(ALIGNED):
        shifted[i, i : i + whole.tables.tiles] = order[: whole.tables.tiles]
    return replace(whole, views=_ready({**views, ("shifted", -1): shifted}, order.device))


def first_of(whole: OnDevice, tables: LaunchTables) -> OnDevice:
    """A launch that begins like another, with the tables of that one: only its last tiles are copied to the device."""
    views, (piece,) = dict(whole.views), tables.pieces
    begin = whole.tables.tiles - tables.tiles
    shift = -begin % ALIGNED
    views["order", -1] = views.pop(("shifted", -1))[shift, begin + shift :]
    if not len(tables.rows):
        return OnDevice(tables, _ready(views, views["order", -1].device, whole.views))
    device, same = views["order", -1].device, tables.tiles - len(tables.rows)
    before, now = whole.views, _stream(device)
    if now is not None and before.stream != now:
        with torch.cuda.device(device):
            keep_tables(before, set(), now)
    ends = tables.rows.ravel(), piece.bounds.ravel()
    copied = _copied(np.concatenate(ends), device)
    for key, end in zip((("rows", -1), ("bounds", 0)), copied.split([e.size for e in ends]), strict=True):
        each = len(end) // len(tables.rows)
        views[key] = torch.cat([views[key][: same * each], end])
    made = _ready(views, device)
    # what is the other's belongs to its stream
    made.stream = now if before.stream == now else None
    return OnDevice(tables, made)


def _captures(device: torch.device) -> bool:
    return machine.on_gpu(device) and torch.cuda.is_current_stream_capturing()


def _copied(numbers: Ints, device: torch.device) -> Tensor:
    """A copy on a device."""
    on_host: Any = torch.from_numpy(numbers)
    quiet = machine.on_gpu(device) and not torch.cuda.is_current_stream_capturing()
    if quiet and numbers.nbytes > STAGED:
        # from memory that the device reads on its own: nothing waits
        on_host = on_host.pin_memory()
    found: Tensor = on_host.to(device, non_blocking=quiet)
    return found


def _ready(views: Mapping[tuple[str, int], Tensor], device: torch.device, like: Views | None = None) -> Views:
    """Views of what was just copied, or of what others are views of, for launches on any stream."""
    found = Views(views)
    if like is not None:
        found.uploaded, found.stream = like.uploaded, like.stream
    elif machine.on_gpu(device) and not torch.cuda.is_current_stream_capturing():
        found.uploaded, found.stream = torch.cuda.current_stream(device).record_event(), _stream(device)
    return found


def _stream(device: torch.device) -> int | None:
    """The current stream of a device, as launches know it; None for one without."""
    return raw_stream(device.index) if machine.on_gpu(device) else None


def _has_tma(call: Call) -> bool:
    """Whether tensor descriptors can load k and v and store the output on this device."""
    if machine.on_gpu(call.q.device) and torch.cuda.get_device_capability(call.q.device)[0] < 9:
        return False
    return call.v.shape[-1] * call.q.element_size() % 16 == 0


def _aligned(t: Tensor) -> bool:
    """Whether the address and strides of a tensor are multiples of 16 bytes."""
    if not t.numel() or t.data_ptr() % 16 or t.stride(-1) != 1 or t.stride(2) <= 0:
        return False
    return not any(s * t.element_size() % 16 for s in t.stride()[:-1])
