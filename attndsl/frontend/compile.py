"""From what a person wrote to typed IR: text, files and decorated Python functions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from attndsl.diagnostics.report import Diagnostic, SpecError
from attndsl.frontend.check import check
from attndsl.frontend.modules import Program, program_from_text, read_program
from attndsl.ir.attention import Attention


def compile_text(text: str, name: str = "<text>", folder: Path | None = None) -> tuple[Attention, ...]:
    """The attentions of a text. `name` is what messages call it, `folder` is where its relative `use` look.

    Raises SpecError with every finding.
    """
    return compile_program(program_from_text(text, name, folder))


def compile_file(path: str | Path) -> tuple[Attention, ...]:
    """The attentions of an `.attn` file. Raises SpecError with every finding, OSError if it cannot be read."""
    return compile_program(read_program(Path(path)))


def compile_python(function: Callable[..., Any]) -> Attention:
    """The attention that a Python function describes; its syntax tree is read, it is never executed.

    Raises SpecError whose findings point into the Python file.
    """
    from attndsl.frontend.python import read_function

    (attention,) = compile_program(read_function(function))
    return attention


def compile_program(program: Program) -> tuple[Attention, ...]:
    """The attentions of a program that was read. Raises SpecError with the reader's and the checker's findings."""
    attentions, found = check(program)
    everything = tuple(dict.fromkeys((*program.diagnostics, *found)))
    if everything:
        raise SpecError(sorted(everything, key=_place))
    return attentions


def _place(finding: Diagnostic) -> tuple[str, int, int]:
    return finding.span.source.name, finding.span.start, finding.span.stop
