"""The checkers themselves, under Triton's interpreter: what they must find, and what they must let pass."""
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


@triton.jit
def add_box(target, rows, first):
    box = tl.make_tensor_descriptor(target, [rows, 16], [16, 1], [4, 16])
    box.atomic_add([first, 0], tl.full([4, 16], 1.0, tl.float32))


@triton.jit
def grow(target, by):
    tl.store(target, tl.load(target) * by)


@triton.jit
def halved(x, WHOLE: tl.constexpr):
    return x // 2 if WHOLE else x / 2


@triton.jit
def several(source, target, n, SIDE: tl.constexpr):
    rows, columns = tl.arange(0, SIDE)[:, None], tl.arange(0, SIDE)[None, :]
    at = rows * SIDE + columns
    x = tl.load(source + at, mask=at < n, other=-float("inf"))
    low = tl.where(x > 0.5, x, 0.25).to(tl.float16)
    y = tl.dot(low, tl.trans(low)) + tl.max(low, 1)[:, None].to(tl.float32)
    for i in range(n % 7):
        y += halved(tl.cumsum(y, 1), WHOLE=False) * (halved(at % 5 - 9, WHOLE=True) - i)
    most = tl.max(tl.max(tl.abs(y), 1), 0)
    tl.store(target + at, tl.math.exp2(y / most) + tl.sum(tl.reshape(y, [SIDE * SIDE]), 0) / most, mask=at < n)


def computed() -> torch.Tensor:
    """What one kernel makes of many operations."""
    source = torch.rand(250, generator=torch.Generator().manual_seed(0))
    target = torch.zeros(250)
    several[(1,)](source, target, 250, SIDE=16)
    return target


def main() -> int:
    """Five wrong kernels are found, right ones are not, and compute what they do without checkers."""
    plain = computed()
    guard.install()
    assert plain.isfinite().all() and plain.std() > 0 and computed().equal(plain)
    a, b, c = torch.ones(12), torch.zeros(12), torch.zeros(6, 16)
    move[(1,)](a, b, 12, 0, WIDTH=16)
    move[(1,)](a, b[4:], 8, 4, WIDTH=16)
    assert b.tolist() == [1.0] * 12
    wrong = 0
    for run in (
        lambda: move[(1,)](a, b, 12, 1, WIDTH=16),
        lambda: move[(1,)](a, b[5:], 8, 0, WIDTH=16),
        lambda: count[(1,)](b, -1),
        lambda: add_box[(1,)](c, 6, -1),
    ):
        try:
            run()
        except Exception as error:
            wrong += "that are not its own" in str(error) or "begins before its tensor" in str(error)
    count[(1,)](b, 11)
    for first in (0, 3, 6):
        add_box[(1,)](c, 6, first)
    assert c[:, 0].tolist() == [1.0, 1.0, 1.0, 2.0, 1.0, 1.0]
    number = torch.tensor([2**16], dtype=torch.int32)
    grow[(1,)](number, 2**15 - 1)
    try:
        grow[(1,)](number, 2)
    except Exception as error:
        wrong += "int32 overflow of mul" in str(error)
    print(f"{wrong} of 5 cases right")
    return 0 if wrong == 5 else 1


if __name__ == "__main__":
    sys.exit(main())
