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
    """What was asked for: seconds for each pass, whether each search is told on standard error, and whether candidates
    run in a process of their own."""

    budget: float = BUDGET
    verbose: bool = False
    isolated: bool = False


active: int = 0
"""How many `tuning` there are in this process: a call looks no further where there is none."""
_ASKED: ContextVar[Tuning | None] = ContextVar("attndsl_tuning", default=None)


@contextmanager
def tuning(budget: float = BUDGET, *, verbose: bool = False, isolated: bool = False) -> Generator[None]:
    """Calls made within are tuned before they run, where they run on backend 'triton' and their bucket of sizes was
    not tuned before: every pass of them for at most `budget` seconds. What is found is kept in the cache. Calls that
    require gradients have their backward passes tuned too.

    Candidates run in this process, on the tensors of the call: what crashes the GPU is a CandidateError, remembered,
    after which this process cannot use the GPU any more. `isolated` ones run in a process of their own, on the inputs
    of the call (which may decide what is visible) and on random q, k and v of its shapes; it takes the memory of
    another such call, and one that crashes or hangs costs nothing but its time. ValueError for a budget that is not
    positive."""
    if not budget > 0:
        raise ValueError(f"budget: expected seconds above 0, got {budget!r}")
    global active
    token = _ASKED.set(Tuning(budget, verbose, isolated))
    active += 1
    try:
        yield
    finally:
        active -= 1
        _ASKED.reset(token)


def asked() -> Tuning | None:
    """What `tuning` asks for here."""
    return _ASKED.get()
