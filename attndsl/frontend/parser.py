"""The parser: a text to a `tree.File`, with every independent error of the text found at once.

After an error, reading goes on at the next clause word, closing brace or top-level word. What could
not be read is left out of the tree.
"""

from __future__ import annotations

from functools import cached_property
from typing import Literal as Lit
from typing import cast

from attndsl.diagnostics.report import Diagnostic, Note
from attndsl.diagnostics.source import Source, Span
from attndsl.frontend import limits, tree
from attndsl.frontend.cursor import Fail, Stop
from attndsl.frontend.lexer import CLAUSE_WORDS, LATER_FUNCTIONS, LATER_WORDS, TOP_WORDS, Kind, Token
from attndsl.frontend.parameters import ParameterParser


def parse(source: Source) -> tuple[tree.File, tuple[Diagnostic, ...]]:
    """The tree of a text and its findings, in order of place. Never raises; with findings the tree is partial."""
    size = len(source.text.encode("utf-8", "replace"))
    if size > limits.SOURCE_BYTES:
        return empty_file(source), (too_large(source, size),)
    parser = Parser(source)
    file = parser.file()
    found = sorted(parser.found, key=lambda d: d.span.start)
    if len(found) > limits.DIAGNOSTICS:
        last = found[limits.DIAGNOSTICS - 1].span
        found = [*found[: limits.DIAGNOSTICS - 1], Diagnostic("E0605", "too many errors; the rest is not shown", last)]
    return file, tuple(found)


def parse_expression(source: Source) -> tuple[tree.TreeExpr | None, tuple[Diagnostic, ...]]:
    """A text that is one expression; None where it is not."""
    parser = Parser(source)
    node: tree.TreeExpr | None = None
    try:
        node = parser.expression()
        if parser.token.kind is not Kind.END:
            parser.unexpected("the end of the expression")
    except Fail:
        pass
    return (None if parser.found else node), tuple(parser.found)


def parse_type(source: Source) -> tuple[tree.Parameter | None, tuple[Diagnostic, ...]]:
    """A text that is a type with its facts, such as `f32[B, H, L] log_decay`: an `input` Parameter without a name."""
    parser = Parser(source)
    found: tree.Parameter | None = None
    try:
        found = parser.parameter_of_type("input", Span(source, 0, len(source.text)))
        if parser.token.kind is not Kind.END:
            parser.unexpected("the end of the type")
    except Fail:
        pass
    return (None if parser.found else found), tuple(parser.found)


def too_large(source: Source, size: int) -> Diagnostic:
    message = f"source is larger than {limits.SOURCE_BYTES // 1024} KiB"
    return Diagnostic("E0601", message, Span(source, 0, 0), f"{size} bytes", "split the file and `use` its parts")


def empty_file(source: Source) -> tree.File:
    """The tree of a text that cannot be read."""
    return tree.File((), (), (), span=Span(source, 0, 0))


class Parser(ParameterParser):
    def file(self) -> tree.File:
        uses: list[tree.Use] = []
        functions: list[tree.Function] = []
        attentions: list[tree.AttentionBlock] = []
        try:
            while self.token.kind is not Kind.END:
                at = self.index
                try:
                    if self.at_word("use"):
                        uses.append(self.use())
                    elif self.at_word("fn"):
                        functions.append(self.function("fn"))
                    elif self.at_word("attention"):
                        block = self.attention()
                        if block is not None:
                            attentions.append(block)
                    else:
                        self.misplaced()
                except Stop:
                    raise
                except Fail:
                    self.to_top(at)
        except Stop:
            pass
        span = Span(self.source, 0, len(self.source.text))
        return tree.File(tuple(uses), tuple(functions), tuple(attentions), span=span)

    def to_top(self, at: int) -> None:
        """Skip to the next top-level word, past `at`."""
        if self.index == at:
            self.advance()
        while self.token.kind is not Kind.END and not (self.at_word(*TOP_WORDS) and self.starts_top()):
            self.advance()

    def starts_top(self) -> bool:
        return self.first_on_line() or self.next_token.kind is not Kind.SYMBOL

    def misplaced(self) -> None:
        """Something at the top level that does not belong there."""
        token = self.token
        if self.at_word(*CLAUSE_WORDS, *LATER_WORDS, "return"):
            help = "write `attention name { ... }` around it"
            if token.value == "feature":
                help = "outside an attention, a function is declared with `fn`"
            elif token.value == "return":
                help = "`return` ends the block of a function: `fn f(x) { let y = x  return y }`"
            raise self.fail("E0118", f"`{token.value}` stands outside an attention", self.here(),
                            "expected `use`, `fn` or `attention`", help)  # fmt: skip
        raise self.unexpected("`use`, `fn` or `attention`", TOP_WORDS)

    # use

    def use(self) -> tree.Use:
        first = self.advance()
        token = self.token
        if (
            token.kind is Kind.TEXT
            or token.kind is Kind.NAME
            or (token.kind is Kind.WORD and not self.at_word(*TOP_WORDS))
        ):
            self.advance()
        else:
            raise self.unexpected("the name of a library such as `masks`, or a path in quotes")
        names = self.listed("(", self.used_name, "the names to use")
        return tree.Use(
            str(token.value), token.kind is Kind.TEXT, tuple(str(n.value) for n in names), span=self.span(first),
            module_span=self.span(token, token), name_spans=tuple(self.span(n, n) for n in names),
        )  # fmt: skip

    def used_name(self) -> Token:
        if self.at_symbol("*"):
            raise self.fail("E0110", "unexpected `*`", self.here(), "expected the name of a function",
                            "name each function that is used")  # fmt: skip
        return self.name("the name of a function")

    # Functions

    def function(self, kind: Lit["fn", "feature"]) -> tree.Function:
        first = self.advance()
        name = self.name("the name of the function")
        if name.value in LATER_FUNCTIONS:
            message = f"`{name.value}` is a reserved name"
            help = f"take another name, such as `{name.value}_`"
            self.report("E0113", message, self.span(name, name), "kept for a later version", help)
        parameters = self.listed("(", lambda: self.name("a parameter"), "a parameter", empty=True)
        statements: list[tree.Statement] = []
        if self.at_symbol("{"):
            value = self.function_block(kind, statements)
        elif self.at_symbol("="):
            self.advance()
            value = self.whole_expression("a declaration" if kind == "fn" else "a clause")
        elif self.at_word("return", "let"):
            raise self.unexpected("`{`", help="a body of several lines stands in braces")
        elif self.at_symbol(":"):
            raise self.unexpected("`=` or `{`", help="a function is written `fn f(x) = x + 1`")
        else:
            raise self.unexpected("`=` or `{`")
        span = self.span(first)
        return tree.Function(
            kind, str(name.value), tuple(str(p.value) for p in parameters), tuple(statements), value, span=span,
            name_span=self.span(name, name), parameter_spans=tuple(self.span(p, p) for p in parameters),
        )  # fmt: skip

    def function_block(self, kind: Lit["fn", "feature"], statements: list[tree.Statement]) -> tree.TreeExpr:
        """`{ let ... require ... return expr }`. After errors inside, the block is read to its end and then fails."""
        opening = self.advance()
        values: list[tree.TreeExpr] = []
        broken = False
        returned = False
        # after a feature's `return` a `require` is the next clause: then `}` is missing
        inside = ("let", "require") if kind == "fn" else ("let",)
        while not self.at_symbol("}"):
            if self.token.kind is Kind.END or self.at_word(*TOP_WORDS) or (
                returned and self.at_starter and not self.at_word(*inside)
            ):  # fmt: skip
                at = self.span(opening, opening)
                raise self.fail("E0111", "`{` is never closed", at, "expected `}` after `return`")
            at = self.index
            try:
                if returned and self.at_word(*inside, "return"):
                    self.report("E0117", f"`{self.token.value}` after `return`", self.here(), "`return` ends the block")
                    broken = True
                returned = returned or self.at_word("return")
                self.statement(statements, values)
            except Stop:
                raise
            except Fail:
                broken = True
                if self.index == at:
                    self.advance()
                self.skip_in_block()
        closing = self.advance()
        if broken:
            raise Fail()
        if not values:
            raise self.fail("E0117", "the function returns nothing", self.span(closing, closing),
                            "expected `return` before this")  # fmt: skip
        return values[0]

    def statement(self, statements: list[tree.Statement], values: list[tree.TreeExpr]) -> None:
        if self.at_word("let"):
            statements.append(self.let())
        elif self.at_word("require"):
            statements.append(self.require())
        elif self.at_word("return"):
            self.advance()
            values.append(self.whole_expression("`}`"))
        elif self.at_starter:
            raise self.fail("E0118", f"`{self.token.value}` stands inside a function", self.here(),
                            "expected `let`, `require`, `return` or `}`")  # fmt: skip
        else:
            raise self.unexpected("`let`, `require`, `return` or `}`", ("let", "require", "return"))

    def skip_in_block(self) -> None:
        while self.token.kind is not Kind.END and not self.at_symbol("}") and not self.at_starter:
            if self.at_word("return"):
                return
            self.advance()

    def let(self) -> tree.Let:
        first = self.advance()
        name = self.name("a name")
        if not self.at_symbol("="):
            help = (
                "`let` declares a value; a function is declared with `fn` or `feature`" if self.at_symbol("(") else ""
            )
            if self.at_symbol(":"):
                help = "a `let` has no type; it has that of its value"
            raise self.unexpected("`=`", help=help)
        self.advance()
        value = self.whole_expression("a clause")
        return tree.Let(str(name.value), value, span=self.span(first), name_span=self.span(name, name))

    def whole_expression(self, then: str) -> tree.TreeExpr:
        """An expression after which a new clause or declaration starts."""
        value = self.expression()
        if self.token.kind is Kind.END or self.at_symbol("}") or self.at_starter or self.at_word("return"):
            return value
        if self.at_symbol(",") and self.previous.kind is not Kind.END and then == "require":
            return value
        if self.at_symbol("="):
            raise self.fail("E0116", "unexpected `=`", self.here(), "expected an operator", "`==` compares")
        if self.token.kind is Kind.WORD and self.token.value in ("by", "where"):
            raise self.fail("E0114", f"`{self.token.value}` is not supported yet", self.here(), "kept for `select`")
        help = ""
        if self.token.kind is Kind.NAME and self.next_token.value == "=":
            help = f"a name is declared with `let {self.token.value} = ...`"
        what = "an operator, `,` or a clause" if then == "require" else f"an operator or {then}"
        raise self.unexpected(what, (*CLAUSE_WORDS, *LATER_WORDS, "return", *TOP_WORDS, "and", "or", "in"), help)

    # Attentions

    def attention(self) -> tree.AttentionBlock | None:
        first = self.advance()
        name = self.name("the name of the attention")
        parameters: tuple[tree.Parameter, ...] = ()
        try:
            if self.at_symbol("("):
                parameters = self.parameters()
            if not self.at_symbol("{"):
                raise self.unexpected("`{`" if self.previous.value == ")" else "`(` or `{`")
        except Stop:
            raise
        except Fail:
            while self.token.kind is not Kind.END and not self.at_symbol("{") and not self.at_word(*TOP_WORDS):
                self.advance()
            if not self.at_symbol("{"):
                raise
        clauses = self.body()
        if clauses is None:
            return None
        span = self.span(first)
        return tree.AttentionBlock(
            str(name.value), parameters, tuple(clauses), span=span, name_span=self.span(name, name)
        )

    def body(self) -> list[tree.Clause] | None:
        """`{ clause ... }`; None when it is not closed."""
        opening = self.advance()
        clauses: list[tree.Clause] = []
        while not self.at_symbol("}"):
            if self.token.kind is Kind.END or self.at_word("attention", "use") or (
                self.at_word("fn") and not self.closes_later()
            ):  # fmt: skip
                at = self.span(opening, opening)
                note = (Note(self.here(), "expected `}` before this"),) if self.token.kind is not Kind.END else ()
                self.report("E0111", "`{` is never closed", at, "expected `}` after the last clause", notes=note)
                return None
            at = self.index
            try:
                clauses.append(self.clause())
            except Stop:
                raise
            except Fail:
                if self.index == at:
                    self.advance()
                self.skip_to(*CLAUSE_WORDS, *LATER_WORDS)
        self.advance()
        return clauses

    def closes_later(self) -> bool:
        """Whether the block that is open here is closed before the next `attention` or `use`."""
        return self.index in self.inside_block

    @cached_property
    def inside_block(self) -> set[int]:
        """Indices of tokens that stand in a block which is closed before the next `attention` or `use`."""
        inside: set[int] = set()
        depth = 0
        for i in reversed(range(len(self.tokens))):
            token = self.tokens[i]
            if token.kind is Kind.WORD and token.value in ("attention", "use"):
                depth = 0
            elif token.kind is Kind.SYMBOL and token.value in ("{", "}"):
                depth = max(depth - 1, 0) if token.value == "{" else depth + 1
            if depth > 0:
                inside.add(i)
        return inside

    def clause(self) -> tree.Clause:
        token = self.token
        if token.kind is not Kind.WORD or token.value not in (*CLAUSE_WORDS, *LATER_WORDS, "fn", "return"):
            raise self.unexpected("a clause or `}`", (*CLAUSE_WORDS, *LATER_WORDS))
        match token.value:
            case "let":
                return self.let()
            case "grid":
                return self.grid()
            case "require":
                return self.require()
            case "feature":
                return self.function("feature")
            case "fn":
                self.report("E0118", "`fn` stands inside an attention", self.here(), "expected a clause or `}`",
                            "write `feature`, or declare the function outside")  # fmt: skip
                return self.function("feature")
            case "return":
                raise self.fail("E0118", "`return` stands outside a function", self.here(), "expected a clause or `}`")
            case "score" | "mask" | "weight" | "output":
                self.advance()
                value = self.whole_expression("a clause")
                return tree.Rewrite(token.value, value, span=self.span(token))
            case _:
                word = str(token.value)
                span = self.here()
                self.advance()
                raise self.fail(
                    "E0114", f"`{word}` is not supported yet", span, "this clause is kept for a later version"
                )

    def require(self) -> tree.RequireClause:
        first = self.advance()
        condition = self.whole_expression("require")
        message = ""
        if self.at_symbol(","):
            self.advance()
            if self.token.kind is not Kind.TEXT:
                raise self.unexpected("a message in double quotes")
            message = str(self.advance().value)
        return tree.RequireClause(condition, message, span=self.span(first))

    def grid(self) -> tree.Grid:
        first = self.advance()
        side: Lit["both", "q", "k"] = "both"
        if self.token.kind is Kind.INDEX:
            side = cast(Lit["q", "k"], self.advance().value)
        segments = [self.segment()]
        while self.at_symbol("++"):
            self.advance()
            segments.append(self.segment())
        if self.at_symbol("+"):
            raise self.unexpected("`++` or a clause")
        return tree.Grid(side, tuple(segments), span=self.span(first))

    def segment(self) -> tree.GridSegment:
        first = self.token
        name = "" if self.at_symbol("(") else str(self.name("a segment such as `video(t, y, x)`").value)
        axes = self.listed("(", lambda: self.name("the name of an axis"), "the names of the axes")
        spans = tuple(self.span(a, a) for a in axes)
        return tree.GridSegment(name, tuple(str(a.value) for a in axes), span=self.span(first), axis_spans=spans)
