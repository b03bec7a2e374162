"""Run a share of the cases of few rows with small boxes and compare: `python -m ...interpret_few GROUP GROUPS`."""
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import sys
import traceback
from typing import Any

import torch

import attndsl
from attndsl.reference import reference
from attndsl.runtime.triton.config import Config, configured
from attndsl.runtime.triton.decode import Decode
from benchmarks.cases import FEW_ROWS, Case
from tests.accuracy import assert_right
from tests.runtime.triton import guard

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SPLITS = (0, 1, 2, 3, 7, 40)
ran: list[bool] = []


def watched() -> None:
    """Note whether calls are run by the decode kernel."""
    forward = Decode.forward

    def noted(self: Decode, *given: Any) -> bool:
        ran.append(forward(self, *given))
        return ran[-1]

    Decode.forward = noted


def check(case: Case, dtype: torch.dtype, splits: int) -> None:
    q, k, v = case.tensors(dtype)
    inputs, offset = case.made(), case.offset()
    f = attndsl.load(case.text, **case.consts)
    given: dict[str, Any] = {**case.scalars, **inputs}
    ran.clear()
    with configured(decode=Config(64, 32, 4, 2, splits=splits)):
        found = f(
            q, k, v, backend="triton", return_lse=case.lse, grid=case.grid, q_offset=offset, scale=case.scale, **given
        )
    assert set(ran) == {case.name != "few, no key"}
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
    wrong = 0
    watched()
    numbers = range(group, len(FEW_ROWS), groups)
    for i in numbers:
        case = FEW_ROWS[i]
        try:
            check(case, torch.float32, SPLITS[i % len(SPLITS)])
            if i % 3 == 0:
                check(case, DTYPES[1 + i % 2], SPLITS[(i + 2) % len(SPLITS)])
        except Exception:
            wrong += 1
            print(f"WRONG {case.name}\n{traceback.format_exc()}")
    print(f"{len(numbers) - wrong} of {len(numbers)} cases right")
    return 1 if wrong else 0


if __name__ == "__main__":
    guard.install()
    sys.exit(main())
