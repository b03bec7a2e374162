"""Processes that are killed while they write leave neither unreadable entries nor garbage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

KILLS = 200


def test_kills_at_random_moments(tmp_path: Path) -> None:
    environment = {**os.environ, "ATTNDSL_CACHE_DIR": str(tmp_path / "cache")}
    ran = subprocess.run(
        [sys.executable, "-m", "tests.runtime.cache.kills", str(KILLS)],
        capture_output=True, text=True, env=environment, check=False, timeout=120,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    # kills met files half written and locks held
    assert found["left"] > 0
    assert found["problems"] == {}
    assert found["readable"] == 4
    assert len(found["names"]) == 4
