"""Gradients in fp32 where rows see one key or two, which cancel: `python -m tests.runtime.triton.interpret_one_key`."""
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import sys

import torch
from torch import Tensor

import attndsl
from attndsl.reference import reference
from attndsl.runtime.triton.config import Config, configured
from tests.runtime.triton import guard

CASES = (
    ("attention dense {}", 5, 1),
    ("attention dense {}", 5, 2),
    ("attention window { mask k <= q and q - k < 2 }", 40, 40),
    ("attention softcap { score 3 * tanh(s / 3) mask k <= q and q - k < 2 }", 40, 40),
)
DRAWS = 2


def worst(text: str, Lq: int, Lk: int, needs: str) -> dict[str, tuple[float, float]]:
    """Our largest error and that of the plain computation, over some draws, by tensor."""
    f = attndsl.load(text)
    found: dict[str, tuple[float, float]] = {}
    for seed in range(DRAWS):
        g = torch.Generator().manual_seed(seed)
        tensors = {n: torch.randn(1, 2, Lq if n == "q" else Lk, 64, generator=g) for n in "qkv"}
        grad = torch.randn(1, 2, Lq, 64, generator=g)

        def gradients(
            dtype: torch.dtype, ours: bool, tensors: dict[str, Tensor] = tensors, grad: Tensor = grad
        ) -> dict[str, Tensor]:
            t = {n: x.to(dtype).requires_grad_(n in needs) for n, x in tensors.items()}
            if ours:
                with configured(Config(32, 32, 4, 2), dq=Config(16, 32, 4, 2), dkdv=Config(32, 16, 4, 2)):
                    out = f(*t.values(), backend="triton")
            else:
                out, _ = reference(f.attention, *t.values(), inputs={}, scalars={}, dtype=dtype)
            assert isinstance(out, Tensor)
            return dict(zip(needs, torch.autograd.grad(out, [t[n] for n in needs], grad.to(out.dtype)), strict=True))

        exact = gradients(torch.float64, False)
        sides = gradients(torch.float32, True), gradients(torch.float32, False)
        for n in needs:
            mine, plain = (float((s[n] - exact[n]).abs().max()) for s in sides)
            before = found.get(n, (0.0, 0.0))
            found[n] = max(before[0], mine), max(before[1], plain)
    return found


def main() -> int:
    wrong = 0
    for text, Lq, Lk in CASES:
        for needs in ("qkv", "k"):
            for name, (mine, plain) in worst(text, Lq, Lk, needs).items():
                if not mine <= 2 * plain:
                    wrong += 1
                    print(f"WRONG {text} {Lq} {Lk} of {needs}: {name} {mine:.2g}, plain {plain:.2g}")
    print(f"{len(CASES) * 2 - wrong} of {len(CASES) * 2} cases right")
    return 1 if wrong else 0


if __name__ == "__main__":
    guard.install()
    sys.exit(main())
