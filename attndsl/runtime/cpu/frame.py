"""What generated functions see of one call: sizes, scalars, tensors; and of one tile: indices, coordinates, pairs."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

import torch
from torch import Tensor

from attndsl.codegen.cpu import CpuModule
from attndsl.codegen.names import Argument, Function
from attndsl.codegen.whitelist import check_generated
from attndsl.ir.attention import Attention, Space
from attndsl.ir.expr import Decay, walk
from attndsl.ir.types import Kind, kind_of_dtype
from attndsl.runtime.call import Call
from attndsl.runtime.cpu.part import Batch, Selection, offset_of
from attndsl.runtime.cpu.source import Pairs, Tape, TensorSource
from attndsl.runtime.cpu.support import FUNCTIONS, gap, to_float

PAIR = (1, 1, 1, 1, 1, 1)


def compile_module(module: CpuModule) -> CodeType:
    """The checked code of a generated module."""
    tree = check_generated(module.source, {*FUNCTIONS, "to_float", "gap"}, {"inf"})
    return compile(tree, "<attndsl cpu>", "exec")


def load_functions(code: CodeType, dtype: torch.dtype) -> Mapping[str, Callable[..., Tensor]]:
    """The functions of a checked module, computing in `dtype`."""
    own = {"to_float": to_float(dtype), "gap": gap(dtype)}
    names: dict[str, Any] = {**FUNCTIONS, **own, "inf": math.inf, "__builtins__": {}}
    exec(code, names)
    return names


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision in which tensors of this element type are computed."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class CallFrame:
    """One call: functions at its precision, and what they read that no tile changes."""

    def __init__(
        self,
        attention: Attention,
        module: CpuModule,
        functions: Mapping[str, Callable[..., Tensor]],
        call: Call,
        wants: frozenset[str] = frozenset(),
    ) -> None:
        self.attention, self.module, self.functions = attention, module, functions
        self.call, self.wants = call, wants
        self.dtype = compute_dtype(call.q.dtype)
        self.offset = offset_of(call)
        self.scalars = {s.name: _scalar(call.scalars[s.name], s.kind) for s in attention.scalars}
        self.sources = {n: self._source(n) for f in module.functions for n in f.names("tensor")}
        self.prefixes = {n: self._prefix(n) for f in module.functions for n in f.names("prefix")}
        self._buffers: dict[str, Tensor] = {}

    def _source(self, name: str) -> TensorSource:
        if name in ("Q", "K", "V"):
            return TensorSource(getattr(self.call, name.lower()), self.dtype, None, name.lower() in self.wants)
        for c in self.attention.consts:
            if c.name == name:
                return TensorSource(torch.tensor(c.default), self._read_as(c.kind))
        tensor = self.call.inputs[name]
        kind = kind_of_dtype(next(i.dtype for i in self.attention.inputs if i.name == name))
        return TensorSource(tensor, self._read_as(kind), None, name in self.wants)

    def _read_as(self, kind: Kind) -> torch.dtype:
        return {Kind.BOOL: torch.bool, Kind.INT: torch.int64, Kind.FLOAT: self.dtype}[kind]

    def _prefix(self, name: str) -> TensorSource:
        tensor = self.call.inputs[name]
        along = self._along(name)
        zero = torch.zeros_like(tensor.select(along, 0) if tensor.shape[along] else tensor.sum(along)).unsqueeze(along)
        sums = torch.cat([zero.double(), tensor.double().cumsum(along)], along)
        return TensorSource(sums, torch.float64, self.dtype, name in self.wants)

    def _along(self, name: str) -> int:
        a = self.attention
        for root in (a.mask, a.score, a.weight, a.output):
            for node in walk(root) if root is not None else ():
                if isinstance(node, Decay) and node.tensor == name:
                    return len(node.indices)
        raise KeyError(name)

    def buffer(self, count: int, name: str = "") -> Tensor:
        """Room for numbers that one step of the call computes; the next step has the same room of that name."""
        found = self._buffers.get(name)
        if found is None or found.numel() < count:
            found = self._buffers[name] = torch.empty(count, dtype=self.dtype)
        return found[:count]

    def gradients(self) -> dict[str, Tensor]:
        """What tapes collected, by input (and `q`, `k`, `v` where they were read as tensors), in compute precision."""
        out: dict[str, Tensor] = {}
        for name, source in self.sources.items():
            found = source.gradient()
            if found is not None:
                out[name.lower() if name in ("Q", "K", "V") else name] = found
        for name, source in self.prefixes.items():
            found = source.gradient()
            if found is None:
                continue
            along = self._along(name)
            inner = found.narrow(along, 1, found.shape[along] - 1)
            summed = inner.flip(along).cumsum(along).flip(along).to(self.dtype)
            out[name] = out[name] + summed if name in out else summed
        return out

    def record(self) -> Tape:
        """Start a new tape for all reads."""
        tape = Tape()
        for source in (*self.sources.values(), *self.prefixes.values()):
            source.tape = tape
        return tape

    def stop(self) -> None:
        for source in (*self.sources.values(), *self.prefixes.values()):
            source.tape = None


def _scalar(value: bool | int | float, kind: Kind) -> Tensor:
    return torch.tensor(value, dtype={Kind.BOOL: torch.bool, Kind.INT: torch.int64, Kind.FLOAT: torch.float64}[kind])


@dataclass
class TileFrame:
    """One batch of tiles of some heads: `q [b, g, r, Lq, D]`, `k`, `v [b, g, Lk, D]` and their indices."""

    call: CallFrame
    batch: Batch
    q: Tensor
    k: Tensor
    v: Tensor
    index: dict[str, Tensor]
    own: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    recording: bool = False
    common: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    """Parts of the bias that all heads share."""
    known_masks: list[tuple[int, int, Tensor]] | None = None
    leaves: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """What compiled C reads that all heads share."""

    def take(self, other: TileFrame) -> None:
        """What the same rows and columns of other heads have in common with these."""
        if other.batch is not self.batch or self.call.offset.shape[0] > 1:
            return
        self.index.update({n: other.index[n] for n in ("row", "q", "k") if n in other.index})
        self.common, self.leaves = other.common, other.leaves

    @staticmethod
    def of(call: CallFrame, batch: Batch, heads: HeadTensors) -> TileFrame:
        offset = call.offset
        if offset.shape[0] > 1:
            offset = offset[heads.b.reshape(-1)]
        index = {"b": heads.b, "offset": offset, "h": heads.h, "hkv": heads.hkv}
        return TileFrame(call, batch, heads.q, heads.k, heads.v, index)

    def at(self, name: str) -> Tensor:
        """An index of the pairs, made when first asked for."""
        found = self.index.get(name)
        if found is None:
            b = self.batch
            if name == "row":
                found = b.row_positions().reshape(1, 1, b.tiles, 1, b.row_count, 1)
            elif name == "q":
                found = self.at("row") + self.index["offset"]
            else:
                assert name == "k", name
                found = b.col_positions().reshape(1, 1, b.tiles, 1, 1, b.col_count)
            self.index[name] = found
        return found

    @staticmethod
    def bare(call: CallFrame, batch: Batch) -> TileFrame:
        """A tile of no particular head, for masks that are the same for all."""
        zero = torch.zeros(PAIR, dtype=torch.int64)
        none = call.call.q.new_empty((1, 1, 1, 0, 0))
        return TileFrame.of(call, batch, HeadTensors(none, none[:, :, 0], none[:, :, 0], zero, zero, zero))

    def shares(self) -> dict[str, Tensor]:
        """The parts of the bias that all batches and heads share."""
        return {f.name: self.run(f).to(self.call.dtype) for f in self.call.module.common}

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the pairs."""
        b, g, r = self.q.shape[:3]
        return b, g, self.batch.tiles, r, self.batch.row_count, self.batch.col_count

    def run(self, function: Function, **values: Any) -> Tensor:
        """A generated function on this tile; at least PAIR_RANK dimensions."""
        return _number(self.call.functions[function.name](*self._arguments(function, values)))

    def run_by_rows(self, function: Function, s: Tensor) -> Callable[[int, int], Tensor]:
        """`run` with the scores s, for rows lo up to hi alone."""
        arguments = self._arguments(function, self.pair_values(function) | {"s": s})
        code, rows = self.call.functions[function.name], self.shape[4]
        return lambda lo, hi: _number(code(*[rows_of(a, lo, hi, rows) for a in arguments]))

    def pair_values(self, function: Function) -> dict[str, Any]:
        """The pairs that count, where a function that has a value at each of them asks for them."""
        return {"alive": self.pairs()} if "alive" in function.names("value") else {}

    def _arguments(self, function: Function, values: Mapping[str, Any]) -> list[Any]:
        if function.reads("tensor") or function.reads("prefix"):
            self._bound()
        return [self._argument(a, values) for a in function.arguments]

    def _bound(self) -> None:
        sizes = self.call.call.sizes
        known = {"b": "B", "h": "H", "hkv": "Hkv", "row": "Lq", "k": "Lk"}
        bounds = {id(self.at(i)): (self.at(i), sizes[n]) for i, n in known.items()}
        for source in (*self.call.sources.values(), *self.call.prefixes.values()):
            source.bounds = bounds

    def _argument(self, a: Argument, values: Mapping[str, Any]) -> Any:
        match a.source:
            case "index":
                return self.at(str(a.key[0]))
            case "coord":
                return self._coordinate(*map(str, a.key))
            case "member":
                return self._inside(str(a.key[0]), str(a.key[1]))[1]
            case "extent":
                return self._extent(*map(str, a.key))
            case "size":
                return self.call.call.sizes[str(a.key[0])]
            case "scalar":
                return self.call.scalars[str(a.key[0])]
            case "value":
                return self.at("offset") if a.name == "offset" else values[a.name]
            case "tensor":
                return self.call.sources[str(a.key[0])]
            case "prefix":
                return self.call.prefixes[str(a.key[0])]
            case "own":
                return self.own_vector(str(a.key[0]))
            case _:
                raise KeyError(a.source)

    def own_vector(self, name: str) -> Tensor:
        """Q of the tile's rows [b, g, tiles, r, rows, 1, D]; K, V of its columns [b, g, tiles, 1, 1, columns, D]."""
        if name not in self.own:
            if name == "Q":
                found = self.batch.take_rows(self.q).unsqueeze(-2)
            else:
                found = self.batch.take_cols(self.k if name == "K" else self.v).unsqueeze(3).unsqueeze(3)
            found = found.to(self.call.dtype)
            self.own[name] = found.detach().requires_grad_() if self.recording else found
        return self.own[name]

    def _space(self, side: str) -> Space:
        a = self.call.attention
        space = a.q_space if side == "q" else a.k_space
        assert space is not None
        return space

    def _extents(self, side: str) -> Mapping[str, tuple[int, ...]]:
        return self.call.call.q_extents if side == "q" else self.call.call.k_extents

    def _inside(self, side: str, segment: str) -> tuple[Tensor, Tensor]:
        at = self.at(side)
        for s in self._space(side).segments:
            length = math.prod(self._extents(side)[s.name])
            if s.name == segment:
                return at, (at >= 0) & (at < length)
            at = at - length
        raise KeyError(segment)

    def _extent(self, side: str, segment: str, axis: str) -> int:
        axes = next(s.axes for s in self._space(side).segments if s.name == segment)
        return self._extents(side)[segment][axes.index(axis)]

    def _coordinate(self, side: str, segment: str, axis: str) -> Tensor:
        at, inside = self._inside(side, segment)
        axes = next(s.axes for s in self._space(side).segments if s.name == segment)
        extents = self._extents(side)[segment]
        i = axes.index(axis)
        inner = max(1, math.prod(extents[i + 1 :]))
        c = at if inner == 1 else torch.div(at, inner, rounding_mode="floor")
        return torch.where(inside, c if i == 0 else torch.remainder(c, max(1, extents[i])), -1)

    def masks(self) -> list[tuple[int, int, Tensor]]:
        """The mask on the ranges of columns that need it."""
        if self.known_masks is None:
            self.known_masks = self._masks()
        return self.known_masks

    def _masks(self) -> list[tuple[int, int, Tensor]]:
        mask = self.call.module.mask
        if mask is None:
            return []
        k = self.at("k")
        out: list[tuple[int, int, Tensor]] = []
        for lo, hi in self.batch.partial:
            self.index["k"] = k[..., lo:hi]
            out.append((lo, hi, self.run(mask)))
        self.index["k"] = k
        return out

    def pairs(self) -> Pairs:
        """The visible pairs."""
        return join(self.masks(), self.batch.col_count)


def _number(found: Any) -> Tensor:
    result = found if isinstance(found, Tensor) else torch.tensor(found)
    return result if result.ndim >= len(PAIR) else result.reshape(PAIR)


def rows_of(x: Any, lo: int, hi: int, rows: int) -> Any:
    """An argument for rows lo up to hi of a tile of `rows`."""
    if isinstance(x, Pairs):
        return x if x.mask is None else Pairs(rows_of(x.mask, lo, hi, rows), x.columns)
    if not isinstance(x, Tensor) or x.ndim < len(PAIR) or x.shape[4] == 1 or (lo, hi) == (0, rows):
        return x
    return x[:, :, :, :, lo:hi]


def join(masks: list[tuple[int, int, Tensor]], columns: int) -> Pairs:
    """One mask over all columns from those of some ranges."""
    if not masks:
        return Pairs(None, columns)
    if len(masks) == 1 and masks[0][:2] == (0, columns):
        return Pairs(masks[0][2].expand(*masks[0][2].shape[:-1], columns), columns)
    shape = torch.broadcast_shapes(*[m.shape[:-1] for _, _, m in masks])
    whole = torch.ones((*shape, columns), dtype=torch.bool)
    for lo, hi, m in masks:
        whole[..., lo:hi] = m
    return Pairs(whole, columns)


@dataclass(frozen=True)
class HeadTensors:
    """Some batches and heads of a selection: tensors, and `b`, `h`, `hkv` that broadcast over a tile's pairs."""

    q: Tensor
    k: Tensor
    v: Tensor
    b: Tensor
    h: Tensor
    hkv: Tensor

    @staticmethod
    def of(chosen: Selection, q: Tensor, k: Tensor, v: Tensor) -> HeadTensors:
        g, r = len(chosen.key_heads), chosen.group
        return HeadTensors(
            q=chosen.queries(q),
            k=chosen.keys(k),
            v=chosen.keys(v),
            b=torch.tensor(chosen.batches).reshape(-1, 1, 1, 1, 1, 1),
            h=torch.tensor(chosen.heads).reshape(1, g, 1, r, 1, 1),
            hkv=torch.tensor(chosen.key_heads).reshape(1, g, 1, 1, 1, 1),
        )

    def part(self, b: slice, g: slice, r: slice) -> HeadTensors:
        return HeadTensors(
            q=self.q[b, g, r],
            k=self.k[b, g],
            v=self.v[b, g],
            b=self.b[b],
            h=self.h[:, g, :, r],
            hkv=self.hkv[:, g],
        )
