"""A program written by a test, with everything that is needed to run it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attndsl.frontend.compile import compile_text
from attndsl.ir.attention import Attention
from attndsl.ir.bind import bind
from attndsl.ir.types import Kind, kind_of_dtype
from attndsl.reference import extents
from attndsl.schedule.problem import Problem

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16, "f64": torch.float64}
INT_DTYPES = {"bool": torch.bool, "i32": torch.int32, "i64": torch.int64}

Fill = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


@dataclass(frozen=True)
class InputSpec:
    """How to make one input: `fill` names an entry of `FILLS`, `top` its parameter."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    fill: str
    top: float = 1.0

    def make(self, rng: np.random.Generator) -> Tensor:
        values = FILLS[self.fill](rng, self.shape, self.top)
        if kind_of_dtype(self.dtype) is Kind.FLOAT:
            return torch.as_tensor(values).to(DTYPES[self.dtype])
        return torch.as_tensor(values).to(INT_DTYPES[self.dtype])


def _documents(rng: np.random.Generator, shape: tuple[int, ...], top: float) -> np.ndarray:
    return np.sort(rng.integers(0, int(top) + 1, shape), axis=-1)


FILLS: dict[str, Any] = {
    "normal": lambda rng, shape, top: rng.normal(size=shape) * top,
    "positive": lambda rng, shape, top: rng.uniform(0.05, top, shape),
    "below_one": lambda rng, shape, top: rng.uniform(top, 1.0, shape),
    "log_decay": lambda rng, shape, top: -rng.exponential(top, shape),
    "ints": lambda rng, shape, top: rng.integers(0, int(top) + 1, shape),
    "signed": lambda rng, shape, top: rng.integers(-int(top), int(top) + 1, shape),
    "sorted": _documents,
    "flags": lambda rng, shape, top: rng.uniform(size=shape) < top,
    "permutation": lambda rng, shape, top: rng.permuted(np.broadcast_to(np.arange(shape[-1]), shape), axis=-1),
}


@dataclass(frozen=True)
class Spec:
    """A program and one call of it. `tile` is (row box, column box) or None for the planner's choice."""

    text: str
    sizes: dict[str, int]
    consts: dict[str, Any] = field(default_factory=dict)
    scalars: dict[str, bool | int | float] = field(default_factory=dict)
    inputs: tuple[InputSpec, ...] = ()
    grid: Any = None
    q_offset: int | str | tuple[int, ...] = 0
    tile: Any = None
    dtype: str = "f32"
    scale: float | None = None
    seed: int = 0
    lattice: bool = False
    """q and k such that dot(Q, K) is about an odd multiple of 1.1/8: every dtype agrees on its sign."""
    layout: str = "bhsd"
    """How the compiled call is given its tensors: `bhsd`, `bshd`, or `strided`: each a part of a larger one."""

    @cached_property
    def attention(self) -> Attention:
        (attention,) = compile_text(self.text)
        return bind(attention, self.consts)

    def offset(self) -> int | str | Tensor:
        """`q_offset` as a call takes it."""
        return torch.tensor(self.q_offset, dtype=torch.int32) if isinstance(self.q_offset, tuple) else self.q_offset

    def make_inputs(self) -> dict[str, Tensor]:
        rng = np.random.default_rng(self.seed)
        return {i.name: i.make(rng) for i in self.inputs}

    def make_qkv(self) -> tuple[Tensor, Tensor, Tensor]:
        z, rng = self.sizes, np.random.default_rng(self.seed + 1)
        shapes = [(z["B"], z["H"], z["Lq"], z["D"]), (z["B"], z["Hkv"], z["Lk"], z["D"]),
                  (z["B"], z["Hkv"], z["Lk"], z["Dv"])]  # fmt: skip
        made = [rng.normal(size=s) for s in shapes]
        if self.lattice:
            made[:2] = [np.round(x * 2) / 2 for x in made[:2]]
            made[0][..., 0] = (made[0][..., 0] * 4 + 1) / 8
            made[1][..., 0] = np.where(made[1][..., 0] < 0, -1, 1)
            made[0] *= 1.1
        q, k, v = (torch.as_tensor(x).to(DTYPES[self.dtype]) for x in made)
        return q, k, v

    def problem(self, inputs: dict[str, Tensor] | None = None) -> Problem:
        """What a schedule of this call is made for."""
        z = self.sizes
        offset = z["Lk"] - z["Lq"] if self.q_offset == "end" else self.q_offset
        is_offset = isinstance(offset, tuple) or offset != 0
        sizes = {"L": z["Lk"] if is_offset else max(z["Lq"], z["Lk"]), **z}
        attention = self.attention
        made = self.make_inputs() if inputs is None else inputs
        scalars = {s.name: self.scalars.get(s.name, s.default) for s in attention.scalars}
        q_extents, k_extents = extents(attention, self.grid, sizes)
        return Problem(
            sizes=sizes,
            scalars={n: s for n, s in scalars.items() if s is not None},
            tables={
                n: (t.float() if t.dtype in (torch.bfloat16, torch.float16) else t).numpy() for n, t in made.items()
            },
            q_extents=q_extents,
            k_extents=k_extents,
            q_offset=np.asarray(offset, np.int64) if isinstance(offset, tuple) else int(offset),
        )

    @property
    def pairs(self) -> int:
        return math.prod(self.sizes[n] for n in ("B", "H", "Lq", "Lk"))
