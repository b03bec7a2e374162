"""The expression parser: precedence climbing over the tokens."""

from __future__ import annotations

from typing import Literal as Lit
from typing import cast

from attndsl.diagnostics.source import Span
from attndsl.frontend import tree
from attndsl.frontend.cursor import Cursor, Fail
from attndsl.frontend.lexer import CLAUSE_WORDS, LATER_FUNCTIONS, Kind, Token

COMPARISONS = ("<", "<=", ">", ">=", "==", "!=")
OR, AND, NOT, COMPARE, SUM, PRODUCT, NEGATE, POWER = range(1, 9)
BINARY = {
    "or": OR, "and": AND, "+": SUM, "-": SUM, "*": PRODUCT, "/": PRODUCT, "//": PRODUCT, "%": PRODUCT, "@": PRODUCT,
    "^": POWER,
}  # fmt: skip
"""How tightly each binary operator binds."""

_CONSTANTS = {"True": "true", "False": "false", "infinity": "inf", "Inf": "inf"}


class ExpressionParser(Cursor):
    """Reads one expression from the cursor; raises Fail where it cannot go on."""

    def expression(self) -> tree.TreeExpr:
        with self.deeper():
            return self.conditional() if self.at_word("if") else self.binary(OR)

    def conditional(self) -> tree.TreeExpr:
        first = self.advance()
        condition = self.expression()
        self.part("then", "if", first)
        then = self.expression()
        self.part("else", "if", first)
        otherwise = self.expression()
        node = tree.Conditional(condition, then, otherwise, span=self.span(first))
        self.count(node, condition, then, otherwise)
        return node

    def part(self, word: str, of: str, first: Token) -> None:
        if not self.at_word(word):
            raise self.unexpected(f"`{word}` of this `{of}`", (word,), "write `if a then b else c`")
        self.advance()

    def binary(self, least: int) -> tree.TreeExpr:
        first = self.token
        left = self.prefix(least)
        while True:
            token = self.token
            if token.kind not in (Kind.SYMBOL, Kind.WORD):
                return left
            if token.value in COMPARISONS or token.value in ("in", "not"):
                if least > COMPARE or (token.value == "not" and self.next_token.value != "in"):
                    return left
                left = self.comparison(left, first)
                continue
            level = BINARY.get(str(token.value), 0)
            if level < least:
                return left
            self.advance()
            if level == POWER:
                with self.deeper():
                    right = self.binary(NEGATE)
            else:
                right = self.binary(level + 1)
            operator = cast(Lit["+", "-", "*", "/", "//", "%", "@", "^", "and", "or"], token.value)
            left = self.binary_node(operator, left, right, first)

    def binary_node(
        self,
        operator: Lit["+", "-", "*", "/", "//", "%", "@", "^", "and", "or"],
        left: tree.TreeExpr,
        right: tree.TreeExpr,
        first: Token,
    ) -> tree.TreeExpr:
        node = tree.Binary(operator, left, right, span=self.span(first))
        self.count(node, left, right)
        return node

    def comparison(self, left: tree.TreeExpr, first: Token) -> tree.TreeExpr:
        operands = [left]
        operators: list[Lit["<", "<=", ">", ">=", "==", "!=", "in"]] = []
        negated: Token | None = None
        while self.at_symbol(*COMPARISONS) or self.at_word("in", "not"):
            token = self.advance()
            if token.value == "not":
                if not self.at_word("in"):
                    raise self.unexpected("`in` after `not`")
                self.advance()
                negated = token
                operators.append("in")
            else:
                operators.append(cast(Lit["<", "<=", ">", ">=", "==", "!=", "in"], token.value))
            operands.append(self.binary(SUM))
        node = tree.Comparison(tuple(operators), tuple(operands), span=self.span(first))
        self.count(node, *operands)
        if negated is None:
            return node
        if len(operators) > 1:
            raise self.fail("E0115", "`not in` stands inside a chain of comparisons", self.span(negated, negated), "",
                            "write `a < b and b not in c`")  # fmt: skip
        wrapped = tree.Unary("not", node, span=node.span)
        self.count(wrapped, node)
        return wrapped

    def prefix(self, least: int) -> tree.TreeExpr:
        """A `-`, a `not`, or an operand."""
        token = self.token
        if self.at_word("if"):
            raise self.fail("E0115", "`if` inside an operation needs parentheses", self.here(), "expected an operand",
                            "write `(if a then b else c)`")  # fmt: skip
        if not (self.at_symbol("-") or self.at_word("not")):
            return self.postfix()
        if self.at_word("not") and least > NOT:
            raise self.fail("E0115", "`not` inside an operation needs parentheses", self.here(), "expected an operand",
                            "write `(not a)`")  # fmt: skip
        with self.deeper():
            self.advance()
            operand = self.binary(NEGATE if token.value == "-" else NOT)
        node = tree.Unary("-" if token.value == "-" else "not", operand, span=self.span(token))
        self.count(node, operand)
        return node

    def postfix(self) -> tree.TreeExpr:
        first = self.token
        node = self.primary()
        while self.at_symbol(".", "[", "("):
            if self.at_symbol("("):
                raise self.not_a_function(node)
            if self.at_symbol("["):
                indices = self.listed("[", self.expression, "an index")
                node, base = tree.Subscript(node, indices, span=self.span(first)), node
                self.count(node, base, *indices)
                continue
            self.advance()
            name = self.name("a segment or an axis of a grid")
            node, base = tree.Attribute(node, str(name.value), span=self.span(first)), node
            self.count(node, base)
        return node

    def not_a_function(self, node: tree.TreeExpr) -> Fail:
        text = node.span.text
        shown = f"`{text}`" if len(text) <= 40 else "this"
        help = "write `*` for a product"
        if isinstance(node, tree.Name):
            help = f"`{text}` is a position; write `*` for a product"
        elif isinstance(node, tree.Attribute):
            help = f"functions are called by a bare name, such as `{node.name}(...)`"
        return self.fail("E0120", f"{shown} is not a function", node.span, "only a name can be called", help)

    def primary(self) -> tree.TreeExpr:
        token = self.token
        if token.kind is Kind.NAME and self.next_token.kind is Kind.SYMBOL and self.next_token.value == "(":
            return self.call()
        node: tree.TreeExpr
        if self.at_name or (self.at_word(*self.renamed) and not self.first_on_line()):
            self.advance()
            if token.value in _CONSTANTS:
                meant = _CONSTANTS[str(token.value)]
                self.report("E0110", f"unexpected `{token.value}`", self.span(token, token), f"expected `{meant}`")
            node = tree.Name(str(token.value), span=self.span(token))
        elif token.kind is Kind.NUMBER:
            self.advance()
            assert not isinstance(token.value, str)
            node = tree.Number(token.value, span=self.span(token))
        elif self.at_word("true", "false"):
            self.advance()
            node = tree.Boolean(token.value == "true", span=self.span(token))
        elif self.at_symbol("("):
            return self.parenthesised()
        else:
            raise self.no_operand()
        self.count(node)
        return node

    def call(self) -> tree.TreeExpr:
        first = self.advance()
        function = str(first.value)
        if function in LATER_FUNCTIONS:
            raise self.fail("E0114", f"`{function}` is not supported yet", self.span(first),
                            "kept for selection and branches")  # fmt: skip
        arguments = self.listed("(", self.argument, "an argument", empty=True)
        node = tree.Call(function, arguments, span=self.span(first))
        self.count(node, *arguments)
        return node

    def argument(self) -> tree.TreeExpr:
        node = self.expression()
        if self.at_symbol("="):
            self.report("E0119", "arguments have no names", Span(self.source, node.span.start, self.token.stop),
                        "expected a value", "give arguments in order, without names; `==` compares")  # fmt: skip
            self.advance()
            return self.expression()
        return node

    def parenthesised(self) -> tree.TreeExpr:
        opening = self.advance()
        if self.at_symbol(")"):
            self.advance()
            raise self.fail("E0121", "empty parentheses", self.span(opening), "expected an expression")
        items = [self.expression()]
        comma = self.at_symbol(",")
        while self.at_symbol(","):
            self.advance()
            if self.at_symbol(")"):
                break
            items.append(self.expression())
        self.close(opening, "" if comma else "an operator or ")
        if not comma:
            # the span of a bracketed expression is that of what stands inside; errors underline the meaning
            return items[0]
        if len(items) == 1:
            raise self.fail("E0121", "a tuple has at least two items", self.span(opening), "",
                            f"write `({items[0].span.text})`")  # fmt: skip
        node = tree.TupleLiteral(tuple(items), span=self.span(opening))
        self.count(node, *items)
        return node

    def no_operand(self) -> Fail:
        token = self.token
        if token.kind is Kind.TEXT:
            return self.fail("E0122", "text is not a value", self.here(), "expected an expression",
                             "text stands only after `use` and in `require condition, \"message\"`")  # fmt: skip
        if self.is_replaced(token):
            return Fail()
        if token.kind is Kind.WORD and not self.starts_clause() and token.value not in ("then", "else", "by", "where"):
            word = str(token.value)
            return self.fail("E0113", f"`{word}` is a reserved word", self.here(), "expected a value",
                             f"take another name, such as `{word}_`")  # fmt: skip
        help = ""
        if self.at_symbol("+", "++"):
            help = "numbers need no `+`" if token.value == "+" else "`++` joins the segments of a grid"
        elif self.at_symbol("//"):
            help = "`//` divides; comments start with `#`"
        elif self.at_symbol("="):
            before = self.previous
            help = "`==` compares"
            if before.kind is Kind.WORD and before.value in CLAUSE_WORDS:
                help = f"`{before.value}` is followed by its expression, without `=`"
            elif before.value in ("<", ">"):
                help = f"write `{before.value}=` without a space"
        elif self.at_symbol(":") and self.previous.kind is Kind.WORD and self.previous.value in CLAUSE_WORDS:
            help = f"`{self.previous.value}` is followed by its expression, without `:`"
        elif self.at_symbol("*") and self.previous.value == "*":
            help = "a power is written `^`"
        return self.unexpected("an expression", (), help)
