"""`tile`: the boxes that a caller fixes instead of the cost model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from attndsl.schedule.piece import Shape
from attndsl.schedule.space import Pair, SegmentBox

Box = int | tuple[int, ...]
Tile = tuple[Box, Box] | Mapping[str, tuple[Box, Box]]
"""(q box, k box), coordinates per axis; or one such pair per segment name."""

_Sizes = tuple[int, ...]
_FORM = "(q box, k box), or one such pair per segment name"


def shapes(tile: Tile | None, pairs: Sequence[Pair]) -> list[Shape | None]:
    """The boxes of each pair of segments, a size per axis of its (padded) segments; None where the cost model chooses.

    A pair of boxes is for the segments with the most axes. Beside them, a segment of one axis takes as many positions,
    and two segments of one axis are left to the cost model, like segments that a mapping does not name.
    ValueError for everything that is not (q box, k box) with a positive int per axis, or such a pair per segment name.
    """
    given: Any = tile
    if given is None:
        return [None] * len(pairs)
    if isinstance(given, Mapping):
        return _by_name(given, pairs)  # pyright: ignore[reportUnknownArgumentType]
    q, k = _pair(given, "tile")
    for side, box, most in (("q", q, _most(p.q for p in pairs)), ("k", k, _most(p.k for p in pairs))):
        if len(box) != most:
            raise ValueError(f"tile: the {side} box {_shown(box)} has {_axes(len(box))}, expected {_axes(most)}")
    found: list[Shape | None] = []
    for pair in pairs:
        q_axes, k_axes = _own(pair.q), _own(pair.k)
        if q_axes < len(q) and k_axes < len(k):
            found.append(None)
            continue
        found.append(Shape(_fitted(q, pair.q), _fitted(k, pair.k)))
    return found


def _by_name(tile: Mapping[Any, Any], pairs: Sequence[Pair]) -> list[Shape | None]:
    sides = {"q": {p.q.segment: p.q for p in pairs}, "k": {p.k.segment: p.k for p in pairs}}
    known = [n for n in dict.fromkeys([*sides["q"], *sides["k"]]) if n]
    if not tile or not known:
        reason = "is empty" if not tile else "names segments, and here no segment has a name"
        raise ValueError(f"tile: the mapping {reason}; expected {_FORM if known else '(q box, k box)'}")
    boxes: dict[str, tuple[_Sizes, _Sizes]] = {}
    for name, given in tile.items():
        if name not in known:
            raise ValueError(f"tile: there is no segment {name!r}; expected {' or '.join(map(repr, known))}")
        boxes[name] = _pair(given, f"tile[{name!r}]")
        for side, box in zip("qk", boxes[name], strict=True):
            segment = sides[side].get(name)
            if segment is not None and len(box) != _own(segment):
                axes = f"{_axes(len(box))}, expected {_axes(_own(segment))}"
                raise ValueError(
                    f"tile[{name!r}]: the {side} box {_shown(box)} has {axes} ({', '.join(_names(segment))})"
                )
    found: list[Shape | None] = []
    for pair in pairs:
        if pair.q.segment in boxes and pair.k.segment in boxes:
            q, k = boxes[pair.q.segment][0], boxes[pair.k.segment][1]
            found.append(Shape(_padded(q, pair.q), _padded(k, pair.k)))
        else:
            found.append(None)
    return found


def _pair(given: Any, name: str) -> tuple[_Sizes, _Sizes]:
    if not isinstance(given, list | tuple) or len(given) != 2:  # pyright: ignore[reportUnknownArgumentType]
        expected = _FORM if name == "tile" else "(q box, k box)"
        raise ValueError(f"{name}: expected {expected}, got {given!r}")
    q, k = (_sizes(box, f"{name}: the {side} box") for side, box in zip("qk", given, strict=True))  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return q, k


def _sizes(box: Any, what: str) -> _Sizes:
    sizes: list[Any] = list(box) if isinstance(box, list | tuple) else [box]  # pyright: ignore[reportUnknownArgumentType]
    if not sizes or any(not isinstance(s, int) or isinstance(s, bool) or s < 1 for s in sizes):
        raise ValueError(f"{what} must be a positive int, or one for each axis, got {box!r}")
    return tuple(sizes)


def _own(box: SegmentBox) -> int:
    """The axes of a segment without those it was padded with."""
    return len(_names(box))


def _names(box: SegmentBox) -> list[str]:
    return [a for a in box.axes if not a.startswith("#")]


def _most(boxes: Any) -> int:
    return max(map(_own, boxes), default=1)


def _fitted(sizes: _Sizes, box: SegmentBox) -> _Sizes:
    own = _own(box)
    if own not in (1, len(sizes)):
        name = f"segment {box.segment!r}" if box.segment else f"the grid of {box.side}"
        message = f"tile: the {box.side} box {_shown(sizes)} has {_axes(len(sizes))}, and {name} has {own}"
        raise ValueError(f"{message}; expected one pair of boxes per segment name")
    return _padded(sizes if own == len(sizes) else (prod(sizes),), box)


def _padded(sizes: _Sizes, box: SegmentBox) -> _Sizes:
    return (1,) * (len(box.axes) - len(sizes)) + sizes


def _axes(count: int) -> str:
    return f"{count} {'axis' if count == 1 else 'axes'}"


def _shown(sizes: _Sizes) -> str:
    return str(sizes[0]) if len(sizes) == 1 else str(sizes)
