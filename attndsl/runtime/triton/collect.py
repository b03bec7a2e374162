"""Gradients of inputs from what kernels summed: places of their own for rows, keys and tiles, or elements that several
programs add to."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attndsl.codegen.expr_triton import Level
from attndsl.codegen.triton_slots import Slot
from attndsl.ir.expr import Index
from attndsl.runtime.call import Call

HIGH, LOW = 2.0**-20, 2.0**-60
"""The units of the two whole numbers that a fixed-point sum is."""


def deterministic() -> bool:
    """Whether sums must not depend on the order of programs: asked for by `torch.use_deterministic_algorithms(True)` or
    `ATTNDSL_DETERMINISTIC=1`."""
    return torch.are_deterministic_algorithms_enabled() or os.environ.get("ATTNDSL_DETERMINISTIC") == "1"


@dataclass
class Collected:
    """The gradients of a call's inputs, as they come in."""

    call: Call
    deterministic: bool
    totals: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    shared: dict[str, tuple[Tensor, Tensor | None]] = field(default_factory=dict[str, "tuple[Tensor, Tensor | None]"])

    def targets(self, slots: Sequence[Slot], tiles: int) -> dict[str, Tensor]:
        """The tensors that a kernel of so many tiles stores its slots to, by argument."""
        found: dict[str, Tensor] = {}
        for slot in slots:
            if slot.direct:
                found[slot.target] = self._sums(slot, tiles)
                continue
            values, rest = self._elements(slot.load.tensor)
            found[slot.target] = values
            if rest is not None:
                found[slot.target + "_rest"] = rest
        return found

    def likes(self, slots: Sequence[Slot]) -> dict[str, Tensor]:
        """As `targets`, without room for sums: what kernels are compiled for."""
        own = {s.target: torch.empty(1, dtype=torch.float32, device=self.call.q.device) for s in slots if s.direct}
        return {**own, **self.targets([s for s in slots if not s.direct], 0)}

    def _sums(self, slot: Slot, tiles: int) -> Tensor:
        sizes = self.call.sizes
        last = {Level.UNIFORM: tiles, Level.ROW: sizes["Lq"], Level.COLUMN: sizes["Lk"]}[slot.level]
        shape = [sizes["B"], sizes["H"], last] + ([sizes["Dv"]] if slot.vector else [])
        # a launch over one segment fills its own positions only
        return torch.zeros(shape, dtype=torch.float32, device=self.call.q.device)

    def _elements(self, name: str) -> tuple[Tensor, Tensor | None]:
        if name not in self.shared:
            count = self.call.inputs[name].numel()
            rest = torch.zeros(count, dtype=torch.float32, device=self.call.q.device)
            if self.deterministic:
                whole = torch.zeros(2 * count, dtype=torch.int64, device=self.call.q.device)
                self.shared[name] = whole, rest
            else:
                self.shared[name] = rest, None
        return self.shared[name]

    def take(self, slots: Sequence[Slot], given: dict[str, Tensor]) -> None:
        """Add what a kernel stored to places of their own."""
        for slot in slots:
            if slot.direct:
                self._add(slot.load.tensor, self._placed(slot, given[slot.target]))

    def _add(self, name: str, part: Tensor) -> None:
        known = self.totals.get(name)
        self.totals[name] = part if known is None else known + part

    def _placed(self, slot: Slot, sums: Tensor) -> Tensor:
        """Sums [B, H, tiles | rows | keys, (components)] in the shape of the input."""
        call, shape = self.call, self.call.inputs[slot.load.tensor].shape
        names = [i.name for i in slot.load.indices if isinstance(i, Index)]
        if slot.level is Level.UNIFORM:
            sums = sums.sum(2, keepdim=True)
        if "hkv" in names:
            sums = sums.unflatten(1, (call.sizes["Hkv"], -1)).sum(2)
        axes = {"b": 0, "h": 1, "hkv": 1, "row": 2, "q": 2, "k": 2}
        used = [axes[n] for n in names]
        rest = [3] if slot.vector else []
        for axis in (0, 1):
            if axis not in used:
                sums = sums.sum(axis, keepdim=True)
        unused = [a for a in (0, 1, 2) if a not in used]
        sums = sums.permute(*unused, *used, *rest).reshape([sums.shape[a] for a in (*used, *rest)])
        result = torch.zeros(shape, dtype=torch.float32, device=sums.device)
        into: list[slice] = []
        out_of: list[slice] = []
        for n, (size, extent) in enumerate(zip(shape, sums.shape, strict=True)):
            first = 0
            if n < len(names) and names[n] == "q":
                assert isinstance(call.q_offset, int)
                first = call.q_offset
            low, high = max(first, 0), min(first + extent, size)
            into.append(slice(low, max(low, high)))
            out_of.append(slice(low - first, max(low, high) - first))
        result[tuple(into)] = sums[tuple(out_of)]
        return result

    def result(self) -> dict[str, Tensor]:
        """The gradients by name."""
        for name, (values, rest) in self.shared.items():
            shape = self.call.inputs[name].shape
            if rest is None:
                self._add(name, values.reshape(shape))
            else:
                high, low = values.double().unflatten(0, (2, -1))
                self._add(name, (high * HIGH + low * LOW + rest).float().reshape(shape))
        self.shared = {}
        return self.totals
