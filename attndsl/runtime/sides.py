"""Values of one side of a pair, for all positions of a call: features, decays, segments, as tensors of torch.

Numbers are [batch, heads, positions], each dimension full or 1; vectors and matrices have their own dimensions after
those. Everything is differentiable, on the tensors' device, and linear in the length of the sequence.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from attndsl.ir.attention import Const
from attndsl.ir.expr import Count, Expr, Index, Literal, Load, Op, ParamRef, Size, Value
from attndsl.ir.free import depends
from attndsl.ir.types import Kind
from attndsl.runtime.call import Call
from attndsl.runtime.vectors import (
    bitlen,
    concatenated,
    distinct,
    floordiv,
    gathered,
    lift,
    matmul,
    mod,
    outer,
    rmsnorm,
    roll,
    rope,
)  # fmt: skip

RANK = 3
GIVEN = ("Q", "K", "V")


@lru_cache(maxsize=1024)
def _steps(e: Expr) -> tuple[Expr, ...]:
    """What is computed for an expression, in order. Indices of reads are not: many are not needed."""
    found: dict[Expr, None] = {}
    stack = [(e, False)]
    while stack:
        node, ready = stack.pop()
        if node in found:
            continue
        if ready or isinstance(node, Load) or not node.children:
            found[node] = None
        else:
            stack.append((node, True))
            stack.extend((c, False) for c in reversed(node.children))
    return tuple(found)


class Sides:
    """Expressions of the row or of the key of one call. `heads` is H, or Hkv for values that depend on the key head
    alone; `position` that of place 0, plus an `offset` for all or [B]; floats are computed in `dtype`. `values` gives
    `o`, `count` and the like."""

    def __init__(
        self, call: Call, heads: int, *, position: int = 0, offset: int | Tensor = 0, length: int | None = None,
        dtype: torch.dtype = torch.float32, values: Mapping[Expr, Tensor] | None = None,
    ) -> None:  # fmt: skip
        self.call, self.heads, self.position, self.offset, self.dtype = call, heads, position, offset, dtype
        self.device = call.q.device
        self.length = call.q.shape[2] if length is None else length
        self.known: dict[Expr, Tensor] = dict(values or {})

    def value(self, e: Expr) -> Tensor:
        """The value of an expression."""
        for node in _steps(e):
            if node not in self.known:
                self.known[node] = self._value(node)
        return self.known[e]

    def _value(self, node: Expr) -> Tensor:
        match node:
            case Literal(value=value):
                return self._number(value, node.type.kind)
            case Size(name=name):
                return self._number(self.call.sizes[name], Kind.INT)
            case ParamRef(name=name, component=None):
                return self._number(self.call.scalars[name], node.type.kind)
            case Index(name=name):
                return self._index(name)
            case Load():
                return self._load(node)
            case Op():
                return self._op(node)
            case Count() | Value():
                raise TypeError(f"no value was given for {node}")
            case _:
                raise TypeError(f"no value of one side for {type(node).__name__}")

    def _number(self, value: Any, kind: Kind) -> Tensor:
        dtype = {Kind.BOOL: torch.bool, Kind.INT: torch.int64, Kind.FLOAT: self.dtype}[kind]
        return torch.full((1, 1, 1), value, dtype=dtype, device=self.device)

    def _index(self, name: str) -> Tensor:
        B, H, Hkv = (self.call.sizes[n] for n in ("B", "H", "Hkv"))
        at = torch.arange(max(self.length, B, H), device=self.device)
        match name:
            case "b":
                return at[:B].reshape(-1, 1, 1)
            case "h":
                return at[:H].reshape(1, -1, 1)
            case "hkv":
                found = at[: self.heads].reshape(1, -1, 1)
                return found // (H // max(Hkv, 1)) if self.heads == H else found
            case "row":
                return at[: self.length].reshape(1, 1, -1)
            case _:
                first = self.offset if isinstance(self.offset, int) else self.offset.reshape(-1, 1, 1)
                return at[: self.length].reshape(1, 1, -1) + (self.position + first)

    # Reads

    def _load(self, node: Load) -> Tensor:
        tensor, own = self._tensor(node.tensor)
        if node.tensor in GIVEN:
            H = self.call.sizes["H"]
            if tensor.shape[1] != self.heads and self.heads == H:
                tensor = tensor.repeat_interleave(H // max(tensor.shape[1], 1), 1)
            return tensor
        found = self._direct(tensor, node)
        if found is not None:
            return found
        at = [self.value(i) for i in node.indices]
        if own:
            # with a state, entry i of a tensor along the sequence is that of row i
            at = [a - self.position if depends(i) & {"q", "k"} else a for a, i in zip(at, node.indices, strict=True)]
        if not at:
            return tensor[None, None, None]
        return gathered(tensor, at)

    def _tensor(self, name: str) -> tuple[Tensor, bool]:
        """A tensor in the type that values are computed in, and whether it is one of the call."""
        if name in GIVEN:
            return getattr(self.call, name.lower()).to(self.dtype), True
        if name in self.call.inputs:
            found = self.call.inputs[name]
        else:
            const = self.call.attention.param(name)
            assert isinstance(const, Const)
            return torch.tensor(const.default, device=self.device), False
        if found.is_floating_point():
            return found.to(self.dtype), True
        return (found if found.dtype is torch.bool else found.to(torch.int64)), True

    def _direct(self, tensor: Tensor, node: Load) -> Tensor | None:
        """A read at the row's own indices without gathering: dimensions in the order batch, head, position."""
        places = {"b": 0, "h": 1, "hkv": 1, "q": 2, "k": 2, "row": 2}
        if not node.indices or not all(isinstance(i, Index) for i in node.indices):
            return None
        names = [i.name for i in node.indices if isinstance(i, Index)]
        order = [places[n] for n in names]
        if order != sorted(set(order)):
            return None
        for i, n in enumerate(names):
            if places[n] == 2:
                start = 0 if n == "row" else self.offset
                if not isinstance(start, int):
                    return None
                if tensor.shape[i] < start + self.length:
                    return None
                tensor = tensor.narrow(i, start, self.length)
            elif n == "hkv" and tensor.shape[i] != self.heads:
                tensor = tensor.repeat_interleave(self.heads // max(tensor.shape[i], 1), i)
        for place in range(RANK):
            if place not in order:
                tensor = tensor.unsqueeze(place)
        return tensor

    # Operations

    def _op(self, node: Op) -> Tensor:
        args = [self.known[a] for a in node.args]
        if node.op in _VECTOR:
            return _VECTOR[node.op](*args)
        if node.op == "to_float":
            return args[0].to(self.dtype)
        rank = max(a.ndim for a in args)
        return _LIFTED[node.op](*(lift(a, rank) for a in args))


_VECTOR: Mapping[str, Callable[..., Tensor]] = {
    "dot": lambda x, y: (x * y).sum(-1),
    "norm": lambda x: torch.linalg.vector_norm(x, dim=-1),
    "total": lambda x: x.sum(-1),
    "amax": lambda x: x.amax(-1),
    "vsoftmax": lambda x: torch.softmax(x, -1),
    "rmsnorm": rmsnorm,
    "concat": concatenated,
    "outer": outer,
    "distinct": distinct,
    "matmul": matmul,
    "roll": roll,
    "rope": rope,
}
_LIFTED: Mapping[str, Callable[..., Tensor]] = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.true_divide, "floordiv": floordiv,
    "mod": mod, "pow": torch.pow, "neg": torch.neg, "min": torch.minimum, "max": torch.maximum, "lt": torch.lt,
    "le": torch.le, "gt": torch.gt, "ge": torch.ge, "eq": torch.eq, "ne": torch.ne, "and": torch.logical_and,
    "or": torch.logical_or, "not": torch.logical_not, "abs": torch.abs, "sign": torch.sign,
    "floor": lambda x: torch.floor(x).to(torch.int64), "ceil": lambda x: torch.ceil(x).to(torch.int64),
    "exp": torch.exp, "log": torch.log, "sqrt": torch.sqrt, "tanh": torch.tanh, "sigmoid": torch.sigmoid,
    "relu": torch.relu, "elu": torch.nn.functional.elu, "silu": torch.nn.functional.silu,
    "gelu": torch.nn.functional.gelu, "softplus": torch.nn.functional.softplus, "erf": torch.erf, "sin": torch.sin,
    "cos": torch.cos, "acos": torch.acos, "atan2": torch.atan2, "bitlen": bitlen,
    "ispow2": lambda n: (n > 0) & ((n & (n - 1)) == 0), "select": torch.where,
    "to_int": lambda x: x.to(torch.int64),
}  # fmt: skip
