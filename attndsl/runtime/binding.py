"""Checks the arguments of a call and makes the `Call` that backends take.

Every mistake of a caller is a TypeError (a wrong kind of thing) or a ValueError (a wrong one of its kind) that names
the attention and the argument, what was given and what was expected.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from attndsl.ir.attention import Attention, Input
from attndsl.ir.free import tensors as tensors_read
from attndsl.ir.types import Kind, kind_of_dtype
from attndsl.runtime.call import Call, Kernel
from attndsl.runtime.grids import grid_extents
from attndsl.runtime.host import Facts, SizeTable, check_conditions
from attndsl.runtime.names import CALL_OPTIONS, choice, require_all, show_param, split_arguments
from attndsl.runtime.offsets import check_offset, whole_offset
from attndsl.runtime.scalars import describe, host_number, scalar_value

__all__ = ["Call", "Kernel", "bind_call", "host_table"]

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Element types of q, k and v, and of every input that is declared as some float."""

_BITS = {
    torch.int8: 8, torch.uint8: 9, torch.int16: 16, torch.uint16: 17, torch.int32: 32, torch.uint32: 33,
    torch.int64: 64,
}  # fmt: skip
"""Bits that a signed integer needs to hold every value of an element type."""

_DECLARED = {
    "bool": "torch.bool", "i8": "torch.int8", "i16": "torch.int16", "i32": "torch.int32", "i64": "torch.int64",
}  # fmt: skip

LAYOUTS = ("bhsd", "bshd")


def bind_call(
    attention: Attention,
    simplified: Attention,
    q: Any,
    k: Any,
    v: Any,
    arguments: Mapping[str, object],
    *,
    layout: str = "bhsd",
    scale: Any = None,
    q_offset: Any = 0,
    grid: Any = None,
    stay: Collection[str] = (),
) -> Call:
    """The call of `attention` (consts bound) on these arguments; backends run the `simplified` one.

    q is [B, H, Lq, D], k [B, Hkv, Lk, D], v [B, Hkv, Lk, Dv] (`bshd`: positions before heads). A tensor whose innermost
    stride is not 1 is copied. `arguments` are the scalars and inputs; scalars that `stay` are tensors, and left so. A
    float input takes any floating element type, an int input the declared integer type or a narrower one, a bool input
    bools. Raises TypeError and ValueError.
    """
    owner = attention.name
    consts = [c.name for c in attention.consts]
    scalars_given, inputs_given = split_arguments(attention, arguments, consts, CALL_OPTIONS)
    require_all(attention, scalars_given, inputs_given)
    choice(owner, "layout", layout, LAYOUTS)
    q, k, v = streams(owner, q, k, v, layout)
    table = SizeTable(owner)
    _bind_streams(table, q, k, v)
    B, Lq, Lk = (table.sizes[n] for n in ("B", "Lq", "Lk"))
    offset = _offset(owner, q_offset, B, Lq, Lk, q.device)
    L = max(Lq, Lk) if isinstance(offset, int) and offset == 0 else Lk
    table.set("L", L, "the lengths")

    scalars: dict[str, Any] = {
        s.name: scalars_given[s.name] if s.name in stay else scalar_value(owner, s, scalars_given[s.name])
        for s in attention.scalars
    }
    inputs = {p.name: check_input(attention, p.name, inputs_given[p.name], q.device) for p in attention.inputs}
    table.bind_shapes(attention, {name: tuple(t.shape) for name, t in inputs.items()})
    q_extents, k_extents = grid_extents(attention, grid, Lq, Lk, L)
    check_offset(attention, offset, Lq, q_extents)
    check_conditions(attention, Facts(table.sizes, scalars, q_extents, k_extents))
    masked = tensors_read(simplified.mask)
    return Call(
        attention=simplified,
        q=unit_stride(q),
        k=unit_stride(k),
        v=unit_stride(v),
        inputs=inputs,
        scalars=scalars,
        sizes=table.sizes,
        q_extents=q_extents,
        k_extents=k_extents,
        q_offset=offset,
        scale=scale_value(owner, scale, table.sizes["D"]),
        tables=HostTables({name: t for name, t in inputs.items() if name in masked}),
    )


class HostTables(Mapping[str, Any]):
    """Copies of tensors on the host, each made when it is first asked for."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = host_table(self._tensors[name])
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def host_table(tensor: Tensor) -> Any:
    """A tensor's elements as a numpy array on the host; bf16 as f32. May share memory with a CPU tensor."""
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    return tensor.cpu().numpy()


def streams(owner: str, q: Any, k: Any, v: Any, layout: str) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v as [B, heads, positions, components], of one floating element type and device."""
    shown = "[batch, heads, positions, components]" if layout == "bhsd" else "[batch, positions, heads, components]"
    for name, t in (("q", q), ("k", k), ("v", v)):
        check_tensor(owner, repr(name), t)
        if t.ndim != 4:
            raise ValueError(f"{owner}: {name!r} must have 4 dimensions, {shown}, got shape {list(t.shape)}")
    if torch.is_autocast_enabled(q.device.type):
        low = torch.get_autocast_dtype(q.device.type)
        q, k, v = (t.to(low) if t.dtype in FLOATS[:3] else t for t in (q, k, v))
    if q.dtype not in FLOATS:
        raise TypeError(f"{owner}: 'q' must hold f16, bf16, f32 or f64, got {q.dtype}")
    for name, t in (("k", k), ("v", v)):
        if t.dtype != q.dtype:
            raise TypeError(f"{owner}: {name!r} must hold {q.dtype} like 'q', got {t.dtype}")
        if t.device != q.device:
            raise ValueError(f"{owner}: {name!r} must be on {q.device} like 'q', got {t.device}")
    if layout == "bshd":
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    return q, k, v


def _bind_streams(table: SizeTable, q: Tensor, k: Tensor, v: Tensor) -> None:
    owner = table.owner
    for giver, t, names in (
        ("'q'", q, ("B", "H", "Lq", "D")),
        ("'k'", k, ("B", "Hkv", "Lk", "D")),
        ("'v'", v, ("B", "Hkv", "Lk", "Dv")),
    ):
        for name, n in zip(names, t.shape, strict=True):
            table.set(name, n, giver)
    H, Hkv = table.sizes["H"], table.sizes["Hkv"]
    for name in ("H", "Hkv", "D", "Dv"):
        if table.sizes[name] < 1:
            raise ValueError(f"{owner}: {name} must be at least 1, got 0 (only B, Lq and Lk may be 0)")
    if H % Hkv:
        raise ValueError(f"{owner}: the {H} heads of 'q' must be a multiple of the {Hkv} heads of 'k' and 'v'")


def check_tensor(owner: str, name: str, given: Any, expected: str = "a torch.Tensor") -> None:
    """TypeError unless it is a dense strided tensor."""
    if not isinstance(given, Tensor):
        hint = "; torch.from_numpy makes one" if type(given).__module__ == "numpy" else ""
        raise TypeError(f"{owner}: {name} must be {expected}, got {describe(given)}{hint}")
    if given.layout != torch.strided or given.is_quantized:
        raise TypeError(f"{owner}: {name} must be a dense strided tensor, got {given.layout}")


def check_input(attention: Attention, name: str, given: Any, device: torch.device) -> Tensor:
    """An input as the tensor that it must be: of a fitting element type, on q's device. TypeError and ValueError."""
    owner, param = attention.name, attention.param(name)
    assert isinstance(param, Input)
    check_tensor(owner, f"input {param.name!r}", given, f"a tensor ({show_param(param)})")
    tensor: Tensor = given
    match kind_of_dtype(param.dtype):
        case Kind.FLOAT:
            if tensor.dtype not in FLOATS:
                raise TypeError(f"{owner}: {show_param(param)} must hold floats, got {tensor.dtype}")
        case Kind.INT:
            bits = _BITS.get(tensor.dtype)
            if bits is None:
                raise TypeError(f"{owner}: {show_param(param)} must hold ints, got {tensor.dtype}")
            if bits > int(param.dtype[1:]):
                raise TypeError(
                    f"{owner}: {show_param(param)} must hold {param.dtype} or a narrower int, got {tensor.dtype}; "
                    f"pass {param.name}.to({_DECLARED[param.dtype]})"
                )
        case Kind.BOOL:
            if tensor.dtype != torch.bool:
                raise TypeError(f"{owner}: {show_param(param)} must hold bools, got {tensor.dtype}")
    if tensor.device != device:
        raise ValueError(f"{owner}: {show_param(param)} must be on {device} like 'q', got {tensor.device}")
    return tensor


def scale_value(owner: str, scale: Any, D: int) -> float:
    """What multiplies dot(Q, K): 1/sqrt(D) for None. TypeError and ValueError for what is no finite number."""
    if scale is None:
        return 1.0 / math.sqrt(D)
    value = host_number(scale)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{owner}: scale must be a number or None (1/sqrt(D)), got {describe(scale)}")
    if getattr(scale, "requires_grad", False):
        raise TypeError(f"{owner}: scale gets no gradient, but a tensor that requires one was given")
    if not math.isfinite(value):
        raise ValueError(f"{owner}: scale must be finite, got {value}")
    return float(value)


def _offset(owner: str, given: Any, B: int, Lq: int, Lk: int, device: torch.device) -> int | Tensor:
    whole_given = whole_offset(owner, given, Lq, Lk)
    if whole_given is not None:
        return whole_given
    if not isinstance(given, Tensor) or given.dtype not in _BITS:
        raise TypeError(f"{owner}: q_offset must be an int, an int tensor [B] or 'end', got {describe(given)}")
    if given.shape != (B,):
        raise ValueError(f"{owner}: q_offset must have shape [B] = [{B}], got {list(given.shape)}")
    if given.device != device:
        raise ValueError(f"{owner}: q_offset must be on {device} like 'q', got {given.device}")
    return given.to(torch.int64)


def unit_stride(t: Tensor) -> Tensor:
    return t if t.shape[-1] == 1 or t.stride(-1) == 1 else t.contiguous()
