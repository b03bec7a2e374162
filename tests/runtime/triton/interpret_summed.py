"""Weights with sums of vectors over the row, with small tiles and compared: `python -m
tests.runtime.triton.interpret_summed [CASE...]`."""

from __future__ import annotations

import sys
import traceback

import torch

from attndsl.runtime.triton.config import Config
from benchmarks.cases import FEW_SUMMED, SUMMED
from tests.runtime.triton import guard, interpret, interpret_backward

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def main() -> int:
    chosen = [(i, c) for i, c in enumerate((*SUMMED, *FEW_SUMMED)) if not sys.argv[1:] or c.name in sys.argv[1:]]
    wrong = 0
    for i, case in chosen:
        try:
            interpret.check(case, DTYPES[i % 3], Config(32, 32, 4, 2))
            if case not in FEW_SUMMED:
                interpret_backward.check(case, DTYPES[(i + 1) % 3], fused=False)
        except Exception:
            wrong += 1
            print(f"WRONG {case.name}\n{traceback.format_exc()}")
    print(f"{len(chosen) - wrong} of {len(chosen)} cases right")
    return 1 if wrong else 0


if __name__ == "__main__":
    guard.install()
    sys.exit(main())
