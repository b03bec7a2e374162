"""Whether calls are to be tuned: `with tuning():`, or `tune="now"` of one call."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

BUDGET = 60.0
"""Seconds that tuning one pass of one call may take."""


@dataclass(frozen=True)
class Tuning:
    """What was asked for: seconds for each pass, and whether each search is told on standard error."""

    budget: float = BUDGET
    verbose: bool = False


active: int = 0
"""How many `tuning` there are in this process: a call looks no further where there is none."""
_ASKED: ContextVar[Tuning | None] = ContextVar("attndsl_tuning", default=None)


@contextmanager
def tuning(budget: float = BUDGET, *, verbose: bool = False) -> Generator[None]:
    """Calls made within are tuned before they run, where they run on backend 'triton' and their bucket of sizes was
    not tuned before: every pass of them for at most `budget` seconds. What is found is kept in the cache. Calls that
    require gradients have their backward passes tuned too. ValueError for a budget that is not positive."""
    if not budget > 0:
        raise ValueError(f"budget: expected seconds above 0, got {budget!r}")
    global active
    token = _ASKED.set(Tuning(budget, verbose))
    active += 1
    try:
        yield
    finally:
        active -= 1
        _ASKED.reset(token)


def asked() -> Tuning | None:
    """What `tuning` asks for here."""
    return _ASKED.get()
