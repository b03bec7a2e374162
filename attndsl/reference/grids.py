"""The extents of grids."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from attndsl.ir.attention import Attention, Space

Extents = Mapping[str, tuple[int, ...]]
GridArgument = Sequence[Any] | Mapping[str, Any] | None


def extents(attention: Attention, grid: GridArgument, sizes: Mapping[str, int]) -> tuple[Extents, Extents]:
    """Axis extents of q's and k's space by segment name.

    `grid` gives them by name (a segment's; `q` and `k` for unnamed grids) or in order; the extents of a lone
    segment may stand by themselves, and the length of one axis may be left out (None) where the rest tell it.
    """
    if attention.q_space is None and attention.k_space is None:
        return {}, {}
    if attention.shared:
        assert attention.q_space is not None
        found = _fill([("", s) for s in attention.q_space.segments], grid, {"": sizes["L"]})[""]
        return found, found
    sides = [("q", attention.q_space), ("k", attention.k_space)]
    listed = [(side, s) for side, space in sides if space is not None for s in space.segments]
    found = _fill(listed, grid, {"q": sizes["Lq"], "k": sizes["Lk"]})
    return found.get("q", {}), found.get("k", {})


def _fill(listed: list[tuple[str, Any]], grid: GridArgument, lengths: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """Extents by side and segment, the missing one computed."""
    if grid is None:
        given: list[Any] = [None] * len(listed)
    elif isinstance(grid, Mapping):
        given = [grid.get(s.name or side or "grid") for side, s in listed]
    else:
        given = [grid] if len(listed) == 1 else list(grid)
    out: dict[str, dict[str, Any]] = {}
    for (side, s), g in zip(listed, given, strict=True):
        axes = [None] * len(s.axes) if g is None else [g] if isinstance(g, int) else list(g)
        assert len(axes) == len(s.axes), f"{s.name} has axes {s.axes}, given {g}"
        out.setdefault(side, {})[s.name] = axes
    for side, segments in out.items():
        missing = [(axes, i) for axes in segments.values() for i, n in enumerate(axes) if n is None]
        if missing:
            ((axes, i),) = missing
            rest = sum(math.prod(a) for a in segments.values() if a is not axes)
            axes[i] = (lengths[side] - rest) // math.prod(n for n in axes if n is not None)
        assert sum(math.prod(a) for a in segments.values()) == lengths[side], (side, segments, lengths)
    return {side: {name: tuple(axes) for name, axes in segments.items()} for side, segments in out.items()}


def axis_names(space: Space, segment: str) -> tuple[str, ...]:
    return next(s.axes for s in space.segments if s.name == segment)
