"""Gradients of a share of the cases with small tiles, compared:
`python -m tests.runtime.triton.interpret_backward GROUP GROUPS [fused] [all | CASE...]`. With `fused` those of q, k and
v, dq along with dk and dv."""
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterable

import torch

import attndsl
from attndsl.reference import reference
from attndsl.runtime.triton.config import Config, configured
from benchmarks.cases import CASES, COMPONENTS, FINISHED, PROJECTED, STAGED, Case
from tests.accuracy import GRADIENT_FACTOR, assert_right
from tests.runtime.triton import guard

FEW = (
    "dense 96", "window offsets", "window 7, negative scale", "dead rows", "alibi far", "softcap", "compared",
    "unseen", "bias",
    "row and key bias", "duo", "sink and gate", "vector gate", "sigmoid", "cog", "exponential", "normalised",
    "polynomial", "dilated", "blocks", "gna dilated", "grid terms", "joint", "joint, dilated", "blind segment",
    "one row",
    *(c.name for c in (*PROJECTED[1::3], *STAGED[::2])),
    *(c.name for c in COMPONENTS[:7]), COMPONENTS[9].name, *(c.name for c in FINISHED[:4]),
    "a grid of keys",
)  # fmt: skip
"""Those that every run of the tests checks; `all` after the groups names every case."""
FUSED = ("dense 40", "window 127", "dead rows", "sink and gate", "gna, even lines", "joint")
"""Those of fused kernels. The first box of a window of 127 begins before the sequence."""
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
Grads = dict[str, torch.Tensor]


def check(case: Case, dtype: torch.dtype, fused: bool) -> None:
    actual, eager, exact = compared(case, dtype, 0, fused=fused)
    for name, value in actual.items():
        own = dtype if name in "qkv" else torch.float32

        def others(name: str = name) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
            for seed in (10, 20, 30):
                _, plain, right = compared(case, dtype, seed, ours=False, fused=fused)
                yield plain[name], right[name]

        assert_right(f"grad {name}", value, eager[name], exact[name], own, GRADIENT_FACTOR, others)


def compared(
    case: Case, dtype: torch.dtype, seed: int, *, ours: bool = True, fused: bool = False
) -> tuple[Grads, Grads, Grads]:
    """Ours, those of the plain computation in the same precision, and exact ones."""
    tensors = dict(zip("qkv", case.tensors(dtype, seed), strict=True))
    inputs, offset = case.made(), case.offset()
    f = attndsl.load(case.text, **case.consts)
    g = torch.Generator().manual_seed(2 + seed)
    grad = torch.randn(case.B, case.H, case.Lq, case.Dv or case.D, generator=g).to(dtype)
    grad_lse = torch.randn(case.B, case.H, case.Lq, generator=g)
    floats = tensors | {n: t for n, t in inputs.items() if t.is_floating_point() and not fused}

    def gradients(precision: torch.dtype, triton: bool) -> Grads:
        live = {n: t.detach().to(t.dtype if triton else precision).requires_grad_() for n, t in floats.items()}
        rest = {n: live.get(n, t) for n, t in inputs.items()}
        q, k, v = (live[n] for n in "qkv")
        if triton:
            out, lse = f(q, k, v, backend="triton", return_lse=case.lse, grid=case.grid, q_offset=offset,
                         scale=case.scale, **case.scalars, **rest) if case.lse else (
                f(q, k, v, backend="triton", grid=case.grid, q_offset=offset, scale=case.scale, **case.scalars, **rest),
                None)  # fmt: skip
        else:
            out, lse = reference(f.attention, q, k, v, inputs=rest, scalars=case.scalars, grid=case.grid,
                                 q_offset=offset, scale=case.scale, dtype=precision)  # fmt: skip
        outs, grads = [out], [grad.to(out.dtype)]
        if case.lse and lse is not None:
            outs.append(torch.where(lse.isfinite(), lse, 0.0))
            grads.append(grad_lse.to(lse.dtype))
        names = list(live)
        found = torch.autograd.grad(outs, [live[n] for n in names], grads, allow_unused=True)
        return {n: torch.zeros_like(live[n]) if t is None else t for n, t in zip(names, found, strict=True)}

    actual: Grads = {}
    if ours:
        # boxes of 32 queries have what is known of them loaded as boxes too
        dkdv = Config(32, 32, 4, 2, fused="boxes") if fused else Config(32, 16, 4, 2)
        with configured(Config(32, 32, 4, 2), dq=Config(16, 32, 4, 2), dkdv=dkdv):
            actual = gradients(dtype, True)
        assert all(t.dtype == floats[n].dtype for n, t in actual.items())
    return actual, gradients(dtype, False), gradients(torch.float64, False)


def main() -> int:
    group, groups = int(sys.argv[1]), int(sys.argv[2])
    fused = "fused" in sys.argv[3:]
    only = [a for a in sys.argv[3:] if a != "fused"]
    wrong = 0
    if only == ["all"]:
        chosen = list(CASES[group::groups])
    else:
        chosen = [c for c in CASES if c.name in (only or (FUSED if fused else FEW))][group::groups]
    for i, case in enumerate(chosen):
        try:
            check(case, DTYPES[(group + i) % 3], fused)
        except Exception:
            wrong += 1
            print(f"WRONG {case.name}\n{traceback.format_exc()}")
    print(f"{len(chosen) - wrong} of {len(chosen)} cases right")
    return 1 if wrong else 0


if __name__ == "__main__":
    guard.install()
    sys.exit(main())
