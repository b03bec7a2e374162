"""What is known about one error code."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CodeInfo:
    """`title` is one line, `text` says what the rule is and why, `wrong` and `right` are whole small programs."""

    title: str
    text: str
    wrong: str
    right: str

    @property
    def explanation(self) -> str:
        """The text with both examples, as `attndsl explain CODE` prints it."""
        return f"{self.text.strip()}\n\nWrong:\n\n{_indent(self.wrong)}\n\nRight:\n\n{_indent(self.right)}"


def _indent(program: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in program.strip("\n").split("\n"))
