"""Words for a `require` of a function that a call does not meet."""

from __future__ import annotations

from attndsl.diagnostics.codes_ir import REQUIREMENT
from attndsl.diagnostics.report import Diagnostic, Note
from attndsl.diagnostics.source import NOWHERE
from attndsl.ir.attention import Precondition, Require
from attndsl.ir.evaluate import Env, UnboundError, evaluate


def broken(require: Require, of: Precondition) -> Diagnostic:
    """The finding at the call, for a condition that consts alone decide."""
    notes = () if of.place.source is NOWHERE.source else (Note(of.place, f"`{of.function}` requires it here"),)
    message = f"in `{of.function}`: {require.message}" if require.message else f"`{of.function}` requires `{of.text}`"
    label = _values(of, Env({})) or "in this call"
    return Diagnostic(REQUIREMENT, message, require.span, label, f"required: {of.text}", notes)


def said(require: Require, of: Precondition) -> str:
    """What is wrong and where, in a line, for a condition that a call decides."""
    source, at = require.span.source, require.span.start
    line, column = source.position(at)
    place = "" if source is NOWHERE.source else f" ({source.name}:{line}:{column})"
    text = f"{require.message} (required: {of.text})" if require.message else f"required: {of.text}"
    return f"in `{of.function}`{place}: {text}"


def with_values(of: Precondition, env: Env) -> str:
    """`, where w = 24 (window[1]), n = 16 (size of y)`; empty where nothing is known."""
    values = _values(of, env)
    return f", where {values}" if values else ""


def _values(of: Precondition, env: Env) -> str:
    shown: list[str] = []
    for named in of.values:
        try:
            numbers = [str(evaluate(part, env)).lower() for part in named.parts]
        except UnboundError:
            continue
        text = numbers[0] if len(numbers) == 1 else f"({', '.join(numbers)})"
        shown.append(f"{named.name} = {text}{f' ({named.origin})' if named.origin else ''}")
    return ", ".join(shown)
