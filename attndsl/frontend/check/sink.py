"""Collecting the findings of one program, each once."""

from __future__ import annotations

from attndsl.diagnostics.report import Diagnostic, Note
from attndsl.diagnostics.source import Source, Span
from attndsl.frontend.limits import DIAGNOSTICS


class Sink:
    """Keeps findings in order. The same finding at the same place is kept once, whatever way led there."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, int, int, str, Source], Diagnostic] = {}

    def __len__(self) -> int:
        return len(self._found)

    def report(
        self, code: str, message: str, span: Span, *, label: str = "", help: str = "", notes: tuple[Note, ...] = ()
    ) -> None:
        key = (code, span.start, span.stop, message, span.source)
        if key not in self._found and len(self._found) < DIAGNOSTICS:
            self._found[key] = Diagnostic(code, message, span, label, help, notes)

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """All findings, by their place in the text."""
        return tuple(sorted(self._found.values(), key=lambda d: (d.span.source.name, d.span.start, d.span.stop)))
