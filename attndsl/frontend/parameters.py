"""Parameters of an attention and their types."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal as Lit
from typing import cast

from attndsl.diagnostics.source import Span
from attndsl.frontend import tree
from attndsl.frontend.cursor import Fail, Stop
from attndsl.frontend.expressions import ExpressionParser
from attndsl.frontend.lexer import TOP_WORDS, Kind, Token

Role = Lit["const", "scalar", "input"]
_ROLES = ("const", "scalar", "input")


class ParameterParser(ExpressionParser):
    def parameters(self) -> tuple[tree.Parameter, ...]:
        opening = self.advance()
        out: list[tree.Parameter] = []
        while not self.at_symbol(")"):
            try:
                out.append(self.parameter())
                if not self.at_symbol(")", ",") and not self.at_word(*_ROLES):
                    self.close(opening, "`,` or ")
                elif self.at_word(*_ROLES):
                    raise self.unexpected("`,` or `)`")
            except Stop:
                raise
            except Fail:
                if not self.skip_parameter():
                    raise
            if self.at_symbol(","):
                self.advance()
        self.advance()
        return tuple(out)

    def skip_parameter(self) -> bool:
        """Skip to the next parameter or the closing parenthesis; False if there is none."""
        depth = 0
        while self.token.kind is not Kind.END and not self.at_symbol("{", "}") and not self.at_word(*TOP_WORDS):
            if self.at_word(*_ROLES):
                return True
            if self.at_symbol("(", "["):
                depth += 1
            elif self.at_symbol(")", "]"):
                if depth == 0 and self.at_symbol(")"):
                    return True
                depth -= 1
            elif self.at_symbol(",") and depth <= 0:
                return True
            self.advance()
        return False

    def parameter(self) -> tree.Parameter:
        first = self.token
        if self.token.kind is Kind.NAME and self.next_token.value in (":", "=", ",", ")"):
            help = "`const` is baked into the kernel, `scalar` is a run-time number, `input` a tensor"
            label = "expected `const`, `scalar` or `input` before it"
            raise self.fail("E0124", f"parameter `{first.value}` has no role", self.here(), label, help)
        if not self.at_word(*_ROLES):
            raise self.unexpected("`const`, `scalar` or `input`", _ROLES)
        role = cast(Role, self.advance().value)
        name = self.name(f"the name of the {role}")
        if not self.at_symbol(":"):
            example = {"const": "int", "scalar": "float", "input": "f32[B, H]"}[role]
            raise self.unexpected(f"`:` and a type, such as `{name.value}: {example}`")
        self.advance()
        declared = self.parameter_of_type(role, self.span(first))
        if self.at_symbol("("):
            raise self.unexpected("`,` or `)`", help=f"sizes stand in brackets: `{declared.base}[...]`")
        default: tree.TreeExpr | None = None
        if self.at_symbol("="):
            self.advance()
            default = self.expression()
        return replace(
            declared, name=str(name.value), default=default, span=self.span(first), name_span=self.span(name, name)
        )

    def parameter_of_type(self, role: Role, span: Span) -> tree.Parameter:
        """A type, its word, its sizes and the promises after it, as a parameter without a name."""
        if self.token.kind is not Kind.NAME:
            raise self.unexpected("a type such as `int`, `float[3]` or `f32[B, H]`")
        base = self.advance()
        shape = self.listed("[", self.expression, "a size") if self.at_symbol("[") else None
        facts: list[Token] = []
        while self.token.kind is Kind.NAME:
            facts.append(self.advance())
        return tree.Parameter(
            role, "", str(base.value), shape, tuple(str(f.value) for f in facts), span=span,
            base_span=self.span(base, base), fact_spans=tuple(self.span(f, f) for f in facts),
        )  # fmt: skip
