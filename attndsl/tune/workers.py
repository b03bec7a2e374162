"""Processes that compile candidates side by side, each `python -m attndsl.tune.workers`.

They are processes of their own, not forks: a fork of a process that uses a GPU cannot, and one that starts like the
parent would run the user's script again. Jobs and answers are pickles between parent and child, never files.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import IO, Any

from attndsl.codegen.triton import TritonModule
from attndsl.ir.attention import Attention
from attndsl.runtime.triton.config import Config, Pass
from attndsl.schedule.problem import Problem

MOST = 8


@dataclass(frozen=True)
class Job:
    """A candidate to compile for a compute capability (times ten): the attention as it is printed."""

    attention: str
    problem: Problem
    dtype: str
    capability: int
    step: Pass
    config: Config


@dataclass(frozen=True)
class Compiled:
    """Registers and spilled bytes of a thread, bytes of shared memory of a block, the largest of all kernels of the
    call; stages that were compiled. `error` says why there is none."""

    registers: int = 0
    spills: int = 0
    shared: int = 0
    stages: int = 0
    error: str = ""


def compile_job(job: Job) -> Compiled:
    """Compile a candidate here."""
    from attndsl.ir.reader import read_attention
    from attndsl.runtime.triton.lowering import compile_lowered, lower

    try:
        dtype: Any = job.dtype
        attention = read_attention(job.attention)
        _, launches = lower(attention, job.problem, dtype, capability=job.capability, config=job.config, lse=False)
        built = [compile_lowered(replace(one, module=_as_called(one.module))) for one in launches]
    except Exception as error:
        return Compiled(error=f"{type(error).__name__}: {' '.join(str(error).split())}"[:300])
    return Compiled(
        max((b.registers for b in built), default=0), max((b.spills for b in built), default=0),
        max((b.shared for b in built), default=0), min((one.stages for one in launches), default=job.config.stages),
    )  # fmt: skip


def _as_called(module: TritonModule) -> TritonModule:
    """With strides as Triton takes those of a call: 32 bits hold them, in units of 16 bytes. What is compiled here is
    then what the call finds in the cache."""
    arguments = [replace(a, type="i32") if a.role == "stride" else a for a in module.arguments]
    return replace(module, arguments=tuple(arguments))


def job_of(attention: Attention, problem: Problem, dtype: str, capability: int, step: Pass, config: Config) -> Job:
    """The job of a candidate of an attention (consts bound, simplified)."""
    from attndsl.ir.printer import print_attention

    return Job(print_attention(attention), problem, dtype, capability, step, config)


def processors() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Workers:
    """A pool of compiling processes, started when first needed and ended by `close`."""

    def __init__(self, count: int | None = None) -> None:
        self.count = max(1, min(count or processors(), MOST))
        self._idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        self._every: list[subprocess.Popen[bytes]] = []

    def compile(self, jobs: Sequence[Job]) -> list[Compiled]:
        """The answers, in the order of the jobs."""
        if not jobs:
            return []
        wanted = min(self.count, len(jobs))
        while len(self._every) < wanted:
            self._every.append(_start())
            self._idle.put(self._every[-1])
        with ThreadPoolExecutor(wanted) as pool:
            return list(pool.map(self._one, jobs))

    def _one(self, job: Job) -> Compiled:
        worker = self._idle.get()
        try:
            assert worker.stdin is not None
            assert worker.stdout is not None
            _send(worker.stdin, job)
            answer = _receive(worker.stdout)
            assert isinstance(answer, Compiled)
        except (OSError, EOFError, pickle.UnpicklingError):
            # the compiler took the process with it
            worker.kill()
            worker.wait()
            self._every.remove(worker)
            self._every.append(_start())
            self._idle.put(self._every[-1])
            return Compiled(error="the compiler crashed")
        self._idle.put(worker)
        return answer

    def close(self) -> None:
        """End the processes."""
        for worker in self._every:
            if worker.stdin is not None:
                worker.stdin.close()
            worker.kill()
            worker.wait()
        self._every.clear()


def _start() -> subprocess.Popen[bytes]:
    path = os.pathsep.join(p for p in sys.path if p)
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "attndsl.tune.workers"]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )


def _send(stream: IO[bytes], data: object) -> None:
    pickle.dump(data, stream)
    stream.flush()


def _receive(stream: IO[bytes]) -> object:
    return pickle.load(stream)


def main() -> None:
    """Answer jobs until the parent goes away."""
    answers = os.fdopen(os.dup(1), "wb")
    # what a compiler prints must not get among the answers
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    while True:
        try:
            job = _receive(sys.stdin.buffer)
        except EOFError:
            return
        assert isinstance(job, Job)
        _send(answers, compile_job(job))


if __name__ == "__main__":
    # jobs name classes of the module, not of the script
    from attndsl.tune import workers

    workers.main()
