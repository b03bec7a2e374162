"""Random calls of a spec: sizes, consts, scalars, offsets, layouts and element types that its declarations allow."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from attndsl.cli.options import Grid, Setting, show_setting
from attndsl.cli.output import CallError
from attndsl.cli.planning import check
from attndsl.cli.setup import Setup, has_vectors, prepare
from attndsl.diagnostics.report import SpecError
from attndsl.ir.attention import Attention, Const, Space
from attndsl.ir.expr import Size, walk
from attndsl.ir.types import Kind

LENGTHS = (1, 2, 3, 5, 17, 31, 32, 33, 63, 64, 65, 97, 127, 128, 129, 130, 131)
HEAD_SIZES = (8, 16, 24, 33, 40, 64)
ATTEMPTS = 60
"""Draws that the spec's own conditions may refuse; in the second half of them only consts without a default vary."""


@dataclass(frozen=True)
class Given:
    """What is fixed for every call: the values of `--shape`, `--grid`, `--set` and `--dtype`."""

    shape: Mapping[str, int]
    grid: Grid | None
    settings: Mapping[str, Setting]
    dtype: str | None


@dataclass(frozen=True)
class Draw:
    """A call. `layout` is `bhsd`, `bshd` or `strided` (inside a larger tensor); `q_offset` an int, `end`, or one int
    for each batch; `seed` makes it again, and its tensors."""

    setup: Setup
    dtype: str
    layout: str
    q_offset: int | str | tuple[int, ...]
    scale: float | None
    seed: int

    def describe(self) -> str:
        """The call in words."""
        values = {**{c.name: c.default for c in self.setup.attention.consts}, **self.setup.scalars}
        parts = [self.setup.describe(), *(f"{n}={show_setting(v)}" for n, v in values.items()), self.dtype]
        parts += [f"q_offset={show_setting(self.q_offset)}"] if self.q_offset != 0 else []
        parts += [self.layout] if self.layout != "bhsd" else []
        parts += [f"scale={self.scale}"] if self.scale is not None else []
        return " ".join(parts)


def draw(attention: Attention, given: Given, seed: int) -> Draw:
    """The call of a seed. CallError or SpecError where no draw satisfies the spec's conditions."""
    rng = random.Random(f"{attention.name} {seed}")
    refused: CallError | SpecError = CallError("")
    for attempt in range(ATTEMPTS):
        try:
            return _draw(attention, given, seed, rng, plain=attempt >= ATTEMPTS // 2)
        except (CallError, SpecError) as error:
            refused = error
    if isinstance(refused, SpecError):
        raise refused
    raise CallError(f"{attention.name}: of {ATTEMPTS} random calls none is allowed; the last: {refused}")


def _draw(attention: Attention, given: Given, seed: int, rng: random.Random, *, plain: bool) -> Draw:
    shape = _shape(attention, given, rng)
    spaces = [s for s in (attention.q_space, attention.k_space) if s is not None]
    if attention.shared:
        spaces = spaces[:1]
    grid = given.grid
    longest = max(shape.get("Lq", 1), shape.get("Lk", 1))
    if spaces:
        if grid is None:
            drawn = [_extents(space, rng) for space in spaces]
            parts = [tuple(n for part in side for n in part) for side in drawn]
            grid = tuple(drawn[0]) if len(drawn) == 1 else tuple(parts)
            longest = max(max(p) for p in parts)
        lengths = ("L", "Lq", "Lk") if len(spaces) == 2 or attention.shared else ("L",)
        for name in lengths:
            shape.pop(name, None)
    settings = dict(given.settings)
    for const in attention.consts:
        if const.name not in settings and (value := _const(const, grid, longest, rng, plain)) is not None:
            settings[const.name] = value
    for scalar in attention.scalars:
        if scalar.name not in settings and scalar.default is None:
            settings[scalar.name] = {
                Kind.INT: rng.randint(0, longest), Kind.BOOL: rng.random() < 0.5, Kind.FLOAT: rng.uniform(0.25, 1.5),
            }[scalar.kind]  # fmt: skip
    setup = prepare(attention, shape, grid, settings)
    check(setup)
    setup, q_offset = _offset(setup, given, rng)
    dtype = given.dtype or rng.choice(("fp32", "fp32", "bf16", "fp16"))
    layout = rng.choice(("bhsd", "bhsd", "bshd", "strided"))
    scale = rng.choice((None, None, None, 0.3, -0.2))
    return Draw(setup, dtype, layout, q_offset, scale, seed)


def _shape(attention: Attention, given: Given, rng: random.Random) -> dict[str, int]:
    heavy = has_vectors(attention)
    heads = rng.choice((1, 2))
    lengths: Sequence[int] = [n for n in LENGTHS if n <= (65 if heavy else 131)]
    size = rng.choice(HEAD_SIZES[:2] if heavy else HEAD_SIZES)
    shape = {
        "B": rng.choice((1, 1, 2, 3)), "Hkv": heads, "H": heads * rng.choice((1, 1, 2, 3)),
        "Lk": rng.choice(lengths), "D": size, "Dv": rng.choice((size, size, 8, 24)),
    }  # fmt: skip
    shape["Lq"] = rng.choice((shape["Lk"], rng.choice(lengths)))
    if "L" in given.shape:
        del shape["Lq"], shape["Lk"]
    if "H" in given.shape and "Hkv" not in given.shape:
        shape["Hkv"] = given.shape["H"]
    if "Hkv" in given.shape and "H" not in given.shape:
        shape["H"] = given.shape["Hkv"] * rng.choice((1, 2))
    if "D" in given.shape and "Dv" not in given.shape:
        shape["Dv"] = given.shape["D"]
    return shape | dict(given.shape)


def _extents(space: Space, rng: random.Random) -> list[tuple[int, ...]]:
    """Extents of every segment, a few hundred positions in all."""
    most = {1: 60, 2: 13, 3: 7}
    return [tuple(rng.randint(1, most.get(len(s.axes), 4)) for _ in s.axes) for s in space.segments]


def _const(const: Const, grid: Any, longest: int, rng: random.Random, plain: bool) -> Setting | None:
    """A value, None for the default."""
    if const.default is not None and (plain or const.kind is Kind.FLOAT or rng.random() < 0.5):
        return None
    top = max(2, longest // 2 if grid is None else min(longest, 6))

    def one() -> bool | int | float:
        if const.kind is Kind.BOOL:
            return rng.random() < 0.5
        return rng.randint(1, top) if const.kind is Kind.INT else round(rng.uniform(0.25, 2.0), 3)

    return one() if const.length is None else tuple(one() for _ in range(const.length))


def _offset(setup: Setup, given: Given, rng: random.Random) -> tuple[Setup, int | str | tuple[int, ...]]:
    """An offset of the rows, such that all positions exist where tensors or a grid have them."""
    a, s = setup.attention, setup.sizes
    if rng.random() < 0.6 or "Lq" in given.shape or "L" in given.shape:
        return setup, 0
    if a.q_space is not None or a.k_space is not None:
        if not a.shared or s["Lq"] < 2:
            return setup, 0
        rows = rng.randint(1, s["Lq"] - 1)
        return replace(setup, sizes={**s, "Lq": rows}), rng.randint(0, s["Lk"] - rows)
    by_position = any(isinstance(n, Size) and n.name in ("L", "Lk") for p in a.inputs for e in p.shape for n in walk(e))
    least, most = (0, s["Lk"] - s["Lq"]) if by_position else (-5, s["Lk"])
    if most < least:
        return setup, 0
    moved = replace(setup, sizes={**s, "L": s["Lk"]})
    kind = rng.choice(("int", "end", "batches"))
    if kind == "end" and (s["Lk"] >= s["Lq"] or not by_position):
        return moved, "end"
    if kind == "batches":
        return moved, tuple(rng.randint(least, most) for _ in range(s["B"]))
    offset = rng.randint(least, most)
    return (moved if offset else setup), offset
