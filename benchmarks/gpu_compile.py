"""Kernels compiled in the background, in the order in which they will be measured, by processes that share a cache."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures import TimeoutError as LateError
from multiprocessing import get_context
from typing import Any

Job = tuple[Any, ...]


class Compiling:
    """`run(*job)` for every job, many at a time. It returns what went wrong, or nothing.

    A kernel that hangs costs its worker; `close` ends the workers.
    """

    def __init__(self, run: Callable[..., str], jobs: Sequence[Job], workers: int) -> None:
        self._pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
        self._found: dict[Job, Future[str]] = {job: self._pool.submit(run, *job) for job in dict.fromkeys(jobs)}

    def problem(self, job: Job, until: float) -> str:
        """What is wrong with a kernel, empty if it is there; waits for it until a time."""
        try:
            return self._found[job].result(timeout=max(0.0, until - time.time()))
        except LateError:
            return "not compiled in time"
        except Exception as error:
            return repr(error)[:300]

    def close(self) -> None:
        """End the workers, whatever they do."""
        own = list((getattr(self._pool, "_processes", None) or {}).values())
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in own:
            process.kill()
