"""Whether calls run compiled C: by their size, by `ATTNDSL_NATIVE`, or as a test asks."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal as Lit

VARIABLE = "ATTNDSL_NATIVE"
PAIRS = 1 << 23
"""Pairs (heads and batches counted) that a call visits before a kernel is compiled for it. Smaller calls run torch
operations whether there is a kernel or not, so that equal calls give equal bits."""

Mode = Lit["never", "by size", "always"]
_FORCED: ContextVar[Mode | None] = ContextVar("attndsl_native", default=None)


@contextmanager
def forced(mode: Mode) -> Generator[None]:
    """Calls made within run compiled C always, never, or by their size."""
    token = _FORCED.set(mode)
    try:
        yield
    finally:
        _FORCED.reset(token)


def mode() -> Mode:
    """What `forced` or the environment asks for: `ATTNDSL_NATIVE=0` is never, `=1` always."""
    found = _FORCED.get()
    if found is not None:
        return found
    given = os.environ.get(VARIABLE, "").strip().lower()
    return "never" if given in ("0", "off", "no", "false") else "always" if given in ("1", "always") else "by size"


def large_enough(pairs: float) -> bool:
    """Whether a call of so many pairs runs compiled C where it can."""
    asked = mode()
    return asked == "always" or (asked == "by size" and pairs >= PAIRS)
