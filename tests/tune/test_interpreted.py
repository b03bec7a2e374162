"""Trials run every pass of a call and find what is wrong with it."""

from __future__ import annotations

import pytest

from tests.runtime.triton.interpreted import run_cases

pytest.importorskip("triton")


def test_trials_on_the_interpreter() -> None:
    passes = [
        "forward",
        "dq",
        "dkdv",
        "decode",
        "documents",
        "sums",
        "apart",
        "scan",
        "scan_dq",
        "scan_dk",
        "scan_dv",
        "step",
    ]
    assert run_cases("tests.tune.interpreted").splitlines() == [f"{p} right" for p in passes]
