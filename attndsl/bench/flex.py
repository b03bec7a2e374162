"""What FlexAttention calls for a spec: its mask and its score as functions of (b, h, q, k)."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportUnknownParameterType=false, reportMissingParameterType=false

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attndsl.codegen.cpu import generate
from attndsl.codegen.names import Argument, Function
from attndsl.codegen.whitelist import UnsafeCodeError, check_generated
from attndsl.ir.attention import Attention, Const
from attndsl.schedule.problem import Problem

if TYPE_CHECKING:
    Functions = tuple[Callable[..., Any] | None, Callable[..., Any] | None]


def _load(table: Tensor, *at: Any) -> Tensor:
    """A read; outside the tensor the nearest element, which an invisible pair does not use."""
    inside = [
        torch.clamp(torch.as_tensor(i, device=table.device), 0, n - 1) for i, n in zip(at, table.shape, strict=True)
    ]
    return table[tuple(inside)]


def _pairwise(function: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    def run(a: Any, b: Any) -> Any:
        if not isinstance(a, Tensor) and not isinstance(b, Tensor):
            return plain(a, b)
        tensor = a if isinstance(a, Tensor) else b
        return function(*(x if isinstance(x, Tensor) else torch.as_tensor(x, device=tensor.device) for x in (a, b)))

    return run


def _float(x: Any) -> Any:
    return x.float() if isinstance(x, Tensor) else float(x)


def _rounded(function: Callable[[Tensor], Tensor]) -> Callable[[Any], Any]:
    return lambda x: function(x).int() if isinstance(x, Tensor) and x.is_floating_point() else x


_NAMES: dict[str, Any] = {
    "load": _load,
    "gap": lambda a, b: _float(a - b),
    "minimum": _pairwise(torch.minimum, min),
    "maximum": _pairwise(torch.maximum, max),
    "to_float": _float,
    "to_int": lambda x: x.int() if isinstance(x, Tensor) else int(x),
    "divide": lambda a, b: a / b,
    "floordiv": lambda a, b: a // b,
    "modulo": lambda a, b: a % b,
    "power": lambda a, b: a**b,
    "negate": lambda a: ~a if isinstance(a, Tensor) else not a,
    "select": lambda c, a, b: torch.where(c, a, b),
    "absolute": abs,
    "floor": _rounded(torch.floor),
    "ceil": _rounded(torch.ceil),
    "strict_multiply": lambda a, b: a * b,
    "strict_divide": lambda a, b: a / b,
    "strict_log": torch.log,
    **{n: getattr(torch, n) for n in ("exp", "log", "sqrt", "tanh", "sigmoid", "relu", "sign", "sin", "cos", "erf")},
}
"""What generated functions call, for numbers and for tensors of any shape."""


def functions(attention: Attention, problem: Problem, inputs: Mapping[str, Tensor]) -> Functions:
    """FlexAttention's score and mask functions for a call (None where they are the default). ValueError names what
    they cannot say."""
    if attention.weight is not None or attention.output is not None:
        raise ValueError("FlexAttention has softmax only, and no output clause")
    module = generate(attention)
    try:
        check_generated(module.source, _NAMES.keys())
    except UnsafeCodeError as error:
        raise ValueError(f"FlexAttention is not given {error}") from error
    space: dict[str, Any] = {"__builtins__": {}, **_NAMES}
    exec(compile(module.source, "<flex>", "exec"), space)
    device = next((t.device for t in inputs.values()), None)
    arrays = {p.name: p.default for p in attention.params if isinstance(p, Const) and isinstance(p.default, tuple)}
    tensors = {n: torch.tensor(v, device=device) for n, v in arrays.items()}
    call = _Call(attention, problem, {**tensors, **inputs})
    mask = None if module.mask is None else call.of(module.mask, space)
    score = None if module.score is None else call.of(module.score, space)
    return score, None if mask is None else lambda b, h, q, k: mask(None, b, h, q, k)


class _Call:
    """Arguments of generated functions, from the indices of a pair."""

    def __init__(self, attention: Attention, problem: Problem, tensors: Mapping[str, Tensor]) -> None:
        self.attention, self.problem, self.tensors = attention, problem, tensors

    def of(self, function: Function, space: Mapping[str, Any]) -> Callable[..., Any]:
        """A function of (s, b, h, q, k)."""
        body: Any = space[function.name]
        makers = [self._argument(a) for a in function.arguments]

        def run(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
            return body(*[make(s, b, h, q, k) for make in makers])

        return run

    def _argument(self, a: Argument) -> Callable[..., Any]:
        key = a.key
        match a.source:
            case "index":
                group = self.problem.sizes["H"] // max(self.problem.sizes["Hkv"], 1)
                found: dict[str, Callable[..., Any]] = {
                    "b": lambda s, b, h, q, k: b, "h": lambda s, b, h, q, k: h, "q": lambda s, b, h, q, k: q,
                    "row": lambda s, b, h, q, k: q, "k": lambda s, b, h, q, k: k,
                    "hkv": lambda s, b, h, q, k: h // group,
                }  # fmt: skip
                return found[str(key[0])]
            case "coord":
                return self._coordinate(*map(str, key))
            case "member":
                start, count = self._place(str(key[0]), str(key[1]))
                side = str(key[0])
                return lambda s, b, h, q, k: (
                    ((q if side == "q" else k) >= start) & ((q if side == "q" else k) < start + count)
                )
            case "extent":
                value = self._extents(str(key[0]))[str(key[1])][self._axes(str(key[0]), str(key[1])).index(str(key[2]))]
                return lambda s, b, h, q, k: value
            case "size":
                number = self.problem.sizes[str(key[0])]
                return lambda s, b, h, q, k: number
            case "scalar":
                scalar = self.problem.scalars[str(key[0])]
                return lambda s, b, h, q, k: scalar
            case "tensor":
                tensor = self.tensors[str(key[0])]
                return lambda s, b, h, q, k: tensor
            case "value" if key[0] == "s":
                return lambda s, b, h, q, k: s
            case _:
                raise ValueError(f"FlexAttention is not given {a.source} {key}")

    def _axes(self, side: str, segment: str) -> tuple[str, ...]:
        space = self.attention.q_space if side == "q" else self.attention.k_space
        assert space is not None
        return next(s.axes for s in space.segments if s.name == segment)

    def _extents(self, side: str) -> Mapping[str, tuple[int, ...]]:
        return self.problem.q_extents if side == "q" else self.problem.k_extents

    def _place(self, side: str, segment: str) -> tuple[int, int]:
        start = 0
        for name, extents in self._extents(side).items():
            if name == segment:
                return start, math.prod(extents)
            start += math.prod(extents)
        raise KeyError(segment)

    def _coordinate(self, side: str, segment: str, axis: str) -> Callable[..., Any]:
        extents = self._extents(side)[segment]
        i = self._axes(side, segment).index(axis)
        stride, extent = math.prod(extents[i + 1 :]), extents[i]
        start, count = self._place(side, segment)
        alone = len(self._extents(side)) == 1

        def run(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
            at = (q if side == "q" else k) - start
            inside = at // stride % extent
            return inside if alone else torch.where((at >= 0) & (at < count), inside, -1)

        return run
