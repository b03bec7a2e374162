"""Candidates that fail: what took the GPU's context with it, what was short of memory, and what people are told."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from pathlib import Path
from typing import Any

from attndsl.ir.attention import Attention
from attndsl.runtime.failures import first_line, indented, place_of
from attndsl.runtime.triton.labels import AnyConfig, label
from attndsl.tune.workers import Job, ScanJob

CRASHED = "crashed: "
"""How the note of a candidate begins that took a process, or its GPU context, with it."""
ENDED = f"{CRASHED}its process ended while it ran"
"""The note of one over which a process ended without a word: somebody may have ended it, so it is tried once more."""
ENDED_TWICE = f"{ENDED}, twice"
AGAIN = "once more, "
"""How the note of what runs begins where a process ended over it before."""
LOST = (
    "illegal memory access", "illegal instruction", "illegal address", "misaligned address",
    "unspecified launch failure", "invalid program counter", "invalid pc", "invalid address space",
    "hardware stack error", "device-side assert", "launch timed out", "launch timeout", "uncorrectable ECC",
    "context is destroyed", "trap instruction",
)  # fmt: skip
"""Words of errors after which nothing that a process measures means anything."""


class LostError(RuntimeError):
    """The process that ran a candidate ended, or was ended because it hung; its message says which."""


class FailedError(RuntimeError):
    """A candidate failed in the process that ran it, which goes on; its message is the error's, with its kind."""


class MeasurerError(RuntimeError):
    """No process starts that could measure candidates."""


class ShortOfMemoryError(RuntimeError):
    """There was not enough memory to run a candidate: nothing that is wrong with it."""


class CrashedError(RuntimeError):
    """A candidate, `config`, took the GPU's context of this process with it; `note` is what is remembered of it."""

    def __init__(self, config: AnyConfig, note: str) -> None:
        self.config, self.note = config, note
        self.job: Job | ScanJob | None = None
        """How its kernels are compiled, where that is known."""
        super().__init__(f"{label(config)} {note}")


class CandidateError(RuntimeError):
    """A candidate took the GPU's context of this process with it while it was tuned.

    `attention` is the name of the spec and `place` where it stands, `step` the pass, `config` the label of the
    candidate, `words` what the driver said, and `reproducers` are files that compile its kernels again with triton
    alone. The candidate is remembered; no search of these versions runs it again. No call of this process can use the
    GPU any more.
    """

    def __init__(
        self, attention: str, place: str, line: str, step: str, config: str, words: str, reproducers: tuple[Path, ...]
    ) -> None:
        self.attention, self.place, self.step, self.config = attention, place, step, config
        self.words, self.reproducers, self._line = words, reproducers, line
        kept = "\n              ".join(f"python {p}" for p in reproducers) or "could not be kept"
        super().__init__(
            f"{attention}: a candidate crashed the GPU while pass {step!r} was tuned; it will not be tried again, and "
            f"this process cannot use the GPU any more: start it again (`attndsl tune`, and tuning(isolated=True), "
            f"measure in processes of their own)\n"
            f"  spec        {f'{place}: {line}' if place else attention}\n"
            f"  candidate   {config}\n"
            f"  driver      {indented(words)}\n"
            f"  kernels     {kept}"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return CandidateError, (
            self.attention, self.place, self._line, self.step, self.config, self.words, self.reproducers
        )  # fmt: skip


def lost(error: BaseException) -> bool:
    """Whether an error says that the GPU's context is lost."""
    text = str(error)
    return any(w in text for w in LOST)


def short(error: BaseException) -> bool:
    """Whether an error is of memory that was not there."""
    text = str(error)
    return isinstance(error, ShortOfMemoryError) or (
        "OutOfMemory" in type(error).__name__ or "CUDA out of memory" in text or "[CUDA]: out of memory" in text
    )


def words_of(error: BaseException) -> str:
    """An error in a line."""
    if isinstance(error, FailedError):
        return str(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]


def crash_of(error: BaseException) -> str:
    """The note of a candidate after which the context was lost."""
    said = next((w for w in LOST if w in str(error)), words_of(error))
    return f"{CRASHED}{said}"


def crashed(error: CrashedError, spec: Attention) -> CandidateError:
    """The error of a candidate of an attention as it was written, with files that show its kernels."""
    place = place_of(spec.span)
    line = first_line(spec.span) if place else ""
    words = error.note.removeprefix(CRASHED)
    step = "" if error.job is None else error.job.step
    return CandidateError(spec.name, place, line, step, label(error.config), words, _kept(error.job, words))


def _kept(job: Job | ScanJob | None, words: str) -> tuple[Path, ...]:
    from attndsl.runtime.triton.failures import keep_reproducer
    from attndsl.runtime.triton.lowering import attempt_of, elements
    from attndsl.tune.workers import lowered

    if not isinstance(job, Job):
        return ()
    try:
        made = [keep_reproducer(attempt_of(it, elements(it.attention)), words, ran=True) for it in lowered(job)]
    except Exception:
        # the crash is what is to be told
        return ()
    return tuple(p for p in made if p is not None)
