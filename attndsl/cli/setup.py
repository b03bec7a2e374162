"""One concrete call for a spec: what the user gave, and sensible values for the rest, said aloud."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from attndsl.cli.options import SIZES, Grid, Setting, check_names, show_extents, show_setting
from attndsl.cli.output import CallError
from attndsl.ir.attention import Attention, Const, Scalar, Space
from attndsl.ir.expr import Size, walk
from attndsl.ir.types import Kind
from attndsl.schedule.problem import Problem

LENGTH, HEADS, HEAD_SIZE, FRESH = 4096, 8, 64, 32
VECTOR_LENGTH = 512
"""Length where a weight computes with vectors for each pair, which takes D times as long."""
GRIDS = {1: (64,), 2: (64, 64), 3: (8, 24, 40)}
"""Extents of a grid that nobody gave, by its number of axes."""
BESIDE_A_GRID = 256
"""Length of a segment of one axis that stands beside a grid (text before video)."""
WINDOWS = {1: (9,), 2: (9, 9), 3: (3, 9, 9)}
"""A tuple const without a default is most often a window: odd, and inside `GRIDS`."""


@dataclass(frozen=True)
class Setup:
    """A spec with its consts bound, and the sizes, scalars and grid of one call.

    `chosen` says in words what the user did not give and the spec has no default for.
    """

    attention: Attention
    consts: Mapping[str, Setting]
    scalars: Mapping[str, bool | int | float]
    sizes: Mapping[str, int]
    q_extents: Mapping[str, tuple[int, ...]]
    k_extents: Mapping[str, tuple[int, ...]]
    chosen: tuple[str, ...]

    def problem(self, tables: Mapping[str, Any] | None = None) -> Problem:
        """The same call as the scheduler takes it."""
        return Problem(self.sizes, self.scalars, tables or {}, self.q_extents, self.k_extents)

    @property
    def grid(self) -> Any:
        """The extents in the form of a call's `grid=`; None without a grid."""
        a = self.attention
        if a.q_space is None and a.k_space is None:
            return None
        q = tuple(e for extents in self.q_extents.values() for e in extents)
        k = tuple(e for extents in self.k_extents.values() for e in extents)
        if a.shared or a.k_space is None:
            return q
        return k if a.q_space is None else (q, k)

    def describe(self) -> str:
        """`B=1 H=8 L=4096 D=64 grid=8x24x40`, equal sizes said once."""
        s = self.sizes
        parts = [f"B={s['B']}", f"H={s['H']}"]
        parts += [f"Hkv={s['Hkv']}"] if s["Hkv"] != s["H"] else []
        parts += [f"L={s['Lq']}"] if s["Lq"] == s["Lk"] else [f"Lq={s['Lq']}", f"Lk={s['Lk']}"]
        parts += [f"D={s['D']}"] + ([f"Dv={s['Dv']}"] if s["Dv"] != s["D"] else [])
        parts += [f"{n}={v}" for n, v in s.items() if n not in SIZES]
        if self.q_extents:
            parts.append(f"grid={show_extents(self.q_extents)}")
        if self.k_extents and not self.attention.shared:
            parts.append(f"k-grid={show_extents(self.k_extents)}")
        return " ".join(parts)


def prepare(
    attention: Attention, shape: Mapping[str, int], grid: Grid | None, settings: Mapping[str, Setting]
) -> Setup:
    """Fill in what is not given. CallError for names and numbers that do not fit, SpecError for a failed `require`."""
    from attndsl.ir.bind import bind

    known = [p.name for p in (*attention.consts, *attention.scalars)]
    if settings and not known:
        raise CallError(f"--set: {attention.name} has no const and no scalar")
    inputs = {i.name for i in attention.inputs}
    for name in settings:
        if name in inputs:
            raise CallError(f"--set: {name} is an input, a tensor; only consts and scalars are set")
    check_names(settings, known, "--set")
    chosen: list[str] = []
    consts = {c.name: _const(c, settings, chosen) for c in attention.consts}
    try:
        bound = bind(attention, consts)
    except (TypeError, ValueError) as error:
        raise CallError(f"--set: {error}") from error
    fresh = fresh_sizes(attention)
    check_names(shape, (*SIZES, *fresh), "--shape")
    q_extents, k_extents = _extents(bound, consts, shape, grid, chosen)
    sizes = _sizes(bound, shape, fresh, q_extents, k_extents)
    scalars = {s.name: _scalar(s, settings, chosen) for s in attention.scalars}
    return Setup(bound, consts, scalars, sizes, q_extents, k_extents, tuple(chosen))


def has_vectors(attention: Attention) -> bool:
    """Whether the weight computes with vectors, as feature maps do."""
    return attention.weight is not None and any(n.type.shape for n in walk(attention.weight))


def fresh_sizes(attention: Attention) -> tuple[str, ...]:
    """Names that the shapes of inputs bind, beside the sizes every call has."""
    names = {n.name for i in attention.inputs for e in i.shape for n in walk(e) if isinstance(n, Size)}
    return tuple(sorted(names - set(SIZES)))


def _const(const: Const, settings: Mapping[str, Setting], chosen: list[str]) -> Setting:
    if const.name in settings:
        return settings[const.name]
    if const.default is not None:
        return const.default
    value: Setting
    if const.length is not None:
        window = WINDOWS.get(const.length, (9,) * const.length)
        value = window if const.kind is Kind.INT else (False if const.kind is Kind.BOOL else 1.0,) * const.length
    else:
        value = {Kind.INT: 256, Kind.FLOAT: 1.0, Kind.BOOL: True}[const.kind]
    chosen.append(f"{const.name}={show_setting(value)}")
    return value


def _scalar(scalar: Scalar, settings: Mapping[str, Setting], chosen: list[str]) -> bool | int | float:
    if scalar.name in settings:
        value = settings[scalar.name]
        right = {
            Kind.BOOL: isinstance(value, bool),
            Kind.INT: isinstance(value, int) and not isinstance(value, bool),
            Kind.FLOAT: isinstance(value, (int, float)) and not isinstance(value, bool),
        }[scalar.kind]
        if isinstance(value, tuple) or not right:
            raise CallError(f"--set: scalar {scalar.name} takes one {scalar.kind}, not {show_setting(value)}")
        return float(value) if scalar.kind is Kind.FLOAT else value
    if scalar.default is not None:
        return scalar.default
    chosen.append(f"{scalar.name}={show_setting({Kind.INT: 1, Kind.FLOAT: 0.5, Kind.BOOL: True}[scalar.kind])}")
    return {Kind.INT: 1, Kind.FLOAT: 0.5, Kind.BOOL: True}[scalar.kind]


def _extents(
    attention: Attention,
    consts: Mapping[str, Setting],
    shape: Mapping[str, int],
    grid: Grid | None,
    chosen: list[str],
) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    from attndsl.runtime.grids import grid_extents

    q_space, k_space = attention.q_space, attention.k_space
    lengths = (shape.get("Lq", shape.get("L")), shape.get("Lk", shape.get("L")))
    given: Any = grid
    if isinstance(grid, tuple) and len(grid) == 1:
        given = grid[0]
    if isinstance(grid, dict):
        axes = {x for s in (q_space, k_space) if s for segment in s.segments for x in segment.axes}
        given = {n: e[0] if len(e) == 1 and n in axes else e for n, e in grid.items()}
    if grid is None and (q_space or k_space):
        sides = [(s, n) for s, n in ((q_space, lengths[0]), (k_space, lengths[1])) if s is not None]
        if attention.shared:
            sides = sides[:1]
        parts = [_default_grid(s, length, consts) for s, length in sides]
        if len(parts) == 2:
            parts[1] = tuple(max(1, e // 2) for e in parts[1]) if lengths[1] is None else parts[1]
        given = parts[0] if len(parts) == 1 else tuple(parts)
        shown = ",".join("x".join("?" if e is None else str(e) for e in p) for p in parts)
        chosen.append(f"grid={shown}")
    try:
        return grid_extents(attention, given, *lengths)
    except (TypeError, ValueError) as error:
        raise CallError(f"--grid: {error}") from error


def _default_grid(space: Space, length: int | None, consts: Mapping[str, Setting]) -> tuple[Any, ...]:
    """Extents in order; the first axis of all is None, to infer, when the length is given."""
    extents: list[Any] = []
    for segment in space.segments:
        n = len(segment.axes)
        if n == 1:
            extents.append(LENGTH if len(space.segments) == 1 else BESIDE_A_GRID)
            continue
        base = GRIDS.get(n, (4,) * n)
        windows = [v for v in consts.values() if isinstance(v, tuple) and len(v) == n]
        extents += [max(e, *(int(w[i]) for w in windows), 1) for i, e in enumerate(base)]
    if length is not None:
        extents[0] = None
    return tuple(extents)


def _sizes(
    attention: Attention,
    shape: Mapping[str, int],
    fresh: Sequence[str],
    q_extents: Mapping[str, tuple[int, ...]],
    k_extents: Mapping[str, tuple[int, ...]],
) -> dict[str, int]:
    length = shape.get("L", VECTOR_LENGTH if has_vectors(attention) else LENGTH)
    lq = sum(map(prod, q_extents.values())) if q_extents else shape.get("Lq", length)
    lk = sum(map(prod, k_extents.values())) if k_extents else shape.get("Lk", length)
    for name, value in (("Lq", lq), ("Lk", lk)):
        if shape.get(name, value) != value or ("L" in shape and name not in shape and shape["L"] != value):
            raise CallError(f"--shape says {shape.get(name, shape.get('L'))} positions, but the grid has {value}")
    heads = shape.get("H", HEADS)
    kv_heads = shape.get("Hkv", heads)
    if heads % kv_heads:
        raise CallError(f"--shape: H={heads} is not a multiple of Hkv={kv_heads}")
    width = shape.get("D", HEAD_SIZE)
    sizes = {"B": shape.get("B", 1), "H": heads, "Hkv": kv_heads, "Lq": lq, "Lk": lk, "L": max(lq, lk), "D": width}
    sizes["Dv"] = shape.get("Dv", width)
    return sizes | {name: shape.get(name, FRESH) for name in fresh}
