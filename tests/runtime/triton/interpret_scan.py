"""Scans under Triton's interpreter, with small chunks: `python -m tests.runtime.triton.interpret_scan GROUP GROUPS`."""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from itertools import product

from attndsl.runtime.triton import scan_passes
from attndsl.runtime.triton.scan_config import ScanConfig
from benchmarks.linear_cases import LinearCase, compare
from tests.runtime.triton import guard


def cases() -> list[tuple[LinearCase, ScanConfig]]:
    """Every decay with everything else in turn; a chunk is 16 rows."""
    found: list[tuple[LinearCase, ScanConfig]] = []
    options = list(product((False, True), repeat=4))
    for n, (decay, L) in enumerate(product(("none", "head", "log", "token"), (1, 17, 40, 129))):
        for i in range(2):
            normalised, mapped, docs, state = options[(n * 5 + i * 8 + i) % 16]
            rows = 70 if L > 64 and i else L
            case = LinearCase(
                ("fp32", "fp16")[(n + i) % 2 if L < 64 else 0], rows, (24, 16, 40)[n % 3], (24, 40, 16)[(n + i) % 3],
                decay, normalised, mapped, docs, state, strict=(n + i) % 5 == 0, B=1, H=2, Hkv=1 + i,
            )  # fmt: skip
            found.append((case, ScanConfig(16, 16, 4, 1, segments=1 + 2 * ((n + i) % 2))))
    for n, L in enumerate((1, 40, 90)):
        case = LinearCase(
            ("fp32", "fp16", "fp32")[n], L, 24, (16, 40)[n % 2], "channel", n == 2, n == 2, False, n != 1,
            strict=n == 0, B=1, H=2, Hkv=1 + n % 2,
        )  # fmt: skip
        found.append((case, ScanConfig(32, 16, 4, 1, segments=(1, 0, 2)[n], gate_whole=True)))
    # chunks of one head in whole, of the other in blocks, and all in blocks
    strong = LinearCase("fp32", 70, 72, 16, "channel", state=True, B=1, H=2, Hkv=2, speed=16.0)
    found.append((strong, ScanConfig(32, 16, 4, 1, gate_whole=True)))
    found.append((replace(strong, speed=1.0, strict=True), ScanConfig(32, 16, 4, 1)))
    return found


def main() -> int:
    """0 if all cases of the group are right."""
    warnings.filterwarnings("ignore", category=RuntimeWarning)
    group, groups = int(sys.argv[1]), int(sys.argv[2])
    scan_passes.GATE_LENGTH = 32  # pyright: ignore[reportPrivateImportUsage]
    wrong = 0
    chosen = cases()[group::groups]
    for case, config in chosen:
        text = compare(case, config, "cpu")
        if text:
            wrong += 1
            print(f"WRONG {case} {config}: {text}")
    print(f"{len(chosen) - wrong} of {len(chosen)} cases right")
    return 1 if wrong else 0


if __name__ == "__main__":
    guard.install()
    sys.exit(main())
