"""Trials run every pass of a call and find what is wrong with it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")


def test_trials_on_the_interpreter() -> None:
    """In a process of its own: Triton decides at import whether it interprets."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.tune.interpreted"],
        capture_output=True, text=True, env={**os.environ, "TRITON_INTERPRET": "1"}, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    passes = ["forward", "dq", "dkdv", "decode", "documents", "apart", "scan", "scan_dq", "scan_dk", "scan_dv", "step"]
    assert ran.stdout.splitlines() == [f"{p} right" for p in passes]
