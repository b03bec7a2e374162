"""Kernels under Triton's interpreter: their logic, on the CPU."""
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

GROUPS = 4
DTYPES = ("float32", "float16", "bfloat16")


@pytest.mark.parametrize(("group", "groups", "how"), [*((i, GROUPS, "") for i in range(GROUPS)), (0, 1, "one")])
def test_cases_equal_the_definition(group: int, groups: int, how: str) -> None:
    """In processes of their own: Triton decides at import whether it interprets."""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    ran = subprocess.run(
        [sys.executable, "-m", "tests.runtime.triton.interpret", str(group), str(groups), *([how] if how else [])],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-4000:]
    assert "cases right" in ran.stdout
