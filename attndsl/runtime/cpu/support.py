"""The operations that generated CPU code calls.

Numbers are tensors of [.., rows, columns], each dimension of its full extent or 1; vectors and matrices have their
own dimensions after those. Numbers of the whole call are 0-dimensional tensors or Python numbers.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from attndsl.runtime.cpu.source import PAIR_RANK, Pairs, TensorSource
from attndsl.runtime.vectors import distinct, outer

Number = Tensor | bool | int | float


def _tensor(x: Number) -> Tensor:
    if isinstance(x, Tensor):
        return x
    return torch.tensor(x, dtype=torch.float64 if isinstance(x, float) else None)


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[[Number], Tensor]:
    return lambda x: function(_tensor(x))


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Number, Number], Tensor]:
    return lambda a, b: function(_tensor(a), _tensor(b))


def divide(a: Number, b: Number) -> Tensor:
    if isinstance(b, int | float) and isinstance(a, Tensor) and b != 0:
        return a / b
    return torch.true_divide(_tensor(a), _tensor(b))


def power(a: Number, b: Number) -> Tensor:
    return torch.pow(_tensor(a), b)


def floordiv(a: Number, b: Number) -> Tensor:
    if isinstance(b, int):
        return torch.div(_tensor(a), b, rounding_mode="floor") if b else torch.zeros_like(_tensor(a))
    a, b = _tensor(a), _tensor(b)
    zero = b == 0
    return torch.where(zero, 0, torch.div(a, torch.where(zero, 1, b), rounding_mode="floor"))


def modulo(a: Number, b: Number) -> Tensor:
    if isinstance(b, int):
        return torch.remainder(_tensor(a), b) if b else torch.zeros_like(_tensor(a))
    a, b = _tensor(a), _tensor(b)
    zero = b == 0
    return torch.where(zero, 0, torch.remainder(a, torch.where(zero, 1, b)))


def bitlen(n: Number) -> Tensor:
    left = _tensor(n).abs()
    out = torch.zeros_like(left)
    for bits in (32, 16, 8, 4, 2, 1):
        large = left >= (1 << bits)
        out = out + large * bits
        left = torch.where(large, left >> bits, left)
    return out + (left > 0)


def ispow2(n: Number) -> Tensor:
    n = _tensor(n)
    return (n > 0) & ((n & (n - 1)) == 0)


def select(condition: Number, a: Number, b: Number) -> Tensor:
    return torch.where(_tensor(condition), a, b)  # Python numbers take the tensor's dtype


def lift(x: Number, n: int) -> Number:
    """A number beside a vector (n = 1) or a matrix."""
    return x.reshape(x.shape + (1,) * n) if isinstance(x, Tensor) and x.ndim else x


def dot(x: Tensor, y: Tensor) -> Tensor:
    """A vector of the row with one of the column is a matrix product; nothing of [rows, columns, size] is built."""
    if x.ndim >= 3 and y.ndim >= 3:
        if x.shape[-2] == 1 and y.shape[-3] == 1:
            return torch.matmul(x.squeeze(-2), y.squeeze(-3).transpose(-1, -2))
        if y.shape[-2] == 1 and x.shape[-3] == 1:
            return torch.matmul(y.squeeze(-2), x.squeeze(-3).transpose(-1, -2))
    return (x * y).sum(-1)


def tanh(x: Number) -> Tensor:
    """Within a few units in the last place, as `torch.tanh`, which takes longer: e / (e + 2) with e = expm1(2 x)."""
    x = _tensor(x)
    if not x.is_floating_point() or (x.requires_grad and torch.is_grad_enabled()):
        return torch.tanh(x)
    e = torch.clamp(x, max=20.0).mul_(2.0).expm1_()
    return e.div_(e + 2.0)


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=-1)


def _largest(x: Tensor) -> Tensor:
    return x.amax(-1)


def _softmax(x: Tensor) -> Tensor:
    return torch.softmax(x, -1)


def rmsnorm(x: Tensor) -> Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6)


def concat(*parts: Tensor) -> Tensor:
    pairs = torch.broadcast_shapes(*[p.shape[:-1] for p in parts])
    return torch.cat([p.expand(*pairs, p.shape[-1]) for p in parts], -1)


def matmul(x: Tensor, m: Tensor) -> Tensor:
    if m.shape[-3] == 1 and m.shape[-4] == 1:  # one matrix for all pairs: rows and columns are its batch
        flat = x.flatten(-3, -2) @ m.squeeze(-3).squeeze(-3)
        return flat.unflatten(-2, x.shape[-3:-1])
    return (x.unsqueeze(-2) @ m).squeeze(-2)


def roll(x: Tensor, n: Number) -> Tensor:
    """Component i moves to (i + n) % size."""
    size = x.shape[-1]
    n = _tensor(n)
    source = (torch.arange(size) - n[..., None]) % size
    pairs = torch.broadcast_shapes(x.shape[:-1], source.shape[:-1])
    return torch.gather(x.expand(*pairs, size), -1, source.expand(*pairs, size))


def rope(x: Tensor, position: Number) -> Tensor:
    """Rotate component i with component i + size/2 by position * 10000^(-2i/size)."""
    half = x.shape[-1] // 2
    rates = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = _tensor(position)[..., None].double() * rates
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return concat(a * cos - b * sin, b * cos + a * sin)


def load(source: TensorSource, *at: Number) -> Tensor:
    """source[at...], 0 outside."""
    return source.read(tuple(_tensor(i) for i in at))


def decay(prefix: TensorSource, alive: Pairs, *at: Number) -> Tensor:
    """exp(prefix[.., q] - prefix[.., k]) with inclusive prefix sums; 0 on pairs that do not count."""
    lead, q, k = at[:-2], _tensor(at[-2]), _tensor(at[-1])
    last = prefix.tensor.shape[len(lead)] - 1
    upto = [load(prefix, *lead, torch.clamp(i + 1, 0, last)) for i in (q, k)]
    x = upto[0] - upto[1]
    if alive.mask is not None:
        x = torch.where(alive.beside(x), x, -math.inf)
    return torch.exp(x).to(prefix.result)


# Sums over a row and exponentials below its largest.


def row_sum(x: Number, alive: Pairs, rank: int = 0) -> Tensor:
    """The sum over the columns that count; a value without columns counts once for each."""
    x = _tensor(x)
    if x.ndim < PAIR_RANK:
        x = x.reshape((1,) * PAIR_RANK)
    dim = PAIR_RANK - 1
    mask = alive.mask
    if mask is not None and rank == 1 and x.shape[dim - 1] == 1 and mask.shape[dim - 1] > 1:
        return (mask.to(x.dtype) @ x.squeeze(dim - 1)).unsqueeze(dim)
    x = x.expand(*x.shape[:dim], alive.columns, *x.shape[dim + 1 :])
    if mask is not None:
        x = torch.where(alive.beside(x), x, 0)
    return x.sum(dim, keepdim=True)


def row_mean(x: Number, alive: Pairs, count: Tensor, rank: int = 0) -> Tensor:
    total = row_sum(x, alive, rank)
    return total / lift(count.clamp(min=1), rank)


def quotient(a: Number, b: Number) -> Tensor:
    """a / b, and 0 without a gradient where b is 0."""
    b = _tensor(b)
    zero = b == 0
    return torch.where(zero, 0.0, _tensor(a) / torch.where(zero, 1, b))


def row_top(x: Number, alive: Pairs) -> Tensor:
    """The largest value of a row, a constant for gradients; 0 where there is none."""
    x = _tensor(x).detach()
    if alive.mask is not None:
        x = torch.where(alive.mask, x, -math.inf)
    return steady(x.amax(-1, keepdim=True))


def steady(x: Number) -> Tensor:
    """A finite constant near x."""
    x = _tensor(x).detach()
    return torch.where(torch.isfinite(x), x, 0.0)


def exp_below(x: Number, top: Tensor, alive: Pairs) -> Tensor:
    """exp(x - top), 0 on pairs that do not count."""
    below = _tensor(x) - top
    if alive.mask is not None:
        below = torch.where(alive.mask, below, -math.inf)
    return torch.exp(below)


class _Strict(torch.autograd.Function):
    """A function whose derivative is 0 at each pair (and component, if elementwise) where the incoming one is."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], own: int, ranks: tuple[int, ...], *args: Tensor) -> Tensor:
        ctx.function, ctx.own, ctx.ranks = function, own, ranks
        ctx.save_for_backward(*args)
        return function(*args)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = grads
        pairs = g.shape[: g.ndim - ctx.own]
        needed = ctx.needs_input_grad[3:]
        arguments = list(zip(ctx.saved_tensors, ctx.ranks or (0,) * len(needed), needed, strict=True))
        with torch.enable_grad():
            leaves = [a.detach().expand(*pairs, *a.shape[a.ndim - rank :]) for a, rank, _ in arguments]
            wanted = [x.requires_grad_() for x, n in zip(leaves, needed, strict=True) if n]
            found = iter(torch.autograd.grad(ctx.function(*leaves), wanted, g))
        still = (g == 0).reshape(*pairs, -1).all(-1) if ctx.own else g == 0
        out: list[Tensor | None] = [None, None, None]
        for a, rank, n in arguments:
            zero = still.reshape(*pairs, *(1,) * rank)
            out.append(torch.where(zero, 0, next(found)).sum_to_size(a.shape) if n else None)
        return tuple(out)


def _strict(function: Callable[..., Tensor], own: int = 0, ranks: tuple[int, ...] = ()) -> Callable[..., Tensor]:
    """The strict form of an elementwise function; with `ranks`, of one whose arguments have so many dimensions of
    their own beside those of pairs, and whose result has `own`."""

    def call(*args: Number) -> Tensor:
        tensors = [_tensor(a) for a in args]
        if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
            floats = [t if t.is_floating_point() else t.to(torch.float64) for t in tensors]
            return _Strict.apply(function, own, ranks, *floats)  # pyright: ignore[reportReturnType]
        return function(*tensors)

    return call


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "divide": divide, "power": power, "floordiv": floordiv, "modulo": modulo, "bitlen": bitlen, "ispow2": ispow2,
    "select": select, "lift": lift, "dot": dot, "rmsnorm": rmsnorm, "concat": concat, "outer": outer,
    "distinct": distinct, "matmul": matmul, "roll": roll, "rope": rope, "load": load, "decay": decay,
    "row_sum": row_sum, "row_mean": row_mean, "quotient": quotient, "row_top": row_top, "steady": steady,
    "exp_below": exp_below,
    "minimum": _binary(torch.minimum), "maximum": _binary(torch.maximum), "atan2": _binary(torch.atan2),
    "absolute": _unary(torch.abs), "sign": _unary(torch.sign), "exp": _unary(torch.exp), "log": _unary(torch.log),
    "sqrt": _unary(torch.sqrt), "tanh": tanh, "sigmoid": _unary(torch.sigmoid),
    "relu": _unary(torch.relu), "elu": _unary(torch.nn.functional.elu), "silu": _unary(torch.nn.functional.silu),
    "gelu": _unary(torch.nn.functional.gelu), "softplus": _unary(torch.nn.functional.softplus),
    "erf": _unary(torch.erf), "sin": _unary(torch.sin), "cos": _unary(torch.cos), "acos": _unary(torch.acos),
    "negate": _unary(torch.logical_not), "to_int": _unary(lambda x: x.to(torch.int64)),
    "floor": _unary(lambda x: torch.floor(x).to(torch.int64)),
    "ceil": _unary(lambda x: torch.ceil(x).to(torch.int64)),
    "norm": _norm, "component_sum": lambda x: x.sum(-1), "component_max": _largest, "component_softmax": _softmax,
    "strict_divide": _strict(torch.true_divide), "strict_power": _strict(torch.pow),
    "strict_multiply": _strict(torch.mul), "strict_exp": _strict(torch.exp), "strict_log": _strict(torch.log),
    "strict_sqrt": _strict(torch.sqrt), "strict_acos": _strict(torch.acos), "strict_atan2": _strict(torch.atan2),
    "strict_absolute": _strict(torch.abs), "strict_tanh": _strict(tanh), "strict_sigmoid": _strict(torch.sigmoid),
    "strict_elu": _strict(torch.nn.functional.elu), "strict_silu": _strict(torch.nn.functional.silu),
    "strict_gelu": _strict(torch.nn.functional.gelu), "strict_softplus": _strict(torch.nn.functional.softplus),
    "strict_erf": _strict(torch.erf), "strict_sin": _strict(torch.sin), "strict_cos": _strict(torch.cos),
    "strict_dot": _strict(dot, 0, (1, 1)), "strict_norm": _strict(_norm, 0, (1,)),
    "strict_component_max": _strict(_largest, 0, (1,)), "strict_component_softmax": _strict(_softmax, 1, (1,)),
    "strict_rmsnorm": _strict(rmsnorm, 1, (1,)), "strict_outer": _strict(outer, 1, (1, 1)),
    "strict_distinct": _strict(distinct, 1, (1,)),
    "strict_matmul": _strict(matmul, 1, (1, 2)),
}  # fmt: skip
"""What generated code may call, besides what knows the precision of the call: `to_float` and `gap`."""


def to_float(dtype: torch.dtype) -> Callable[[Number], Number]:
    """`to_float` for calls that compute in `dtype`; a number of the whole call stays exact."""
    return lambda x: x.to(dtype) if isinstance(x, Tensor) and x.ndim else _tensor(x).to(torch.float64)


EXACT = 1 << 23
"""Ints up to this are exact in fp32, and so are their differences."""


def gap(dtype: torch.dtype) -> Callable[[Number, Number], Tensor]:
    """`to_float(a - b)`, without an int of every pair where one side's ints are exact in `dtype`."""

    def function(a: Number, b: Number) -> Tensor:
        a, b = _tensor(a), _tensor(b)
        if not a.numel() or not b.numel():
            return (a - b).to(dtype)
        base = b.reshape(-1)[0]
        a, b = a - base, b - base
        if max(int(x.abs().max()) for x in (a, b)) > EXACT:
            return (a - b).to(dtype)
        return a.to(dtype) - b.to(dtype)

    return function
