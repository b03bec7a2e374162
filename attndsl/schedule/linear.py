"""Integer expressions as linear forms: which terms cancel, which way a value goes along a row axis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from attndsl.ir.expr import Expr, Literal, Op, integer, rewrite, walk
from attndsl.ir.types import INT, Kind


@dataclass(frozen=True)
class Linear:
    """constant + the sum of coefficient * term; terms are not sums themselves, coefficients not 0."""

    terms: Mapping[Expr, int]
    constant: int

    def plus(self, other: Linear, factor: int = 1) -> Linear:
        """This form plus `factor` times another."""
        terms = dict(self.terms)
        for term, coefficient in other.terms.items():
            total = terms.get(term, 0) + factor * coefficient
            if total:
                terms[term] = total
            else:
                terms.pop(term, None)
        return Linear(terms, self.constant + factor * other.constant)

    def times(self, factor: int) -> Linear:
        if not factor:
            return Linear({}, 0)
        return Linear({t: c * factor for t, c in self.terms.items()}, self.constant * factor)

    def without(self, term: Expr) -> Linear:
        return Linear({t: c for t, c in self.terms.items() if t != term}, self.constant)

    @property
    def is_constant(self) -> bool:
        return not self.terms


@lru_cache(maxsize=1 << 15)
def linear(expr: Expr) -> Linear:
    """The linear form of an integer expression."""
    if isinstance(expr, Literal):
        return Linear({}, int(expr.value))
    if isinstance(expr, Op) and expr.type == INT:
        match expr.op, expr.args:
            case "add", (a, b):
                return linear(a).plus(linear(b))
            case "sub", (a, b):
                return linear(a).plus(linear(b), -1)
            case "neg", (a,):
                return linear(a).times(-1)
            case "mul", (a, b):
                left, right = linear(a), linear(b)
                if left.is_constant:
                    return right.times(left.constant)
                if right.is_constant:
                    return left.times(right.constant)
            case _:
                pass
    return Linear({expr: 1}, 0)


def expression(form: Linear) -> Expr:
    """A small expression of a linear form: positive terms first."""
    total: Expr | None = None
    for term, coefficient in sorted(form.terms.items(), key=lambda tc: tc[1] < 0):
        size = abs(coefficient)
        part = term if size == 1 else Op(INT, "mul", (integer(size), term))
        if total is None:
            total = part if coefficient > 0 else Op(INT, "neg", (part,))
        else:
            total = Op(INT, "add" if coefficient > 0 else "sub", (total, part))
    if total is None:
        return integer(form.constant)
    if form.constant:
        name = "add" if form.constant > 0 else "sub"
        total = Op(INT, name, (total, integer(abs(form.constant))))
    return total


def tidy(expr: Expr) -> Expr:
    """An integer expression through its linear form; others unchanged."""
    return expression(linear(expr)) if expr.type == INT else expr


def divide(form: Linear, divisor: int, small: Mapping[Expr, int]) -> tuple[Linear, Linear] | None:
    """Quotient and remainder by a positive divisor where they split exactly: `form = divisor * quotient + rest`
    with 0 <= rest < divisor for all values of the terms. `small` maps terms known to lie in [0, n) to n."""
    quotient = Linear({t: c // divisor for t, c in form.terms.items() if c % divisor == 0}, form.constant // divisor)
    rest = Linear({t: c for t, c in form.terms.items() if c % divisor}, form.constant % divisor)
    largest = rest.constant
    for term, coefficient in rest.terms.items():
        if term not in small or coefficient < 0:
            return None
        largest += coefficient * (small[term] - 1)
    return (quotient, rest) if largest < divisor else None


def split_divisions(expr: Expr, small: Mapping[Expr, int]) -> Expr:
    """Rewrite (d*p + g) // d to p and (d*p + g) % d to g where 0 <= g < d is known, and tidy sums."""

    def rule(node: Expr) -> Expr | None:
        if isinstance(node, Op) and node.op in ("floordiv", "mod") and isinstance(node.args[1], Literal):
            divisor = int(node.args[1].value)
            if divisor > 0:
                parts = divide(linear(node.args[0]), divisor, small)
                if parts is not None:
                    return expression(parts[0] if node.op == "floordiv" else parts[1])
        if isinstance(node, Op) and node.type == INT and node.op in ("add", "sub", "neg", "mul"):
            return tidy(node)
        if isinstance(node, Op) and node.op in ("eq", "le", "ge", "lt", "gt", "ne"):
            return _decided(node)
        return None

    return rewrite(expr, rule)


def _decided(node: Op) -> Expr | None:
    if node.args[0].type.kind is not Kind.INT:
        return None
    form = linear(node.args[0]).plus(linear(node.args[1]), -1)
    if not form.is_constant:
        return None
    c = form.constant
    truth = {"eq": c == 0, "ne": c != 0, "le": c <= 0, "lt": c < 0, "ge": c >= 0, "gt": c > 0}[node.op]
    return Literal(node.type, truth)


@lru_cache(maxsize=1 << 15)
def contains(expr: Expr, leaf: Expr) -> bool:
    """Whether a leaf occurs in an expression."""
    return any(n == leaf for n in walk(expr))
