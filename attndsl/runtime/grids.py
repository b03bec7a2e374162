"""`grid=`: the extents of the axes of q's and k's grids, in every form a caller may give them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any

from attndsl.ir.attention import Attention, Segment, Space
from attndsl.runtime.names import did_you_mean
from attndsl.runtime.scalars import describe, host_number, whole

Extents = dict[str, tuple[int, ...]]
Slot = tuple[str, str]
"""A segment and one of its axes."""
Known = dict[Slot, int | None]
"""Extents given so far; None is one to infer."""


def grid_extents(
    attention: Attention, grid: object, Lq: int | None, Lk: int | None, L: int | None = None
) -> tuple[Extents, Extents]:
    """Extents of q's and of k's segments, row-major, by segment name.

    `grid` is a sequence of extents in order (of segments' tuples, or q's and then k's on separate grids), a dict by
    axis, by segment or by `q` and `k`, or one int for one axis. One extent of each side may be absent, None or -1:
    it is inferred from the length, which is `L` on a shared grid (the longer side unless given). A length of None is
    not checked, and nothing is inferred from it.
    TypeError for what is no extent, ValueError for the wrong number of them or a product that is not the length.
    """
    name = attention.name
    q_space, k_space = attention.q_space, attention.k_space
    if q_space is None and k_space is None:
        if grid is not None:
            raise ValueError(f"{name}: grid was given, but the attention declares no grid")
        return {}, {}
    if attention.shared and q_space is not None:
        known = _one_side(name, q_space, grid)
        length = L if L is not None else max((n for n in (Lq, Lk) if n is not None), default=None)
        extents = _complete(name, q_space, known, length, "the length")
        return extents, dict(extents)
    q_known, k_known = _two_sides(name, q_space, k_space, grid)
    q_extents = {} if q_space is None else _complete(name, q_space, q_known, Lq, "Lq")
    k_extents = {} if k_space is None else _complete(name, k_space, k_known, Lk, "Lk")
    return q_extents, k_extents


def slot_count(attention: Attention) -> int:
    """The number of axes of the grids, a shared one counted once."""
    return sum(len(_slots(s)) for s in _spaces(attention))


def given_extents(attention: Attention, grid: object) -> list[int]:
    """The extents that a caller gives as one flat list, q's grid before k's, -1 for an extent to infer. Raises as
    `grid_extents` for what is wrong whatever the lengths are."""
    name, spaces = attention.name, _spaces(attention)
    if not spaces:
        raise ValueError(f"{name}: grid was given, but the attention declares no grid")
    if attention.shared and attention.q_space is not None:
        known = [_one_side(name, attention.q_space, grid)]
    else:
        both = _two_sides(name, attention.q_space, attention.k_space, grid)
        known = [k for s, k in zip((attention.q_space, attention.k_space), both, strict=True) if s is not None]
    found = (k.get(s) for space, k in zip(spaces, known, strict=True) for s in _slots(space))
    return [-1 if n is None else n for n in found]


def _spaces(attention: Attention) -> list[Space]:
    sides = (attention.q_space,) if attention.shared else (attention.q_space, attention.k_space)
    return [s for s in sides if s is not None]


def positions(extents: Mapping[str, tuple[int, ...]]) -> int:
    """The number of positions of a space."""
    return sum(prod(e) for e in extents.values())


def show_space(space: Space) -> str:
    """`text(m) ++ video(t, y, x)`."""
    return " ++ ".join(f"{s.name}({', '.join(s.axes)})" for s in space.segments)


def show_extents(extents: Mapping[str, tuple[int, ...]]) -> str:
    """`text(226) ++ video(13, 30, 45)`."""
    return " ++ ".join(f"{s}({', '.join(map(str, e))})" for s, e in extents.items())


def _slots(space: Space) -> list[Slot]:
    return [(s.name, a) for s in space.segments for a in s.axes]


def _extent(owner: str, label: str, given: Any) -> int | None:
    value = host_number(given)
    if value is None or (isinstance(value, int) and value == -1):
        return None
    return whole(owner, f"grid extent {label}", value)


def _is_sequence(value: object) -> bool:
    if isinstance(value, (str, bytes, Mapping)):
        return False
    shape: Any = getattr(value, "shape", None)
    has_data = hasattr(value, "tolist") and str(getattr(value, "device", "")) != "meta"
    return isinstance(value, Sequence) or (shape is not None and len(shape) > 0 and has_data)


def _mapping(grid: Any) -> Mapping[Any, object]:
    return grid


def _items(value: Any) -> list[object]:
    return list(value.tolist()) if hasattr(value, "tolist") else list(value)


def _one_side(owner: str, space: Space, grid: object) -> Known:
    if grid is None:
        return {}
    if isinstance(grid, Mapping):
        return _by_name(owner, [space], _mapping(grid))[0]
    if not _is_sequence(grid):
        if not isinstance(host_number(grid), int) or isinstance(host_number(grid), bool):
            raise TypeError(f"{owner}: grid must be extents of {show_space(space)} in order or by name, "
                            f"got {describe(grid)}")  # fmt: skip
        grid = [grid]
    items = _items(grid)
    slots = _slots(space)
    if len(items) == len(slots) and not any(_is_sequence(i) for i in items):
        return {s: _extent(owner, repr(s[1]), i) for s, i in zip(slots, items, strict=True)}
    if len(items) == len(space.segments) and any(_is_sequence(i) for i in items):
        known: Known = {}
        for segment, item in zip(space.segments, items, strict=True):
            known |= _segment(owner, segment, item)
        return known
    raise ValueError(
        f"{owner}: grid must have {len(slots)} extent{'s' * (len(slots) != 1)}, {show_space(space)}, got {grid!r}"
    )


def _segment(owner: str, segment: Segment, given: object) -> Known:
    items = _items(given) if _is_sequence(given) else [given]
    if len(items) != len(segment.axes):
        raise ValueError(
            f"{owner}: grid segment {segment.name}({', '.join(segment.axes)}) "
            f"must have {len(segment.axes)} extents, got {given!r}"
        )
    return {(segment.name, a): _extent(owner, repr(a), i) for a, i in zip(segment.axes, items, strict=True)}


def _by_name(owner: str, spaces: list[Space], grid: Mapping[Any, object]) -> list[Known]:
    known: list[Known] = [{} for _ in spaces]
    options = {n for s in spaces for segment in s.segments for n in (segment.name, *segment.axes) if n}
    for key, given in grid.items():
        found: list[tuple[int, Known]] = []
        for i, space in enumerate(spaces):
            for segment in space.segments:
                if key == segment.name and key:
                    found.append((i, _segment(owner, segment, given)))
                elif key in segment.axes:
                    found.append((i, {(segment.name, str(key)): _extent(owner, repr(key), given)}))
        if not found:
            hint = did_you_mean(str(key), options)
            raise ValueError(
                f"{owner}: grid has no axis or segment {key!r}{hint} (it is {', '.join(map(show_space, spaces))})"
            )
        if len(found) > 1:
            raise ValueError(f"{owner}: grid name {key!r} stands for more than one axis; give the extents in order")
        side, part = found[0]
        if twice := part.keys() & known[side].keys():
            raise ValueError(f"{owner}: grid gives the extent of {sorted(a for _, a in twice)} twice")
        known[side] |= part
    return known


def _two_sides(owner: str, q_space: Space | None, k_space: Space | None, grid: object) -> tuple[Known, Known]:
    spaces = {side: s for side, s in (("q", q_space), ("k", k_space)) if s is not None}
    result: dict[str, Known] = {"q": {}, "k": {}}
    if grid is None:
        pass
    elif isinstance(grid, Mapping) and grid and all(key in ("q", "k") for key in _mapping(grid)):
        for side, given in _mapping(grid).items():
            if side not in spaces:
                raise ValueError(f"{owner}: {side} has no grid, but extents were given for it")
            result[side] = _one_side(owner, spaces[side], given)
    elif isinstance(grid, Mapping):
        result |= dict(zip(spaces, _by_name(owner, list(spaces.values()), _mapping(grid)), strict=True))
    elif len(spaces) == 1:
        side, space = next(iter(spaces.items()))
        result[side] = _one_side(owner, space, grid)
    elif _is_sequence(grid):
        items = _items(grid)
        parts = list(spaces.items())
        if len(items) == 2 and all(_is_sequence(i) for i in items):
            for (side, space), item in zip(parts, items, strict=True):
                result[side] = _one_side(owner, space, item)
        else:
            count = len(_slots(parts[0][1]))
            if len(items) != count + len(_slots(parts[1][1])):
                raise ValueError(f"{owner}: grid must be (q's extents, k's extents) of q {show_space(parts[0][1])} and "
                                 f"k {show_space(parts[1][1])}, got {grid!r}")  # fmt: skip
            for (side, space), item in zip(parts, (items[:count], items[count:]), strict=True):
                result[side] = _one_side(owner, space, item)
    else:
        raise TypeError(f"{owner}: grid must be dict(q=..., k=...) or (q's extents, k's extents), got {describe(grid)}")
    return result["q"], result["k"]


def _complete(owner: str, space: Space, known: Known, length: int | None, label: str) -> Extents:
    slots = _slots(space)
    absent = [s for s in slots if known.get(s) is None]
    if absent and length is None:
        raise ValueError(f"{owner}: grid needs the extent of {_axes(absent)} (grid {show_space(space)})")
    if len(absent) > 1:
        example = f"grid=({', '.join(a for _, a in slots)})" if not known else "one extent can be inferred, not more"
        raise ValueError(f"{owner}: grid needs the extents of {_axes(absent)} in {show_space(space)}; {example}")
    filled = {s: known.get(s) for s in slots}
    if absent:
        assert length is not None
        filled[absent[0]] = _infer(owner, space, filled, absent[0], length, label)
    extents: Extents = {}
    for segment in space.segments:
        values = (filled[segment.name, a] for a in segment.axes)
        extents[segment.name] = tuple(v for v in values if v is not None)
    if length is not None:
        _check_total(owner, extents, length, label)
    return extents


def _infer(owner: str, space: Space, filled: Known, slot: Slot, length: int, label: str) -> int:
    own = [filled[s] for s in _slots(space) if s[0] == slot[0] and s != slot]
    others = [[filled[s.name, a] for a in s.axes] for s in space.segments if s.name != slot[0]]
    step = prod(n for n in own if n is not None)
    rest = sum(prod(n for n in axes if n is not None) for axes in others)
    left = length - rest
    if step < 1 or left < 0 or left % step:
        raise ValueError(
            f"{owner}: no extent of {slot[1]!r} makes grid {show_space(space)} "
            f"({_filled(space, filled)}) have {length} positions ({label})"
        )
    return left // step


def _filled(space: Space, filled: Known) -> str:
    return ", ".join(f"{a}={'?' if (v := filled[s, a]) is None else v}" for s, a in _slots(space))


def _check_total(owner: str, extents: Extents, length: int, label: str) -> None:
    total = positions(extents)
    if total != length:
        raise ValueError(f"{owner}: grid {show_extents(extents)} has {total} positions, but {label} is {length}")


def _axes(slots: Iterable[Slot]) -> str:
    return ", ".join(repr(a) for _, a in slots)
