"""What a caller gets when a generated kernel does not compile."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from attndsl.diagnostics.source import NOWHERE, Span


class KernelError(RuntimeError):
    """A generated kernel did not compile, or takes more of the GPU than there is: the compiler's mistake, not the
    caller's.

    `attention` is the name of the spec and `place` where it stands (`file.attn:3:1`, empty for one without a text);
    `configuration` says which kernel it was (pass, tile, warps, stages, element type, head sizes, target), `words` what
    Triton's compiler said, and `reproducer` is a file that compiles the kernel again with triton alone (None where no
    folder could be written). The same spec runs on backend 'cpu', and with another configuration perhaps.
    """

    def __init__(
        self, attention: str, place: str, line: str, configuration: str, words: str, reproducer: Path | None
    ) -> None:
        self.attention = attention
        self.place = place
        self.configuration = configuration
        self.words = words
        self.reproducer = reproducer
        self._line = line
        kept = "could not be kept: no folder can be written; set ATTNDSL_CACHE_DIR"
        if reproducer is not None:
            kept = f"python {reproducer}"
        super().__init__(
            f"{attention}: a generated kernel did not compile; backend 'cpu' runs this attention\n"
            f"  spec        {f'{place}: {line}' if place else attention}\n"
            f"  kernel      {configuration}\n"
            f"  compiler    {indented(words)}\n"
            f"  reproducer  {kept}"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return KernelError, (
            self.attention, self.place, self._line, self.configuration, self.words, self.reproducer
        )  # fmt: skip


class KernelWarning(UserWarning):
    """A kernel runs in another configuration than the one that was chosen. Results do not depend on it."""


_warned: set[str] = set()


def one_stage(error: KernelError) -> None:
    """Say once that a kernel that did not compile runs without a pipeline."""
    message = (
        f"{error.attention}: a kernel did not compile and runs with one stage instead ({error.configuration}; "
        f"{' '.join(error.words.split())[:300]})"
    )
    if message not in _warned:
        _warned.add(message)
        warnings.warn(message, KernelWarning, stacklevel=2)


def place_of(span: Span) -> str:
    """`file:line:column`, empty for what no user wrote."""
    return "" if span == NOWHERE else repr(span)


def first_line(span: Span) -> str:
    """The line in which a span begins."""
    return span.source.line(span.source.position(span.start)[0]).strip()


def indented(words: str, most: int = 24) -> str:
    """The last lines of what a compiler said, below one another."""
    lines = [line.rstrip() for line in words.strip().splitlines() if line.strip()]
    left_out = ["..."] if len(lines) > most else []
    return "\n              ".join([*left_out, *lines[-most:]])
