"""Errors as a user meets them: a code, a place, what was expected and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from unicodedata import category, combining, east_asian_width

from attndsl.diagnostics.source import NOWHERE, Span


@dataclass(frozen=True)
class Note:
    """A second place that explains the first."""

    span: Span
    text: str

    def to_json(self) -> dict[str, Any]:
        """The note as plain data for `--json`."""
        line, column = self.span.source.position(self.span.start)
        return {"file": self.span.source.name, "line": line, "column": column, "text": self.text}


@dataclass(frozen=True)
class Diagnostic:
    """One finding. `code` is a key of `attndsl.diagnostics.codes.CODES`, such as `E0201`.

    `message` says what is wrong, `label` stands under the underlined span (what was expected),
    `help` says what to do (a did-you-mean, where one is likely).
    """

    code: str
    message: str
    span: Span
    label: str = ""
    help: str = ""
    notes: tuple[Note, ...] = ()

    def render(self) -> str:
        """Plain text with the source line and the span underlined."""
        out = [f"{self.code}: {self.message}"]
        out += _excerpt(self.span, self.label)
        for note in self.notes:
            out += [f"note: {note.text}", *_excerpt(note.span, "")]
        if self.help:
            out.append(f"  help: {self.help}")
        return "\n".join(out)

    def to_json(self) -> dict[str, Any]:
        """The finding as plain data for `--json`; columns count from 1, `end` is exclusive."""
        line, column = self.span.source.position(self.span.start)
        end_line, end_column = self.span.source.position(self.span.stop)
        return {
            "code": self.code, "message": self.message, "label": self.label, "help": self.help,
            "file": self.span.source.name, "line": line, "column": column,
            "end_line": end_line, "end_column": end_column, "notes": [note.to_json() for note in self.notes],
        }  # fmt: skip


def _excerpt(span: Span, label: str) -> list[str]:
    if span.source is NOWHERE.source:
        return []
    line, column = span.source.position(span.start)
    text = span.source.line(line)
    width = max(1, min(span.stop - span.start, len(text) - column + 1))
    shown, start = _clip(text, column - 1, width)
    gutter = " " * len(str(line))
    marked = shown[start : start + width] or " "
    mark = " " * _cells(shown[:start]) + "^" * max(1, _cells(marked))
    return [
        f"{gutter}--> {span.source.name}:{line}:{column}",
        f"{gutter} |",
        f"{line} | {shown}".rstrip(),
        f"{gutter} | {mark} {label}".rstrip(),
    ]


def _clip(text: str, column: int, width: int, limit: int = 160) -> tuple[str, int]:
    """A window of a very long line around the span, and the span's column in it.

    Tabs become single spaces to keep columns; what would change how the line is shown becomes visible.
    """
    first = max(0, column - limit // 3) if len(text) > limit else 0
    shown = text[first : first + limit].replace("\t", " ")
    return "".join("\ufffd" if category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") else c for c in shown), column - first


def _cells(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)


class SpecError(Exception):
    """A wrong spec: every diagnostic that was found in it."""

    def __init__(self, diagnostics: tuple[Diagnostic, ...] | list[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        super().__init__("\n\n".join(d.render() for d in self.diagnostics))
