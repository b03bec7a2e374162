"""What every part of the parser stands on: tokens, spans, findings, limits."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TypeVar

from attndsl.diagnostics.report import Diagnostic, Note
from attndsl.diagnostics.source import Source, Span
from attndsl.diagnostics.suggest import closest
from attndsl.frontend import limits, tree
from attndsl.frontend.lexer import CLAUSE_WORDS, FOREIGN, LATER_WORDS, TOP_WORDS, Kind, Token, tokenize

T = TypeVar("T")
STARTERS = frozenset((*TOP_WORDS, *CLAUSE_WORDS, *LATER_WORDS))
HABITS = {
    "is": "`==` compares",
    "if": "a choice is written `if a then b else c`",
    "elif": "write `else if`",
    "for": "functions map over tuples by themselves",
    "lambda": "a function is declared with `fn` or `feature`",
    "def": "a function is declared with `fn`",
    "func": "a function is declared with `fn`",
    "function": "a function is declared with `fn`",
    "import": "functions of another file come with `use`",
    "from": "functions of another file come with `use`",
    "include": "functions of another file come with `use`",
    "as": "a function keeps its name",
}
"""Words of other languages, and what is written here."""
CLOSERS = {"(": ")", "[": "]", "{": "}"}


class Fail(Exception):  # noqa: N818
    """Parsing cannot go on here. The finding, if it needs one, is already reported."""


class Stop(Fail):
    """A limit is passed: nothing after it is read."""


class Cursor:
    """A position in the tokens of one source, and the findings so far."""

    def __init__(self, source: Source) -> None:
        self.source = source
        lexed = tokenize(source)
        self.tokens = lexed.tokens
        self.found: list[Diagnostic] = list(lexed.diagnostics)
        self.index = 0
        self.nodes = 0
        self.depth = 0
        self.heights: dict[int, int] = {}
        self.renamed: set[str] = set()
        """Reserved words that were declared as names: said once, then read as the names they were meant to be."""

    # Tokens

    @property
    def token(self) -> Token:
        return self.tokens[self.index]

    @property
    def next_token(self) -> Token:
        return self.tokens[min(self.index + 1, len(self.tokens) - 1)]

    @property
    def previous(self) -> Token:
        return self.tokens[max(self.index - 1, 0)]

    def advance(self) -> Token:
        token = self.token
        if token.kind is not Kind.END:
            self.index += 1
        return token

    def at_symbol(self, *values: str) -> bool:
        return self.token.kind is Kind.SYMBOL and self.token.value in values

    def at_word(self, *values: str) -> bool:
        return self.token.kind is Kind.WORD and self.token.value in values

    @property
    def at_starter(self) -> bool:
        return self.token.kind is Kind.WORD and self.token.value in STARTERS

    @property
    def at_name(self) -> bool:
        return self.token.kind in (Kind.NAME, Kind.INDEX)

    def span(self, first: Token, last: Token | None = None) -> Span:
        """From the first token to the last one (by default the one just read)."""
        last = last or self.previous
        return Span(self.source, first.start, max(first.stop, last.stop))

    # Findings

    def report(
        self, code: str, message: str, span: Span, label: str = "", help: str = "", notes: tuple[Note, ...] = ()
    ) -> None:
        self.found.append(Diagnostic(code, message, span, label, help, notes))
        if len(self.found) > limits.DIAGNOSTICS:
            raise Stop()

    def fail(self, code: str, message: str, span: Span, label: str = "", help: str = "") -> Fail:
        """Report, and return what to raise."""
        self.report(code, message, span, label, help)
        return Fail()

    def unexpected(self, expected: str, words: tuple[str, ...] = (), help: str = "") -> Fail:
        """The token here is not what must stand here. `words` are what a misspelled one may have been."""
        token = self.token
        if token.kind is Kind.BAD or self.is_replaced(token):
            return Fail()
        if token.kind is Kind.SYMBOL and token.value in CLOSERS.values():
            return self.fail(
                "E0112", f"unexpected `{token.value}`", self.span(token, token), f"expected {expected}", help
            )
        near = closest(str(token.value), words) if token.kind is Kind.NAME else None
        if not help and token.value in HABITS and token.kind in (Kind.NAME, Kind.WORD):
            help = HABITS[str(token.value)]
        elif near:
            help = f"did you mean `{near}`?"
        elif not help and self.after_slashes():
            help = "`//` divides; comments start with `#`"
        where = "the end of the file" if token.kind is Kind.END else self.show(token)
        return self.fail("E0110", f"unexpected {where}", self.here(), f"expected {expected}", help)

    def is_replaced(self, token: Token) -> bool:
        """Whether a token stands for an operator of another language, which was reported already."""
        return token.kind in (Kind.WORD, Kind.SYMBOL) and self.source.text[token.start : token.stop] in FOREIGN

    def here(self) -> Span:
        """The token here; at the end of the file, the last character that is not white space."""
        if self.token.kind is not Kind.END:
            return self.span(self.token, self.token)
        stop = len(self.source.text.rstrip())
        return Span(self.source, max(stop - 1, 0), stop)

    def show(self, token: Token) -> str:
        text = self.source.text[token.start : token.stop]
        shown = text if len(text) <= 40 else text[:37] + "..."
        return {Kind.NUMBER: "number ", Kind.TEXT: "text "}.get(token.kind, "") + f"`{shown}`"

    def after_slashes(self) -> bool:
        line_start = self.source.text.rfind("\n", 0, self.token.start) + 1
        return "//" in self.source.text[line_start : self.token.start]

    # Pieces

    def expect(self, symbol: str, after: str = "") -> Token:
        if self.at_symbol(symbol):
            return self.advance()
        raise self.unexpected(f"`{symbol}`{after}")

    def name(self, what: str) -> Token:
        """A name that is declared here. `q` and `k` pass: saying that they are taken is the checker's part."""
        if self.at_name:
            return self.advance()
        if self.token.kind is Kind.WORD and not self.starts_clause():
            word = str(self.token.value)
            self.report("E0113", f"`{word}` is a reserved word", self.here(), f"expected {what}",
                        f"take another name, such as `{word}_`")  # fmt: skip
            self.renamed.add(word)
            return self.advance()
        raise self.unexpected(what)

    def starts_clause(self) -> bool:
        """Whether a reserved word here starts a clause rather than being meant as a name."""
        if not self.at_starter:
            return False
        if self.first_on_line():
            return True
        after = self.next_token
        if after.kind is Kind.WORD:
            return after.value not in ("and", "or", "in", "then", "else")
        return after.kind is not Kind.END and (after.kind is not Kind.SYMBOL or after.value in ("(", "-"))

    def first_on_line(self) -> bool:
        at = self.token.start
        return at == 0 or "\n" in self.source.text[self.tokens[self.index - 1].stop if self.index else 0 : at]

    def listed(self, open_: str, item: Callable[[], T], what: str, empty: bool = False) -> tuple[T, ...]:
        """Items between brackets, commas between them, one allowed after the last."""
        opening = self.expect(open_)
        close = CLOSERS[open_]
        items: list[T] = []
        while not self.at_symbol(close):
            items.append(item())
            if not self.at_symbol(","):
                break
            self.advance()
        self.close(opening, "`,` or ")
        if not items and not empty:
            raise self.fail("E0123", "empty list", self.span(opening), f"expected {what}")
        return tuple(items)

    def close(self, opening: Token, others: str = "") -> None:
        """The bracket that closes `opening`."""
        symbol = CLOSERS[str(opening.value)]
        if self.at_symbol(symbol):
            self.advance()
            return
        token = self.token
        if token.kind is Kind.END or self.starts_clause() or self.at_symbol("{", "}"):
            note = Note(self.here(), f"expected `{symbol}` before this") if token.kind is not Kind.END else None
            at = self.span(opening, opening)
            self.report("E0111", f"`{opening.value}` is never closed", at, f"expected {others}`{symbol}`",
                        notes=(note,) if note else ())  # fmt: skip
            raise Fail()
        raise self.unexpected(f"{others}`{symbol}`")

    # Limits

    def count(self, node: tree.TreeExpr, *children: tree.TreeExpr) -> None:
        """Hold a new node of an expression against the limits."""
        self.nodes += 1
        if self.nodes > limits.NODES:
            self.report(
                "E0604", f"more than {limits.NODES} expression nodes in a file", node.span, "the limit is passed here"
            )
            raise Stop()
        height = 1 + max((self.heights[id(c)] for c in children), default=0)
        self.heights[id(node)] = height
        if height > limits.NESTING:
            raise self.too_deep(node.span)

    @contextmanager
    def deeper(self) -> Generator[None, None, None]:
        """One more level of nesting, for as long as it is read."""
        self.depth += 1
        try:
            if self.depth > limits.NESTING:
                raise self.too_deep(self.here())
            yield
        finally:
            self.depth -= 1

    def too_deep(self, span: Span) -> Fail:
        help = "name parts of it with `let`; each operator of a chain such as `a + b + c` counts"
        return self.fail("E0603", f"expression is nested deeper than {limits.NESTING}", span, "", help)

    # Recovery

    def skip_to(self, *words: str) -> None:
        """Skip to a reserved word of these, the `}` of the block that is open here, or the end."""
        depth = 0
        while self.token.kind is not Kind.END:
            if self.at_symbol("{"):
                depth += 1
            elif self.at_symbol("}"):
                if depth == 0:
                    return
                depth -= 1
            elif self.at_word(*TOP_WORDS, *(words if depth == 0 else ())) and self.starts_clause():
                return
            self.advance()
