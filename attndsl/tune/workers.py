"""Processes that compile candidates side by side, each `python -m attndsl.tune.workers`.

They are processes of their own, not forks: a fork of a process that uses a GPU cannot, and one that starts like the
parent would run the user's script again. Jobs and answers are pickles between parent and child, never files.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from collections.abc import Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from queue import SimpleQueue
from threading import Event, Lock, Timer
from typing import IO, TYPE_CHECKING, Any, cast

from attndsl.ir.attention import Attention
from attndsl.ir.printer import print_attention
from attndsl.runtime.triton.config import Config, Pass
from attndsl.runtime.triton.scan_config import ScanConfig, ScanPass
from attndsl.schedule.build import build
from attndsl.schedule.problem import Problem
from attndsl.tune.machines import Gpu

if TYPE_CHECKING:
    from attndsl.runtime.triton.lowering import Lowered

MOST = 8
LIMIT = 120.0
"""Seconds that a job may take."""
CRASHED = "the compiler crashed"
_BESIDE = frozenset(("prepare", "finish", "merge"))
"""Kernels that have no loop over boxes to keep stages of."""
UNSPECIALISED = "warps are not specialised: "
"""How the error of such a candidate begins: a call would run it in two loops."""


@dataclass(frozen=True)
class Job:
    """A candidate to compile for a compute capability (times ten): the attention as it is printed."""

    attention: str
    problem: Problem
    dtype: str
    capability: int
    step: Pass
    config: Config
    multiprocessors: int = 132


@dataclass(frozen=True)
class Ranking:
    """Candidates of a pass to put in the order of the cost model, the default first; at most `most` of them."""

    attention: str
    problem: Problem
    dtype: str
    gpu: Gpu
    step: Pass
    most: int


@dataclass(frozen=True)
class ScanJob:
    """A candidate of a pass of linear attention to compile for a compute capability (times ten)."""

    attention: str
    problem: Problem
    dtype: str
    capability: int
    step: ScanPass
    config: ScanConfig
    multiprocessors: int

    @staticmethod
    def of(attention: Attention, problem: Problem, dtype: str, gpu: Gpu, step: ScanPass, config: ScanConfig) -> ScanJob:
        """The job of a candidate of an attention (consts bound, simplified)."""
        m = gpu.machine
        bare = replace(problem, tables={})
        return ScanJob(print_attention(attention), bare, dtype, m.capability, step, config, m.multiprocessors)


Task = Job | Ranking | ScanJob


@dataclass(frozen=True)
class Compiled:
    """Registers and spilled bytes of a thread, bytes of shared memory of a block, the largest of all kernels of the
    call; stages that were compiled. `error` says why there is none."""

    registers: int = 0
    spills: int = 0
    shared: int = 0
    stages: int = 0
    error: str = ""

    @property
    def words(self) -> str:
        """What it takes, for people."""
        spills = f", {self.spills} bytes spilled" if self.spills else ""
        return f"{self.registers} registers{spills}, {self.shared >> 10} KiB shared"


def compile_job(job: Job) -> Compiled:
    """Compile a candidate here."""
    from attndsl.runtime.triton.lowering import compile_lowered

    try:
        launches = lowered(job)
        built = [compile_lowered(one) for one in launches]
        if job.config.specialize:
            reason = _not_specialized(job, launches, built)
            if reason:
                return Compiled(error=f"{UNSPECIALISED}{reason}")
    except Exception as error:
        return Compiled(error=f"{type(error).__name__}: {' '.join(str(error).split())}"[:300])
    return Compiled(
        max((b.registers for b in built), default=0), max((b.spills for b in built), default=0),
        max((b.shared for b in built), default=0),
        min((one.stages for one in launches if one.module.name not in _BESIDE), default=job.config.stages),
    )  # fmt: skip


def compile_scan_job(job: ScanJob) -> Compiled:
    """Compile a candidate of a pass of linear attention here."""
    from attndsl.ir.reader import read_attention
    from attndsl.runtime.triton.scan_lowering import Gpu as Target
    from attndsl.runtime.triton.scan_lowering import compile_launched, lower_scan

    try:
        attention, target = read_attention(job.attention), Target(job.capability, job.multiprocessors)
        launches = lower_scan(attention, job.problem, job.dtype, job.step, job.config, target)
        built = [compile_launched(it, job.capability) for it in launches]
    except Exception as error:
        return Compiled(error=f"{type(error).__name__}: {' '.join(str(error).split())}"[:300])
    return Compiled(
        max(b.registers for b in built), max(b.spills for b in built), max(b.shared for b in built),
        job.config.stages,
    )  # fmt: skip


def lowered(job: Job) -> list[Lowered]:
    """The launches of a candidate's pass, with the tables that a call has: the device makes those of masks that read
    tensors."""
    from attndsl.ir.reader import read_attention
    from attndsl.runtime.triton.decode_lowering import lower_decode
    from attndsl.runtime.triton.lowering import lower, lower_backward
    from attndsl.runtime.triton.standalone_lowering import locating

    dtype: Any = job.dtype
    attention = read_attention(job.attention)
    on_a_line = job.step != "decode" and isinstance(job.problem.q_offset, int)
    locate = locating(attention, job.problem, dtype) if on_a_line else None
    if job.step == "forward":
        _, found = lower(
            attention, job.problem, dtype, capability=job.capability, config=job.config, lse=False, locate=locate
        )
    elif job.step == "decode":
        _, found = lower_decode(
            attention, job.problem, dtype, capability=job.capability, config=job.config,
            multiprocessors=job.multiprocessors,
        )  # fmt: skip
    else:
        plan = build(attention, job.problem)
        every = lower_backward(
            attention, job.problem, dtype, plan, capability=job.capability,
            dq=job.config if job.step == "dq" else None, dkdv=job.config if job.step == "dkdv" else None, locate=locate,
        )  # fmt: skip
        # rows are prepared by the tiles of dq
        found = [one for one in every if one.step == job.step or (one.step == "prepare" and job.step == "dq")]
    return list(found)


def _not_specialized(job: Job, launches: Sequence[Lowered], built: Sequence[Any]) -> str:
    """Why a candidate's kernels have no specialised warps; empty where one has."""
    from attndsl.ir.reader import read_attention
    from attndsl.runtime.triton.walks import refusal, specialized

    wished = [one for one in launches if one.form.walk == "specialized"]
    if any(specialized(b) for one, b in zip(launches, built, strict=True) if one in wished):
        return ""
    if wished or not launches:
        return "Triton compiled the loop without them"
    it = launches[0]
    return refusal(read_attention(job.attention), it.form, it.tables, job.config, job.capability)


def rank(job: Ranking) -> list[Config]:
    """The candidates of a pass, ranked here."""
    from attndsl.ir.reader import read_attention
    from attndsl.runtime.triton.choices import facts_of
    from attndsl.tune.candidates import spread
    from attndsl.tune.offline import ranked

    attention = read_attention(job.attention)
    facts = facts_of(attention, job.problem, job.dtype, job.gpu.machine)
    return spread(ranked(attention, job.problem, facts, job.step, job.gpu), job.most)


def job_of(attention: Attention, problem: Problem, dtype: str, gpu: Gpu, step: Pass, config: Config) -> Job:
    """The job of a candidate of an attention (consts bound, simplified)."""
    machine = gpu.machine
    text = print_attention(attention)
    return Job(text, problem, dtype, machine.capability, step, config, machine.multiprocessors)


def processors() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Workers:
    """A pool of processes that compile and rank, started when first needed and ended by `close`.

    Jobs run in the order in which they were given; equal ones run once. One that takes longer than `limit` seconds
    costs its process.
    """

    def __init__(self, count: int | None = None, limit: float = LIMIT) -> None:
        self.count = max(1, count or min(processors(), MOST))
        self.limit = limit
        self._idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        self._every: list[subprocess.Popen[bytes]] = []
        self._lock = Lock()
        self._asked: dict[Hashable, Future[Any]] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._closed = False

    def compile(self, jobs: Sequence[Job]) -> list[Compiled]:
        """The answers, in the order of the jobs."""
        return [f.result() for f in [self.ask(j) for j in jobs]]

    def ahead(self, jobs: Sequence[Task]) -> None:
        """Compile when there is time; `compile` then has the answers at once."""
        for job in jobs:
            self.ask(job)

    def ask(self, job: Task) -> Future[Any]:
        """The answer to come: of a `Job` what it takes, of a `Ranking` its configurations. A job whose process died or
        hung is answered by what says so."""
        key = _key(job)
        with self._lock:
            known = self._asked.get(key)
            if known is not None and not (known.done() and _lost(known)):
                return known
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.count)
            made = self._asked[key] = self._pool.submit(self._one, job)
            return made

    def _one(self, job: Task) -> Compiled | list[Config]:
        worker = self._worker()
        assert worker.stdin is not None
        assert worker.stdout is not None
        hung = Event()

        def end() -> None:
            hung.set()
            worker.kill()

        timer = Timer(self.limit, end)
        timer.start()
        try:
            _send(worker.stdin, job)
            answer = _receive(worker.stdout)
        except (OSError, EOFError, pickle.UnpicklingError):
            # the compiler took the process with it
            worker.kill()
            worker.wait()
            with self._lock:
                self._every = [w for w in self._every if w is not worker]
            said = f"the compiler did not end in {self.limit:.0f} s" if hung.is_set() else CRASHED
            return [] if isinstance(job, Ranking) else Compiled(error=said)
        finally:
            timer.cancel()
        self._idle.put(worker)
        return cast("Compiled | list[Config]", answer)

    def _worker(self) -> subprocess.Popen[bytes]:
        """One that has nothing to do; a new one while there are fewer than `count`."""
        with self._lock:
            if self._closed:
                raise OSError("the workers were ended")
            if self._idle.empty() and len(self._every) < self.count:
                self._every.append(_start())
                return self._every[-1]
        return self._idle.get()

    def close(self) -> None:
        """End the processes, whatever they do."""
        with self._lock:
            self._closed = True
            every, self._every = self._every, []
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        for worker in every:
            worker.kill()
        for worker in every:
            worker.wait()


def _key(job: Task) -> Hashable:
    """Equal for jobs that are the same, whatever the order of names in their problems."""
    p = job.problem
    offset = p.q_offset if isinstance(p.q_offset, int) else p.q_offset.tobytes()
    tables = [(n, t.dtype.str, t.shape, hashlib.sha256(t.tobytes()).digest()) for n, t in p.tables.items()]
    named = (p.sizes, p.scalars, p.q_extents, p.k_extents)
    problem = (offset, tuple(sorted(tables)), *(tuple(sorted(m.items())) for m in named))
    return type(job), problem, tuple(getattr(job, f.name) for f in fields(job) if f.name != "problem")


def _lost(answer: Future[Any]) -> bool:
    """Whether a process died over a job: another try may do better."""
    return answer.cancelled() or answer.exception() is not None or answer.result() in (Compiled(error=CRASHED), [])


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


def answered(job: Task) -> Compiled | list[Config]:
    """The answer to a job, found here."""
    match job:
        case Job():
            return compile_job(job)
        case ScanJob():
            return compile_scan_job(job)
        case Ranking():
            return rank(job)


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
        assert isinstance(job, Job | Ranking | ScanJob)
        _send(answers, answered(job))


if __name__ == "__main__":
    # jobs name classes of the module, not of the script
    from attndsl.tune import workers

    workers.main()
