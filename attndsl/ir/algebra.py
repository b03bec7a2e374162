"""Score and weight algebra with sympy, within a budget.

Our own rules (`separate`) come first; sympy is imported only where they fail on an expression that could still
separate. Its objects are built from typed nodes, with names of our own: no text of a user reaches it. What could
grow is refused beforehand by size, powers and the number of terms an expansion may have; between steps the clock is
looked at. An answer without a value says why.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false, reportUnknownParameterType=false, reportUnknownLambdaType=false

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import Any, Generic, TypeVar

from attndsl.ir import build
from attndsl.ir.expr import Expr, Literal, Op, number, op, walk
from attndsl.ir.free import column_only, row_only
from attndsl.ir.separate import Terms
from attndsl.ir.separate import separate as separate_by_rules
from attndsl.ir.types import FLOAT, INT

T = TypeVar("T")


@dataclass(frozen=True)
class Answer(Generic[T]):
    """A value, or None and the reason in words."""

    value: T | None
    reason: str = ""


@dataclass(frozen=True)
class Budget:
    """What the algebra may spend: distinct `nodes`, opaque `atoms`, a constant `power`, `terms` of an expansion,
    `seconds` of a clock that is looked at between steps."""

    nodes: int = 200
    atoms: int = 10
    power: int = 8
    terms: int = 500
    seconds: float = 0.5


DEFAULT = Budget()


class _OverBudgetError(Exception):
    """The reason, for `explain`."""


@lru_cache(maxsize=1024)
def separate(expr: Expr, limit: int = 8, budget: Budget = DEFAULT) -> Answer[Terms]:
    """`expr` as at most `limit` products of a row term and a key term, by our rules or by sympy's expansion."""
    found = separate_by_rules(expr, limit)
    if found is not None:
        return Answer(found)
    atoms = _opaque(expr)
    pairs = [a for a in atoms if not (row_only(a) or column_only(a))]
    if pairs or not isinstance(expr, Op) or expr.op not in _OPEN:
        return Answer(None, "it holds a function of both q and k that does not split")
    try:
        return _separate_with_sympy(expr, limit, budget)
    except _OverBudgetError as reason:
        return Answer(None, f"algebra gave up: {reason}")


@lru_cache(maxsize=1024)
def polynomial(
    expr: Expr, generators: tuple[Expr, ...], budget: Budget = DEFAULT
) -> Answer[dict[tuple[int, ...], Expr]]:
    """The polynomial that `expr` is in the generators: exponents to coefficients, which do not contain them.

    Zero coefficients are left out. Cancellation is exact in the rationals that the literals are.
    """
    try:
        session = _Session(expr, budget)
        session.check(expr)
        import sympy

        symbols = [session.symbol(_bare(g)) for g in generators]
        try:
            found = sympy.Poly(sympy.cancel(session.build(expr)), *symbols)
        except sympy.PolynomialError:
            return Answer(None, "it is no polynomial in them")
        session.look_at_clock()
        if any(c.has(*symbols) for c in found.coeffs()):
            return Answer(None, "it is no polynomial in them")
        return Answer({tuple(map(int, powers)): session.read(c) for powers, c in found.terms() if c != 0})
    except _OverBudgetError as reason:
        return Answer(None, f"algebra gave up: {reason}")


def _bare(generator: Expr) -> Expr:
    """An int under its conversion."""
    if isinstance(generator, Op) and generator.op == "to_float":
        generator = generator.args[0]
    if _opens(generator) or isinstance(generator, Literal):
        raise ValueError("a generator is a node that is no arithmetic")
    return generator


_OPEN = frozenset(("add", "sub", "mul", "div", "neg", "pow", "exp", "sqrt", "to_float"))


def _opens(node: Expr) -> bool:
    """Whether sympy looks inside a node; what it does not look inside is an opaque symbol."""
    if not isinstance(node, Op) or node.op not in _OPEN or node.type not in (INT, FLOAT):
        return False
    return node.op != "to_float" or node.args[0].type == INT


def _opaque(root: Expr) -> list[Expr]:
    found: dict[Expr, None] = {}
    stack, seen = [root], set[Expr]()
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if _opens(node):
            stack.extend(node.children)
        elif not isinstance(node, Literal):
            found[node] = None
    return list(found)


def _separate_with_sympy(expr: Expr, limit: int, budget: Budget) -> Answer[Terms]:
    session = _Session(expr, budget)
    session.check(expr)
    import sympy

    whole = session.build(expr)
    for form in (lambda e: e, sympy.cancel):
        expanded = sympy.expand(form(whole), power_exp=True, power_base=False, log=False)
        session.look_at_clock()
        terms = _split_terms(sympy.Add.make_args(expanded), session)
        if terms is not None and len(terms) <= limit:
            return Answer(terms)
    return Answer(None, "its expansion has factors of both q and k")


def _split_terms(terms: Any, session: _Session) -> Terms | None:
    """Each term as a row factor and a key factor, joined where key factors agree."""
    rows = [s for s, atom in session.atoms.items() if row_only(atom)]
    columns = [s for s, atom in session.atoms.items() if not row_only(atom)]
    joined: dict[Any, Any] = {}
    for term in terms:
        column, row = term.as_independent(*rows, as_Add=False) if rows else (term, 1)
        scale, column = column.as_independent(*columns, as_Add=False) if columns else (column, 1)
        if row != 1 and row.has(*columns):
            return None
        joined[column] = joined.get(column, 0) + scale * row
    pairs = ((session.read(r), session.read(c)) for c, r in joined.items() if r != 0)
    return tuple(pairs)


@dataclass
class _Session:
    """One translation there and back: which symbol stands for which opaque node."""

    root: Expr
    budget: Budget
    atoms: dict[Any, Expr] = field(default_factory=dict[Any, Expr])
    symbols: dict[Expr, Any] = field(default_factory=dict[Expr, Any])
    start: float = field(default_factory=time.monotonic)

    def check(self, expr: Expr) -> None:
        """Refuse beforehand what could grow."""
        nodes = sum(1 for _ in walk(expr))
        if nodes > self.budget.nodes:
            raise _OverBudgetError(f"{nodes} nodes, more than {self.budget.nodes}")
        atoms = len(_opaque(expr))
        if atoms > self.budget.atoms:
            raise _OverBudgetError(f"{atoms} distinct parts, more than {self.budget.atoms}")
        terms: dict[Expr, int] = {}
        for node in walk(expr):
            terms[node] = self._terms(node, terms)
            if terms[node] > self.budget.terms:
                raise _OverBudgetError(f"an expansion to more than {self.budget.terms} terms")

    def _terms(self, node: Expr, terms: dict[Expr, int]) -> int:
        if not isinstance(node, Op) or not _opens(node):
            return 1
        counts = [terms[a] for a in node.args]
        if node.op in ("add", "sub", "mul"):
            return sum(counts) if node.op != "mul" else math.prod(counts)
        if node.op == "div":
            return counts[0] * counts[1]
        if node.op == "pow" and isinstance(node.args[1], Literal):
            power = abs(float(node.args[1].value))
            if power > self.budget.power:
                raise _OverBudgetError(f"a power of {power:g}, more than {self.budget.power}")
            return counts[0] ** math.ceil(power)
        return counts[0]

    def look_at_clock(self) -> None:
        spent = time.monotonic() - self.start
        if spent > self.budget.seconds:
            raise _OverBudgetError(f"{spent:.1f} s, more than {self.budget.seconds:g}")

    def symbol(self, node: Expr) -> Any:
        """The symbol of an opaque node; its name holds nothing of the user's."""
        import sympy

        if node not in self.symbols:
            made = sympy.Symbol(f"x{len(self.symbols)}", real=True)
            self.symbols[node] = made
            self.atoms[made] = node
        return self.symbols[node]

    def build(self, expr: Expr) -> Any:
        """The sympy object of an expression."""
        import sympy

        done: dict[Expr, Any] = {}
        visible = set(_opaque(expr))
        for node in walk(expr):
            if isinstance(node, Literal):
                if not math.isfinite(node.value):
                    raise _OverBudgetError("an infinite literal")
                exact = Fraction(node.value)
                done[node] = sympy.Rational(exact.numerator, exact.denominator)
            elif isinstance(node, Op) and _opens(node):
                done[node] = _MAKE[node.op](sympy, *(done[a] for a in node.args))
            elif node in visible:
                done[node] = self.symbol(node)
        return done[expr]

    def read(self, value: Any) -> Expr:
        """The typed expression of a sympy object that came from `build`."""
        import sympy

        if value in self.atoms:
            return build.to_float(self.atoms[value])
        if isinstance(value, int) or value.is_Rational:
            return number(float(value))
        if value.is_Add or value.is_Mul:
            parts = [self.read(a) for a in value.args]
            name = "add" if value.is_Add else "mul"
            total = parts[0]
            for p in parts[1:]:
                total = op(name, total, p) if name == "add" else build.whole(build.mul(total, p))
            return total
        if isinstance(value, sympy.exp):
            return op("exp", self.read(value.args[0]))
        if value.is_Pow:
            base, exponent = value.args
            if exponent == -1:
                return op("div", build.ONE, self.read(base))
            if exponent == sympy.Rational(1, 2):
                return op("sqrt", self.read(base))
            return op("pow", self.read(base), self.read(exponent))
        raise _OverBudgetError(f"an unexpected {type(value).__name__}")


_MAKE: dict[str, Any] = {
    "add": lambda s, a, b: a + b,
    "sub": lambda s, a, b: a - b,
    "mul": lambda s, a, b: a * b,
    "div": lambda s, a, b: a / b,
    "neg": lambda s, a: -a,
    "pow": lambda s, a, b: a**b,
    "exp": lambda s, a: s.exp(a),
    "sqrt": lambda s, a: s.sqrt(a),
    "to_float": lambda s, a: a,
}
