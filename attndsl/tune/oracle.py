"""Is what a candidate computed right? Compared with the safe configuration everywhere, with the fp64 oracle on rows."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attndsl.ir.attention import Attention
from attndsl.ir.expr import Size, walk
from attndsl.ir.many_products import spelled
from attndsl.reference import reference
from attndsl.reference.accuracy import GRADIENT_FACTOR, OUTPUT_FACTOR, judge
from attndsl.runtime.call import Call
from attndsl.runtime.triton.config import Pass
from attndsl.runtime.triton.scan_config import ScanPass

PAIRS = 1 << 24
"""Pairs, over batches and heads, of one look of the oracle: 128 MiB for each of its fp64 temporaries."""
BACKWARD = frozenset(("dq", "dkdv", "scan_dq", "scan_dk", "scan_dv"))
ROWS = 64
"""Most rows of one look."""
APART = {torch.bfloat16: 2e-2, torch.float16: 4e-3, torch.float32: 1e-4}
"""Relative distance (norm over norm) of two right results: roundings are a fifth of it."""


@dataclass(frozen=True)
class Subject:
    """A call and what the oracle needs of it: the attention as it was written (consts bound), `grid` as it was given,
    the gradient of the output. `width` is how many numbers the oracle makes of a pair: components, where a weight
    computes with vectors."""

    attention: Attention
    call: Call
    grid: Any
    grad: Tensor | None = None
    width: int = 1


def subject_of(inner: Attention, call: Call, grid: Any, grad: Tensor | None) -> Subject:
    """The subject of a call of what a projection leaves for kernels of tiles."""
    vectors = (*(q for q, _ in inner.products), *inner.channels)
    width = max((call.inputs[p.name].shape[-1] for p in vectors), default=1)
    return Subject(spelled(inner), call, grid, grad, width)


def sampled_rows(subject: Subject) -> tuple[tuple[int, int], ...]:
    """Ranges of rows that the oracle can look at: all, or some at the start, the middle and the end; none where rows
    of the attention cannot be looked at alone."""
    s, a = subject.call.sizes, subject.attention
    each = max(1, s["B"] * s["H"] * s["Lk"] * subject.width)
    if s["Lq"] * each <= PAIRS:
        return ((0, s["Lq"]),)
    parts = [a.mask, a.score, *(e for e in (a.weight, a.output) if e is not None)]
    uses_length = any(isinstance(n, Size) and n.name == "Lq" for e in parts for n in walk(e))
    apart = not a.shared and (a.q_space is not None or a.k_space is not None)
    if uses_length or apart or s["Lq"] > s["Lk"] or not isinstance(subject.call.q_offset, int):
        return ()
    count = max(1, min(ROWS, PAIRS // each // 3))
    middle = (s["Lq"] - count) // 2
    return ((0, count), (middle, middle + count), (s["Lq"] - count, s["Lq"]))


class Oracle:
    """Exact and eager results of the sampled rows, computed once."""

    def __init__(
        self, subject: Subject, step: Pass | ScanPass, rows: tuple[tuple[int, int], ...] | None = None
    ) -> None:
        """It looks at `rows`, some that it picks unless given."""
        self.subject, self.step = subject, step
        self.rows = sampled_rows(subject) if rows is None else rows
        self._exact: Mapping[str, Tensor] | None = None
        self._eager: Mapping[str, Tensor] | None = None

    def grad(self) -> Tensor:
        """The gradient of the output that gradients are checked with: that of the call in the sampled rows, else 0."""
        assert self.subject.grad is not None
        found = torch.zeros_like(self.subject.grad)
        for start, stop in self.rows:
            found[:, :, start:stop] = self.subject.grad[:, :, start:stop]
        return found

    def wrong(self, found: Mapping[str, Tensor]) -> str:
        """What is wrong with results by name: `out`, or gradients `q`, `k`, `v` for `grad()`."""
        if not self.rows:
            return ""
        if self._exact is None or self._eager is None:
            self._exact = self._dense(torch.float64)
            self._eager = self._dense(self.subject.call.q.dtype)
        factor = GRADIENT_FACTOR if self.step in BACKWARD else OUTPUT_FACTOR
        for name, tensor in found.items():
            mine = tensor
            if name == "out":
                mine = torch.cat([tensor[:, :, a:b] for a, b in self.rows], dim=2)
            exact, eager = self._exact[name], self._eager[name]
            verdict = judge(mine, eager, exact, mine.dtype, factor)
            if not verdict.ok:
                return f"{name}: error {verdict.error:.2g}, {verdict.allowed:.2g} allowed"
        return ""

    def _dense(self, dtype: torch.dtype) -> dict[str, Tensor]:
        call, backward = self.subject.call, self.step in BACKWARD
        with torch.enable_grad() if backward else torch.no_grad():
            leaves = [t.detach().to(dtype).requires_grad_(backward) for t in (call.q, call.k, call.v)]
            outs: list[Tensor] = []
            for start, stop in self.rows:
                out, _ = reference(
                    self.subject.attention, leaves[0][:, :, start:stop], leaves[1], leaves[2],
                    inputs=self._inputs(start, stop), scalars=call.scalars, grid=self.subject.grid,
                    scale=call.scale, q_offset=self._offset(start), dtype=dtype,
                )  # fmt: skip
                if backward:
                    assert self.subject.grad is not None
                    out.backward(self.subject.grad[:, :, start:stop].to(dtype))
                outs.append(out.detach())
            if not backward:
                return {"out": torch.cat(outs, dim=2)}
            pairs = zip("qkv", leaves, strict=True)
            return {n: torch.zeros_like(t) if t.grad is None else t.grad for n, t in pairs}

    def _offset(self, start: int) -> int | Tensor:
        offset = self.subject.call.q_offset
        return offset + start if start else offset

    def _inputs(self, start: int, stop: int) -> dict[str, Tensor]:
        found = dict(self.subject.call.inputs)
        for p in self.subject.attention.inputs:
            for axis, dim in enumerate(p.shape):
                if isinstance(dim, Size) and dim.name == "Lq":
                    found[p.name] = found[p.name].narrow(axis, start, stop - start)
        return found


def apart(found: Mapping[str, Tensor], safe: Mapping[str, Tensor]) -> str:
    """How results differ from those of the safe configuration; empty where they are the same but for rounding."""
    for name, tensor in found.items():
        other = safe[name]
        bad = int((~tensor.isfinite() & other.isfinite()).sum())
        if bad:
            return f"{name}: {bad} elements are not finite"
        finite = other.isfinite()
        if not bool((tensor[~finite] == other[~finite]).all()):
            return f"{name}: other elements are infinite"
        difference = torch.where(finite, tensor.double() - other.double(), 0.0).norm()
        size = torch.where(finite, other, 0.0).double().norm()
        if float(difference) > APART.get(other.dtype, 1e-4) * float(size) + 1e-30:
            return f"{name}: {float(difference / size):.2g} of its size from the safe configuration's"
    return ""
