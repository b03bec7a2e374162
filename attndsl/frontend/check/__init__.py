"""Names, types and structure: from a program's tree to typed IR, every mistake reported."""

from __future__ import annotations

from attndsl.diagnostics.report import Diagnostic, Note
from attndsl.diagnostics.source import Span
from attndsl.frontend.check.attention import check_attention
from attndsl.frontend.check.calls import is_library
from attndsl.frontend.check.functions import check_functions, reachable
from attndsl.frontend.check.sink import Sink
from attndsl.frontend.modules import Program
from attndsl.ir.attention import Attention

__all__ = ["check"]


def check(program: Program) -> tuple[tuple[Attention, ...], tuple[Diagnostic, ...]]:
    """The attentions of a program, and everything that is wrong in it.

    The findings are those of the checker alone; `program.diagnostics` are the reader's. Blocks and functions in
    which the reader found something are skipped, so that no consequence is reported as an error of its own. An
    attention is among the results only if nothing was found in it.
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
        if program.is_damaged(block):
            continue
        attention = check_attention(block, program.scope, sink, cyclic, program.is_damaged)
        if attention is not None:
            made.append(attention)
    return tuple(made), sink.diagnostics
