"""The values of `--shape`, `--grid`, `--set` and `--query`, read strictly: a typo is an error that names it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import cast

from attndsl.cli.output import CallError

Number = bool | int | float
Setting = Number | tuple[Number, ...]
Grid = tuple[tuple[int, ...], ...] | dict[str, tuple[int, ...]]
"""Extents of a grid's segments: in order, or by name."""

SIZES = ("B", "H", "Hkv", "L", "Lq", "Lk", "D", "Dv")
LARGEST = 2**31 - 1


def parse_shape(text: str | None) -> dict[str, int]:
    """`B=1,H=8,L=4096` as a dict; sizes are whole numbers from 0 (B, Lq, Lk, L) or 1 below 2^31."""
    sizes: dict[str, int] = {}
    for item in _items(text, "--shape", "B=1,H=8,L=4096,D=64"):
        name, value = _pair(item, "--shape", "B=1,H=8,L=4096,D=64")
        if name in sizes:
            raise CallError(f"--shape gives {name} twice")
        if name == "grid":
            raise CallError(f"--shape: the extents of a grid are given by an option of their own, --grid {value}")
        least = 0 if name in ("B", "L", "Lq", "Lk") else 1
        sizes[name] = _integer(value, f"--shape {name}", least)
    return sizes


def check_names(given: Iterable[str], known: Sequence[str], option: str) -> None:
    """Raise CallError for a name that is not known, with the nearest one."""
    for name in given:
        if name not in known:
            raise CallError(f"{option}: there is no {name!r}{did_you_mean(name, known)}; it has {', '.join(known)}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    options = list(known)
    lowered = {o.lower(): o for o in reversed(options)}
    close = get_close_matches(name.lower(), lowered, n=1)
    return f" (did you mean {lowered[close[0]]}?)" if close else ""


def parse_grid(text: str | None) -> Grid | None:
    """`8x24x40`; several segments in order `256,8x24x40` or by name `text=256,video=8x24x40`."""
    if text is None:
        return None
    example = "8x24x40 or text=256,video=8x24x40"
    named: dict[str, tuple[int, ...]] = {}
    ordered: list[tuple[int, ...]] = []
    for item in _items(text, "--grid", example):
        name, equals, extents = item.rpartition("=")
        name = name.strip()
        values = tuple(_integer(e, "--grid", 1) for e in re.split(r"[x×*]", extents.strip()))
        if not equals:
            ordered.append(values)
        elif not name.isidentifier() or name in named:
            raise CallError(f"--grid: {item!r} is not NAME=EXTENTS with a name of its own, as in {example}")
        else:
            named[name] = values
    if named and ordered:
        raise CallError(f"--grid: give every segment by name or every one in order, as in {example}")
    return named or tuple(ordered)


def parse_settings(items: Sequence[str]) -> dict[str, Setting]:
    """`["window=3,9,9", "strength=0.5"]` as a dict of numbers, bools and tuples of them."""
    settings: dict[str, Setting] = {}
    for item in items:
        name, value = _pair(item, "--set", "window=256 or window=3,9,9")
        if name in settings:
            raise CallError(f"--set gives {name} twice")
        parts = [p.strip() for p in value.strip("()[] ").split(",")]
        values = [_number(p, f"--set {name}") for p in parts]
        settings[name] = tuple(values) if len(values) > 1 else values[0]
    return settings


def parse_query(text: str | None) -> tuple[int, ...] | None:
    """`3,5,7`: the coordinates of one query on a grid, or one linear position."""
    if text is None:
        return None
    return tuple(_integer(p, "--query", 0) for p in _items(text, "--query", "3,5,7"))


def show_setting(value: object) -> str:
    """A value as `--set` takes it."""
    if isinstance(value, tuple):
        return ",".join(show_setting(v) for v in cast(tuple[object, ...], value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def show_extents(extents: Mapping[str, tuple[int, ...]]) -> str:
    """Extents as `--grid` takes them."""
    parts = {name: "x".join(map(str, e)) for name, e in extents.items()}
    if len(parts) == 1:
        return next(iter(parts.values()))
    return ",".join(f"{name}={e}" for name, e in parts.items())


def _items(text: str | None, option: str, example: str) -> list[str]:
    if text is None:
        return []
    items = [item.strip() for item in text.split(",")]
    if not all(items):
        raise CallError(f"{option}: {text!r} has an empty item; write it as in {example}")
    return items


def _pair(item: str, option: str, example: str) -> tuple[str, str]:
    name, equals, value = item.partition("=")
    if not equals or not name.strip().isidentifier() or not value.strip():
        raise CallError(f"{option}: {item!r} is not NAME=VALUE, as in {example}")
    return name.strip(), value.strip()


def _integer(text: str, option: str, least: int) -> int:
    text = text.strip()
    if not re.fullmatch(r"-?\d+(_\d+)*", text, re.ASCII):
        raise CallError(f"{option}: {text!r} is not a whole number")
    value = int(text[:40])
    if not least <= value <= LARGEST:
        raise CallError(f"{option}: {text} is not between {least} and {LARGEST:,}")
    return value


def _number(text: str, option: str) -> Number:
    if text in ("true", "false"):
        return text == "true"
    if re.fullmatch(r"[+-]?\d+(_\d+)*", text, re.ASCII):
        return _integer(text.lstrip("+"), option, -LARGEST)
    try:
        return float(text)
    except ValueError:
        raise CallError(f"{option}: {text!r} is not a number, true or false") from None
