"""What each operation of the IR does, in torch."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from attndsl.ir.expr import Op
from attndsl.ir.types import Kind
from attndsl.reference.pairs import align

if TYPE_CHECKING:
    from torch import Tensor


def _floor_divide(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(b == 0, 0, torch.div(a, torch.where(b == 0, 1, b), rounding_mode="floor"))


def _modulo(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(b == 0, 0, torch.remainder(a, torch.where(b == 0, 1, b)))


def _bit_length(n: Tensor) -> Tensor:
    powers = 2 ** torch.arange(62, device=n.device)
    return (n.abs()[..., None] >= powers).sum(-1)


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return torch.einsum("bhqkf,bhqkf->bhqk", x, y)


def _rms_norm(x: Tensor) -> Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6)


def _concat(*parts: Tensor) -> Tensor:
    pairs = torch.broadcast_shapes(*[p.shape[:4] for p in parts])
    return torch.cat([p.expand(*pairs, p.shape[-1]) for p in parts], -1)


def _distinct(x: Tensor) -> Tensor:
    """The product of every two different components once: those that lie 1 apart, on a circle, then 2 apart, ..."""
    size = x.shape[-1]
    every = [x * x.roll(-apart, -1) for apart in range(1, size // 2 + 1)]
    return torch.cat([x[..., :0], *every], -1)[..., : size * (size - 1) // 2]


def _roll(x: Tensor, n: Tensor) -> Tensor:
    """Component i moves to (i + n) % size."""
    size = x.shape[-1]
    source = (torch.arange(size, device=x.device) - n[..., None]) % size
    pairs = torch.broadcast_shapes(x.shape[:4], n.shape)
    return torch.gather(x.expand(*pairs, size), -1, source.expand(*pairs, size))


def _rope(x: Tensor, position: Tensor) -> Tensor:
    """Rotate component i with component i + F/2 by position * 10000^(-2i/F)."""
    half = x.shape[-1] // 2
    rates = 10000.0 ** (-torch.arange(half, device=x.device, dtype=torch.float64) / half)
    angle = (position[..., None].to(torch.float64) * rates).to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return _concat(a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin())


_ELEMENTWISE: dict[str, Any] = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div, "pow": torch.pow, "neg": torch.neg,
    "floordiv": _floor_divide, "mod": _modulo, "min": torch.minimum, "max": torch.maximum,
    "lt": torch.lt, "le": torch.le, "gt": torch.gt, "ge": torch.ge, "eq": torch.eq, "ne": torch.ne,
    "and": torch.logical_and, "or": torch.logical_or, "not": torch.logical_not,
    "abs": torch.abs, "sign": torch.sign, "relu": torch.relu,
    "floor": lambda x: torch.floor(x).to(torch.int64), "ceil": lambda x: torch.ceil(x).to(torch.int64),
    "exp": torch.exp, "log": torch.log, "sqrt": torch.sqrt, "tanh": torch.tanh, "sigmoid": torch.sigmoid,
    "elu": torch.nn.functional.elu, "silu": torch.nn.functional.silu, "gelu": torch.nn.functional.gelu,
    "softplus": torch.nn.functional.softplus, "erf": torch.erf, "sin": torch.sin, "cos": torch.cos,
    "acos": torch.acos, "atan2": torch.atan2,
    "bitlen": _bit_length, "ispow2": lambda n: (n > 0) & ((n & (n - 1)) == 0),
    "to_int": lambda x: x.to(torch.int64),
}  # fmt: skip

_VECTOR: dict[str, Any] = {
    "dot": _dot, "norm": lambda x: torch.linalg.vector_norm(x, dim=-1), "total": lambda x: x.sum(-1),
    "amax": lambda x: x.amax(-1),
    "vsoftmax": lambda x: torch.softmax(x, -1), "rmsnorm": _rms_norm, "concat": _concat, "roll": _roll, "rope": _rope,
    "outer": lambda x, y: (x[..., :, None] * y[..., None, :]).flatten(-2),
    "distinct": _distinct,
    "matmul": lambda x, m: torch.einsum("bhqki,bhqkij->bhqkj", x, m),
}  # fmt: skip


def apply(e: Op, args: list[Tensor], dtype: torch.dtype) -> Tensor:
    if e.op in _VECTOR:
        return _VECTOR[e.op](*args)
    if e.op == "to_float":
        return args[0].to(dtype)
    if e.type.kind is Kind.FLOAT:
        args = [a.to(dtype) for a in args]
    return _ELEMENTWISE[e.op](*align(*args))
