"""The CPU kernel of an attention: walks a plan's row tiles, forward and backward."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from attndsl.codegen.cpu import CpuModule, generate
from attndsl.ir.attention import Attention
from attndsl.runtime.call import Call, Kept, Saved
from attndsl.runtime.cpu import flash, scan, scan_backward
from attndsl.runtime.cpu.compiled import NativeKernel
from attndsl.runtime.cpu.frame import (
    CallFrame,
    HeadTensors,
    TileFrame,
    compile_module,
    compute_dtype,
    load_functions,
)
from attndsl.runtime.cpu.general import general_backward, general_forward, output_backward, output_forward
from attndsl.runtime.cpu.part import Batch, Selection
from attndsl.runtime.cpu.rows import NEVER, SLAB_PAIRS, TileGradients, softmax_backward, softmax_forward
from attndsl.runtime.cpu.schedule import ScheduleCache, Way
from attndsl.runtime.cpu.widths import is_wide
from attndsl.runtime.native.choice import large_enough
from attndsl.runtime.native.store import library
from attndsl.runtime.state import State
from attndsl.schedule.legalise import ScanForm
from attndsl.schedule.plan import Plan

TILE_PAIRS = 1 << 19
"""Pairs (query heads counted) that one step computes: its buffers should stay in the cache."""

TILES = 32
BACKWARD_TILES = 2
BACKWARD_PROBLEMS = 16
"""Tiles of one call of the flash kernel. Its backward writes the gradients of every tile's columns, which should stay
in the cache, but has work for all threads with this many tiles of heads."""


class CpuKernel:
    """A compiled attention on the CPU (consts bound, simplified). Safe to call from several threads."""

    def __init__(self, attention: Attention) -> None:
        self.attention = attention
        self.module: CpuModule = generate(attention)
        self._code = compile_module(self.module)
        self._functions: dict[torch.dtype, Mapping[str, Callable[..., Tensor]]] = {}
        self._schedules = ScheduleCache()

    @property
    def source(self) -> str:
        """The generated module."""
        return self.module.source

    def tiling(self, call: Call) -> None:
        """The cost model's boxes."""

    def settings(self) -> None:
        """Nothing but the call decides."""

    def saves(self, q: Tensor, k: Tensor, v: Tensor, need_lse: bool) -> tuple[Saved, ...]:
        """The output before the output clause, and lse where there is one."""
        B, H, Lq, D = q.shape
        dtype = compute_dtype(q.dtype)
        found: list[Saved] = ["out" if self.module.output is None else Kept((B, H, Lq, v.shape[-1]), dtype)]
        if need_lse:
            found.append("lse")
        elif self._flash_runs(q.dtype, D, v.shape[-1]):
            found.append(Kept((B, H, Lq), dtype))
        return tuple(found)

    @cached_property
    def has_lse(self) -> bool:
        """Whether the weight has an exponential to take the logarithm of."""
        return self.module.weight is None or self.module.logit is not None

    def frame(self, call: Call, wants: frozenset[str] = frozenset(), module: CpuModule | None = None) -> CallFrame:
        """What generated functions (those of `module`, a part of all) see of a call; reads of the inputs in `wants` can
        be differentiated."""
        dtype = compute_dtype(call.q.dtype)
        if dtype not in self._functions:
            self._functions[dtype] = load_functions(self._code, dtype)
        return CallFrame(self.attention, module or self.module, self._functions[dtype], call, wants)

    def uses_flash(self, call: Call) -> bool:
        """Whether torch's flash kernel runs the tiles of this call."""
        return self._flash_runs(call.q.dtype, call.q.shape[-1], call.v.shape[-1])

    def _flash_runs(self, dtype: torch.dtype, D: int, Dv: int) -> bool:
        m = self.module
        plain = (m.weight is None or m.sink is not None) and m.slope is None and (m.score is None or m.bias is not None)
        return plain and Dv == D and flash.available(dtype)

    def forward(
        self, call: Call, plan: Plan, need_lse: bool, save: bool
    ) -> tuple[Tensor, Tensor | None, tuple[Tensor, ...]]:
        """The output [B, H, Lq, Dv] in q's dtype; lse [B, H, Lq] in fp32 (fp64 for fp64) if asked for; and with
        `save` what backward needs. ValueError for the lse of a weight without an exponential."""
        if need_lse and not self.has_lse:
            raise ValueError(f"{self.attention.name}: return_lse needs a weight with an exponential")
        return _Forward(self, call, plan, need_lse, save).result()

    def backward(
        self,
        call: Call,
        plan: Plan,
        saved: tuple[Tensor, ...],
        grad_out: Tensor | None,
        grad_lse: Tensor | None,
        needs: frozenset[str],
    ) -> Mapping[str, Tensor]:
        """Gradients by name (`q`, `k`, `v`, float inputs) for those in `needs`, in their tensors' shapes and dtypes."""
        return _Backward(self, call, plan, saved, grad_out, grad_lse, needs).result()

    def scan_gap(self, call: Call, form: ScanForm) -> str | None:
        """Nothing: every form has a scan here."""
        return None

    def scan(
        self, call: Call, form: ScanForm, state: State | None, need_state: bool, save: bool
    ) -> tuple[Tensor, State | None, tuple[Tensor, ...]]:
        """The output [B, H, Lq, Dv] in q's dtype, the state after the last row, and what backward needs."""
        return scan.forward(self.scan_frame(call), form, state, need_state, save)

    def scan_backward(
        self,
        call: Call,
        form: ScanForm,
        state: State | None,
        saved: tuple[Tensor, ...],
        grad_out: Tensor | None,
        grad_state: tuple[Tensor | None, Tensor | None],
        needs: frozenset[str],
    ) -> Mapping[str, Tensor]:
        """Gradients by name, of the state given as `state.S` and `state.z`."""
        return scan_backward.backward(self.scan_frame(call, needs), form, state, saved, grad_out, grad_state, needs)

    def scan_frame(self, call: Call, wants: frozenset[str] = frozenset()) -> CallFrame:
        """What the functions of a scan see of a call."""
        return self.frame(call, wants, self.module.of_scan)

    def native(self, call: Call, plan: Plan, backward: bool = False) -> NativeKernel | None:
        """The compiled C that runs the tiles of this call, if any does."""
        module = self.module.native
        if isinstance(module, str) or (backward and module.backward_gap) or not large_enough(pairs_of(call, plan)):
            return None
        if compute_dtype(call.q.dtype) != torch.float32:
            return None
        if self.uses_flash(call) and (self.module.bias is None or call.q.dtype != torch.float32):
            return None
        wide = is_wide(module, self.attention, call)
        found = library(module.source(wide))
        return None if found is None else NativeKernel(module, found, wide)

    def steps(
        self, frame: CallFrame, plan: Plan, way: Way | NativeKernel, dtype: torch.dtype, backward: bool = False
    ) -> Iterator[Step]:
        """Head class by head class, and in each its batches of row tiles; keys and values in `dtype`."""
        call = frame.call
        q, k, v = call.q, call.k.to(dtype), call.v.to(dtype)
        name, native = (way.way, way) if isinstance(way, NativeKernel) else (way, None)
        B, H = call.q.shape[:2]
        for entry in self._schedules.get(plan, call, name):
            chosen = Selection.of(entry.heads, B, H, call.k.shape[1])
            yield Step(
                chosen, HeadTensors.of(chosen, q, k, v), lambda e=entry: e.batches(frame), name, native, backward
            )


def pairs_of(call: Call, plan: Plan) -> float:
    """Pairs in the boxes that a call visits, of all batches and heads."""
    B, H, Lq = call.q.shape[:3]
    return B * H * Lq * call.k.shape[2] * (plan.visited / max(1, plan.total))


@dataclass(frozen=True)
class Step:
    """A head class of a call."""

    chosen: Selection
    heads: HeadTensors
    batches: Callable[[], Iterator[Batch]]
    way: Way
    native: NativeKernel | None = None
    backward: bool = False

    def tiles(self, frame: CallFrame, width: int, chunked: bool, tiles: int) -> Iterator[tuple[TileFrame, Slices]]:
        """Batches, of all heads and at most `tiles` tiles; or `chunked`, cut so that one holds about TILE_PAIRS pairs,
        each of `width` numbers."""
        last: TileFrame | None = None
        for batch in self.batches():
            for part, at in self._cut(batch, width, chunked, tiles):
                tile = TileFrame.of(frame, part, self.heads.part(*at))
                if last is not None:
                    tile.take(last)
                if self.way == "flash" and frame.module.common and part.col_count and not tile.common:
                    tile.common = tile.shares()
                last = tile
                yield tile, at

    def _cut(self, batch: Batch, width: int, chunked: bool, tiles: int) -> Iterator[tuple[Batch, Slices]]:
        B, G, R = self.heads.q.shape[:3]
        if not chunked:
            for t in range(0, batch.tiles, tiles):
                part = batch if batch.tiles <= tiles else batch.part(t, min(batch.tiles, t + tiles))
                yield part, (slice(0, B), slice(0, G), slice(0, R))
            return
        room = max(1, self._room(batch) // max(1, batch.pairs * width))
        r = min(R, room)
        g = min(G, max(1, room // R))
        b = min(B, max(1, room // (R * G)))
        t = min(batch.tiles, max(1, room // (R * G * B)))
        for t0 in range(0, batch.tiles, t):
            part = batch if t == batch.tiles else batch.part(t0, min(batch.tiles, t0 + t))
            for b0 in range(0, B, b):
                for g0 in range(0, G, g):
                    for r0 in range(0, R, r):
                        yield part, (slice(b0, b0 + b), slice(g0, g0 + g), slice(r0, r0 + r))

    def _room(self, batch: Batch) -> int:
        if self.native is not None:
            width = self.heads.k.shape[-1] + self.heads.v.shape[-1]
            return self.native.room(batch.row_count, max(1, batch.col_count), width, self.backward)
        return TILE_PAIRS if batch.pairs <= SLAB_PAIRS else 1


Slices = tuple[slice, slice, slice]


class _Forward:
    def __init__(self, kernel: CpuKernel, call: Call, plan: Plan, need_lse: bool, save: bool) -> None:
        self.kernel, self.call, self.plan = kernel, call, plan
        self.frame = kernel.frame(call)
        self.native = kernel.native(call, plan)
        can_flash = kernel.uses_flash(call)
        self.flash = can_flash and self.native is None
        module = kernel.module
        B, H, Lq = call.q.shape[:3]
        shape = (B, H, Lq, call.v.shape[-1])
        self.need_lse = need_lse or (save and can_flash)
        self.keep_raw = save and module.output is not None
        self.out = torch.zeros(shape, dtype=call.q.dtype)
        self.raw = torch.zeros(shape, dtype=self.frame.dtype) if self.keep_raw else None
        self.lse = torch.full((B, H, Lq), NEVER, dtype=self.frame.dtype) if self.need_lse else None
        self.save = save
        self.asked = need_lse

    def result(self) -> tuple[Tensor, Tensor | None, tuple[Tensor, ...]]:
        call = self.call
        if self.out.numel() or (self.lse is not None and self.lse.numel()):
            dtype = call.q.dtype if self.flash else self.frame.dtype
            way = self.native or ("flash" if self.flash else "rows")
            for step in self.kernel.steps(self.frame, self.plan, way, dtype):
                self._step(step)
        saved = [x for x in ((self.raw if self.keep_raw else self.out), self.lse) if x is not None] if self.save else []
        return self.out, self.lse if self.asked else None, tuple(saved)

    def _step(self, step: Step) -> None:
        wholes = (self.out, self.raw, self.lse)
        parts = [_part(step.chosen, x) for x in wholes]
        module = self.kernel.module
        chunked = not self.flash or module.bias is not None or module.output is not None
        for tile, at in step.tiles(self.frame, _width(self.kernel, self.call), chunked, TILES):
            self._tile(tile, [None if p is None else p[at] for p in parts])
        for whole, part in zip(wholes, parts, strict=True):
            if whole is not None and part is not None:
                step.chosen.add_queries(whole, part)

    def _tile(self, tile: TileFrame, into: list[Tensor | None]) -> None:
        out, raw, lse = into
        module, scale = self.kernel.module, self.call.scale
        if tile.batch.col_count == 0:
            o = torch.zeros((*tile.shape[:5], self.call.v.shape[-1]), dtype=self.frame.dtype)
            e = None
        elif self.native is not None:
            o, e = self.native.forward(tile, scale)
        elif self.flash:
            o, e = flash.flash_forward(tile, scale)
            o = flash.sink_forward(tile, o, e)
        elif module.weight is None:
            o, e = softmax_forward(tile, scale, self.need_lse)
        else:
            o, e = general_forward(tile, scale, self.need_lse)
        assert out is not None
        if raw is not None:
            tile.batch.put_rows(raw, o)
        if module.output is not None:
            o = output_forward(tile, o.to(self.frame.dtype))
        tile.batch.put_rows(out, o)
        if lse is not None and e is not None:
            tile.batch.put_rows(lse, e)


def _part(chosen: Selection, whole: Tensor | None) -> Tensor | None:
    """The class's part of a result: a view of all of it, or a copy to be written back."""
    if whole is None:
        return None
    part = chosen.queries(whole)
    return part if chosen.whole else part.clone()


def _width(kernel: CpuKernel, call: Call) -> int:
    return max(call.q.shape[-1], call.v.shape[-1]) if kernel.module.wide else 1


class _Backward:
    def __init__(
        self,
        kernel: CpuKernel,
        call: Call,
        plan: Plan,
        saved: tuple[Tensor, ...],
        grad_out: Tensor | None,
        grad_lse: Tensor | None,
        needs: frozenset[str],
    ) -> None:
        self.kernel, self.call, self.plan, self.needs = kernel, call, plan, needs
        self.frame = kernel.frame(call, needs)
        module = kernel.module
        self.raw = saved[0]
        self.lse = saved[1] if len(saved) > 1 else None
        bias_reads = frozenset[str]() if module.bias is None else module.bias.names("tensor", "prefix", "own")
        wanted = {n.upper() if n in "qkv" else n for n in needs}
        self.flash = (
            kernel.uses_flash(call) and grad_lse is None and not bias_reads & wanted and flash.accurate(self.lse)
        )
        self.native = kernel.native(call, plan, backward=True)
        self.flash = (
            self.flash
            and self.native is None
            and (module.sink is None or call.q.dtype in (torch.float32, torch.float64))
        )
        shape = (*call.q.shape[:3], call.v.shape[-1])
        self.grad_out = torch.zeros(shape, dtype=call.q.dtype) if grad_out is None else grad_out
        self.grad_lse = None if grad_lse is None else grad_lse.to(self.frame.dtype)
        self.totals = [torch.zeros(x.shape, dtype=self.frame.dtype) for x in (call.q, call.k, call.v)]

    def result(self) -> Mapping[str, Tensor]:
        call = self.call
        if self.grad_out.numel() or prod(call.q.shape[:3]):
            dtype = call.q.dtype if self.flash else self.frame.dtype
            way = self.native or ("flash" if self.flash else "rows")
            for step in self.kernel.steps(self.frame, self.plan, way, dtype, backward=True):
                self._step(step)
        found = self.frame.gradients()
        for name, total in zip("qkv", self.totals, strict=True):
            found[name] = found[name] + total if name in found else total
        like = {"q": call.q, "k": call.k, "v": call.v, **call.inputs}
        return {n: found[n].to(like[n].dtype) for n in self.needs if n in found}

    def _step(self, step: Step) -> None:
        chosen = step.chosen
        given = [
            chosen.queries(x) if x is not None else None for x in (self.grad_out, self.grad_lse, self.raw, self.lse)
        ]
        dq, dk, dv = self.totals
        parts = (chosen.queries(dq), chosen.keys(dk), chosen.keys(dv))
        if not chosen.whole:
            parts = tuple(torch.zeros_like(p) for p in parts)
        module = self.kernel.module
        chunked = not self.flash or module.bias is not None or module.output is not None
        tiles = max(BACKWARD_TILES, BACKWARD_PROBLEMS // max(1, prod(step.heads.k.shape[:2])))
        for tile, at in step.tiles(self.frame, _width(self.kernel, self.call), chunked, tiles):
            if tile.batch.col_count == 0 and module.output is None:
                continue
            rows = [None if x is None else tile.batch.take_rows(x[at]) for x in given]
            grads = self._tile(tile, *rows)
            if grads is None:
                continue
            tile.batch.put_rows(parts[0][at], grads.q)
            tile.batch.add_cols(parts[1][at[:2]], grads.k)
            tile.batch.add_cols(parts[2][at[:2]], grads.v)
        if not chosen.whole:
            chosen.add_queries(dq, parts[0])
            chosen.add_keys(dk, parts[1])
            chosen.add_keys(dv, parts[2])

    def _tile(
        self, tile: TileFrame, grad_out: Tensor | None, grad_lse: Tensor | None, raw: Tensor | None, lse: Tensor | None
    ) -> TileGradients | None:
        module, scale = self.kernel.module, self.call.scale
        assert grad_out is not None
        vectors: dict[str, Tensor] = {}
        if module.output is not None:
            assert raw is not None
            grad_out, vectors = output_backward(tile, raw, grad_out.to(self.frame.dtype))
        if tile.batch.col_count == 0:
            return _only_rows(tile, vectors)
        if self.flash:
            assert raw is not None and lse is not None
            dtype = self.call.q.dtype
            lse, more = flash.sink_backward(tile, grad_out, raw, lse)
            if "Q" in more:
                vectors["Q"] = vectors["Q"] + more["Q"] if "Q" in vectors else more["Q"]
            grads = flash.flash_backward(tile, scale, grad_out.to(dtype), raw.to(dtype), lse)
        elif self.native is not None:
            grads = self.native.backward(tile, scale, grad_out.to(self.frame.dtype), grad_lse)
        else:
            rule = softmax_backward if module.weight is None else general_backward
            grads = rule(tile, scale, grad_out.to(self.frame.dtype), grad_lse)
        if "Q" in vectors:
            return TileGradients(grads.q + vectors["Q"].squeeze(-2), grads.k, grads.v)
        return grads


def _only_rows(tile: TileFrame, vectors: dict[str, Tensor]) -> TileGradients | None:
    """The gradient of a tile without columns: what its output clause read of Q."""
    if "Q" not in vectors:
        return None
    none = [tile.batch.take_cols(x) for x in (tile.k, tile.v)]
    return TileGradients(vectors["Q"].squeeze(-2), *none)
