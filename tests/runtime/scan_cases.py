"""Feature maps beside the oracle: specs, their tensors, and the three ways to compute them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

import attndsl
from attndsl.ir.attention import Input
from attndsl.reference import reference
from attndsl.schedule.legalise import scan_form
from tests.accuracy import GRADIENT_FACTOR, OUTPUT_FACTOR, assert_right

ALONG = ("L", "Lq", "Lk")


@dataclass
class ScanCase:
    """A spec and a call of it; inputs are made from their declared shapes."""

    text: str
    B: int = 2
    H: int = 4
    Hkv: int = 2
    Lq: int = 33
    Lk: int | None = None
    D: int = 8
    Dv: int = 5
    dtype: torch.dtype = torch.float32
    q_offset: int = 0
    seed: int = 0
    documents: int = 4
    fresh: dict[str, int] = field(default_factory=lambda: {"M": 6})

    def __post_init__(self) -> None:
        self.function: Any = attndsl.load(self.text)
        self.made = torch.Generator().manual_seed(self.seed)
        self.Lk = self.Lq if self.Lk is None else self.Lk
        B, H, Hkv = self.B, self.H, self.Hkv
        self.q = self._normal(B, H, self.Lq, self.D).to(self.dtype)
        self.k = self._normal(B, Hkv, self.Lk, self.D).to(self.dtype)
        self.v = self._normal(B, Hkv, self.Lk, self.Dv).to(self.dtype)
        self.inputs: dict[str, Any] = {i.name: self._input(i) for i in self.function.attention.inputs}
        self.g = self._normal(B, H, self.Lq, self.Dv).to(self.dtype)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.made)

    def _input(self, param: Input) -> Tensor:
        along = self.Lk or 0 if self.q_offset else max(self.Lk or 0, self.Lq)
        sizes: dict[str, Any] = {
            "B": self.B,
            "H": self.H,
            "Hkv": self.Hkv,
            "Lq": self.Lq,
            "Lk": self.Lk,
            "L": along,
            "D": self.D,
        }
        sizes |= {"Dv": self.Dv, **self.fresh}
        shape = [int(sizes[getattr(s, "name", "")]) for s in param.shape]
        if "sorted" in param.facts:
            # documents of a row or a few, and long ones
            steps = torch.rand(shape, generator=self.made) < self.documents / max(1, along)
            return steps.cumsum(-1).to(torch.int32)
        if "log_decay" in param.facts:
            return -torch.nn.functional.softplus(self._normal(*shape))
        if param.name.startswith("gamma"):
            return 1 - torch.rand(shape, generator=self.made) * 0.3
        if param.name == "u":
            # of one sign: sums of mixed ones are as inaccurate in any order, by chance
            return 0.5 + torch.rand(shape, generator=self.made)
        return self._normal(*shape) * 0.5

    @property
    def floats(self) -> dict[str, Tensor]:
        return {"q": self.q, "k": self.k, "v": self.v, **self.float_inputs}

    @property
    def float_inputs(self) -> dict[str, Tensor]:
        return {n: t for n, t in self.inputs.items() if t.is_floating_point()}

    def run(self) -> dict[str, Tensor]:
        """Output and gradients of the compiled function."""
        live = {n: t.detach().clone().requires_grad_() for n, t in self.floats.items()}
        rest: dict[str, Any] = {n: live.get(n, t) for n, t in self.inputs.items()}
        out = self.function(live["q"], live["k"], live["v"], q_offset=self.q_offset, **rest)
        return self._results(out, live, self.g)

    def expected(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Those of the oracle's code in a precision."""
        live = {n: t.detach().to(dtype).requires_grad_() for n, t in self.floats.items()}
        rest: dict[str, Any] = {n: live.get(n, t) for n, t in self.inputs.items()}
        out, _ = reference(
            self.function.attention, live["q"], live["k"], live["v"], inputs=rest, q_offset=self.q_offset, dtype=dtype
        )
        return self._results(out, live, self.g.to(dtype))

    def _results(self, out: Tensor, live: dict[str, Tensor], g: Tensor) -> dict[str, Tensor]:
        found = {"out": out.detach()}
        if not out.requires_grad:
            return found | {"grad " + n: torch.zeros_like(t) for n, t in live.items()}
        values: Any = torch.autograd.grad([out], list(live.values()), [g], allow_unused=True)
        for (n, t), value in zip(live.items(), values, strict=True):
            found["grad " + n] = torch.zeros_like(t) if value is None else value
        return found

    def pieces(self, cuts: list[int]) -> dict[str, Tensor]:
        """The same from several calls, each from the state of the one before; one row at a time by `step`."""
        live = {n: t.detach().clone().requires_grad_() for n, t in self.floats.items()}
        rest: dict[str, Any] = {n: live.get(n, t) for n, t in self.inputs.items()}
        state: Any = None
        outs: list[Tensor] = []
        for lo, hi in zip([0, *cuts], [*cuts, self.Lq], strict=True):
            q, k, v = (live[n][:, :, lo:hi] for n in "qkv")
            own = {i.name: _cut(rest[i.name], i, lo, hi) for i in self.function.attention.inputs}
            if hi - lo == 1:
                out, state = self.function.step(state, q, k, v, **own)
            else:
                out, state = self.function(q, k, v, initial_state=state, return_state=True, **own)
            outs.append(out)
        assert state.position == self.Lq
        return self._results(torch.cat(outs, 2), live, self.g)

    def compare(self, actual: dict[str, Tensor]) -> None:
        """Assert that results are as good as a plain computation's."""
        exact, eager = self.expected(torch.float64), self.expected(self.dtype)
        assert set(actual) == set(exact)
        for name, value in actual.items():
            factor = GRADIENT_FACTOR if name.startswith("grad") else OUTPUT_FACTOR

            def others(name: str = name) -> list[tuple[Tensor, Tensor]]:
                return [(eager[name], exact[name]) for eager, exact in self._others]

            assert_right(name, value, eager[name].to(value.dtype), exact[name], self.dtype, factor, others)

    @cached_property
    def _others(self) -> list[tuple[dict[str, Tensor], dict[str, Tensor]]]:
        """The same on other numbers, and not on so few that a plain computation has no error by chance: the gradient of
        a weight that is its own sum is 0, which (a / a) shows exactly and a sum of a state does not."""
        longer = 32 if min(self.Lq, self.Lk or 0) < 32 else 0
        lengths = {"Lq": self.Lq + longer, "Lk": (self.Lk or 0) + longer}
        made = [replace(self, seed=self.seed + 1 + i, **lengths) for i in range(24)]
        return [(m.expected(m.dtype), m.expected(torch.float64)) for m in made]

    def check(self, kind: str) -> None:
        """Assert the form, and that the compiled function agrees with the oracle."""
        found = scan_form(self.function.simplified)
        assert found.kind == kind, (found.kind, found.reasons)
        self.compare(self.run())


def _cut(tensor: Tensor, param: Input, lo: int, hi: int) -> Tensor:
    for axis, size in enumerate(param.shape):
        if getattr(size, "name", "") in ALONG:
            return tensor.narrow(axis, lo, hi - lo)
    return tensor
