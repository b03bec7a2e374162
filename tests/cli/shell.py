"""The command line as a user has it: a process, its streams and its exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
BYTECODE = ROOT / ".pytest_cache" / "bytecode"
"""An installed package has its bytecode at hand; so has the command here, whatever the environment says."""


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def attndsl(*arguments: object, stdin: str | bytes = b"", cwd: Path | None = None) -> Result:
    """Run the command. A Python traceback fails the test at once."""
    data = stdin.encode() if isinstance(stdin, str) else stdin
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": str(BYTECODE)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [sys.executable, "-m", "attndsl", *map(str, arguments)],
        input=data, capture_output=True, cwd=cwd or ROOT, env=environment, timeout=300, check=False,
    )  # fmt: skip
    result = Result(done.returncode, done.stdout.decode(), done.stderr.decode())
    assert "Traceback" not in result.err, result.err
    return result


def one_line(result: Result) -> str:
    """Standard error of a wrong call: exactly one line, exit code 2, nothing on standard output."""
    assert result.code == 2, result
    assert result.out == "", result
    lines = result.err.splitlines()
    assert len(lines) == 1, result.err
    assert lines[0].startswith("attndsl: ")
    return lines[0].removeprefix("attndsl: ")
