"""Operations on the numbers and vectors of all positions of a call: [batch, heads, positions, ...], each full or 1.

Modules that `build` writes hold the source of those that they call, so that every function reads nothing but torch and
others of this file.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor


def outer(x: Tensor, y: Tensor) -> Tensor:
    """All products of a component of x and one of y, x's row by row."""
    return (x[..., :, None] * y[..., None, :]).flatten(-2)


def distinct(x: Tensor, y: Tensor | None = None) -> Tensor:
    """The products of every two different components, in the order of the IR's `distinct`; with `y`, a multiple of x,
    the second of each is y's."""
    size = x.shape[-1]
    n = torch.arange(size * (size - 1) // 2, device=x.device)
    i = n % max(size, 1)
    j = (i + torch.div(n, max(size, 1), rounding_mode="floor") + 1) % max(size, 1)
    # selected from all products: gradients of selected components would be added up in no fixed order
    return outer(x, x if y is None else y).index_select(-1, i * size + j)


def lift(x: Tensor, rank: int) -> Tensor:
    """With dimensions of 1 behind its own."""
    return x.reshape(*x.shape, *(1,) * (rank - x.ndim))


def floordiv(a: Tensor, b: Tensor) -> Tensor:
    """Towards minus infinity; 0 where b is 0."""
    return torch.where(b == 0, 0, torch.div(a, torch.where(b == 0, 1, b), rounding_mode="floor"))


def mod(a: Tensor, b: Tensor) -> Tensor:
    """What `floordiv` leaves; 0 where b is 0."""
    return torch.where(b == 0, 0, torch.remainder(a, torch.where(b == 0, 1, b)))


def bitlen(n: Tensor) -> Tensor:
    """The number of binary digits."""
    return torch.ceil(torch.log2(n.abs().to(torch.float64) + 1)).to(torch.int64)


def concatenated(*parts: Tensor) -> Tensor:
    """Vectors one after another, for all positions that any of them has."""
    lead = torch.broadcast_shapes(*(p.shape[:-1] for p in parts))
    return torch.cat([p.expand(*lead, p.shape[-1]) for p in parts], -1)


def matmul(x: Tensor, m: Tensor) -> Tensor:
    """Vectors [B, heads, L, D] times matrices [B, heads, L, D, M], dimensions of 1 for all."""
    if m.shape[2] == 1:
        return x @ m.squeeze(2)
    return (x.unsqueeze(-2) @ m).squeeze(-2)


def roll(x: Tensor, n: Tensor) -> Tensor:
    """Vectors turned by n components."""
    size = x.shape[-1]
    source = (torch.arange(size, device=x.device) - n[..., None]) % size
    lead = torch.broadcast_shapes(x.shape[:-1], source.shape[:-1])
    return torch.gather(x.expand(*lead, size), -1, source.expand(*lead, size))


def rope(x: Tensor, position: Tensor) -> Tensor:
    """Vectors rotated by position, halves paired. Su et al., RoFormer, 2021."""
    half = x.shape[-1] // 2
    rates = 10000.0 ** (-torch.arange(half, dtype=torch.float64, device=x.device) / half)
    angle = position[..., None].double() * rates
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return concatenated(a * cos - b * sin, b * cos + a * sin)


def rmsnorm(x: Tensor) -> Tensor:
    """Vectors with a mean square of 1."""
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6)


def prefix_sums(steps: Tensor) -> Tensor:
    """Sums up to each position, in double precision, but for the first step: no pair reaches over it, so that it has no
    gradient, not even by rounding."""
    return torch.cat([torch.zeros_like(steps[..., :1]), steps[..., 1:]], -1).double().cumsum(-1)


def gathered(tensor: Tensor, at: list[Tensor]) -> Tensor:
    """Elements, or vectors, at these indices of the first dimensions; 0 outside the tensor."""
    inside = reduce(torch.logical_and, [(i >= 0) & (i < n) for i, n in zip(at, tensor.shape, strict=False)])
    shape = torch.broadcast_shapes(*(a.shape for a in at))
    if 0 in tensor.shape[: len(at)]:
        return tensor.new_zeros(shape + tensor.shape[len(at) :])
    got = tensor[tuple(torch.where(inside, i, 0) for i in at)]
    zero = torch.zeros((), dtype=got.dtype, device=got.device)
    return torch.where(lift(inside.expand(shape), got.ndim), got, zero)
