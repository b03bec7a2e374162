"""Runs of the CPU kernel beside the oracle."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from attndsl.frontend.compile import compile_text
from attndsl.ir.attention import Attention
from attndsl.ir.bind import bind
from attndsl.reference import reference, visible
from attndsl.runtime.binding import bind_call
from attndsl.runtime.call import Call
from attndsl.runtime.cpu import CpuKernel
from attndsl.schedule.plan import Plan
from tests.accuracy import GRADIENT_FACTOR, OUTPUT_FACTOR, assert_right
from tests.runtime.block_plans import block_plan


@dataclass
class Case:
    """A program, its tensors and a plan; `check` compares everything with the oracle."""

    text: str
    shape: tuple[int, int, int, int, int, int, int] = (2, 4, 2, 33, 33, 8, 8)
    """B, H, Hkv, Lq, Lk, D, Dv."""
    consts: dict[str, Any] = field(default_factory=dict)
    scalars: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Tensor] = field(default_factory=dict)
    grid: Any = None
    q_offset: Any = 0
    dtype: torch.dtype = torch.float32
    scale: float | None = None
    exact_plan: bool = True
    tile: tuple[int, int] = (16, 8)
    with_lse: bool = True
    magnitude: float = 1.0
    seed: int = 3

    def __post_init__(self) -> None:
        B, H, Hkv, Lq, Lk, D, Dv = self.shape
        made = torch.Generator().manual_seed(self.seed)
        shapes = ((B, H, Lq, D), (B, Hkv, Lk, D), (B, Hkv, Lk, Dv), (B, H, Lq, Dv), (B, H, Lq))
        self.q, self.k, self.v, self.g, self.g_lse = (torch.randn(s, generator=made) for s in shapes)
        self.q = self.q * self.magnitude
        self.q, self.k, self.v, self.g = (x.to(self.dtype) for x in (self.q, self.k, self.v, self.g))

    @property
    def attention(self) -> Attention:
        return bind(compile_text(self.text)[0], self.consts)

    def call(self) -> Call:
        a = self.attention
        arguments = {**self.inputs, **self.scalars}
        q, k, v = (x.float() if x.dtype == torch.float64 else x for x in (self.q, self.k, self.v))
        call = bind_call(a, a, q, k, v, arguments, grid=self.grid, q_offset=self.q_offset, scale=self.scale)
        return call.with_tensors(self.q, self.k, self.v, call.inputs)

    def plan(self) -> Plan:
        names = ("B", "H", "Hkv", "Lq", "Lk", "D", "Dv")
        sizes: dict[str, int] = dict(zip(names, self.shape, strict=True))
        seen = visible(self.attention, sizes, inputs=self.inputs, scalars=self.scalars, grid=self.grid,
                       q_offset=self.q_offset)  # fmt: skip
        return block_plan(seen, *self.tile, exact=self.exact_plan)

    def expected(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Results and gradients of the oracle's code in a precision."""
        live = {n: t.detach().to(dtype).requires_grad_() for n, t in self._floats().items()}
        rest = {n: live.get(n, t) for n, t in self.inputs.items()}
        with torch.enable_grad():
            out, lse = reference(self.attention, live["q"], live["k"], live["v"], inputs=rest, scalars=self.scalars,
                                 grid=self.grid, scale=self.scale, q_offset=self.q_offset, dtype=dtype)  # fmt: skip
        grads, outputs = [self.g.to(dtype)], [out]
        found = {"out": out.detach()}
        if lse is not None and self.with_lse:
            found["lse"] = lse.detach()
            grads.append(self.g_lse.to(dtype))
            outputs.append(torch.where(lse.isfinite(), lse, 0.0))
        names = list(live)
        values = torch.autograd.grad(outputs, [live[n] for n in names], grads, allow_unused=True)
        for n, t in zip(names, values, strict=True):
            found["grad " + n] = torch.zeros_like(live[n]) if t is None else t
        return found

    def _floats(self) -> dict[str, Tensor]:
        inputs = {n: t for n, t in self.inputs.items() if t.is_floating_point()}
        return {"q": self.q, "k": self.k, "v": self.v, **inputs}

    def actual(self, kernel: CpuKernel | None = None) -> dict[str, Tensor]:
        kernel = CpuKernel(self.attention) if kernel is None else kernel
        call, plan = self.call(), self.plan()
        with torch.no_grad():
            need_lse = self.with_lse and kernel.has_lse
            out, lse, saved = kernel.forward(call, plan, need_lse, True)
            plain, none, nothing = kernel.forward(call, plan, False, False)
            assert none is None
            assert nothing == ()
            torch.testing.assert_close(plain, out)
            names = frozenset(self._floats())
            grads = kernel.backward(call, plan, saved, self.g, self.g_lse if need_lse else None, names)
        found = {"out": out} | ({} if lse is None else {"lse": lse})
        for n, t in self._floats().items():
            found["grad " + n] = grads.get(n, torch.zeros_like(t))
        return found

    def actual_forward(self) -> Tensor:
        """The output alone."""
        with torch.no_grad():
            return CpuKernel(self.attention).forward(self.call(), self.plan(), False, False)[0]

    def check(self) -> None:
        actual, exact, eager = self.actual(), self.expected(torch.float64), self.expected(self.dtype)
        assert set(actual) == set(exact)

        @cache
        def on_other_numbers() -> list[tuple[dict[str, Tensor], dict[str, Tensor]]]:
            others = [replace(self, seed=self.seed + 1000 * i) for i in range(1, 11)]
            return [(other.expected(self.dtype), other.expected(torch.float64)) for other in others]

        for name, value in actual.items():
            if name.startswith("grad"):
                assert value.dtype == self._floats()[name[5:]].dtype
            factor = GRADIENT_FACTOR if name.startswith("grad") else OUTPUT_FACTOR
            if self.dtype == torch.float64:
                torch.testing.assert_close(value.double(), exact[name], rtol=1e-6, atol=1e-11)
                continue
            dtype = torch.float32 if name == "lse" else self.dtype
            others = lambda name=name: [(p[name], e[name]) for p, e in on_other_numbers()]  # noqa: E731
            assert_right(name, value, eager[name], exact[name], dtype, factor, others)
