"""Compilations in processes of their own, side by side."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def side_by_side(work: Callable[[A], B], jobs: Sequence[A], done: Callable[[int], None] = lambda _: None) -> list[B]:
    """What `work` makes of every job, in order; in this process where there is one job or one processor. `done` is told
    how many are."""
    workers = min(len(jobs), os.cpu_count() or 1)
    if workers < 2:
        return [work(job) for job in jobs]
    # an interrupt is told by the process that waits, and ends the others without a word
    quiet = signal.SIGINT, signal.SIG_DFL
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=signal.signal, initargs=quiet) as pool:
        waiting = [pool.submit(work, job) for job in jobs]
        for count, _ in enumerate(as_completed(waiting), 1):
            done(count)
        return [job.result() for job in waiting]
