"""Processes in which Triton interprets kernels: it decides at import whether it does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_ENVIRONMENT = {"TRITON_INTERPRET": "1"}
BRISK = f"""
import importlib.util
spec = importlib.util.spec_from_file_location("brisk", {str(Path(__file__).with_name("brisk.py"))!r})
brisk = importlib.util.module_from_spec(spec)
spec.loader.exec_module(brisk)
brisk.install()
"""
"""Code of processes without this repository, whose interpreter is as quick as in others."""


def run_cases(module: str, *arguments: object) -> str:
    """What `python -m` of a module of tests prints, whose cases must all be right."""
    ran = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        capture_output=True, text=True, env=os.environ | _ENVIRONMENT, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-4000:]
    return ran.stdout


def run_alone(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Python code where this repository is not found."""
    environment = {n: v for n, v in os.environ.items() if n != "PYTHONPATH"} | _ENVIRONMENT
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd="/", env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
