"""One real call on made-up tensors: its error against the fp64 oracle, and its time against dense SDPA."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from attndsl.cli.inputs import make_inputs
from attndsl.cli.report import size
from attndsl.cli.setup import Setup, has_vectors
from attndsl.ir.expr import Literal, Size, walk
from attndsl.ir.free import depends
from attndsl.reference import reference, visible
from attndsl.reference.accuracy import GRADIENT_FACTOR, Verdict, judge

if TYPE_CHECKING:
    from torch import Tensor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ORACLE_PAIRS = 2**23
"""Pairs of one look of the oracle, 64 MiB for each of its fp64 temporaries."""
MASK_PAIRS = 2**28
"""Largest dense mask that is given to SDPA."""
SECONDS = 1.5
"""Time spent on repeating one measurement."""


@dataclass(frozen=True)
class Tensors:
    """The arguments of a call: q [B, H, Lq, D], k [B, Hkv, Lk, D], v [B, Hkv, Lk, Dv], inputs by name, and the
    gradient of the output. `rows` are the ranges of rows that the oracle looks at; the gradient is 0 elsewhere."""

    q: Tensor
    k: Tensor
    v: Tensor
    inputs: dict[str, Tensor]
    grad: Tensor
    rows: tuple[tuple[int, int], ...]

    def floats(self) -> dict[str, Tensor]:
        """What gradients flow to."""
        wanted = {n: t for n, t in self.inputs.items() if t.is_floating_point()}
        return {"q": self.q, "k": self.k, "v": self.v, **wanted}


FEW_NUMBERS = 64
"""Gradients of at most so many numbers are judged by several draws: their error on one is a matter of luck."""
OTHER_DRAWS = 8


@dataclass(frozen=True)
class Times:
    """Medians in seconds; SDPA's are None where its mask would be too large, which `note` says."""

    forward: float
    backward: float | None
    sdpa_forward: float | None
    sdpa_backward: float | None
    note: str


def make_tensors(setup: Setup, dtype: torch.dtype, seed: int) -> Tensors:
    """Normal q, k, v and a gradient that is 0 outside the rows the oracle will look at."""
    s = setup.sizes
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    q, k = normal(s["B"], s["H"], s["Lq"], s["D"]), normal(s["B"], s["Hkv"], s["Lk"], s["D"])
    v = normal(s["B"], s["Hkv"], s["Lk"], s["Dv"])
    inputs = make_inputs_of(setup, seed)
    rows = oracle_rows(setup)
    grad = torch.zeros(s["B"], s["H"], s["Lq"], s["Dv"], dtype=dtype)
    for start, stop in rows:
        grad[:, :, start:stop] = normal(s["B"], s["H"], stop - start, s["Dv"])
    return Tensors(q, k, v, inputs, grad, rows)


def make_inputs_of(setup: Setup, seed: int) -> dict[str, Tensor]:
    """Inputs of a call, on the CPU, as they are declared."""
    inputs = {n: torch.from_numpy(t.copy()) for n, t in make_inputs(setup.attention, setup.sizes, seed).items()}
    for param in setup.attention.inputs:
        if param.dtype in ("f16", "bf16"):
            inputs[param.name] = inputs[param.name].to(torch.float16 if param.dtype == "f16" else torch.bfloat16)
    return inputs


def oracle_rows(setup: Setup) -> tuple[tuple[int, int], ...]:
    """Ranges of rows for the dense oracle: all of them, or a part of the start, the middle and the end where all pairs
    are too many; none where the spec's rows cannot be looked at alone."""
    s, a = setup.sizes, setup.attention
    lq = s["Lq"]
    pairs_per_row = max(1, s["B"] * s["H"] * s["Lk"]) * (s["D"] if has_vectors(a) else 1)
    if lq * pairs_per_row <= ORACLE_PAIRS:
        return ((0, lq),)
    parts = [a.mask, a.score, *(e for e in (a.weight, a.output) if e is not None)]
    uses_length = any(isinstance(n, Size) and n.name == "Lq" for e in parts for n in walk(e))
    separate = not a.shared and (a.q_space is not None or a.k_space is not None)
    if uses_length or separate or lq > s["Lk"]:
        return ()
    n = max(1, ORACLE_PAIRS // pairs_per_row // 3)
    middle = (lq - n) // 2
    return ((0, n), (middle, middle + n), (lq - n, lq))


def check(setup: Setup, tensors: Tensors, out: Tensor, gradients: Mapping[str, Tensor]) -> dict[str, Verdict]:
    """Verdicts on the output and on gradients (by tensor name) by the oracle's rows and the rule of
    `attndsl.reference.accuracy`."""
    exact_out, exact = _oracle(setup, tensors, torch.float64, bool(gradients))
    eager_out, eager = _oracle(setup, tensors, out.dtype, bool(gradients))
    mine = torch.cat([out[:, :, a:b] for a, b in tensors.rows], dim=2)
    errors = {"out": judge(mine, eager_out, exact_out, out.dtype)}

    @cache
    def on_other_numbers() -> list[tuple[dict[str, Tensor], dict[str, Tensor]]]:
        draws = [make_tensors(setup, out.dtype, 1000 + seed) for seed in range(OTHER_DRAWS)]
        return [(_oracle(setup, t, out.dtype, True)[1], _oracle(setup, t, torch.float64, True)[1]) for t in draws]

    for name, gradient in gradients.items():
        few = gradient.numel() <= FEW_NUMBERS
        others = (lambda name=name: [(e[name], x[name]) for e, x in on_other_numbers()]) if few else None
        errors[f"d{name}"] = judge(gradient, eager[name], exact[name], out.dtype, GRADIENT_FACTOR, others)
    return errors


def _oracle(setup: Setup, t: Tensors, dtype: torch.dtype, backward: bool) -> tuple[Tensor, dict[str, Tensor]]:
    leaves = {n: x.detach().clone().requires_grad_(backward) for n, x in t.floats().items()}
    if dtype == torch.float64:
        leaves = {n: x.detach().double().requires_grad_(backward) for n, x in leaves.items()}
    outputs: list[Tensor] = []
    for start, stop in t.rows:
        inputs = {
            p.name: _rows_of(leaves.get(p.name, t.inputs[p.name]), p.shape, start, stop) for p in setup.attention.inputs
        }
        out, _ = reference(
            setup.attention, leaves["q"][:, :, start:stop], leaves["k"], leaves["v"],
            inputs=inputs, scalars=setup.scalars, grid=setup.grid, q_offset=start, dtype=dtype,
        )  # fmt: skip
        if backward and out.requires_grad:
            out.backward(t.grad[:, :, start:stop].to(dtype))
        outputs.append(out.detach())
    gradients = {n: torch.zeros_like(x) if x.grad is None else x.grad for n, x in leaves.items()}
    return torch.cat(outputs, dim=2), gradients


def _rows_of(tensor: Tensor, shape: tuple[Any, ...], start: int, stop: int) -> Tensor:
    for axis, dim in enumerate(shape):
        if isinstance(dim, Size) and dim.name == "Lq":
            tensor = tensor.narrow(axis, start, stop - start)
    return tensor


def measure(function: Callable[[], Any]) -> float:
    """Median seconds of a call: once to warm up, then up to 20 times within `SECONDS`, at least once."""
    function()
    samples: list[float] = []
    begin = time.perf_counter()
    while not samples or (len(samples) < 20 and time.perf_counter() - begin < SECONDS):
        start = time.perf_counter()
        function()
        samples.append(time.perf_counter() - start)
    return median(samples)


def compare(setup: Setup, t: Tensors, call: Callable[[Tensors], Tensor], backward: bool) -> Times:
    """Time of the call and of torch's SDPA with the same mask, dense; SDPA knows no other score or weight."""
    forward, back = _times(t, call, backward)
    mask, note = dense_mask(setup, t)
    if mask is None and note:
        return Times(forward, back, None, None, note)

    def sdpa(x: Tensors) -> Tensor:
        grouped = x.q.shape[1] != x.k.shape[1]
        return torch.nn.functional.scaled_dot_product_attention(x.q, x.k, x.v, mask, enable_gqa=grouped)

    sdpa_forward, sdpa_back = _times(t, sdpa, backward)
    return Times(forward, back, sdpa_forward, sdpa_back, note)


def _times(t: Tensors, call: Callable[[Tensors], Tensor], backward: bool) -> tuple[float, float | None]:
    with torch.no_grad():
        forward = measure(lambda: call(t))
    if not backward:
        return forward, None
    tracked = with_gradients(t)
    out = call(tracked)
    leaves = list(tracked.floats().values())
    return forward, measure(lambda: torch.autograd.grad(out, leaves, t.grad, retain_graph=True, allow_unused=True))


def with_gradients(t: Tensors) -> Tensors:
    """Copies that record gradients."""
    leaves = {n: x.detach().clone().requires_grad_() for n, x in t.floats().items()}
    inputs = {n: leaves.get(n, x) for n, x in t.inputs.items()}
    return Tensors(leaves["q"], leaves["k"], leaves["v"], inputs, t.grad, t.rows)


def dense_mask(setup: Setup, t: Tensors) -> tuple[Tensor | None, str]:
    """SDPA's boolean mask, over b and h only where the spec's mask depends on them; and what to say about it."""
    a, s = setup.attention, dict(setup.sizes)
    if isinstance(a.mask, Literal) and a.mask.value:
        return None, ""
    varies = depends(a.mask)
    if "h" not in varies and "hkv" not in varies:
        s |= {"H": 1, "Hkv": 1}
    if "b" not in varies:
        s["B"] = 1
    pairs = s["B"] * s["H"] * s["Lq"] * s["Lk"]
    if pairs > MASK_PAIRS:
        return None, f"dense SDPA not timed: its mask alone would take {pairs / 2**30:.1f} GiB"
    read = t.inputs
    if s["B"] != setup.sizes["B"] or s["H"] != setup.sizes["H"]:
        read = dict(_shrunk(setup, t, s))
    mask = visible(a, s, inputs=read, scalars=setup.scalars, grid=setup.grid)
    return mask, f"dense SDPA with a mask of {size(mask.numel())}"


def _shrunk(setup: Setup, t: Tensors, sizes: Mapping[str, int]) -> Iterator[tuple[str, Tensor]]:
    """Inputs cut to one batch or head where the mask does not depend on them."""
    for p in setup.attention.inputs:
        tensor = t.inputs[p.name]
        for axis, dim in enumerate(p.shape):
            if isinstance(dim, Size) and dim.name in ("B", "H", "Hkv"):
                tensor = tensor.narrow(axis, 0, min(tensor.shape[axis], sizes[dim.name]))
        yield p.name, tensor
