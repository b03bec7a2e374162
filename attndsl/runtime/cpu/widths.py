"""Whether the whole numbers of a kernel fit 32 bits in a call: interval arithmetic over its indices and inputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from attndsl.codegen.native import NativeModule
from attndsl.ir.attention import Attention
from attndsl.ir.expr import Coord, Count, Expr, Extent, Index, Load, ParamRef, Size, walk
from attndsl.ir.types import Kind
from attndsl.runtime.call import Call
from attndsl.schedule.interval import Boxes, bounds

LARGEST = 2**31 - 1
BITS = {"i8": 8, "i16": 16, "i32": 32}


def is_wide(module: NativeModule, attention: Attention, call: Call) -> bool:
    """Whether ints must have 64 bits."""
    whole = [leaf for leaf in module.leaves if leaf.kind is Kind.INT]
    nodes = [n for root in (module.score, module.mask) if root is not None for n in walk(root) if _counts(n)]
    if not whole and not nodes:
        return False
    ranges = _Ranges(attention, call)
    known: dict[Expr, Any] = {}
    for leaf in whole:
        sources = dict(ranges.of(leaf.source))
        known[leaf.value] = bounds(leaf.source, Boxes(sources, {}))
    return not all(_fits(bounds(n, Boxes(known, {}))) for n in (*known, *nodes))


def _counts(node: Expr) -> bool:
    return node.type.kind is Kind.INT and node.type.is_number


def _fits(found: Any) -> bool:
    return bool(float(found[0]) >= -LARGEST - 1 and float(found[1]) <= LARGEST)


class _Ranges:
    """What leaves of expressions can be in a call."""

    def __init__(self, attention: Attention, call: Call) -> None:
        self.attention, self.call = attention, call
        offset = call.q_offset
        low, high = (offset, offset) if isinstance(offset, int) else _ends(offset)
        s = call.sizes
        last = {n: max(0, s[n] - 1) for n in ("Lq", "Lk", "H", "Hkv", "B")}
        self.indices = {
            "q": (low, high + last["Lq"]), "row": (0, last["Lq"]), "k": (0, last["Lk"]), "h": (0, last["H"]),
            "hkv": (0, last["Hkv"]), "b": (0, last["B"]),
        }  # fmt: skip

    def of(self, root: Expr) -> Iterator[tuple[Expr, tuple[int, int]]]:
        for node in walk(root):
            if not _counts(node):
                continue
            found = self._leaf(node)
            if found is not None:
                yield node, found

    def _leaf(self, node: Expr) -> tuple[int, int] | None:
        match node:
            case Index(name=name):
                return self.indices[name]
            case Coord(side=side, segment=segment, axis=axis):
                return -1, self._extent(side, segment, axis)
            case Extent(side=side, segment=segment, axis=axis):
                n = self._extent(side, segment, axis)
                return n, n
            case Size(name=name):
                return self.call.sizes[name], self.call.sizes[name]
            case ParamRef(name=name) if name in self.call.scalars:
                value = int(self.call.scalars[name])
                return value, value
            case Count():
                return 0, self.call.sizes["Lk"]
            case Load(tensor=tensor):
                return self._elements(tensor)
            case _:
                return None

    def _extent(self, side: str, segment: str, axis: str) -> int:
        space = self.attention.q_space if side == "q" else self.attention.k_space
        extents = self.call.q_extents if side == "q" else self.call.k_extents
        assert space is not None
        axes = next(s.axes for s in space.segments if s.name == segment)
        return extents[segment][axes.index(axis)]

    def _elements(self, tensor: str) -> tuple[int, int] | None:
        for c in self.attention.consts:
            if c.name == tensor and isinstance(c.default, tuple):
                # 0 stands for what is outside
                values = [0, *(int(v) for v in c.default)]
                return min(values), max(values)
        for i in self.attention.inputs:
            if i.name == tensor and i.dtype in BITS:
                most = 2 ** (BITS[i.dtype] - 1)
                return -most, most - 1
        return None


def _ends(offset: Any) -> tuple[int, int]:
    return (int(offset.min()), int(offset.max())) if offset.numel() else (0, 0)
