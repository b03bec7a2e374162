"""The memory checker itself, under Triton's interpreter: what it must find, and what it must let pass."""
# pyright: reportUnknownMemberType=false, reportMissingImports=false, reportUnknownParameterType=false
# pyright: reportMissingParameterType=false, reportUntypedFunctionDecorator=false

from __future__ import annotations

import sys

import torch
import triton
import triton.language as tl

from tests.runtime.triton import guard


@triton.jit
def move(source, target, n, shift, WIDTH: tl.constexpr):
    at = tl.arange(0, WIDTH)
    tl.store(target + at, tl.load(source + shift + at, mask=at < n), mask=at < n)


@triton.jit
def count(target, shift):
    tl.atomic_add(target + shift, 1.0)


def main() -> int:
    """Three wrong kernels are found, right ones are not."""
    a, b = torch.ones(12), torch.zeros(12)
    move[(1,)](a, b, 12, 0, WIDTH=16)
    move[(1,)](a, b[4:], 8, 4, WIDTH=16)
    assert b.tolist() == [1.0] * 12
    wrong = 0
    for run in (
        lambda: move[(1,)](a, b, 12, 1, WIDTH=16),
        lambda: move[(1,)](a, b[5:], 8, 0, WIDTH=16),
        lambda: count[(1,)](b, -1),
    ):
        try:
            run()
        except Exception as error:
            wrong += "that are not its own" in str(error)
    count[(1,)](b, 11)
    print(f"{wrong} of 3 cases right")
    return 0 if wrong == 3 else 1


if __name__ == "__main__":
    guard.install()
    sys.exit(main())
