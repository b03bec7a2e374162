"""Names, types and structure: from a program's tree to typed IR, every mistake reported."""

from __future__ import annotations

from attndsl.diagnostics.report import Diagnostic, Note
from attndsl.diagnostics.source import Span
from attndsl.frontend.check.attention import check_attention
from attndsl.frontend.check.functions import check_functions, is_library, reachable
from attndsl.frontend.check.sink import Sink
from attndsl.frontend.modules import Program
from attndsl.ir.attention import Attention

__all__ = ["check"]

_FOLLOWS = frozenset(("E0201", "E0202", "E0203", "E0205", "E0306", "E0804"))
"""Codes of names that may be missing because their declaration could not be read."""


def check(program: Program) -> tuple[tuple[Attention, ...], tuple[Diagnostic, ...]]:
    """The attentions of a program, and everything that is wrong in it.

    The findings are those of the checker alone; `program.diagnostics` are the reader's. Functions in which the reader
    found something are skipped, and in such blocks nothing is reported that may follow from a clause or parameter
    that could not be read. An attention is among the results only if nothing was found in it.
    """
    sink = Sink()
    definitions = reachable(program.scope)
    own = [d for d in definitions if not is_library(d.scope.source)]
    cyclic = check_functions(own, sink, program.is_damaged)
    made: list[Attention] = []
    seen: dict[str, Span] = {}
    for block in program.file.attentions:
        if block.name in seen:
            note = Note(seen[block.name], "the first one is here")
            message = f"the attention `{block.name}` is declared twice"
            sink.report("E0206", message, block.name_span, help="choose another name", notes=(note,))
            continue
        seen[block.name] = block.name_span
        damaged = program.is_damaged(block)
        sink.quiet = _FOLLOWS if damaged else frozenset()
        attention = check_attention(block, program.scope, sink, cyclic, program.is_damaged)
        sink.quiet = frozenset()
        if attention is not None and not damaged:
            made.append(attention)
    return tuple(made), sink.diagnostics
