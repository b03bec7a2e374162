"""Calls of lengths, strides, offsets, types and scalars by turns: `python -m tests.runtime.triton.interpret_lengths`.

Whatever was called before, a call gives what the CPU backend gives."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import random
import sys
from typing import Any

import torch
from torch import Tensor

import attndsl
from attndsl.runtime.triton.config import Config, configured
from tests.drawing import SEED
from tests.runtime.triton import guard

SPECS = (
    "attention causal { mask k <= q }",
    "attention window(scalar w: int, scalar c: float) { score s - c * (q - k) mask k <= q and q - k < w }",
    "attention ahead(input m: f32[Lk]) { score s + m[k] mask q - k > -9 }",
    "attention docs(input doc: i32[B, L] sorted) { mask doc[b, q] == doc[b, k] and k <= q }",
)
WAYS = ("plain", "sliced", "heads last", "odd")


def tensor(way: str, heads: int, length: int, dtype: torch.dtype, made: torch.Generator) -> Tensor:
    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=made).to(dtype)

    if way == "sliced":
        return drawn(1, heads, 96, 16)[:, :, :length]
    if way == "heads last":
        return drawn(1, length, heads, 16).transpose(1, 2)
    return drawn(1, heads, length, 17)[..., :16] if way == "odd" else drawn(1, heads, length, 16)


def check(text: str, r: random.Random) -> None:
    f = attndsl.load(text)
    made = torch.Generator().manual_seed(r.randrange(2**31))
    for _ in range(2):
        way, dtype = r.choice(WAYS), r.choice((torch.float32, torch.float16))
        w, c = r.choice((5, 30)), r.choice((0.5, 0.01))
        for turn in range(2):
            Lq = r.randint(17, 60)
            offset: Any = r.choice((0, 0, 3))
            Lk = r.choice((Lq, r.randint(17, 60))) if offset == 0 else Lq + offset
            q, k, v = (tensor(way, h, n, dtype, made) for h, n in ((2, Lq), (1, Lk), (1, Lk)))
            given: dict[str, Any] = {}
            if "scalar w" in text:
                given = {"w": w, "c": c * (turn + 1)}
            if "input m" in text:
                given["m"] = torch.randn(Lk, generator=made)
            if "doc" in text:
                L = max(Lq, Lk) if offset == 0 else Lk
                given["doc"] = torch.randint(0, 4, (1, L), generator=made).sort().values.int()
            tensors = [t.requires_grad_() for t in (q, k, v)] if r.random() < 0.3 else [q, k, v]
            results: list[list[Tensor]] = []
            for backend in ("triton", "cpu"):
                # the oracle's numbers have more digits
                own = tensors if backend == "triton" else [t.detach().float() for t in tensors]
                own = [t.requires_grad_() for t in own] if tensors[0].requires_grad and backend == "cpu" else own
                out = f(*own, **given, q_offset=offset, backend=backend)
                found = [out.detach().float()]
                if tensors[0].requires_grad:
                    found += [g.float() for g in torch.autograd.grad(out, own, torch.ones_like(out))]
                results.append(found)
            for a, b in zip(*results, strict=True):
                near = 1e-4 if dtype == torch.float32 else 2e-2
                torch.testing.assert_close(a, b, rtol=near, atol=near)


def main() -> int:
    r = random.Random(SEED)
    small = Config(16, 16, 4, 1)
    with configured(small, dq=small, dkdv=small, decode=None):
        for text in SPECS:
            check(text, r)
    print(f"{len(SPECS)} cases right")
    return 0


if __name__ == "__main__":
    guard.install()
    sys.exit(main())
