"""A bound on what Triton's compiler may take for a kernel.

Its passes and its assembler end for every kernel that was seen; what they are given is written by users, and either may
loop, or take time that grows faster than the kernel. Triton compiles in stages; each runs in a thread of its own,
which the caller gives up after `ATTNDSL_COMPILE_LIMIT` seconds of the processor's time. Passes are C++ that nothing can
interrupt: a thread that was given up goes on, behind others, until it ends or the process does. The assembler is a
process, and is killed.

What was given up is written down: the next process does not try again unless it is given more time.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingImports=false

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Event, Thread, Timer
from typing import Any

from attndsl.runtime.cache.facts import keep, known
from attndsl.runtime.cache.folder import warn

VARIABLE = "ATTNDSL_COMPILE_LIMIT"
SECONDS = 120.0
"""Of the processor, for a stage. Stages of the largest kernels that were seen took 25 s."""
WAITS = 10.0
"""How many times as long it may take by the clock: on a machine with much to do, or when something waits for ever."""
GRACE = 5.0
"""Seconds that a process, at its end, waits for threads that were given up: one that comes back while Python ends takes
it down."""
KIND = "late"
STAGES = {
    "ttir": "Triton's passes", "ttgir": "Triton's passes over tiles", "llir": "LLVM's passes",
    "ptx": "LLVM's last passes", "cubin": "the assembler's passes",
}  # fmt: skip
"""The stages of Triton's compiler, in words."""
SIGXCPU = int(getattr(signal, "SIGXCPU", 24))


class TooLongError(RuntimeError):
    """A stage of Triton's compiler was given up. `stage` is Triton's name of it."""

    def __init__(self, stage: str, seconds: float, earlier: bool = False) -> None:
        self.stage, self.seconds, self._earlier = stage, seconds, earlier
        again = ", and were not tried again" if earlier else ""
        super().__init__(
            f"{STAGES.get(stage, stage)} ({stage}) did not end within {seconds:g} s{again}; "
            f"{VARIABLE} is how many seconds a stage of the compiler may take (0: any number)"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return TooLongError, (self.stage, self.seconds, self._earlier)


def limit() -> float:
    """Seconds of the processor that a stage may take; infinite for none."""
    given = os.environ.get(VARIABLE, "").strip().lower()
    if not given:
        return SECONDS
    try:
        found = float(given)
    except ValueError:
        found = 0.0 if given in ("off", "no", "none") else -1.0
    if not found >= 0.0:
        warn(f"{VARIABLE}={given!r} is not a number of seconds; it is {SECONDS:g}")
        return SECONDS
    return found or float("inf")


def within(seconds: float, stage: str, work: Callable[[], Any]) -> Any:
    """What `work` returns or raises; TooLongError where it takes more seconds of the processor."""
    found: list[Any] = []
    raised: list[BaseException] = []
    ended = Event()

    def run() -> None:
        try:
            found.append(work())
        except BaseException as error:
            raised.append(error)
        finally:
            ended.set()

    # a daemon: one that never ends must not keep the process
    thread = Thread(target=run, name=f"attndsl-{stage}", daemon=True)
    begun = time.monotonic()
    thread.start()
    while not ended.wait(min(seconds / 4, 0.5)):
        waited = time.monotonic() - begun
        if waited > seconds and (waited > WAITS * seconds or _processor_time(thread, waited) > seconds):
            _give_up(thread)
            raise TooLongError(stage, seconds)
    if raised:
        raise raised[0]
    return found[0]


def _processor_time(thread: Thread, otherwise: float) -> float:
    """Seconds that a thread has computed; `otherwise` where the system does not say."""
    if thread.ident is None or not hasattr(time, "pthread_getcpuclockid"):
        return otherwise
    if not thread.is_alive():
        return 0.0
    try:
        return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
    except OSError:
        return otherwise


_given_up: list[Thread] = []


def _give_up(thread: Thread) -> None:
    """Let a thread go on, behind others."""
    if not _given_up:
        atexit.register(_last_words)
    _given_up.append(thread)
    if thread.native_id is not None:
        with suppress(AttributeError, OSError):
            os.setpriority(os.PRIO_PROCESS, thread.native_id, 5)


def _last_words() -> None:
    end = time.monotonic() + GRACE
    for thread in _given_up:
        thread.join(max(0.0, end - time.monotonic()))


class Assembler:
    """The module `subprocess` as Triton's compiler has it, but for `run`: a process may take the limit's time."""

    def __getattr__(self, name: str) -> Any:
        return getattr(subprocess, name)

    def run(self, command: list[str], *, check: bool = False, **options: Any) -> Any:
        """As `subprocess.run`. TooLongError for a process that takes longer."""
        seconds = limit()
        if seconds == float("inf") or "--version" in command:
            return subprocess.run(command, check=check, **options)
        late = Event()
        with subprocess.Popen(command, **options) as process:
            bounded = _bound(process.pid, seconds)

            def stop() -> None:
                late.set()
                process.kill()

            # to wait with a limit is to look again and again, up to 0.05 s late
            clock = Timer(WAITS * seconds if bounded else seconds, stop)
            clock.daemon = True
            clock.start()
            try:
                code = process.wait()
            except BaseException:
                process.kill()
                raise
            finally:
                clock.cancel()
        if late.is_set() or code == -SIGXCPU:
            for name in command:
                # temporary files of Triton's, which it does not come back to
                if name.endswith((".ptx", ".ptx.o")):
                    Path(name).unlink(missing_ok=True)
            raise TooLongError("cubin", seconds)
        if check and code:
            raise subprocess.CalledProcessError(code, command)
        return subprocess.CompletedProcess(command, code)


def _bound(process: int, seconds: float) -> bool:
    """Have the system end a process, by SIGXCPU, after seconds of the processor. Whether it will."""
    try:
        import resource

        resource.prlimit(process, resource.RLIMIT_CORE, (0, 0))
        most = max(1, round(seconds))
        resource.prlimit(process, resource.RLIMIT_CPU, (most, most + 5))
    except (ImportError, AttributeError, OSError):
        return False
    return True


def _watched(stage: str, work: Callable[..., Any], source: Any, metadata: Any) -> Any:
    """A stage of the compiler, within the limit."""
    seconds = limit()
    if seconds == float("inf"):
        return work(source, metadata)
    about = str(metadata["hash"])
    if stage == "ttir":
        fact = known(KIND, about)
        if fact is not None and float(fact["seconds"]) >= seconds:
            raise TooLongError(str(fact["stage"]), float(fact["seconds"]), earlier=True)
    try:
        # the assembler has the limit as a process
        return work(source, metadata) if stage == "cubin" else within(seconds, stage, partial(work, source, metadata))
    except TooLongError as error:
        keep(KIND, about, {"stage": error.stage, "seconds": seconds})
        raise


def stand_ins() -> dict[Any, dict[str, Any]]:
    """For a module and a class of Triton, what stands in for names of theirs."""
    import triton.backends.nvidia.compiler as nvidia

    backend: Any = nvidia.CUDABackend
    as_is = backend.add_stages

    def add_stages(self: Any, stages: dict[str, Any], *given: Any, **more: Any) -> None:
        as_is(self, stages, *given, **more)
        for name, work in stages.items():
            stages[name] = partial(_watched, name, work)

    return {backend: {"add_stages": add_stages}, nvidia: {"subprocess": Assembler()}}
