"""Values of expressions on all pairs of one call."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import reduce
from typing import TYPE_CHECKING, Any

import torch

from attndsl.ir.attention import Attention, Input, Space
from attndsl.ir.expr import (
    Component,
    Coord,
    Count,
    Decay,
    Expr,
    Extent,
    Index,
    Literal,
    Load,
    Member,
    Op,
    ParamRef,
    Reduce,
    Size,
    Value,
    mentions,
)
from attndsl.ir.types import Kind, kind_of_dtype
from attndsl.reference.grids import GridArgument, axis_names, extents
from attndsl.reference.operations import apply
from attndsl.reference.pairs import align, cut, expand, exponents, gather, pairwise, torch_dtype

if TYPE_CHECKING:
    from torch import Tensor


class Evaluator:
    """Values of expressions for one call."""

    def __init__(
        self,
        attention: Attention,
        sizes: Mapping[str, int],
        inputs: Mapping[str, Tensor],
        scalars: Mapping[str, bool | int | float],
        grid: GridArgument,
        q_offset: int | str | Tensor,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.attention, self.dtype, self.device = attention, dtype, device
        self.pairs = tuple(sizes[n] for n in ("B", "H", "Lq", "Lk"))
        B, H, Lq, Lk = self.pairs
        if isinstance(q_offset, str):
            assert q_offset == "end", q_offset
            q_offset = Lk - Lq
        is_offset = isinstance(q_offset, torch.Tensor) or q_offset != 0
        self.sizes = {"L": Lk if is_offset else max(Lq, Lk), **sizes}

        self.tensors: dict[str, Tensor] = {}
        for c in attention.consts:
            if isinstance(c.default, tuple):
                self.tensors[c.name] = self.constant(c.default, c.kind).reshape(-1)
        for p in attention.inputs:
            t = inputs[p.name].to(device)
            self.tensors[p.name] = t.to(torch_dtype(kind_of_dtype(p.dtype), dtype))
            self._bind_sizes(p, t)
        self.scalars = {p.name: self.constant(scalars.get(p.name, p.default), p.kind) for p in attention.scalars}

        def arange(n: int, *shape: int) -> Tensor:
            return torch.arange(n, device=device).reshape(shape)

        row = arange(Lq, 1, 1, Lq, 1)
        offset = torch.as_tensor(q_offset, device=device).to(torch.int64).reshape(-1, 1, 1, 1)
        h = arange(H, 1, H, 1, 1)
        self.indices: dict[str, Tensor] = {
            "b": arange(B, B, 1, 1, 1), "h": h, "hkv": h // max(1, H // max(1, sizes["Hkv"])),
            "row": row, "q": row + offset, "k": arange(Lk, 1, 1, 1, Lk),
        }  # fmt: skip
        self.offset = offset
        self.extents = dict(zip("qk", extents(attention, grid, self.sizes), strict=True))
        self.o: Tensor | None = None
        self.components: dict[str, Tensor] = {}
        self.start(keys=torch.ones((1, 1, 1, 1), dtype=torch.bool, device=device))

    def _bind_sizes(self, p: Input, t: Tensor) -> None:
        for dim, extent in zip(p.shape, t.shape, strict=True):
            if isinstance(dim, Size):
                self.sizes.setdefault(dim.name, extent)

    def constant(self, value: Any, kind: Kind) -> Tensor:
        """A number of the program, of shape [1, 1, 1, 1] (a tuple: one row of them)."""
        t = torch.tensor(value, dtype=torch_dtype(kind, self.dtype), device=self.device)
        return t.reshape(1, 1, 1, -1)

    def start(self, keys: Tensor, s: Tensor | None = None, count: Tensor | None = None) -> None:
        """Begin a clause: `keys` are the pairs that reductions run over, `s` the current score and `count` the
        visible pairs (`keys` and those with a score of -inf)."""
        self.keys, self.s, self.count = keys, s, keys if count is None else count
        self.known: dict[tuple[Expr, int], tuple[Tensor, Tensor]] = {}

    def visible(self) -> Tensor:
        """The mask on all pairs."""
        return self.value(self.attention.mask, self.keys).expand(self.pairs)

    def logit(self, weight: Expr, active: Tensor) -> Tensor | None:
        """The exponent of the weight's exponential, None where it has none."""
        terms = exponents(weight)
        return reduce(torch.add, (expand(self.value(t, active), active) for t in terms)) if terms else None

    def value(self, e: Expr, active: Tensor) -> Tensor:
        """The value of an expression, meant only where `active` (bool, four dimensions)."""
        key = (e, id(active))
        if key not in self.known:
            self.known[key] = (self._value(e, active), active)  # active is kept so that its id stays its own
        return self.known[key][0]

    def _value(self, e: Expr, active: Tensor) -> Tensor:
        match e:
            case Literal():
                return self.constant(e.value, e.type.kind)
            case Index():
                return self.indices[e.name]
            case Size():
                return self.constant(self.sizes[e.name], Kind.INT)
            case ParamRef():
                return self.scalars[e.name]
            case Extent():
                axes = axis_names(self.space(e.side), e.segment)
                return self.constant(self.extents[e.side][e.segment][axes.index(e.axis)], Kind.INT)
            case Member():
                return self.inside(e.side, e.segment)[1]
            case Coord():
                return self.coordinate(e)
            case Value(name="s"):
                assert self.s is not None
                return self.s
            case Value():
                assert self.o is not None
                return self.o
            case Load():
                return self.load(e, active)
            case Decay():
                return self.decay(e, active)
            case Count():
                return self.count.expand(self.pairs).sum(3, keepdim=True)
            case Reduce():
                return self.reduction(e, active)
            case Component():
                return self.components[e.name]
            case Op(op="sum_over" | "max_over", args=(body, Component(name=name), size)):
                return self._over(e.op == "sum_over", body, name, int(self.value(size, active).flatten()[0]), active)
            case Op(op="select"):
                condition = self.value(e.args[0], active)
                then = self.value(e.args[1], active & pairwise(condition))
                otherwise = self.value(e.args[2], active & ~pairwise(condition))
                c, a, b = align(condition, then, otherwise)
                return torch.where(c, a, b)
            case Op(op="div") if mentions(e.args[1], lambda n: isinstance(n, Reduce | Count)):
                return self.quotient(e, active)
            case Op(op="div"):
                # 1 rather than 0 below: what stands above may be a vector of one side, whose gradient is not cut
                above, below = (self.value(a, active).to(self.dtype) for a in e.args)
                above, below, at = align(cut(above, active), below, active)
                return above / torch.where(at, below, torch.ones_like(below))
            case Op():
                return apply(e, [cut(self.value(a, active), active) for a in e.args], self.dtype)
            case _:
                raise TypeError(f"no meaning for {e!r}")

    def _over(self, adds: bool, body: Expr, name: str, size: int, active: Tensor) -> Tensor:
        """The sum, or the largest, of a number for each component."""
        found, known = self.constant(0.0 if adds else -torch.inf, Kind.FLOAT), self.known
        for c in range(size):
            self.known, self.components[name] = dict(known), self.constant(c, Kind.INT)
            value = self.value(body, active)
            found = found + value if adds else torch.maximum(found, value)
        self.known = known
        return found

    def quotient(self, e: Op, active: Tensor) -> Tensor:
        """A quotient by a sum or a count; where that is 0, 0 without gradient."""
        below = self.value(e.args[1], active)
        defined = active & pairwise(below != 0)
        above, below = align(cut(self.value(e.args[0], defined), defined), cut(below, defined))
        defined, *_ = align(defined, above, below)
        return torch.where(defined, above / torch.where(defined, below, torch.ones_like(below)), 0)

    def reduction(self, e: Reduce, active: Tensor) -> Tensor:
        """The sum or mean over the row's keys."""
        keys = self.keys & active.any(3, keepdim=True)
        total = cut(self.value(e.body, keys), keys, sever_all=True).sum(3, keepdim=True)
        if e.kind == "sum":
            return total
        n, total = align(self.count.expand(self.pairs).sum(3, keepdim=True), total)
        return total / n.clamp(min=1)

    def load(self, e: Load, active: Tensor) -> Tensor:
        """A read; 0 outside the tensor. Rows of Q stand at positions, from the first row's."""
        at = [self.value(i, active) for i in e.indices]
        if e.tensor == "Q" and e.indices[2] != Index(e.indices[2].type, "row"):
            at[2] = at[2] - self.offset
        return gather(self.tensors[e.tensor], at)

    def decay(self, e: Decay, active: Tensor) -> Tensor:
        """exp of a difference of prefix sums along L."""
        g = self.tensors[e.tensor]
        along = len(e.indices)
        first = torch.zeros_like(g.narrow(along, 0, 1)) if g.shape[along] else g
        prefix = torch.cat([first, g.cumsum(along)], along)
        at = [self.value(i, active) for i in e.indices]
        last = g.shape[along] - 1
        upto = [gather(prefix, [*at, self.indices[n].clamp(-1, last) + 1]) for n in ("q", "k")]
        return torch.exp(cut(upto[0] - upto[1], active))

    def space(self, side: str) -> Space:
        space = self.attention.q_space if side == "q" else self.attention.k_space
        assert space is not None
        return space

    def inside(self, side: str, segment: str) -> tuple[Tensor, Tensor]:
        """The position within a segment, and whether it is one."""
        at = self.indices[side]
        for s in self.space(side).segments:
            length = math.prod(self.extents[side][s.name])
            if s.name == segment:
                return at, (at >= 0) & (at < length)
            at = at - length
        raise KeyError(segment)

    def coordinate(self, e: Coord) -> Tensor:
        at, is_inside = self.inside(e.side, e.segment)
        axis = axis_names(self.space(e.side), e.segment).index(e.axis)
        shape = self.extents[e.side][e.segment]
        c = at // max(1, math.prod(shape[axis + 1 :])) % max(1, shape[axis])
        return torch.where(is_inside, c, -1)
