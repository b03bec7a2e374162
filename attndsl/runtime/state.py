"""`State`: what a linear attention knows of the keys it has seen, of constant size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class State:
    """The keys before `position`, summed up.

    `S [B, Hs, F, Dv]` is the sum over them of decay * phi(k) * v^T, `z [B, Hs, Fz]` that of decay * psi(k), psi the
    features of the normaliser's sum (the numerator's for `sum`), None where nothing is normalised by a sum. Decays run
    up to the last position, `position - 1`. Hs is H where keys look different to the query heads of a group, else Hkv.
    Both are fp32 (fp64 for fp64 inputs) and differentiable. `segment [B or 1, Hs or 1, n]`, i64, holds the n segment
    values (documents) of the last position; None where the mask has none or nothing was seen.
    """

    S: Tensor
    z: Tensor | None
    position: int
    segment: Tensor | None = None

    @property
    def bytes(self) -> int:
        """What the state holds."""
        held = [t for t in (self.S, self.z, self.segment) if t is not None]
        return sum(t.numel() * t.element_size() for t in held)

    def detach(self) -> State:
        """The same numbers, cut from the graph that made them (truncated backpropagation through time)."""
        z = None if self.z is None else self.z.detach()
        return State(self.S.detach(), z, self.position, self.segment)
