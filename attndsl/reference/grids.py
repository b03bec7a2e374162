"""The extents of grids."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from attndsl.ir.attention import Attention, Space

Extents = Mapping[str, tuple[int, ...]]
GridArgument = Sequence[Any] | Mapping[str, Any] | None


def extents(attention: Attention, grid: GridArgument, sizes: Mapping[str, int]) -> tuple[Extents, Extents]:
    """Axis extents of q's and k's space by segment name.

    `grid` lists them in order, nested as one likes, or names them: by axis, by segment, or `q` and `k`. One
    extent of each side may be left out (None): it is what makes the length right.
    """
    q_space, k_space = attention.q_space, attention.k_space
    if attention.shared:
        found = {} if q_space is None else _fill(q_space, _given({"": q_space}, grid)[""], sizes["L"])
        return found, found
    spaces = {side: s for side, s in (("q", q_space), ("k", k_space)) if s is not None}
    given = _given(spaces, grid)
    filled = {side: _fill(s, given[side], sizes[f"L{side}"]) for side, s in spaces.items()}
    return filled.get("q", {}), filled.get("k", {})


def _given(spaces: Mapping[str, Space], grid: GridArgument) -> dict[str, list[int | None]]:
    """The extents of every axis in order, by side; None where there is none."""
    out: dict[str, list[int | None]] = {}
    rest = _flat(grid) if not isinstance(grid, Mapping) else []
    for side, space in spaces.items():
        n = sum(len(s.axes) for s in space.segments)
        if grid is None:
            out[side] = [None] * n
        elif not isinstance(grid, Mapping):
            out[side], rest = rest[:n], rest[n:]
        elif side in grid:
            out[side] = _flat(grid[side])
        else:
            out[side] = []
            for s in space.segments:
                out[side] += _flat(grid[s.name]) if s.name in grid else [grid.get(a) for a in s.axes]
        assert len(out[side]) == n, f"{n} extents are needed, given {grid}"
    assert not rest, f"too many extents: {grid}"
    return out


def _flat(given: Any) -> list[int | None]:
    if not isinstance(given, list | tuple):
        return [given]
    return [n for g in cast("Sequence[Any]", given) for n in _flat(g)]


def _fill(space: Space, given: list[int | None], length: int) -> dict[str, tuple[int, ...]]:
    """Extents by segment, the missing one computed."""
    for known in range(length + 1) if None in given else [0]:
        values = iter([known if n is None else n for n in given])
        out = {s.name: tuple(next(values) for _ in s.axes) for s in space.segments}
        if sum(math.prod(e) for e in out.values()) == length:
            return out
    raise ValueError(f"no extents {given} of {space} make {length} positions")


def axis_names(space: Space, segment: str) -> tuple[str, ...]:
    return next(s.axes for s in space.segments if s.name == segment)
