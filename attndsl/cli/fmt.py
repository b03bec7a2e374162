"""`attndsl fmt`: canonical text, written whole or not at all."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from attndsl.cli.output import (
    CALL_WRONG,
    OK,
    SPEC_WRONG,
    CallError,
    plural,
    print_diagnostics,
    read_spec,
    write_whole,
)
from attndsl.cli.specs import read_source
from attndsl.diagnostics.report import SpecError


def fmt(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Files to format; - is standard input.")],
    only_check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit 1 if a file is not formatted.")
    ] = False,
    to_stdout: Annotated[bool, typer.Option("--stdout", help="Print the result instead of writing files.")] = False,
) -> int:
    """Rewrite .attn files in the canonical format, comments kept. A file with mistakes stays as it is."""
    from attndsl.frontend.format import format_text

    if only_check and to_stdout:
        raise CallError("--check and --stdout exclude each other")
    worst = OK
    changed = 0
    for file in dict.fromkeys(files):
        try:
            if file != "-":
                read_spec(file)
            source = read_source(file)
            text = format_text(source)
            if only_check:
                if text != source.text:
                    print(f"{file}: would be reformatted")
                    changed += 1
            elif to_stdout or file == "-":
                sys.stdout.write(text)
            elif text != source.text:
                write_whole(Path(file), text)
                print(f"{file}: reformatted")
        except SpecError as error:
            print_diagnostics(error.diagnostics)
            print(f"{file}: not formatted, {plural(len(error.diagnostics), 'error')}", file=sys.stderr)
            worst = max(worst, SPEC_WRONG)
        except CallError as error:
            print(f"attndsl: {error}", file=sys.stderr)
            worst = CALL_WRONG
    return max(worst, SPEC_WRONG if changed else OK)
