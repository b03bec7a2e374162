"""`tile=`: the boxes that a caller fixes instead of the cost model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attndsl.runtime.scalars import describe, whole

Box = int | tuple[int, ...]
Boxes = tuple[Box, Box]


def tile_of(owner: str, given: Any) -> Boxes | dict[str, Boxes] | None:
    """(q box, k box), each one int or one for each axis, or such a pair per segment name; None stays None.
    TypeError for another form, ValueError for boxes that are not positive."""
    if given is None:
        return None
    if isinstance(given, Mapping):
        named: Mapping[Any, Any] = given  # pyright: ignore[reportUnknownVariableType]
        return {str(name): _pair(owner, pair, f"tile[{name!r}]") for name, pair in named.items()}
    return _pair(owner, given, "tile")


def _pair(owner: str, given: Any, name: str) -> Boxes:
    boxes: list[Any] = list(given) if isinstance(given, list | tuple) else []  # pyright: ignore[reportUnknownArgumentType]
    if len(boxes) != 2:
        shown: Any = given  # pyright: ignore[reportUnknownVariableType]
        raise TypeError(f"{owner}: {name} must be (q box, k box), got {describe(shown)}")
    q, k = boxes
    return _box(owner, q, f"{name}'s q box"), _box(owner, k, f"{name}'s k box")


def _box(owner: str, given: Any, name: str) -> Box:
    if isinstance(given, list | tuple):
        sizes: list[Any] = list(given)  # pyright: ignore[reportUnknownArgumentType]
        return tuple(whole(owner, name, n, least=1) for n in sizes)
    return whole(owner, name, given, least=1)
