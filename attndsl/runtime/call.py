"""`Call`: the arguments of one attention call, checked and normalised, as every backend takes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from attndsl.ir.attention import Attention
from attndsl.schedule.problem import Problem

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from attndsl.schedule.plan import Plan
    from attndsl.schedule.tiling import Tiling


@dataclass(frozen=True, eq=False)
class Call:
    """One call, with nothing left to check.

    `q [B, H, Lq, D]`, `k [B, Hkv, Lk, D]`, `v [B, Hkv, Lk, Dv]`: one floating dtype and device, any strides with a
    unit innermost one (an extent of 1 may have any). `inputs` holds every input of the attention: floats in any
    floating dtype, ints in the declared width or a narrower one; on the same device, any strides.
    `scalars` holds every scalar, defaults filled in, as Python numbers. `sizes` holds `B H Hkv Lq Lk L D Dv` and the
    fresh names. `q_extents` and `k_extents` map segment names to axis extents (without a grid: empty). `q_offset` is an
    int or an i64 tensor [B] on the same device. `tables` are host copies of the inputs that the mask reads.
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

    def with_tensors(self, q: Tensor, k: Tensor, v: Tensor, inputs: Mapping[str, Tensor]) -> Call:
        """The same call on other tensors of the same shapes."""
        return replace(self, q=q, k=k, v=v, inputs=inputs)

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


class Kernel(Protocol):
    """A compiled attention of one backend. No method may change its arguments; gradient mode is off in all."""

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
        dtype; a name that is left out has gradient zero. A gradient of None is zero, and at least one is given."""
        ...
