"""The problem of a call that has sizes instead of tensors: what `plan()` is given. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from attndsl.ir.attention import Attention, Input
from attndsl.ir.expr import ParamRef, Size, walk
from attndsl.ir.free import tensors as tensors_read
from attndsl.ir.types import Kind, kind_of_dtype
from attndsl.runtime.grids import grid_extents, positions
from attndsl.runtime.host import Facts, SizeTable, check_conditions
from attndsl.runtime.names import PLAN_OPTIONS, show_param, split_arguments
from attndsl.runtime.offsets import check_offset, whole_offset
from attndsl.runtime.scalars import describe, scalar_value, whole
from attndsl.schedule.problem import Problem

BUILT_IN_SIZES = ("B", "H", "Hkv", "Lq", "Lk", "L", "D", "Dv")


def fresh_sizes(attention: Attention) -> tuple[str, ...]:
    """Names that the shapes of inputs bind, in order."""
    names = (n.name for p in attention.inputs for e in p.shape for n in walk(e) if isinstance(n, Size))
    return tuple(dict.fromkeys(n for n in names if n not in BUILT_IN_SIZES))


def bind_problem(
    attention: Attention,
    simplified: Attention,
    arguments: Mapping[str, object],
    *,
    Lq: Any = None,
    Lk: Any = None,
    L: Any = None,
    B: Any = 1,
    H: Any = 1,
    Hkv: Any = None,
    D: Any = 64,
    Dv: Any = None,
    grid: Any = None,
    q_offset: Any = 0,
) -> Problem:
    """The problem of a call of these sizes. `L` stands for both lengths; a grid gives lengths that are absent.

    `arguments` are scalars (those that the mask reads are needed), inputs that the mask reads as arrays (one that is
    absent is unknown, and the plan stays sound without it), and fresh sizes. Raises TypeError and ValueError.
    """
    owner = attention.name
    fresh = {n: v for n, v in arguments.items() if n in fresh_sizes(attention)}
    rest = {n: v for n, v in arguments.items() if n not in fresh}
    consts = [c.name for c in attention.consts]
    options = (*PLAN_OPTIONS, *fresh_sizes(attention))
    scalars_given, tables_given = split_arguments(attention, rest, consts, options)
    scalars = {
        s.name: scalar_value(owner, s, scalars_given[s.name]) for s in attention.scalars if s.name in scalars_given
    }
    needed = {n.name for n in walk(simplified.mask) if isinstance(n, ParamRef)}
    if missing := [show_param(s) for s in attention.scalars if s.name in needed and s.name not in scalars]:
        raise TypeError(f"{owner}: the mask reads {', '.join(missing)}; give it a value")

    Lq, Lk = _lengths(attention, grid, Lq, Lk, L)
    table = SizeTable(owner)
    Hkv, Dv = H if Hkv is None else Hkv, D if Dv is None else Dv
    for name, given, least in (
        ("B", B, 0), ("H", H, 1), ("Hkv", Hkv, 1), ("Lq", Lq, 0), ("Lk", Lk, 0), ("D", D, 1), ("Dv", Dv, 1),
    ):  # fmt: skip
        table.set(name, whole(owner, name, given, least), name)
    sizes = table.sizes
    if sizes["H"] % sizes["Hkv"]:
        raise ValueError(f"{owner}: H = {sizes['H']} must be a multiple of Hkv = {sizes['Hkv']}")
    offset = _offset(owner, q_offset, sizes)
    is_offset = not isinstance(offset, int) or offset != 0
    table.set("L", sizes["Lk"] if is_offset else max(sizes["Lq"], sizes["Lk"]), "the lengths")
    for name, given in fresh.items():
        table.set(name, whole(owner, name, given), f"{name}=")
    tables = {p.name: _table(owner, p, tables_given[p.name]) for p in attention.inputs if p.name in tables_given}
    table.bind_shapes(attention, {n: t.shape for n, t in tables.items()})
    q_extents, k_extents = grid_extents(attention, grid, sizes["Lq"], sizes["Lk"], sizes["L"])
    check_offset(attention, offset, sizes["Lq"], q_extents)
    check_conditions(attention, Facts(sizes, scalars, q_extents, k_extents))
    read = tensors_read(simplified.mask)
    return Problem(
        sizes=sizes,
        scalars=scalars,
        tables={n: t for n, t in tables.items() if n in read},
        q_extents=q_extents,
        k_extents=k_extents,
        q_offset=offset,
    )


def _lengths(attention: Attention, grid: Any, Lq: Any, Lk: Any, L: Any) -> tuple[Any, Any]:
    owner = attention.name
    both = None if L is None else whole(owner, "L", L)
    Lq, Lk = (None if n is None else whole(owner, s, n) for s, n in (("Lq", Lq), ("Lk", Lk)))
    for name, given in (("Lq", Lq), ("Lk", Lk)):
        if both is not None and given is not None and given != both:
            raise ValueError(f"{owner}: L = {both} stands for both lengths, but {name} = {given}")
    Lq, Lk = (both if n is None else n for n in (Lq, Lk))
    if (Lq is None or Lk is None) and grid is not None:
        q_extents, k_extents = grid_extents(attention, grid, Lq, Lk)
        Lq = positions(q_extents) if Lq is None and q_extents else Lq
        Lk = positions(k_extents) if Lk is None and k_extents else Lk
    if Lq is None or Lk is None:
        names = " and ".join(n for n, given in (("Lq", Lq), ("Lk", Lk)) if given is None)
        raise TypeError(f"{owner}: a plan needs {names} (L= gives both)")
    return Lq, Lk


def _offset(owner: str, given: Any, sizes: Mapping[str, int]) -> int | Any:
    whole_given = whole_offset(owner, given, sizes["Lq"], sizes["Lk"])
    if whole_given is not None:
        return whole_given
    array = _host_array(given)
    if array is None or array.dtype.kind not in "iu":
        raise TypeError(f"{owner}: q_offset must be an int, ints [B] or 'end', got {describe(given)}")
    if array.shape != (sizes["B"],):
        raise ValueError(f"{owner}: q_offset must have shape [B] = [{sizes['B']}], got {list(array.shape)}")
    return array.astype(np.int64)


def _host_array(given: Any) -> Any:
    """A numpy array, a tensor, or nested lists of numbers as an array; None for anything else."""
    if hasattr(given, "detach"):
        given = given.float() if str(given.dtype) == "torch.bfloat16" else given
        try:
            return given.detach().cpu().numpy()
        except (RuntimeError, TypeError):
            # no data (the meta device), or no dense data
            return None
    if not isinstance(given, np.ndarray | np.generic | list | tuple):
        return None
    numbers: Any = given  # pyright: ignore[reportUnknownVariableType]
    try:
        array: Any = np.asarray(numbers)
    except ValueError:
        return None
    return array if array.dtype.kind in "biuf" else None


def _table(owner: str, param: Input, given: Any) -> Any:
    array = _host_array(given)
    if array is None:
        raise TypeError(f"{owner}: {show_param(param)} must be an array or a tensor, got {describe(given)}")
    kinds = {Kind.BOOL: "b", Kind.INT: "iu", Kind.FLOAT: "f"}[kind_of_dtype(param.dtype)]
    if array.dtype.kind not in kinds:
        raise TypeError(f"{owner}: {show_param(param)} must hold {param.dtype}, got {array.dtype}")
    return array
