"""Calls that differ from an earlier one in lengths alone: what was checked of that one holds for them too."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Hashable, Mapping
from threading import Lock
from typing import Any

from torch import Tensor

from attndsl.ir.attention import Attention
from attndsl.ir.expr import Expr, Literal, Size, walk
from attndsl.ir.free import tensors as tensors_read
from attndsl.runtime.binding import HostTables
from attndsl.runtime.call import Call
from attndsl.runtime.given import Given
from attndsl.runtime.host import conditions_of
from attndsl.runtime.scalars import INT32
from attndsl.schedule.legalise import scan_form

CAPACITY = 32
"""Kinds of calls that are kept."""
LENGTHS = frozenset(("Lq", "Lk", "L"))
FIXED = frozenset(("B", "H", "Hkv", "D", "Dv"))


class Lengths:
    """The calls of one attention, by what they share with others of other lengths."""

    def __init__(self, attention: Attention, simplified: Attention, deciding: Collection[str]) -> None:
        """`deciding` are the scalars whose values decide what a call may be, or its tables."""
        self._names = tuple(i.name for i in attention.inputs)
        self._masked = tuple(n for n in self._names if n in tensors_read(simplified.mask))
        self._dims = tuple(i.shape for i in attention.inputs)
        self._scalars = tuple((s.name, s.name in deciding) for s in attention.scalars)
        # a fresh name is bound by each call, and a condition on a length is checked for each
        known = FIXED | LENGTHS
        bare = all(isinstance(d, Literal) or (isinstance(d, Size) and d.name in known) for ds in self._dims for d in ds)
        free = not any(isinstance(n, Size) and n.name not in FIXED for e in conditions_of(attention) for n in walk(e))
        self._apply = bare and free and not attention.gridded and scan_form(simplified).form is None
        self._known: OrderedDict[Hashable, Call] = OrderedDict()
        self._lock = Lock()

    def place(
        self, given: Given, scalars: Mapping[str, Any], offset: int | Tensor, more: tuple[Hashable, ...]
    ) -> Hashable | None:
        """Equal for calls that differ in lengths alone, see `Call.alike`; None for one that no other is held to.

        `more` is what else they share.
        """
        if not self._apply or not isinstance(offset, int) or given.grid is not None:
            return None
        parts: list[Hashable] = [given.backend, offset, *more]
        for name, decides in self._scalars:
            value = scalars[name]
            if isinstance(value, Tensor):
                parts.append((value.dtype, value.data_ptr() & 15))
            else:
                # -0.0 is not 0.0, and nan is nan
                parts.append(repr(value) if decides else None)
        for t in (given.q, given.k, given.v):
            B, heads, length, depth = t.shape
            by_batch, by_head, by_position, unit = t.stride()
            if not length or not B or (unit != 1 and depth != 1):
                return None
            size = t.element_size()
            parts += (
                B, heads, depth, by_position, unit, by_batch * size % 16 == 0, by_head * size % 16 == 0,
                t.dtype, t.device, t.data_ptr() & 15,
            )  # fmt: skip
        for t in given.inputs:
            parts += (t.ndim, t.dtype, t.layout, t.device, t.data_ptr() & 15)
        return tuple(parts)

    def call(self, place: Hashable, given: Given, scalars: Mapping[str, Any]) -> Call | None:
        """A call in the place of an earlier one; None where there was none, or lengths do not fit each other."""
        known = self._known.get(place)
        Lq, Lk = given.q.shape[2], given.k.shape[2]
        if known is None or given.v.shape[2] != Lk:
            return None
        assert isinstance(known.q_offset, int)
        if known.q_offset + Lq not in INT32:
            return None
        sizes = {**known.sizes, "Lq": Lq, "Lk": Lk, "L": max(Lq, Lk) if known.q_offset == 0 else Lk}
        for dims, t in zip(self._dims, given.inputs, strict=True):
            if any(n != _value(d, sizes) for d, n in zip(dims, t.shape, strict=True)):
                return None
        inputs = dict(zip(self._names, given.inputs, strict=True))
        tables: Mapping[str, Any] = HostTables({n: inputs[n] for n in self._masked})
        return known.lengthened(given.q, given.k, given.v, inputs, scalars, sizes, tables)

    def keep(self, place: Hashable, call: Call) -> None:
        """Have later calls held to this one."""
        empty: Any = None
        with self._lock:
            self._known[place] = call.lengthened(empty, empty, empty, {}, {}, call.sizes, {})
            while len(self._known) > CAPACITY:
                self._known.popitem(last=False)


def _value(dim: Expr, sizes: Mapping[str, int]) -> int | None:
    if isinstance(dim, Size):
        return sizes[dim.name]
    return int(dim.value) if isinstance(dim, Literal) else None
