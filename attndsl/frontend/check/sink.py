"""Collecting the findings of one program, each once."""

from __future__ import annotations

from attndsl.diagnostics.report import Diagnostic, Note
from attndsl.diagnostics.source import Source, Span
from attndsl.frontend.limits import DIAGNOSTICS


class Sink:
    """Keeps findings in order. A code is kept once at a place: a function's body is checked once for each call."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, int, int, Source], Diagnostic] = {}
        self.quiet: frozenset[str] = frozenset()
        """Codes that are not reported for now: what may follow from a part that could not be read."""

    def __len__(self) -> int:
        return len(self._found)

    def report(
        self, code: str, message: str, span: Span, *, label: str = "", help: str = "", notes: tuple[Note, ...] = ()
    ) -> None:
        if code in self.quiet:
            return
        key = (code, span.start, span.stop, span.source)
        if key not in self._found and len(self._found) < DIAGNOSTICS:
            self._found[key] = Diagnostic(code, message, span, label, help, notes)

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """All findings, by their place in the text."""
        return tuple(sorted(self._found.values(), key=lambda d: (d.span.source.name, d.span.start, d.span.stop)))
