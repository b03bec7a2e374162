"""`attndsl check`: every mistake in every file, without running anything."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from attndsl.cli.output import CALL_WRONG, OK, SPEC_WRONG, CallError, plural, print_diagnostics, print_json, read_spec
from attndsl.cli.specs import compile_named
from attndsl.diagnostics.report import Diagnostic, SpecError


def check(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Files to check; - is standard input.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> int:
    """Report every mistake in .attn files. Exit 0 without any, 1 with some, 2 for a file that cannot be read."""
    reports: list[dict[str, Any]] = []
    found: list[Diagnostic] = []
    unreadable: list[str] = []
    for file in dict.fromkeys(files):
        names: list[str] = []
        diagnostics: tuple[Diagnostic, ...] = ()
        try:
            if file != "-":
                read_spec(file)
            names = [a.name for a in compile_named(file)]
        except CallError as error:
            unreadable.append(str(error))
            reports.append({"file": file, "ok": False, "attentions": [], "diagnostics": [], "error": str(error)})
            continue
        except SpecError as error:
            diagnostics = error.diagnostics
        found += diagnostics
        data = [d.to_json() for d in diagnostics]
        reports.append({"file": file, "ok": not diagnostics, "attentions": names, "diagnostics": data})
    if as_json:
        print_json({"ok": not found and not unreadable, "files": reports})
    else:
        _print(found, unreadable, reports)
    return CALL_WRONG if unreadable else SPEC_WRONG if found else OK


def _print(found: list[Diagnostic], unreadable: list[str], reports: list[dict[str, Any]]) -> None:
    import sys

    print_diagnostics(found)
    for message in unreadable:
        print(f"attndsl: {message}", file=sys.stderr)
    for report in reports:
        if report["ok"]:
            print(f"{report['file']}: ok ({', '.join(report['attentions']) or 'functions only'})")
    if found:
        wrong = sum(1 for r in reports if r["diagnostics"])
        print(f"{plural(len(found), 'error')} in {plural(wrong, 'file')}", file=sys.stderr)
