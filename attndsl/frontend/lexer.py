"""Text to tokens. A standard lexer: what a word is never depends on where it stands.

Every character of the text is in a token, a comment, white space, or a finding. After a look-alike
character the token that was meant is produced, so that the parser has nothing further to say about it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from attndsl.diagnostics.report import Diagnostic
from attndsl.diagnostics.source import Source, Span
from attndsl.frontend import characters, limits

TOP_WORDS = ("use", "fn", "attention")
CLAUSE_WORDS = ("grid", "let", "require", "score", "mask", "weight", "output", "feature")
LATER_WORDS = ("query", "key", "value", "select", "branch", "extra", "emit")
OTHER_WORDS = (
    "return", "const", "scalar", "input", "if", "then", "else", "and", "or", "not", "in", "true", "false",
    "by", "where",
)  # fmt: skip
RESERVED = frozenset((*TOP_WORDS, *CLAUSE_WORDS, *LATER_WORDS, *OTHER_WORDS))
"""Every word that cannot be a name, wherever it stands."""

LATER_FUNCTIONS = ("top", "merge")
"""Names of functions that are kept for content-based selection and branches."""

FOREIGN = {
    "**": "a power is written `^`",
    "&&": "write `and`",
    "||": "write `or`",
    "&": "write `and`",
    "|": "write `or`; an absolute value is `abs(x)`",
    "~": "write `not`",
    "!": "write `not`",
    "?": "write `if a then b else c`",
    ";": "clauses need no separator; remove it",
    "=>": "write `>=` to compare",
    "=<": "write `<=`",
    "<>": "write `!=`",
    "->": "a function is written `fn f(x) = x + 1`",
    ":=": "write `=`",
    "/*": "comments start with `#` and end with the line",
    "+=": "names cannot be changed; use `let`",
    "-=": "names cannot be changed; use `let`",
    "===": "write `==`",
    "<-": "write `< -` with a space",
}


class Kind(Enum):
    NAME = auto()
    INDEX = auto()  # q and k
    NUMBER = auto()
    TEXT = auto()
    WORD = auto()  # a reserved word
    SYMBOL = auto()
    BAD = auto()  # already reported; the parser recovers silently
    END = auto()


@dataclass(frozen=True, slots=True)
class Token:
    """`value` is the word or symbol as meant, the number, or the text without its quotes."""

    kind: Kind
    value: str | int | float
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Comment:
    """`text` starts with `#`; `own_line` says that nothing but white space stands before it."""

    text: str
    start: int
    stop: int
    own_line: bool


@dataclass(frozen=True)
class Tokens:
    tokens: tuple[Token, ...]
    comments: tuple[Comment, ...]
    diagnostics: tuple[Diagnostic, ...]


NUMBER = re.compile(r"(?:[0-9][0-9_]*(?:\.[0-9]+|\.(?![A-Za-z_.]))?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_PATTERN = re.compile(
    r"""
      (?P<space>(?:[ \t\n]|\r\n)+)
    | (?P<comment>\#[^\n]*)
    | (?P<word>[^\W\d²³](?:[^\W²³]|[\u200b-\u200f\u00ad\ufeff])*)
    | (?P<number>\d|\.[0-9])
    | (?P<text>"(?:[^"\\\n]|\\[^\n])*["\\]?)
    | (?P<single>'[^'\n]*')
    | (?P<symbol>===|\+\+|<=(?!>)|>=|==|!=|//)
    | (?P<foreign>\*\*|&&|\|\||=>|=<|<>|->|:=|/\*|\+=|-=|[&|~!?;])
    | (?P<plain>[-+*/%@^<>=(){}\[\],.:])
    """,
    re.VERBOSE,
)
_CLOSED_TEXT = re.compile(r'"(?:[^"\\\n]|\\[^\n])*"')
_ESCAPES = {'"': '"', "\\": "\\", "n": "\n", "t": "\t"}


def tokenize(source: Source) -> Tokens:
    """Every token of a text, ending with one of kind END. Never raises."""
    return _Lexer(source).run()


class _Lexer:
    def __init__(self, source: Source) -> None:
        self.source = source
        self.text = source.text
        self.at = 0
        self.tokens: list[Token] = []
        self.comments: list[Comment] = []
        self.found: list[Diagnostic] = []

    def run(self) -> Tokens:
        while self.at < len(self.text):
            match = _PATTERN.match(self.text, self.at)
            if match is None or match.lastgroup is None:
                self.strange()
                continue
            start, self.at = self.at, match.end()
            getattr(self, "on_" + match.lastgroup)(match.group(), start)
        self.emit(Kind.END, "", self.at)
        return Tokens(tuple(self.tokens), tuple(self.comments), tuple(self.found))

    def emit(self, kind: Kind, value: str | int | float, start: int) -> None:
        self.tokens.append(Token(kind, value, start, self.at))

    def report(self, code: str, message: str, start: int, stop: int, label: str = "", help: str = "") -> None:
        self.found.append(Diagnostic(code, message, Span(self.source, start, stop), label, help))

    # Plain parts of the language

    def on_space(self, text: str, start: int) -> None:
        pass

    def on_comment(self, text: str, start: int) -> None:
        line = self.text[self.text.rfind("\n", 0, start) + 1 : start]
        self.check_invisible(text.rstrip("\r"), start)
        self.comments.append(Comment(text.rstrip(), start, start + len(text.rstrip()), not line.strip()))

    def on_word(self, text: str, start: int) -> None:
        if not text.isascii():
            text = self.foreign_word(text, start)
            if not text:
                return
        if text in ("q", "k"):
            self.emit(Kind.INDEX, text, start)
        else:
            self.emit(Kind.WORD if text in RESERVED else Kind.NAME, text, start)

    def on_number(self, _: str, start: int) -> None:
        match = NUMBER.match(self.text, start)
        end = self.at = match.end() if match else start + 1
        while self.at < len(self.text) and (characters.is_word(self.text[self.at]) or self.text[self.at] == "."):
            self.at += 1
        text = self.text[start : self.at]
        if match is None or self.at != end or text.endswith("_") or "__" in text or not text.isascii():
            self.malformed(text, start)
            return
        if re.fullmatch("[0-9_]+", text):
            digits = text.replace("_", "").lstrip("0") or "0"
            value: int | float = int(digits) if len(digits) <= 10 else limits.LITERAL
            if value >= limits.LITERAL:
                self.report("E0602", "integer literal is too large", start, self.at, "integers stay below 2^31")
                value = limits.LITERAL - 1
        else:
            value = float(text.replace("_", ""))
            if math.isinf(value):
                self.report("E0602", "literal is too large for a number", start, self.at, "write `inf` for infinity")
                value = 1.0
        self.emit(Kind.NUMBER, value, start)

    def malformed(self, text: str, start: int) -> None:
        plain, alike = characters.plain_word(text)
        if not text.isascii() and alike and NUMBER.fullmatch(plain):
            self.report("E0103", "digits that only look like plain ones", start, self.at, f"type `{plain}`")
            self.emit(Kind.NUMBER, 1, start)
            return
        tail = NUMBER.sub("", text, count=1)
        help = ""
        if re.fullmatch(r"0[xXbBoO].*", text):
            help = "numbers are decimal"
        elif re.fullmatch(r"[A-Za-z]\w*", tail):
            help = f"write `{text[: -len(tail)]} * {tail}` for a product; names start with a letter"
        self.report(
            "E0106", "malformed number", start, self.at, "expected a number such as `16`, `0.5` or `1e-6`", help
        )
        self.emit(Kind.NUMBER, 1, start)

    def on_text(self, text: str, start: int) -> None:
        self.check_invisible(text, start)
        if not _CLOSED_TEXT.fullmatch(text):
            self.at = start + len(text.rstrip("\r"))
            self.report("E0107", "text is not closed", start, self.at, 'expected `"` before the end of the line')
            self.emit(Kind.TEXT, text[1:].rstrip("\r"), start)
            return
        self.emit(Kind.TEXT, self.unescape(text[1:-1], start + 1), start)

    def unescape(self, body: str, start: int) -> str:
        def plain(match: re.Match[str]) -> str:
            char = match.group(1)
            if char not in _ESCAPES:
                at = start + match.start()
                label = 'known are `\\"`, `\\\\`, `\\n` and `\\t`'
                self.report("E0108", "unknown escape in text", at, at + 2, label, "write `\\\\` for a backslash")
            return _ESCAPES.get(char, char)

        return re.sub(r"\\(.)", plain, body)

    def on_symbol(self, text: str, start: int) -> None:
        if text in FOREIGN:
            self.on_foreign(text, start)
        else:
            self.emit(Kind.SYMBOL, text, start)

    on_plain = on_symbol

    # What is not of the language

    def on_single(self, text: str, start: int) -> None:
        self.report("E0103", "text stands in double quotes", start, self.at, 'expected `"`', f'write `"{text[1:-1]}"`')
        self.emit(Kind.TEXT, text[1:-1], start)

    def on_foreign(self, text: str, start: int) -> None:
        meant = {"**": "^", "&&": "and", "||": "or", "&": "and", "|": "or", "~": "not", "!": "not", "=>": ">=",
                 "=<": "<=", "<>": "!=", ":=": "=", "===": "=="}.get(text)  # fmt: skip
        self.report("E0109", f"`{text}` is not an operator here", start, self.at, FOREIGN[text])
        if text == "/*":
            end = self.text.find("*/", self.at)
            self.at = len(self.text) if end < 0 else end + 2
        elif text == ";":
            pass
        elif meant is None:
            self.emit(Kind.BAD, text, start)
        else:
            self.emit(Kind.WORD if meant.isalpha() else Kind.SYMBOL, meant, start)

    def foreign_word(self, word: str, start: int) -> str:
        """Report a word with characters outside ASCII; returns the word that was meant, or nothing."""
        seen = "".join(c for c in word if not characters.is_invisible(c))
        if seen != word:
            self.check_invisible(word, start)
        if seen.isascii():
            return seen
        plain, alike = characters.plain_word(seen)
        if not plain or not re.fullmatch(r"[A-Za-z_]\w*", plain):
            self.report("E0105", "a name has a letter outside ASCII", start, self.at, "names are `a-z A-Z 0-9 _`")
            return "".join(c if c.isascii() else "_" for c in seen)
        if alike:
            at = next(i for i, c in enumerate(word) if not c.isascii() and not characters.is_invisible(c))
            what = f"`{word[at]}` is {characters.describe(word[at])}, not the letter it looks like"
            self.report("E0103", what, start + at, start + at + 1, f"type `{plain}` in plain letters")
        else:
            self.report("E0105", "a name has a letter outside ASCII", start, self.at, "names are `a-z A-Z 0-9 _`",
                        f"write `{plain}`")  # fmt: skip
        return plain

    def check_invisible(self, text: str, start: int) -> None:
        """Report what cannot be seen inside a comment, a text or a word."""
        for i, char in enumerate(text):
            if characters.is_invisible(char) or "\ud800" <= char <= "\udfff":
                self.report(
                    "E0104", f"invisible character {characters.describe(char)}", start + i, start + i + 1, "remove it"
                )
                return

    def strange(self) -> None:
        """A character that starts nothing of the language: report it together with its like that follow."""
        start, char = self.at, self.text[self.at]
        self.at += 1
        if char in characters.OPENING_QUOTES:
            match = re.compile('[^\n“”„‟«»"]*[“”„‟«»"]').match(self.text, self.at)
            if match:
                self.at = match.end()
                self.report("E0103", f"`{char}` is not a plain quote", start, start + 1, 'type `"`')
                self.emit(Kind.TEXT, match.group()[:-1], start)
                return
        if characters.is_space(char):
            self.skip(characters.is_space)
            self.report(
                "E0103", f"{characters.describe(char)} is not a plain space", start, self.at, "type a plain space"
            )
        elif characters.is_invisible(char):
            self.skip(lambda c: characters.is_invisible(c) and not self.text.startswith("\r\n", self.at))
            self.report("E0104", f"invisible character {characters.describe(char)}", start, self.at, "remove it")
        elif char in characters.SYMBOLS:
            self.symbol_like(char, start)
        else:
            self.skip(lambda c: not c.isascii() and not characters.is_word(c) and c not in characters.SYMBOLS)
            shown = f"`{char}`" if char.isprintable() else characters.describe(char)
            label = "no text may stand here" if char in "'\"" else "not a character of the language"
            self.report("E0101", f"unexpected character {shown}", start, self.at, label)
            self.emit(Kind.BAD, char, start)

    def symbol_like(self, char: str, start: int) -> None:
        meant = characters.SYMBOLS[char]
        what = f"`{char}` is {characters.describe(char)}"
        self.report("E0103", what, start, self.at, f"type `{meant}`")
        if meant in ("^2", "^3"):
            self.emit(Kind.SYMBOL, "^", start)
            self.emit(Kind.NUMBER, int(meant[1]), start)
        elif meant == "#":
            end = self.text.find("\n", self.at)
            self.at = len(self.text) if end < 0 else end
        elif meant.isalpha():
            self.emit(Kind.WORD if meant in RESERVED else Kind.NAME, meant, start)
        elif meant in ("!", ";", '"'):
            self.emit(Kind.BAD, meant, start)
        else:
            self.emit(Kind.SYMBOL, meant, start)

    def skip(self, test: Callable[[str], bool]) -> None:
        while self.at < len(self.text) and test(self.text[self.at]):
            self.at += 1
