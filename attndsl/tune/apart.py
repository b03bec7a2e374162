"""Candidates that run in a process of their own: one that crashes the GPU, or never ends, takes that process with it.

`Measurer` is this side of it. The process, `python -m attndsl.tune.measurer`, makes tensors like those of a call,
checks and measures what it is asked for, and is started anew where it ended. What goes between them are pickles of
parent and child, never files.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Event, Timer
from types import TracebackType
from typing import IO, Any, Self, cast

from attndsl.ir.attention import Attention
from attndsl.runtime.cache.key import Machine
from attndsl.runtime.triton.config import Pass
from attndsl.runtime.triton.labels import AnyConfig
from attndsl.runtime.triton.scan_config import ScanPass
from attndsl.tune.failures import CRASHED, FailedError, LostError, MeasurerError, ShortOfMemoryError
from attndsl.tune.parts import Part

START = 180.0
"""Seconds until such a process has the tensors of a call."""
LIMIT = 120.0
"""Seconds that one candidate may take beside those of its measurement: its kernels may have to be compiled once more,
and the first one of a process waits for the oracle."""
TOLD = 2000
"""Last characters of what a process that ended had said."""


@dataclass(frozen=True)
class Recipe:
    """A call to make tensors for: the attention as it was written (consts bound), the sizes of q, k and v and their
    element type, inputs by name (on the CPU), scalars, and what else a call is given. `token_major`: tokens come before
    heads in memory. `states`: it has one, so that one row is a step."""

    attention: Attention
    sizes: Mapping[str, int]
    dtype: str
    inputs: Mapping[str, Any]
    scalars: Mapping[str, Any]
    grid: Any = None
    scale: float | None = None
    q_offset: Any = 0
    seed: int = 0
    device: int = 0
    token_major: bool = False


@dataclass(frozen=True)
class Asked:
    """A candidate to check (`seconds` 0) or to measure. `safe` is what it is compared with, `safe_fails` that this
    cannot run. `part` is what of the call runs."""

    step: Pass | ScanPass
    config: AnyConfig
    safe: AnyConfig
    safe_fails: bool = False
    seconds: float = 0.0
    part: Part | None = None


@dataclass(frozen=True)
class Answer:
    """What came of it: a value, or in words how it failed; `fatal` where the process cannot go on, `short` where memory
    was."""

    value: Any = None
    failed: str = ""
    fatal: bool = False
    short: bool = False


@dataclass(frozen=True)
class Ready:
    """What a process says when it has its tensors: its GPU, and whether the call runs as a scan."""

    machine: Machine
    scans: bool


class Measurer:
    """The process that measures candidates of one call, started when first needed, and again after each that ended.

    LostError says how one ended over a candidate; MeasurerError that none starts. `command` is what is started."""

    def __init__(self, recipe: Any, *, command: Sequence[str] = (), start: float = START, limit: float = LIMIT) -> None:
        self.recipe, self._start, self._limit = recipe, start, limit
        self._command = list(command) or [sys.executable, "-m", "attndsl.tune.measurer"]
        self._process: subprocess.Popen[bytes] | None = None
        self._said: IO[bytes] | None = None
        self._ready: Ready | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def ready(self) -> Ready:
        """What the process said when it started."""
        if self._ready is None:
            self._begin()
        assert self._ready is not None
        return self._ready

    def ask(self, asked: Asked) -> Any:
        """What a candidate's check or measurement comes to. FailedError in its words where it raised."""
        if self._process is None:
            self._begin()
        answer = self._exchange(asked, self._limit + asked.seconds)
        if isinstance(answer, str):
            self.close()
            raise LostError(f"{CRASHED}{answer}")
        if answer.fatal:
            self.close()
            raise LostError(answer.failed)
        if answer.short:
            # what was kept of earlier candidates goes with the process
            self.close()
            raise ShortOfMemoryError(answer.failed)
        if answer.failed:
            raise FailedError(answer.failed)
        return answer.value

    def close(self) -> None:
        """End the process, whatever it does."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    _close(stream)
        said, self._said = self._said, None
        if said is not None:
            said.close()

    def _begin(self) -> None:
        path = os.pathsep.join(p for p in sys.path if p)
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            # a session of its own: who interrupts this process is not to interrupt a measurement half way
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said,
                env={**os.environ, "PYTHONPATH": path}, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise MeasurerError(f"the process that measures does not start: {error}") from error
        answer = self._exchange(self.recipe, self._start)
        if isinstance(answer, str) or answer.failed:
            words = answer if isinstance(answer, str) else answer.failed
            told = self._told()
            self.close()
            if not isinstance(answer, str) and answer.short:
                raise ShortOfMemoryError(words)
            raise MeasurerError(f"the process that measures did not start: {words}" + (f"\n{told}" if told else ""))
        self._ready = cast("Ready", answer.value)

    def _exchange(self, message: Any, seconds: float) -> Answer | str:
        """The answer to a message; how the process ended where there is none."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        late = Event()

        def end() -> None:
            late.set()
            process.kill()

        timer = Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            pickle.dump(message, process.stdin)
            process.stdin.flush()
            return cast("Answer", pickle.load(process.stdout))
        except (OSError, EOFError, pickle.UnpicklingError):
            process.kill()
            return f"hung, ended after {seconds:.0f} s" if late.is_set() else _ended(process.wait())
        finally:
            timer.cancel()

    def _told(self) -> str:
        """The end of what the process said."""
        if self._said is None:
            return ""
        self._said.seek(0)
        return self._said.read().decode(errors="replace").strip()[-TOLD:]


def _close(stream: IO[bytes]) -> None:
    # what was not sent yet to a process that is gone
    with suppress(OSError):
        stream.close()


def _ended(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"its process ended with {code}"
    try:
        return f"its process ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"its process ended by signal {-code}"
