"""Run a share of the cases with small tiles and compare: `python -m tests.runtime.triton.interpret GROUP GROUPS [one]`.

With `one` kernels have one loop with specialised warps where they can.
"""
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import sys
import traceback

import torch

import attndsl
from attndsl.reference import reference
from attndsl.runtime.triton.config import Config, configured
from benchmarks.cases import CASES, Case
from tests.accuracy import assert_right
from tests.runtime.triton import guard

TWO_LOOPS, ONE_LOOP = Config(32, 32, 4, 2), Config(64, 32, 4, 2, specialize=True)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def check(case: Case, dtype: torch.dtype, config: Config) -> None:
    q, k, v = case.tensors(dtype)
    inputs, offset = case.made(), case.offset()
    f = attndsl.load(case.text, **case.consts)
    with configured(config):
        found = f(
            q, k, v, backend="triton", return_lse=case.lse, grid=case.grid, q_offset=offset, scale=case.scale,
            **case.scalars, **inputs,
        )  # fmt: skip
    out, lse = found if case.lse else (found, None)

    def dense(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor | None]:
        return reference(
            f.attention, q, k, v, inputs=inputs, scalars=case.scalars, grid=case.grid, q_offset=offset,
            scale=case.scale, dtype=dtype,
        )  # fmt: skip

    exact, eager = dense(torch.float64), dense(dtype)
    assert_right("out", out, eager[0], exact[0], dtype)
    if lse is not None:
        assert exact[1] is not None and eager[1] is not None
        assert_right("lse", lse, eager[1], exact[1], torch.float32, factor=8.0)


def main() -> int:
    group, groups = int(sys.argv[1]), int(sys.argv[2])
    config = ONE_LOOP if sys.argv[3:] == ["one"] else TWO_LOOPS
    wrong = 0
    chosen = CASES[group::groups]
    for i, case in enumerate(chosen):
        try:
            if config is TWO_LOOPS:
                check(case, torch.float32, config)
            check(case, DTYPES[1 + i % 2], config)
        except Exception:
            wrong += 1
            print(f"WRONG {case.name}\n{traceback.format_exc()}")
    print(f"{len(chosen) - wrong} of {len(chosen)} cases right")
    return 1 if wrong else 0


if __name__ == "__main__":
    guard.install()
    sys.exit(main())
