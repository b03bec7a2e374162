"""`Call`: the arguments of one attention call, checked and normalised, as every backend takes them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from attndsl.ir.attention import Attention
from attndsl.schedule.problem import Problem

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch
    from torch import Tensor

    from attndsl.runtime.state import State
    from attndsl.schedule.legalise import ScanForm
    from attndsl.schedule.plan import Plan
    from attndsl.schedule.tiling import Tiling


@dataclass(frozen=True, eq=False)
class Call:
    """One call, with nothing left to check.

    `q [B, H, Lq, D]`, `k [B, Hkv, Lk, D]`, `v [B, Hkv, Lk, Dv]`: one floating dtype and device, any strides with a
    unit innermost one (an extent of 1 may have any). `inputs` holds every input of the attention: floats in any
    floating dtype, ints in the declared width or a narrower one; on the same device, any strides.
    `scalars` holds every scalar, defaults filled in, as Python numbers (tensors where `LocatingKernel.loads`).
    `sizes` holds `B H Hkv Lq Lk L D Dv` and the fresh names. `q_extents` and `k_extents` map segment names to axis
    extents (without a grid: empty). `q_offset` is an int or an i64 tensor [B] on the same device. `tables` are host
    copies of the inputs that the mask reads.

    `memo` is a kernel's own: what it keeps there is found again by every call that differs from this one in nothing
    but elements of tensors and scalars that the mask does not read (same shapes, strides, element types, device,
    alignment to 16 bytes, scale, offset, plan and `Kernel.settings`). Several threads may use it at once.
    `alike` is one too, of calls that also differ in lengths (of 1 and more): Lq, Lk, L and the dimensions of inputs
    that these are; and in strides, but for that of positions, that are multiples of 16 bytes alike.
    `differentiated`: a backward of this call may follow, or this is it.
    """

    attention: Attention
    q: Tensor
    k: Tensor
    v: Tensor
    inputs: Mapping[str, Tensor]
    scalars: Mapping[str, bool | int | float]
    sizes: Mapping[str, int]
    q_extents: Mapping[str, tuple[int, ...]]
    k_extents: Mapping[str, tuple[int, ...]]
    q_offset: int | Tensor
    scale: float
    tables: Mapping[str, npt.NDArray[Any]]
    memo: dict[Hashable, Any] = field(default_factory=dict[Hashable, Any])
    differentiated: bool = False
    alike: dict[Hashable, Any] = field(default_factory=dict[Hashable, Any])

    def with_tensors(self, q: Tensor, k: Tensor, v: Tensor, inputs: Mapping[str, Tensor]) -> Call:
        """The same call on other tensors of the same shapes."""
        return self.repeated(q, k, v, inputs, self.scalars, self.q_offset)

    def repeated(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        inputs: Mapping[str, Tensor],
        scalars: Mapping[str, bool | int | float],
        q_offset: int | Tensor,
    ) -> Call:
        """The same call on other tensors of the same shapes, with other scalars and offsets; much used, so cheap."""
        made = object.__new__(Call)
        made.__dict__.update(self.__dict__)
        made.__dict__.update(q=q, k=k, v=v, inputs=inputs, scalars=scalars, q_offset=q_offset)
        return made

    def lengthened(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        inputs: Mapping[str, Tensor],
        scalars: Mapping[str, bool | int | float],
        sizes: Mapping[str, int],
        tables: Mapping[str, npt.NDArray[Any]],
    ) -> Call:
        """A call that differs from this one in lengths, as `alike` has it."""
        made = self.repeated(q, k, v, inputs, scalars, self.q_offset)
        made.__dict__.update(sizes=sizes, tables=tables, memo={})
        return made

    def within(self, place: Hashable, **changes: Any) -> Call:
        """A call that is a part of this one, with other fields and memos of its own, which parts of one `place` in
        calls that repeat this one have."""
        memo, alike = self.memo.setdefault(place, {}), self.alike.setdefault(place, {})
        return replace(self, memo=memo, alike=alike, **changes)

    def replanned(self, tables: Mapping[str, npt.NDArray[Any]]) -> Call:
        """The same call with these host copies and an empty memo: for another plan."""
        return replace(self, tables=tables, memo={})

    @property
    def problem(self) -> Problem:
        """What the schedule of this call depends on."""
        offset: int | npt.NDArray[np.int64]
        offset = self.q_offset if isinstance(self.q_offset, int) else self.q_offset.cpu().numpy()
        return Problem(
            sizes=self.sizes,
            scalars=self.scalars,
            tables=self.tables,
            q_extents=self.q_extents,
            k_extents=self.k_extents,
            q_offset=offset,
        )


@dataclass(frozen=True)
class Kept:
    """A tensor that forward makes for backward alone: contiguous, `batch` its dimension of B."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    batch: int = 0


Saved = Kept | Literal["out", "lse"]
"""What backward needs: a result, or a tensor of its own."""


class Kernel(Protocol):
    """A compiled attention of one backend. No method may change its arguments; gradient mode is off in all."""

    def settings(self) -> Hashable:
        """What beside a call decides how it is run, such as configurations that a test forces."""
        ...

    def saves(self, q: Tensor, k: Tensor, v: Tensor, need_lse: bool) -> tuple[Saved, ...]:
        """What `forward` with `save` returns as its third part, in that order. The tensors may be without elements
        and their lengths symbols; only shapes, element types and devices may be asked for."""
        ...

    def tiling(self, call: Call) -> Tiling | None:
        """The boxes that plans for this call are made of; None leaves them to the cost model."""
        ...

    def forward(
        self, call: Call, plan: Plan, need_lse: bool, save: bool
    ) -> tuple[Tensor, Tensor | None, tuple[Tensor, ...]]:
        """The output [B, H, Lq, Dv] in q's dtype; lse fp32 [B, H, Lq] (None unless asked for; fp64 for fp64 inputs);
        and, with `save`, what backward needs beyond q, k, v and the inputs (`out` and `lse` may be among it)."""
        ...

    def backward(
        self,
        call: Call,
        plan: Plan,
        saved: tuple[Tensor, ...],
        grad_out: Tensor | None,
        grad_lse: Tensor | None,
        needs: frozenset[str],
    ) -> Mapping[str, Tensor]:
        """Gradients by name (`q`, `k`, `v`, float inputs) for the names in `needs`, each in its tensor's shape and
        dtype, contiguous (others are copied); a name that is left out has gradient zero. A gradient of None is zero,
        and at least one is given; their innermost stride is 1."""
        ...


@runtime_checkable
class LocatingKernel(Protocol):
    """A kernel that finds the boxes of some calls without a plan, on the device or in closed form: `forward` and
    `backward` are given None for the plan of these, and nothing of them is copied to the host."""

    def locates(self, call: Call) -> bool:
        """Whether this is such a call. Shapes and element types decide it."""
        ...

    def loads(self, scalar: str) -> bool:
        """Whether `Call.scalars` may hold a tensor [] for this one, of its kind, on q's device."""
        ...


@runtime_checkable
class ScanKernel(Protocol):
    """A kernel that also runs feature maps in linear time. No method may change its arguments; gradient mode is off."""

    def scan_gap(self, call: Call, form: ScanForm) -> str | None:
        """What of this call the kernel cannot scan, in words; None if it can."""
        ...

    def scan(
        self, call: Call, form: ScanForm, state: State | None, need_state: bool, save: bool
    ) -> tuple[Tensor, State | None, tuple[Tensor, ...]]:
        """The output [B, H, Lq, Dv] in q's dtype; with `need_state` the state after the last row; and with `save` what
        backward needs beyond q, k, v, the inputs and the state given.

        `state` None starts empty. With a state, or with `need_state`, row i and key i both stand at position
        `state.position + i` (0 without one), `call.q_offset` is 0, Lq = Lk, and inputs along L hold the rows' own
        values: entry i is that of row i. `form.stateless` is None then.
        """
        ...

    def scan_backward(
        self,
        call: Call,
        form: ScanForm,
        state: State | None,
        saved: tuple[Tensor, ...],
        grad_out: Tensor | None,
        grad_state: tuple[Tensor | None, Tensor | None],
        needs: frozenset[str],
    ) -> Mapping[str, Tensor]:
        """Gradients by name as in `Kernel.backward`, and of the given state as `state.S` and `state.z`.

        `grad_state` belongs to S and z of the returned state; a None is zero, and at least one gradient is given."""
        ...
