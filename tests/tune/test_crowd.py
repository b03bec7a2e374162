"""Sixteen processes start cold on the same fifty keys."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_each_key_is_tuned_once(tmp_path: Path) -> None:
    environment = {**os.environ, "ATTNDSL_CACHE_DIR": str(tmp_path / "cache")}
    ran = subprocess.run(
        [sys.executable, "-m", "tests.tune.crowd", "16", "50", str(tmp_path / "log")],
        capture_output=True, text=True, env=environment, check=False, timeout=200,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert ran.stderr == ""
    assert sorted(map(int, (tmp_path / "log").read_text().split())) == list(range(50))
    assert sorted(p.suffix for p in (tmp_path / "cache" / "tuned").iterdir()) == [".json"] * 50
