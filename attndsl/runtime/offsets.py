"""`q_offset=`: the position of the first row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attndsl.ir.attention import Attention
from attndsl.runtime.grids import positions, show_extents
from attndsl.runtime.scalars import INT32, host_number


def whole_offset(owner: str, given: Any, Lq: int, Lk: int) -> int | None:
    """The offset as one int for all batches (`"end"`: Lk - Lq), None where it is something else.
    ValueError for an unknown word and for positions that leave int32."""
    if isinstance(given, str):
        if given != "end":
            raise ValueError(f"{owner}: q_offset must be an int, ints [B] or 'end', got {given!r}")
        return Lk - Lq
    value = host_number(given)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    if value not in INT32 or value + Lq not in INT32:
        raise ValueError(f"{owner}: q_offset must keep positions within 32 bits, got {value}")
    return value


def check_offset(attention: Attention, offset: Any, Lq: int, q_extents: Mapping[str, tuple[int, ...]]) -> None:
    """ValueError where rows from `offset` (an int, or an array or tensor of ints) are no places of the grid that q and
    k share, and for an offset where they do not share one."""
    if attention.q_space is None and attention.k_space is None:
        return
    low, high = (offset, offset) if isinstance(offset, int) else _bounds(offset)
    if not attention.shared or attention.q_space is None:
        if (low, high) != (0, 0):
            raise ValueError(f"{attention.name}: q_offset works only where q and k share one grid")
        return
    total = positions(q_extents)
    if Lq and (low < 0 or high + Lq > total):
        raise ValueError(
            f"{attention.name}: rows stand at positions {low} to {high + Lq - 1}, "
            f"but grid {show_extents(q_extents)} has {total} positions"
        )


def _bounds(offsets: Any) -> tuple[int, int]:
    return (int(offsets.min()), int(offsets.max())) if len(offsets) else (0, 0)
