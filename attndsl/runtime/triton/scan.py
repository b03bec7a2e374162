"""Launches of chunked scans: forward and the three scans of the backward pass."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor

from attndsl.codegen.triton_arguments import Argument
from attndsl.codegen.triton_form import Dtype
from attndsl.codegen.triton_scan import ScanModule, Walk, generate_scan
from attndsl.runtime.triton import machine
from attndsl.runtime.triton.generated import scan_module_for
from attndsl.runtime.triton.launch import interpreting
from attndsl.runtime.triton.modules import load_module
from attndsl.runtime.triton.scan_config import ScanConfig, choose_scan, cut, hazard
from attndsl.runtime.triton.scan_launch import Memo, Reading, Ready, launching, recorded

CARRY = tuple(
    Argument(n, "", r, (n,))
    for n, r in (
        *((n, "tensor") for n in ("local", "initial", "decays")),
        *((n, "number") for n in ("segments", "size", "inner", "blocks")),
        *((n, "constexpr") for n in ("START", "BLOCK")),
    )
)
PREFIX = tuple(
    Argument(n, t, r, (n,))
    for n, t, r in (
        *((n, "*fp32", "tensor") for n in ("added", "decays", "initial", "entering")),
        *((n, "i32", "number") for n in ("chunks_all", "blocks")),
        *((n, "constexpr", "constexpr") for n in ("START", "BLOCK", "WIDTH")),
    )
)
DTYPES: dict[torch.dtype, Dtype] = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}


CHUNK_WARPS = {"sums": 1, "columns": 4, "norms": 4}
"""Kernels that are a program per chunk, and their warps."""
PREFIX_BLOCK, PREFIX_WIDTH = 64, 16
"""Chunks that are added up at once, and components that a program adds up."""


@dataclass(frozen=True, eq=False)
class Carried:
    """What enters (or leaves) a scan: a state fp32 [B, H, keys, values] and, with a normaliser, the sum of keys
    fp32 [B, H, keys]."""

    state: Tensor
    column: Tensor | None = None

    def contiguous(self) -> Carried:
        """The same in the layout that kernels read."""
        return Carried(self.state.contiguous(), None if self.column is None else self.column.contiguous())


@dataclass(frozen=True, eq=False)
class Operands:
    """The tensors of one scan: q, k, v and, where its output is multiplied by a slope, x; each [B, heads, L, size].

    `gamma` (a base or its logarithm) broadcasts to [B, H], `g` and `docs` (i32) to [B, H, L]; `u` is fp32 [B, H, L].
    With a decay per channel, `factors` are those of whole chunks, fp32 [B, H, chunks, size], and `weights` those of
    pairs, [B, H, L, rows of a chunk]; with one per token, `falls` are what `Scan.falls` gives. `entering` is what
    `Scan.columns` gives, of the scan whose keys are a feature's values here; `norms` what `Scan.norms` gives.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    x: Tensor | None = None
    gamma: Tensor | None = None
    g: Tensor | None = None
    docs: Tensor | None = None
    u: Tensor | None = None
    factors: Tensor | None = None
    weights: Tensor | None = None
    falls: Tensor | None = None
    entering: Tensor | None = None
    norms: Tensor | None = None
    reading: Reading = field(default_factory=lambda: Reading({}, {}, {}))


@dataclass(frozen=True, eq=False)
class Segments:
    """The states at the boundaries of segments: fp32 [B, H, segments, keys, values], and the sums of keys where they
    are asked for; the state that enters each (of a reverse scan: from behind). `length` is the rows of a segment."""

    length: int
    state: Tensor
    column: Tensor | None = None


@lru_cache(maxsize=256)
def scan_module(walk: Walk, title: tuple[str, ...] = ("linear attention",)) -> ScanModule:
    """The generated module of a scan, made once."""
    return scan_module_for("scan", (walk, title), lambda: generate_scan(walk, list(title)))


@dataclass(frozen=True, eq=False)
class Scan:
    """One scan on its operands, ready to run. `memo` holds what is prepared for operands alike."""

    walk: Walk
    operands: Operands
    B: int
    H: int
    config: ScanConfig
    memo: Memo = field(default_factory=dict[Any, Any])

    @property
    def rows(self) -> int:
        return self.operands.q.shape[2]

    @property
    def slices(self) -> int:
        return -(-self.walk.v.size // self.config.columns)

    def cut(self, most: int = 0) -> tuple[int, int]:
        """(segments, rows of each)."""
        config = self.config
        fill = _multiprocessors(self.operands.q.device) * config.resident
        return cut(self.rows, config.chunk, self.B * self.H * self.slices, fill, config.segments, most, config.least)

    def falls(self) -> Tensor:
        """Of a decay per token, its running sums in every chunk, for all scans of the same chunks: up to every row, and
        from behind it to the chunk's end; fp32 [B, H, chunks, 2, rows of a chunk]."""
        chunks = -(-self.rows // self.config.chunk)
        device = self.operands.q.device
        made = torch.empty((self.B, self.H, chunks, 2, self.config.chunk), dtype=torch.float32, device=device)
        self._launch("sums", 1, self.rows, {"falls": made}, {"parts": 1}, {})
        return made

    def states(self, segments: int, length: int, initial: Carried | None) -> Segments:
        """The states at the boundaries of segments."""
        w, device = self.walk, self.operands.q.device
        initial = None if initial is None else initial.contiguous()
        shape = (self.B, self.H, segments)
        local = torch.empty((*shape, w.k.size, w.v.size), dtype=torch.float32, device=device)
        factors = (*shape, w.k.size) if w.channel else shape
        decays = torch.empty(factors, dtype=torch.float32, device=device) if w.decays or w.channel else None
        given = {"local": local, "decays": decays}
        if segments > 1:
            numbers = {"parts": segments - 1, "first": int(w.reverse)}
            self._launch("states", segments, length, given, numbers, {})
        self._carry(segments, local, decays, None if initial is None else initial.state, w.v.size)
        return Segments(length, local)

    @property
    def chunks(self) -> int:
        """How many there are."""
        return -(-self.rows // self.config.chunk)

    def columns(self, initial: Tensor | None) -> Tensor:
        """The sums of keys (times u) that enter every chunk, in the order of the scan, and what is left after the last:
        fp32 [B, H, chunks + 1, keys]."""
        shape, device = (self.B, self.H, self.chunks), self.operands.q.device
        added = torch.empty((*shape, self.walk.k.size), dtype=torch.float32, device=device)
        decays = torch.empty(shape, dtype=torch.float32, device=device) if self.walk.decays else None
        self._launch("columns", 1, self.rows, {"added": added, "decays": decays}, {"parts": 1}, {})
        made = torch.empty((self.B, self.H, self.chunks + 1, self.walk.k.size), dtype=torch.float32, device=device)
        key = "prefix", initial is None
        ready = self.memo.get(key)
        if ready is None:
            blocks = -(-self.walk.k.size // PREFIX_WIDTH)
            block = PREFIX_BLOCK if device.type == "cuda" else 4
            known = {
                "chunks_all": self.chunks, "blocks": blocks, "START": initial is not None, "BLOCK": block,
                "WIDTH": PREFIX_WIDTH,
            }  # fmt: skip
            kernel = load_module(self.module.source).prefix
            ready = self.memo[key] = Ready.of(kernel, PREFIX, known, blocks * self.B * self.H, 4, 1)
        factors = self.operands.factors if self.walk.channel else decays
        initial = None if initial is None else initial.contiguous()
        ready.run(device, {"added": added, "decays": factors, "initial": initial, "entering": made}, added)
        return made

    def norms(self, entering: Tensor) -> Tensor:
        """What rows are divided by as far as it comes from chunks before theirs, from what `columns` gave: fp32
        [B, H, L]."""
        made = torch.empty((self.B, self.H, self.rows), dtype=torch.float32, device=entering.device)
        self._launch("norms", 1, self.rows, {"entering": entering, "normed": made}, {"parts": 1}, {})
        return made

    def at_segments(self, entering: Tensor, segments: int, length: int) -> Tensor:
        """Those of what `columns` gave that enter the segments, [B, H, segments, keys]."""
        each, chunks = length // self.config.chunk, self.chunks
        if not self.walk.reverse:
            return entering[:, :, :chunks:each]
        first = chunks - (segments - 1) * each
        return torch.cat((entering[:, :, :1], entering[:, :, first:chunks:each]), 2).flip(2)

    def total(self) -> Tensor:
        """The sum of keys^T values over all rows, fp32 [B, H, keys, values], without decay."""
        segments, length = self.cut()
        shape = (self.B, self.H, segments, self.walk.k.size, self.walk.v.size)
        local = torch.empty(shape, dtype=torch.float32, device=self.operands.q.device)
        with launching(local.device):
            self._launch("states", segments, length, {"local": local}, {"parts": segments, "first": 0}, {})
        return local.sum(2)

    def _carry(self, segments: int, local: Tensor, decays: Tensor | None, initial: Tensor | None, inner: int) -> None:
        key = "carry", segments, inner, initial is None
        ready = self.memo.get(key)
        if ready is None:
            size = local[0, 0, 0].numel()
            block = 256 if size <= 1 << 14 else 1024
            blocks = -(-size // block)
            known = {
                "segments": segments, "size": size, "inner": inner, "blocks": blocks, "START": initial is not None,
                "BLOCK": block,
            }  # fmt: skip
            kernel = load_module(self.module.source).carry
            ready = self.memo[key] = Ready.of(kernel, CARRY, known, blocks * self.B * self.H, 4, 3)
        ready.run(local.device, {"local": local, "initial": initial, "decays": decays}, local)

    def outputs(
        self,
        out: Tensor,
        length: int,
        segments: int,
        entering: Segments | Carried | None,
        *,
        transposed: bool = False,
        final: Carried | None = None,
        shares: Tensor | None = None,
        row_sums: Tensor | None = None,
    ) -> None:
        """Fill `out` [B, H, L, values]; with `transposed` the entering states are [values, keys]."""
        w = self.walk
        if isinstance(entering, Carried):
            entering = entering.contiguous()
        given = {
            "out": out, "shares": shares, "row_sums": row_sums,
            "state": None if entering is None else entering.state,
            "final": None if final is None else final.state,
        }  # fmt: skip
        sk, sv = (1, w.k.size) if transposed else (w.v.size, 1)
        numbers = {"parts": segments, "first": 0, "state_sk": sk, "state_sv": sv}
        constants = {"START": entering is not None, "FINAL": final is not None}
        self._launch("outputs", segments, length, given, numbers, constants)

    @cached_property
    def module(self) -> ScanModule:
        return scan_module(self.walk)

    def _launch(
        self,
        name: str,
        segments: int,
        length: int,
        given: Mapping[str, Tensor | None],
        numbers: Mapping[str, int],
        constants: Mapping[str, bool],
    ) -> None:
        key = name, segments, length, *numbers.values(), *constants.values()
        ready = self.memo.get(key)
        if ready is None:
            ready = self.memo[key] = self._prepared(name, segments, length, numbers, constants)
        o = self.operands
        values: dict[str, Any] = {
            "q": o.q, "k": o.k, "v": o.v, "x": o.x, "gamma": o.gamma, "g": o.g, "docs": o.docs, "u": o.u,
            "factors": o.factors, "weights": o.weights, "falls": o.falls, "entering": o.entering, "norms": o.norms,
            **given,
        }  # fmt: skip
        values |= o.reading.values(self.module.arguments[name])
        spare = given.get("local")
        ready.run(o.q.device, values, o.q if spare is None else spare)

    def _prepared(
        self, name: str, segments: int, length: int, numbers: Mapping[str, int], constants: Mapping[str, bool]
    ) -> Ready:
        known = self._known(segments, length, numbers, constants)
        arguments = self.module.arguments[name]
        known |= self.operands.reading.numbers(arguments)
        kernel = getattr(load_module(self.module.source), name)
        columns, warps, stages = self.config.columns, self.config.warps, self.config.stages
        if machine.on_gpu(self.operands.q.device) and (why := hazard(self.config, self.walk.dtype)) is not None:
            raise ValueError(f"a scan in this configuration has no kernel: {why}")
        if name in CHUNK_WARPS:
            return Ready.of(kernel, arguments, known, self.B * self.H * known["chunks_all"], CHUNK_WARPS[name], 1)
        if name == "states":
            columns, warps, stages = self.config.of_states
        slices = -(-self.walk.v.size // columns)
        known |= {"slices": slices, "BV": columns}
        return Ready.of(kernel, arguments, known, self.B * self.H * slices * known["parts"], warps, stages)

    def _known(
        self, segments: int, length: int, numbers: Mapping[str, int], constants: Mapping[str, bool]
    ) -> dict[str, Any]:
        """Numbers that are passed for the arguments of these names."""
        o, config, unit = self.operands, self.config, self.walk.stride_unit
        H = self.H
        known: dict[str, Any] = {
            "B": self.B, "H": H, "L": self.rows, "segments": segments, "length": length,
            "chunks_all": -(-self.rows // config.chunk), "BT": config.chunk, "group": o.reading.sizes.get("group", 1),
            **numbers, **constants,
        }  # fmt: skip
        for role, t in (("q", o.q), ("k", o.k), ("v", o.v), ("x", o.x)):
            if t is not None:
                sb, sh, sl, _ = t.stride()
                known[f"{role}_group"] = H // t.shape[1]
                known[f"{role}_sb"], known[f"{role}_sh"], known[f"{role}_sl"] = sb // unit, sh // unit, sl // unit
        for name_of, t in (("gamma", o.gamma), ("g", o.g), ("docs", o.docs)):
            if t is not None:
                known[f"{name_of}_group"] = H // t.shape[1]
                for axis, n, s in zip("bhl", t.shape, t.stride(), strict=False):
                    known[f"{name_of}_s{axis}"] = 0 if n == 1 else s
        return known


def _capability(device: torch.device) -> int:
    """Times ten; that of Hopper for tensors that are on no GPU, unless launches are recorded for another."""
    return _gpu(device)[0] if machine.on_gpu(device) else 90 if (it := recorded()) is None else it.capability


def _multiprocessors(device: torch.device) -> int:
    return _gpu(device)[1] if machine.on_gpu(device) else 1 if (it := recorded()) is None else it.multiprocessors


@lru_cache(maxsize=16)
def _gpu(device: torch.device) -> tuple[int, int]:
    """Compute capability times ten, and multiprocessors."""
    major, minor = torch.cuda.get_device_capability(device)
    return major * 10 + minor, torch.cuda.get_device_properties(device).multi_processor_count


def aligned(*tensors: Tensor | None) -> bool:
    """Whether addresses and strides are multiples of 16 bytes."""
    for t in tensors:
        if t is None:
            continue
        if not t.numel() or t.data_ptr() % 16 or t.stride(-1) != 1 or t.stride(2) <= 0:
            return False
        if any(s * t.element_size() % 16 for s in t.stride()[:-1]):
            return False
    return True


def has_tma(*tensors: Tensor | None, columns: Tensor) -> bool:
    """Whether tensor descriptors can load these on their device, and store rows as wide as those of `columns`, which
    lie side by side."""
    if _capability(columns.device) < 90:
        return False
    return aligned(*tensors) and columns.shape[-1] * columns.element_size() % 16 == 0


def config_of(q: Tensor, keys: int, values: int) -> ScanConfig:
    """The configuration for tensors like q."""
    narrow = not (interpreting() and q.dtype is torch.bfloat16)
    return choose_scan(DTYPES[q.dtype] if narrow else "fp32", keys, values, _capability(q.device))
