"""Where a piece of a program stands: source texts and spans in them."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from functools import cached_property


@dataclass(frozen=True)
class Source:
    """A text that a user wrote: `name` is what messages call it (a path, or `<text>`).

    `first_line` is the line number of the text's first line, so that a decorated Python function
    can point into the file it stands in.
    """

    name: str
    text: str = field(repr=False)
    first_line: int = 1

    @cached_property
    def line_starts(self) -> tuple[int, ...]:
        """Offset of the first character of every line."""
        return (0, *(i + 1 for i, c in enumerate(self.text) if c == "\n"))

    def position(self, offset: int) -> tuple[int, int]:
        """Line (counted from `first_line`) and column (from 1) of a character offset."""
        row = bisect_right(self.line_starts, offset) - 1
        return row + self.first_line, offset - self.line_starts[row] + 1

    def line(self, number: int) -> str:
        """The text of a line by its number, without its newline."""
        return self.text.split("\n")[number - self.first_line].rstrip("\r")


@dataclass(frozen=True)
class Span:
    """Characters `start` up to, not including, `stop` of a source."""

    source: Source
    start: int
    stop: int

    @property
    def text(self) -> str:
        return self.source.text[self.start : self.stop]

    def __repr__(self) -> str:
        line, column = self.source.position(self.start)
        return f"{self.source.name}:{line}:{column}"

    def to(self, other: Span) -> Span:
        """The span from the start of this one to the end of another."""
        return Span(self.source, self.start, max(self.stop, other.stop))


NOWHERE = Span(Source("<built-in>", ""), 0, 0)
"""The span of what no user wrote."""
