"""Processes that do work in the order of its importance; one that hangs, or has broken its GPU context, is replaced."""

from __future__ import annotations

import os
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

Job = tuple[str, Callable[..., str], tuple[Any, ...]]
"""A name, a function that says in words what went wrong (empty for nothing), and its arguments."""


def _work(pipe: Connection) -> None:
    """Do jobs until told to stop; leave after one that broke the context of this process."""
    # errors are those of the call that they are raised in
    os.environ["CUDA_LAUNCH_BLOCKING"] = "1"
    while True:
        job = pipe.recv()
        if job is None:
            return
        _, function, arguments = job
        broken = False
        try:
            found = function(*arguments)
        except Exception as error:
            lines = str(error).splitlines() or [""]
            found = f"{type(error).__name__}: {lines[0]}"[:300]
            broken = "CUDA" in found
            found += " at " + " < ".join(
                f"{f.name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)[::-1][:6]
            )
        pipe.send((found, broken))
        if broken:
            os._exit(1)


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    job: Job | None = None
    since: float = 0.0


class Crew:
    """`count` processes. `limit` is how many seconds a job may take."""

    def __init__(self, jobs: Iterable[Job], count: int, limit: float = 60.0) -> None:
        self.waiting = deque(jobs)
        self.limit = limit
        self.done: dict[str, str] = {}
        """What went wrong, by job."""
        self._context = get_context("spawn")
        self.workers = [self._hired() for _ in range(min(count, len(self.waiting)))]
        self._hand_out()

    def _hired(self) -> _Worker:
        mine, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs,), daemon=True)
        process.start()
        return _Worker(process, mine)

    def _hand_out(self) -> None:
        for worker in self.workers:
            if worker.job is None and self.waiting:
                worker.job, worker.since = self.waiting.popleft(), time.time()
                worker.pipe.send(worker.job)

    def pump(self, seconds: float) -> list[str]:
        """Wait at most this long for something to be done; the names of what is."""
        busy = {w.pipe: w for w in self.workers if w.job is not None}
        finished: list[str] = []
        for pipe in wait(list(busy), timeout=seconds):
            worker = busy[pipe]  # type: ignore[index]
            assert worker.job is not None
            try:
                text, broken = worker.pipe.recv()
            except EOFError:
                text, broken = "its process died", True
            finished.append(self._finish(worker, text, broken))
        for worker in self.workers:
            if worker.job is not None and time.time() - worker.since > self.limit:
                worker.process.kill()
                finished.append(self._finish(worker, f"not done in {self.limit:.0f} s", True))
        self._hand_out()
        return finished

    def _finish(self, worker: _Worker, text: str, broken: bool) -> str:
        assert worker.job is not None
        name = worker.job[0]
        self.done[name] = text
        worker.job = None
        if broken:
            fresh = self._hired()
            worker.process, worker.pipe = fresh.process, fresh.pipe
        return name

    def until(self, name: str, end: float) -> bool:
        """Wait for a job, at most to a point in time; whether it is done and right."""
        while name not in self.done and time.time() < end:
            self.pump(0.2)
        return self.done.get(name) == ""

    def rest(self, end: float) -> None:
        """Wait for all jobs, at most to a point in time."""
        while time.time() < end and (self.waiting or any(w.job is not None for w in self.workers)):
            self.pump(0.2)

    def close(self) -> None:
        """End all processes."""
        for worker in self.workers:
            worker.process.kill()
