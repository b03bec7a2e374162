"""Finding the attention that a command is about."""

from __future__ import annotations

import sys
from pathlib import Path

from attndsl.cli.options import did_you_mean
from attndsl.cli.output import CallError, read_spec
from attndsl.diagnostics.report import SpecError
from attndsl.diagnostics.source import Source
from attndsl.ir.attention import Attention

STDIN = "<stdin>"


def read_source(file: str) -> Source:
    """The text of a file, or of standard input for `-`. SpecError for invalid UTF-8 or too large a text."""
    from attndsl.frontend import modules

    if file == "-":
        return Source(STDIN, read_stdin())
    try:
        source, found = modules.read_source(Path(file), Path(file).as_posix())
    except OSError as error:
        raise CallError(f"cannot read {file}: {error.strerror or error}") from error
    if found:
        raise SpecError(found)
    return source


def read_stdin() -> str:
    """Standard input, a little more than the largest source at most; bytes that are not UTF-8 become lone surrogates,
    which the front end reports."""
    from attndsl.frontend import limits

    data = sys.stdin.buffer.read(limits.SOURCE_BYTES + 4)
    return data.decode("utf-8", "surrogateescape")


def compile_named(file: str) -> tuple[Attention, ...]:
    """Every attention of a file, or of standard input for `-`. Raises SpecError."""
    from attndsl.frontend.compile import compile_file, compile_text

    if file == "-":
        return compile_text(read_stdin(), STDIN, Path.cwd())
    try:
        return compile_file(Path(file))
    except OSError as error:
        raise CallError(f"cannot read {file}: {error.strerror or error}") from error


def attentions_of(file: str) -> list[Attention]:
    """Every attention of a file; CallError where there is none."""
    if file != "-":
        read_spec(file)
    found = list(compile_named(file))
    if not found:
        raise CallError(f"{file} has functions only, no attention")
    return found


def pick(file: str, name: str | None) -> Attention:
    """The attention called `name`, or the only one of the file."""
    found = attentions_of(file)
    names = [a.name for a in found]
    if name is None and len(found) > 1:
        raise CallError(f"{file} has {len(found)} attentions, pick one with --name: {', '.join(names)}")
    if name is None:
        return found[0]
    if name not in names:
        raise CallError(f"{file} has no attention {name!r}{did_you_mean(name, names)}; it has {', '.join(names)}")
    return found[names.index(name)]
