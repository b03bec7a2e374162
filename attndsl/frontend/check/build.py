"""Making IR nodes from checked operands: interning, conversions of kinds, lifting over tuples and vectors."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

from attndsl.diagnostics.source import Span
from attndsl.frontend.check.values import TupleValue, describe_type
from attndsl.frontend.limits import NODES
from attndsl.ir.expr import COMPARISONS, Expr, Literal, Op, result_type
from attndsl.ir.types import INT, Kind, Type

DEPTH = 200
"""Height of an expression with all functions inlined, so that recursive readers of the IR are safe."""
POWER = 8
"""Largest constant exponent."""


class LimitError(Exception):
    """A limit was passed; the attention is given up after one finding."""

    def __init__(self, code: str, message: str, span: Span, help: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.span = span
        self.help = help


class MismatchError(Exception):
    """Operands that do not fit. `argument` is the position of the wrong one, or None for all together."""

    def __init__(self, code: str, message: str, label: str = "", help: str = "", argument: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.label = label
        self.help = help
        self.argument = argument


class Builder:
    """Makes nodes so that equal ones are the same object: sharing keeps comparing and walking cheap."""

    def __init__(self) -> None:
        self._nodes: dict[Expr, Expr] = {}
        self._height: dict[Expr, int] = {}
        self._constants: dict[Expr, int | float] = {}

    def make(self, node: Expr) -> Expr:
        """The one node equal to this; its children must come from here too."""
        known = self._nodes.get(node)
        if known is not None:
            return known
        height = 1 + max((self._height.get(c, 1) for c in node.children), default=0)
        if height > DEPTH:
            message = f"this expression is more than {DEPTH} operations deep with its functions inlined"
            raise LimitError("E0612", message, node.span, "write it with fewer steps that build on each other")
        if len(self._nodes) >= 2 * NODES:
            raise too_large(node.span)
        self._nodes[node] = node
        self._height[node] = height
        self._fold(node)
        return node

    def constant(self, node: Expr) -> int | float | None:
        """The number that an expression of literals is, or None."""
        return self._constants.get(node)

    def _fold(self, node: Expr) -> None:
        if isinstance(node, Literal) and not isinstance(node.value, bool):
            self._constants[node] = node.value
        if not isinstance(node, Op) or node.op not in _FOLD or not node.type.is_number:
            return
        args = [self._constants.get(a) for a in node.args]
        if any(a is None for a in args):
            return
        try:
            value = _FOLD[node.op](*args)
        except (ArithmeticError, ValueError):
            return
        if abs(value) < 2**63:
            self._constants[node] = value

    def op(self, name: str, *args: Expr, span: Span) -> Expr:
        """An operation on arguments that fit already."""
        return self.make(Op(result_type(name, tuple(a.type for a in args)), name, args, span=span))

    def integer(self, value: int, span: Span) -> Expr:
        return self.make(Literal(INT, value, span=span))

    def to_float(self, value: Expr) -> Expr:
        """The same number as a float."""
        if value.type.kind is Kind.FLOAT:
            return value
        if isinstance(value, Literal):
            return self.make(Literal(Type(Kind.FLOAT), float(value.value), span=value.span))
        return self.op("to_float", value, span=value.span)

    def unify(self, *args: Expr) -> tuple[Expr, ...]:
        """Numbers of one kind: floats if one is."""
        if any(a.type.kind is Kind.FLOAT for a in args):
            return tuple(self.to_float(a) for a in args)
        return args

    def lift(self, rule: Callable[..., Expr], *args: Expr | TupleValue) -> Expr | TupleValue:
        """The rule on numbers, mapped over the components where an argument is a tuple."""
        lengths = [len(a.items) for a in args if isinstance(a, TupleValue)]
        if not lengths:
            return rule(*args)
        if len(set(lengths)) > 1:
            shown = " and ".join(str(n) for n in dict.fromkeys(lengths))
            raise MismatchError("E0302", f"tuples of {shown} numbers do not fit together", "lengths must agree")
        rows = zip(*(a.items if isinstance(a, TupleValue) else (a,) * lengths[0] for a in args), strict=True)
        return TupleValue(tuple(rule(*row) for row in rows))

    # Rules on numbers and vectors

    def arithmetic(self, name: str, a: Expr, b: Expr, span: Span, sign: str) -> Expr:
        """`+ - * / // % ^ min max` and what else takes two numbers of one kind."""
        require_numbers(sign, a, b)
        same_shape(sign, a, b)
        if name in ("floordiv", "mod"):
            for i, x in enumerate((a, b)):
                if x.type.kind is not Kind.INT:
                    instead = "`floor(x / y)`" if name == "floordiv" else "`x - y * floor(x / y)`"
                    message = f"`{sign}` takes ints, and this is {describe_type(x.type)}"
                    raise MismatchError("E0301", message, "an int was expected", f"for floats write {instead}", i)
        if name in ("floordiv", "mod", "div") and self.constant(b) == 0:
            raise MismatchError("E0701", f"the right side of `{sign}` is always 0", "division by zero", argument=1)
        if name == "pow":
            return self._power(a, b, span)
        if name == "div":
            return self.op("div", self.to_float(a), self.to_float(b), span=span)
        return self.op(name, *self.unify(a, b), span=span)

    def _power(self, a: Expr, b: Expr, span: Span) -> Expr:
        exponent = self.constant(b)
        base = self.constant(a)
        if exponent is not None and base is None and abs(exponent) > POWER:
            message = f"the constant power {exponent:g} is larger than {POWER}"
            raise MismatchError("E0613", message, f"at most {POWER}", "multiply smaller powers", 1)
        if exponent is not None and isinstance(exponent, int) and exponent >= 0 and a.type.kind is Kind.INT:
            if isinstance(base, int):
                if abs(base) > 1 and exponent * math.log2(abs(base)) >= 31:
                    raise MismatchError("E0614", f"{base}^{exponent} is not below 2^31", "too large a number")
                return self.integer(base**exponent, span)
            return self.op("pow", a, b, span=span)
        return self.op("pow", self.to_float(a), self.to_float(b), span=span)

    def negative(self, a: Expr, span: Span) -> Expr:
        require_numbers("-", a)
        if isinstance(a, Literal):
            return self.make(Literal(a.type, -a.value, span=span))
        return self.op("neg", a, span=span)

    def logic(self, name: str, *args: Expr, span: Span) -> Expr:
        for i, a in enumerate(args):
            if a.type.kind is not Kind.BOOL:
                help_ = "compare it, for example with `!= 0`" if a.type.is_number else ""
                message = f"`{name}` takes bools, and this is {describe_type(a.type)}"
                raise MismatchError("E0301", message, "a bool was expected", help_, i if len(args) > 1 else None)
        same_shape(name, *args)
        return self.op(name, *args, span=span)

    def compare(self, name: str, a: Expr, b: Expr, span: Span, sign: str) -> Expr:
        assert name in COMPARISONS
        bools = [x.type.kind is Kind.BOOL for x in (a, b)]
        if name in ("eq", "ne") and all(bools):
            same_shape(sign, a, b)
            return self.op(name, a, b, span=span)
        require_numbers(sign, a, b)
        same_shape(sign, a, b)
        return self.op(name, *self.unify(a, b), span=span)

    def choose(self, condition: Expr, then: Expr, otherwise: Expr, span: Span) -> Expr:
        if condition.type.kind is not Kind.BOOL:
            message = f"the condition of `if` is {describe_type(condition.type)}"
            raise MismatchError("E0301", message, "a bool was expected", "compare it, for example with `!= 0`", 0)
        bools = [x.type.kind is Kind.BOOL for x in (then, otherwise)]
        if any(bools) and not all(bools):
            message = f"the branches of `if` are {describe_type(then.type)} and {describe_type(otherwise.type)}"
            raise MismatchError("E0301", message, "both must be numbers, or both bools", argument=2)
        same_shape("if", condition, then, otherwise)
        if not all(bools):
            then, otherwise = self.unify(then, otherwise)
        return self.op("select", condition, then, otherwise, span=span)


def too_large(span: Span) -> LimitError:
    message = f"this attention has more than {NODES} nodes with its functions inlined"
    return LimitError("E0611", message, span, "a table in a tensor or a const array is smaller than a long formula")


def require_numbers(sign: str, *args: Expr) -> None:
    """Raise MismatchError for a bool among operands that must be numbers."""
    for i, a in enumerate(args):
        if a.type.kind is Kind.BOOL:
            message = f"`{sign}` takes numbers, and this is {describe_type(a.type)}"
            help_ = "`if c then 1 else 0` makes a number of a bool"
            raise MismatchError("E0301", message, "a number was expected", help_, i if len(args) > 1 else None)


def same_shape(sign: str, *args: Expr) -> None:
    """Raise MismatchError unless all vectors (or matrices) among the operands have one shape."""
    shapes = list(dict.fromkeys(a.type.shape for a in args if a.type.shape))
    if len(shapes) > 1:
        shown = " and ".join(str(a.type) for a in args if a.type.shape)
        raise MismatchError("E0302", f"`{sign}` between {shown}", "sizes must agree")


def _divide(a: float, b: float) -> float:
    return a / b


def _floor_divide(a: int, b: int) -> int:
    return a // b


_FOLD: dict[str, Any] = {
    "neg": operator.neg, "add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": _divide,
    "floordiv": _floor_divide, "mod": operator.mod, "min": min, "max": max, "to_float": float, "abs": abs,
}  # fmt: skip
