"""The arguments of a call as the operator of torch takes them: tensors, numbers and words in fixed places.

`given` runs eagerly and is traced by torch.compile: it looks at kinds, names and numbers of dimensions only. Lengths,
values and devices are checked inside the operator.
"""
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from attndsl.ir.attention import Attention
from attndsl.ir.types import Kind
from attndsl.ir.weights import weight_form
from attndsl.runtime.binding import check_input, check_tensor, scale_value, streams
from attndsl.runtime.grids import given_extents, slot_count
from attndsl.runtime.names import CALL_OPTIONS, choice, require_all, show_param, split_arguments
from attndsl.runtime.offsets import whole_offset
from attndsl.runtime.scalars import describe, scalar_value
from attndsl.schedule.legalise import scan_form

LAYOUTS = ("bhsd", "bshd")


class Given(NamedTuple):
    """One call. `floats` are the float scalars and `ints` the other scalars, in the order of declaration. `numbers`
    are tensors that stand for a number: the i-th scalar where its `places` entry is i < n, the scale where it is n, the
    offset where it is n + 1 (n scalars); what the lists hold there does not count. `grid` has one extent an axis, q's
    before k's, -1 for one to infer. `spec` is the printed attention."""

    q: Tensor
    k: Tensor
    v: Tensor
    inputs: list[Tensor]
    numbers: list[Tensor]
    places: list[int]
    floats: list[float]
    ints: list[int]
    q_offset: int
    scale: float | None
    grid: list[int] | None
    spec: str
    backend: str | None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What may have a gradient."""
        return self.q, self.k, self.v, *self.inputs


@dataclass(frozen=True, eq=False)
class Signature:
    """What an attention takes, as plain as tracing needs it. Scalars have a name, whether they are floats, and a
    default; `scans`: most of its calls run as a scan. `kinds`: their kinds too, and whether their values decide what a
    call may be. `recent` are the calls that may repeat."""

    attention: Attention
    spec: str
    scalars: tuple[tuple[str, bool, bool | int | float | None], ...]
    inputs: tuple[str, ...]
    names: tuple[str, ...]
    has_lse: bool
    extents: int
    scans: bool
    kinds: tuple[tuple[str, Kind, bool | int | float | None, bool], ...] = ()
    recent: dict[Hashable, Any] = field(default_factory=dict[Hashable, Any])

    @staticmethod
    def of(attention: Attention, simplified: Attention, spec: str, deciding: Collection[str] = ()) -> Signature:
        """The signature of an attention (consts bound) that prints as `spec`."""
        scalars = tuple((s.name, s.kind is Kind.FLOAT, s.default) for s in attention.scalars)
        inputs = tuple(i.name for i in attention.inputs)
        names = (*(s[0] for s in scalars), *inputs)
        lse = weight_form(attention).has_lse
        scans = scan_form(simplified).form is not None
        kinds = tuple((s.name, s.kind, s.default, s.name in deciding) for s in attention.scalars)
        return Signature(attention, spec, scalars, inputs, names, lse, slot_count(attention), scans, kinds)


def given(
    signature: Signature,
    q: Any,
    k: Any,
    v: Any,
    arguments: Mapping[str, Any],
    *,
    layout: str = "bhsd",
    scale: Any = None,
    q_offset: Any = 0,
    grid: Any = None,
    backend: str | None = None,
) -> Given:
    """The arguments in their places, q, k and v as [B, heads, positions, components] and under autocast in its type.

    TypeError and ValueError for what is wrong whatever the lengths and values are.
    """
    owner = signature.attention.name
    inputs = _inputs(signature, arguments)
    choice(owner, "layout", layout, LAYOUTS)
    q, k, v = streams(owner, q, k, v, layout)
    device = q.device
    for name, tensor in zip(signature.inputs, inputs, strict=True):
        if tensor.device != device:
            check_input(signature.attention, name, tensor, device)
    numbers: list[Tensor] = []
    places: list[int] = []
    floats: list[float] = []
    ints: list[int] = []
    for i, (name, is_float, default) in enumerate(signature.scalars):
        value = arguments.get(name, default)
        if isinstance(value, Tensor) and value.ndim == 0 and not value.requires_grad:
            numbers.append(value)
            places.append(i)
            value = 0
        elif type(value) is not (float if is_float else int) or not (is_float or -(2**31) <= value < 2**31):
            value = scalar_value(owner, signature.attention.scalars[i], value)
        if is_float:
            floats.append(float(value))
        else:
            ints.append(int(value))
    count = len(signature.scalars)
    if isinstance(scale, Tensor) and scale.ndim == 0 and not scale.requires_grad:
        numbers.append(scale)
        places.append(count)
        scale = None
    elif scale is not None and type(scale) is not float:
        scale = scale_value(owner, scale, 1)
    if isinstance(q_offset, Tensor):
        numbers.append(q_offset)
        places.append(count + 1)
        q_offset = 0
    elif type(q_offset) is not int or not -(2**31) <= q_offset < 2**31:
        whole = whole_offset(owner, q_offset, q.shape[2], k.shape[2])
        if whole is None:
            raise TypeError(f"{owner}: q_offset must be an int, an int tensor [B] or 'end', got {describe(q_offset)}")
        q_offset = whole
    return Given(
        q, k, v, inputs, numbers, places, floats, ints, q_offset, scale, _grid(signature, grid), signature.spec, backend
    )


def _inputs(signature: Signature, arguments: Mapping[str, Any]) -> list[Tensor]:
    found: list[Tensor] = []
    for name in signature.inputs:
        tensor = arguments.get(name)
        if tensor is None:
            _refuse(signature, arguments)
        elif not isinstance(tensor, Tensor):
            shown = show_param(signature.attention.param(name))
            check_tensor(signature.attention.name, f"input {name!r}", tensor, f"a tensor ({shown})")
        else:
            found.append(tensor)
    for name, _, default in signature.scalars:
        if default is None and name not in arguments:
            _refuse(signature, arguments)
    for name in arguments:
        if name not in signature.names:
            _refuse(signature, arguments)
    return found


def _refuse(signature: Signature, arguments: Mapping[str, Any]) -> None:
    attention = signature.attention
    consts = [c.name for c in attention.consts]
    scalars, inputs = split_arguments(attention, arguments, consts, CALL_OPTIONS)
    require_all(attention, scalars, inputs)


def _grid(signature: Signature, grid: Any) -> list[int] | None:
    if grid is None:
        return None
    items: Sequence[Any] = grid if isinstance(grid, (tuple, list)) else ()
    if items and len(items) == signature.extents and all(type(n) is int and abs(n) < 2**31 for n in items):
        return list(items)
    return given_extents(signature.attention, grid)
