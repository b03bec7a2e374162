"""The operator on the Triton backend, under its interpreter: `python -m tests.runtime.triton.interpret_operator`.

Repeated calls, compilers and torch.func give what a plain call on the CPU backend gives."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import attndsl
from tests.runtime.triton import guard

SPECS: list[tuple[str, dict[str, Tensor]]] = [
    ("attention alibi(input slope: f32[H]) { score s - slope[h] * (q - k) mask k <= q }", {"slope": torch.rand(2)}),
    ("attention relu2 { weight relu(s)^2 / count output o * 2 }", {}),
    (
        "attention unit(input w: f32[D, Dv]) { score s - norm(V) output rmsnorm(o) * sigmoid(Q @ w) }",
        {"w": torch.rand(16, 16)},
    ),
    ("attention table(const gain: float[3] = (1.0, 0.5, 0.25)) { score s * gain[k % 3] mask k <= q }", {}),
]


def tensors(L: int, seed: int) -> list[Tensor]:
    """q, k and v."""
    made = torch.Generator().manual_seed(seed)
    return [torch.randn((2, heads, L, 16), generator=made).requires_grad_() for heads in (2, 1, 1)]


def gradients(function: Callable[..., Tensor], operands: list[Tensor]) -> list[Tensor]:
    """The output, and the gradients of the sum of its squares."""
    out = function(*operands)
    return [out.detach(), *torch.autograd.grad(out.square().sum(), operands)]


def close(found: list[Tensor], wanted: list[Tensor]) -> None:
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def check(text: str, inputs: dict[str, Tensor]) -> None:
    f = attndsl.load(text)

    def ours(*operands: Tensor) -> Tensor:
        return f(*operands, **inputs, backend="triton")

    def plain(*operands: Tensor) -> Tensor:
        return f(*operands, **inputs, backend="cpu")

    # a length twice: the second call reuses what the first prepared; one row: decode, and its backward
    for length, seed in ((40, 0), (40, 1), (1, 2)):
        operands = tensors(length, seed)
        close(gradients(ours, operands), gradients(plain, operands))
        with torch.no_grad():
            close([ours(*operands)], [plain(*operands)])
    operands = tensors(40, 3)
    step: Any = torch.compile(ours, fullgraph=True, backend="aot_eager")
    close(gradients(step, operands), gradients(plain, operands))

    def loss(*operands: Tensor) -> Tensor:
        return ours(*(t[None] for t in operands)).square().sum()

    each = torch.vmap(torch.func.grad(loss, (0, 1, 2)))(*(t.detach() for t in operands))
    close(list(each), gradients(plain, operands)[1:])


def growing() -> None:
    """Calls of one row that see one key more each time: beyond a multiple of the step the plan is another."""
    f = attndsl.load("attention near(scalar w: int) { mask k <= q and q - k < w }")
    made = torch.Generator().manual_seed(0)
    k, v = (torch.randn((2, 2, 140, 16), generator=made) for _ in range(2))
    before = [rows for rows in (1, 2) for _ in range(2)]
    for rows, keys in zip(before * 6, (62, 63, 64, 65, 66, 67, 100, 127, 128, 129, 130, 140) * 2, strict=True):
        q = torch.randn((2, 4, rows, 16), generator=made)
        for w, offset in ((7, "end"), (999, "end"), (50, keys - 40)):
            options: dict[str, Any] = {"w": w, "q_offset": offset, "return_lse": True}
            found = f(q, k[:, :, :keys], v[:, :, :keys], backend="triton", **options)
            wanted = f(q, k[:, :, :keys], v[:, :, :keys], backend="cpu", **options)
            close(list(found), list(wanted))


def numbers() -> None:
    """Tensors in the places of scalars, which only kernels read: repeated, in a graph, and through gradients."""
    f = attndsl.load("attention a(scalar c: float, scalar on: bool, scalar w: int) {"
                     " score (if on then s - c * (q - k) else s) mask k <= q and q - k < w }")  # fmt: skip
    step: Any = torch.compile(
        lambda *t: f(*t[:3], c=t[3], on=t[4], w=t[5], backend="triton"), fullgraph=True, backend="aot_eager"
    )
    for run in (0, 1, 2):
        operands = tensors(20, run)
        c, on, w = torch.tensor(0.1 * run), torch.tensor(run != 1), torch.tensor(5 + run)
        wanted = gradients(lambda *t: f(*t, c=0.1 * run, on=run != 1, w=5 + run, backend="cpu"), operands)  # noqa: B023
        close(gradients(lambda *t: f(*t, c=c, on=on, w=w, backend="triton"), operands), wanted)  # noqa: B023
        close(gradients(lambda *t: step(*t, c, on, w), operands), wanted)  # noqa: B023


def main() -> int:
    numbers()
    growing()
    for text, inputs in SPECS:
        check(text, inputs)
    print(f"{len(SPECS)} cases right")
    return 0


if __name__ == "__main__":
    guard.install()
    sys.exit(main())
