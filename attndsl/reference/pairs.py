"""Values on pairs: reading them, cutting them, and sums over a row."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false

from __future__ import annotations

import math
from functools import reduce
from typing import TYPE_CHECKING

import torch

from attndsl.ir.expr import Expr, Op, Value, mentions
from attndsl.ir.types import Kind

if TYPE_CHECKING:
    from torch import Tensor


def pairwise(x: Tensor) -> Tensor:
    """A bool about a value of any shape, as one about its pair: all components."""
    return x if x.ndim == 4 else x.flatten(4).all(4)


def align(*values: Tensor) -> list[Tensor]:
    """Numbers get trailing dimensions beside vectors and matrices."""
    rank = max(v.ndim for v in values)
    return [v.reshape(*v.shape, *(1,) * (rank - v.ndim)) for v in values]


def expand(x: Tensor, pairs: Tensor) -> Tensor:
    """Every pair written out."""
    return x.expand(torch.broadcast_shapes(x.shape[:4], pairs.shape) + x.shape[4:])


def cut(x: Tensor, active: Tensor, sever_all: bool = False) -> Tensor:
    """The value where active and 0 elsewhere, no gradient passing there.

    A vector of one side alone stays one: the operations on those that are not elementwise are finite.
    """
    if not sever_all and (not x.dtype.is_floating_point or (x.ndim > 4 and 1 in x.shape[2:4])):
        return x
    active, x = align(active, x)
    return torch.where(active, x, torch.zeros_like(x))


def gather(tensor: Tensor, at: list[Tensor]) -> Tensor:
    """tensor[at...], 0 where an index is outside; without indices the whole tensor, the same for every pair."""
    if not at:
        return tensor[None, None, None, None]
    inside = reduce(torch.logical_and, [(i >= 0) & (i < n) for i, n in zip(at, tensor.shape, strict=False)])
    if 0 in tensor.shape[: len(at)]:
        return tensor.new_zeros(inside.shape + tensor.shape[len(at) :])
    safe = tuple(torch.where(inside, i, 0) for i in at)
    inside, found = align(inside, tensor[safe])
    return torch.where(inside, found, torch.zeros_like(found))


def softmax(score: Tensor, alive: Tensor) -> Tensor:
    e = cut(torch.exp(score - row_max(score, alive)), alive)
    total = e.sum(3, keepdim=True)
    return e / torch.where(total == 0, torch.ones_like(total), total)


def log_sum_exp(logit: Tensor, alive: Tensor) -> Tensor:
    top = row_max(logit, alive)
    total = cut(torch.exp(cut(logit, alive) - top), alive).sum(3, keepdim=True)
    dead = ~alive.any(3, keepdim=True)
    lse = top + torch.log(torch.where(dead, torch.ones_like(total), total))
    return torch.where(dead, -math.inf, lse)[..., 0]


def row_max(x: Tensor, alive: Tensor) -> Tensor:
    """The largest value of a row over its live pairs, 0 where it has none; a constant for gradients."""
    if x.shape[3] == 0:
        return x.new_zeros((*x.shape[:3], 1))
    top = torch.where(alive, x.detach(), -math.inf).amax(3, keepdim=True)
    return torch.where(alive.any(3, keepdim=True), top, torch.zeros_like(top))


def exponents(e: Expr) -> list[Expr]:
    """The exponents of the exponential factors of a weight's numerator."""
    match e:
        case Op(op="exp"):
            return [e.args[0]] if mentions(e.args[0], lambda n: n == Value(n.type, "s")) else []
        case Op(op="mul"):
            return exponents(e.args[0]) + exponents(e.args[1])
        case Op(op="neg" | "div"):
            return exponents(e.args[0])
        case _:
            return []


def torch_dtype(kind: Kind, dtype: torch.dtype) -> torch.dtype:
    return {Kind.BOOL: torch.bool, Kind.INT: torch.int64, Kind.FLOAT: dtype}[kind]
