"""Keys and entries for tests of the cache."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from attndsl.runtime.cache.entry import Entry, Timing
from attndsl.runtime.cache.key import Bucket, Key, Machine

H200 = Machine("NVIDIA H200", 90, 132, 232448)
H100 = Machine("NVIDIA H100 80GB HBM3", 90, 132, 232448)
A100 = Machine("NVIDIA A100-SXM4-80GB", 80, 108, 166912)
FAST: dict[str, Any] = {"rows": 128, "columns": 64, "warps": 8, "stages": 4}
SLOW: dict[str, Any] = {"rows": 64, "columns": 64, "warps": 4, "stages": 2}


def make_key(n: int = 0, **changes: Any) -> Key:
    key = Key(
        H200, "kernels", "3.6.0", f"attention{n}", f"family{n}", "forward", "bf16", 128, 128, 1,
        Bucket(16, 32768, 32768),
    )  # fmt: skip
    return replace(key, **changes)


def make_entry(key: Key | None = None, fast: float = 1.0, slow: float = 2.0, **changes: Any) -> Entry:
    timings = {
        "128x64 w8 s4": Timing(FAST, "measured", fast, 0.01),
        "64x64 w4 s2": Timing(SLOW, "measured", slow, 0.01),
        "128x64 w4 s2 specialize": Timing({**SLOW, "specialize": True}, "wrong", note="not a number"),
    }
    made = Entry(key or make_key(), "window", {"L": 30000}, timings, "64x64 w4 s2", {"when": "2026-01-01"})
    return replace(made, **changes)
