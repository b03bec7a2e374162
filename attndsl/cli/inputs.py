"""Inputs for a spec that nobody gave tensors for: random, but such as its declarations promise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from attndsl.ir.attention import Attention, Input
from attndsl.ir.evaluate import Env, evaluate
from attndsl.ir.expr import Expr, Load, Op, Size, walk
from attndsl.ir.types import INT, Kind, kind_of_dtype

Table = npt.NDArray[Any]
GROUPS = 8
"""Documents in a sorted input, and distinct values of an unsorted one."""


def make_inputs(attention: Attention, sizes: Mapping[str, int], seed: int) -> dict[str, Table]:
    """An array for each input, of the values that `describe` says. Floats are f32 (f64 as declared), ints as declared.
    The same seed gives each name the same array whatever the other inputs are."""
    return {p.name: _make(attention, p, sizes, seed) for p in attention.inputs}


def describe(attention: Attention, param: Input) -> str:
    """What `make_inputs` makes of an input, in words: by its promises, its shape and its use."""
    return _recipe(attention, param)[0]


Maker = Callable[[np.random.Generator, tuple[int, ...], int], Table]


def _recipe(attention: Attention, param: Input) -> tuple[str, Maker]:
    """Words and a function of a generator, the shape and the length L."""
    kind = kind_of_dtype(param.dtype)
    if kind is Kind.BOOL:
        return "half true", lambda rng, shape, _: rng.random(shape) < 0.5
    if kind is Kind.INT:
        return _integers(param)
    if "log_decay" in param.facts:
        return "uniform in [-0.1, 0]", lambda rng, shape, _: -0.1 * rng.random(shape)
    used = _uses(attention, param.name)
    if "pow" in used:
        return "1 - 2^-5 .. 1 - 2^-8", lambda _, shape, __: 1 - _slopes(shape, 5, 8)
    if used & {"log", "sqrt"}:
        return "uniform in [0.5, 1.5]", lambda rng, shape, _: 0.5 + rng.random(shape)
    if _dims(param)[-1:] in (["H"], ["Hkv"]):
        return "slopes 2^-1 .. 2^-8", lambda _, shape, __: _slopes(shape, 1, 8)
    return "normal, deviation 1/2", lambda rng, shape, _: 0.5 * rng.standard_normal(shape)


def _integers(param: Input) -> tuple[str, Maker]:
    if "permutation" in param.facts:
        return "a permutation", lambda rng, shape, _: rng.permuted(
            np.broadcast_to(np.arange(shape[-1]), shape).copy(), axis=-1
        )
    if not set(_dims(param)) & {"L", "Lq", "Lk"}:
        return "L/16 .. L/4", lambda rng, shape, length: length // rng.choice([4, 8, 16], shape)
    return f"random below {GROUPS}", lambda rng, shape, _: rng.integers(0, GROUPS, shape)


def _make(attention: Attention, param: Input, sizes: Mapping[str, int], seed: int) -> Table:
    known: dict[Expr, Any] = {Size(INT, name): n for name, n in sizes.items()}
    shape = tuple(int(evaluate(e, Env(known))) for e in param.shape)
    rng = np.random.default_rng([seed, *param.name.encode()])
    values = _recipe(attention, param)[1](rng, shape, sizes["L"])
    if "sorted" in param.facts:
        values = np.sort(values, axis=-1)
    match kind_of_dtype(param.dtype):
        case Kind.BOOL:
            return values
        case Kind.INT:
            return values.astype(f"i{int(param.dtype[1:]) // 8}")
        case Kind.FLOAT:
            return np.ascontiguousarray(values, dtype=np.float64 if param.dtype == "f64" else np.float32)


def _slopes(shape: tuple[int, ...], first: int, last: int) -> Table:
    """2^-first .. 2^-last along the last axis."""
    heads = shape[-1] if shape else 1
    exponents = first + (last - first) * np.arange(heads) / max(1, heads - 1)
    return np.broadcast_to(2.0**-exponents, shape)


def _dims(param: Input) -> list[str]:
    return [e.name if isinstance(e, Size) else "" for e in param.shape]


def _uses(attention: Attention, name: str) -> set[str]:
    """Operations whose first argument is a read of the input: `log` wants positive numbers, `pow` a base below 1."""
    parts = [e for e in (attention.mask, attention.score, attention.weight, attention.output) if e is not None]
    return {
        n.op
        for e in parts
        for n in walk(e)
        if isinstance(n, Op) and n.args and isinstance(n.args[0], Load) and n.args[0].tensor == name
    }
