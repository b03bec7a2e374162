"""The source text of a Python function, and places of its syntax tree as spans."""

from __future__ import annotations

import ast
import linecache
import warnings
from dataclasses import fields, is_dataclass, replace
from types import CodeType
from typing import Any, TypeVar, cast

from attndsl.diagnostics.parsing import parse
from attndsl.diagnostics.report import Diagnostic, SpecError
from attndsl.diagnostics.source import NOWHERE, Source, Span

T = TypeVar("T")


class Place:
    """Turns positions of `ast` (lines, bytes of UTF-8) into spans (characters)."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def offset(self, line: int, column: int) -> int:
        """The character at a line (from 1) and a byte of it."""
        start = self.source.line_starts[line - 1]
        text = self.source.line(line)
        return start + len(text.encode("utf-8")[:column].decode("utf-8", "ignore"))

    def span(self, node: ast.AST) -> Span:
        """The text of an expression, statement or argument."""
        line, column = getattr(node, "lineno", 1), getattr(node, "col_offset", 0)
        end_line = getattr(node, "end_lineno", None) or line
        end_column = getattr(node, "end_col_offset", None)
        start = self.offset(line, column)
        stop = self.offset(end_line, end_column) if end_column is not None else start + 1
        return Span(self.source, start, stop)

    def name_span(self, node: ast.FunctionDef) -> Span:
        """The name in `def name(...)`."""
        start = self.offset(node.lineno, node.col_offset)
        found = self.source.text.find(node.name, start + len("def"))
        return Span(self.source, found, found + len(node.name)) if found >= 0 else Span(self.source, start, start + 3)

    def text_start(self, node: ast.Constant) -> int | None:
        """Where the characters of a plain string literal start; None if it has escapes or several parts."""
        span = self.span(node)
        text = span.text
        value = node.value
        if (
            isinstance(value, str)
            and len(text) >= 2
            and text[1:-1] == value
            and text[0] in "\"'"
            and text[-1] == text[0]
        ):
            return span.start + 1
        return None


def find_function(code: CodeType) -> tuple[Place, ast.FunctionDef]:
    """The definition that a code object was compiled from. SpecError (E0801) where its source cannot be read."""
    name = code.co_name
    if name == "<lambda>":
        raise unavailable(code, "a lambda has no body of clauses", "write a `def` with its decorator in a file")
    lines = linecache.getlines(code.co_filename)
    if not lines:
        why = "it was defined where no source is kept, such as a prompt, `exec` or `python -c`"
        raise unavailable(code, why, "write it in a file, or pass the spec as text to `attndsl.load`")
    text = "".join(lines)
    source = Source(code.co_filename, text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warned when it compiled the file
            module = parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise unavailable(code, "its file does not parse any more", "import it again after the change") from None
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            if code.co_firstlineno in (first, node.lineno):
                place = Place(source)
                if isinstance(node, ast.FunctionDef):
                    return place, node
                span = place.span(node)
                at = Span(source, span.start, span.start + len("async"))
                raise SpecError((Diagnostic("E0805", "an attention is not `async`", at, "a plain `def` was expected"),))
    raise unavailable(code, "its file has changed since it was imported", "import it again")


def unavailable(code: CodeType, why: str, help: str) -> SpecError:
    """The finding that a function's source cannot be read; it has no place to point at."""
    message = f"the source of `{code.co_name}` ({code.co_filename}, line {code.co_firstlineno}) is not there: {why}"
    return SpecError((Diagnostic("E0801", message, NOWHERE, help=help),))


def moved(node: T, source: Source, shift: int, low: int, high: int) -> T:
    """The tree or finding with its spans put into another source, `shift` characters on, kept within [low, high]."""

    def move(value: Any) -> Any:
        if isinstance(value, Span):
            start = min(max(value.start + shift, low), high)
            return Span(source, start, min(max(value.stop + shift, start), high))
        if isinstance(value, tuple):
            return tuple(map(move, cast("tuple[Any, ...]", value)))
        if is_dataclass(value) and not isinstance(value, type):
            return replace(value, **{f.name: move(getattr(value, f.name)) for f in fields(value)})
        return value

    return move(node)
