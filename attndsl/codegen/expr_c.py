"""Expressions as C: the statements of a loop over the keys of a row.

Every value is a number of one pair: `float`, `whole` (an int, of the width that the call needs) or, for bools, `int`.
Both arms of an `if` are computed, so that a compiler can turn the loop into vector code.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from attndsl.ir.expr import COMPARISONS, Count, Expr, Literal, Op, Reduce, Value, mentions, walk
from attndsl.ir.types import Kind

C_TYPES = {Kind.FLOAT: "float", Kind.INT: "whole", Kind.BOOL: "int"}
INFIX = {
    "add": "+", "sub": "-", "mul": "*", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!=",
    "and": "&", "or": "|",
}  # fmt: skip
CALLS = {
    "exp": "exponential", "log": "logarithm", "sqrt": "sqrtf", "tanh": "tangent", "sigmoid": "sigmoid",
    "elu": "elu", "silu": "silu", "gelu": "gelu", "softplus": "softplus", "erf": "error_function",
    "bitlen": "bit_length", "ispow2": "is_power", "floordiv": "floor_divide", "mod": "modulo",
}  # fmt: skip
"""Functions of `templates/cpu/elementary.c.j2`, and of the C library where compilers have an instruction."""
BY_KIND = {
    ("min", Kind.FLOAT): "smaller", ("max", Kind.FLOAT): "larger", ("min", Kind.INT): "smaller_whole",
    ("max", Kind.INT): "larger_whole", ("abs", Kind.FLOAT): "fabsf", ("abs", Kind.INT): "absolute_whole",
    ("sign", Kind.FLOAT): "sign", ("sign", Kind.INT): "sign_whole", ("relu", Kind.FLOAT): "relu",
    ("relu", Kind.INT): "relu_whole",
}  # fmt: skip
MOST_POWER = 8
LARGEST = 3.4028234663852886e38
LINE = 60


def has_c(node: Expr) -> bool:
    """Whether the operation of a node, on numbers, has C code here."""
    if not isinstance(node, Op) or not node.type.is_number or any(not a.type.is_number for a in node.args):
        return False
    if node.op == "pow":
        return _power(node) is not None
    if (node.op, node.type.kind) in BY_KIND or node.op in CALLS:
        return True
    if node.op in ("and", "or", "not"):
        return node.type.kind is Kind.BOOL
    return node.op in (*COMPARISONS, "add", "sub", "mul", "div", "neg", "select", "to_float", "to_int", "floor", "ceil")


def _power(node: Op) -> int | None:
    """The exponent of a power that is a product."""
    exponent = node.args[1]
    while isinstance(exponent, Op) and exponent.op == "to_float":
        exponent = exponent.args[0]
    if not isinstance(exponent, Literal):
        return None
    value = float(exponent.value)
    return int(value) if value.is_integer() and 0 <= value <= MOST_POWER else None


@dataclass
class CBody:
    """Statements that compute expressions whose leaves are literals and `Value`s, named in `names`."""

    prefix: str
    names: Mapping[Expr, str]
    hoisted: frozenset[Expr] = frozenset()
    """Values that are the same for all keys of a row."""
    lines: list[str] = field(default_factory=list[str])
    texts: dict[Expr, str] = field(default_factory=dict[Expr, str])
    uses: Counter[Expr] = field(default_factory=Counter[Expr])

    def add(self, *results: Expr) -> list[str]:
        """What the expressions are in C, after the statements in `lines`."""
        for root in results:
            self.uses.update(c for node in walk(root) for c in node.children)
        for root in results:
            for node in walk(root):
                if node not in self.texts:
                    self.texts[node] = self._text(node)
        return [self.texts[r] for r in results]

    def _text(self, node: Expr) -> str:
        if isinstance(node, Literal):
            return literal(node)
        if isinstance(node, Value):
            return self.names[node]
        assert isinstance(node, Op) and has_c(node), node
        text = self._op(node, [self.texts[a] for a in node.args])
        if self.uses[node] > 1 or len(text) > LINE or "?" in text:
            name = f"{self.prefix}{len(self.lines)}"
            self.lines.append(f"const {C_TYPES[node.type.kind]} {name} = {text};")
            return name
        return f"({text})"

    def _op(self, node: Op, args: list[str]) -> str:
        op, kind = node.op, node.type.kind
        if op in INFIX:
            return f"{args[0]} {INFIX[op]} {args[1]}"
        match op:
            case "neg":
                return f"-{args[0]}"
            case "not":
                return f"!{args[0]}"
            case "select":
                return f"{args[0]} ? {args[1]} : {args[2]}"
            case "to_float":
                return f"(float){args[0]}"
            case "to_int":
                return f"(whole){args[0]}"
            case "floor" | "ceil":
                return f"(whole){op}f({args[0]})"
            case "div":
                return self._quotient(node, args)
            case "pow":
                one = "1.0f" if kind is Kind.FLOAT else "(whole)1"
                return " * ".join([args[0]] * (_power(node) or 0)) or one
            case _:
                return f"{BY_KIND.get((op, kind)) or CALLS[op]}({', '.join(args)})"

    def _quotient(self, node: Op, args: list[str]) -> str:
        if node.args[1] in self.hoisted or isinstance(node.args[1], Literal):
            # one division a row
            return f"{args[0]} * (1.0f / {args[1]})"
        return f"{args[0]} / {args[1]}"


def by_sum(node: Expr) -> bool:
    """Whether this is a quotient whose divisor holds a sum or a count: 0 where that is 0."""
    return (
        isinstance(node, Op)
        and node.op == "div"
        and mentions(node.args[1], lambda n: isinstance(n, Reduce | Count))
    )  # fmt: skip


def literal(node: Literal) -> str:
    """A number as C has it."""
    match node.type.kind:
        case Kind.BOOL:
            return str(int(node.value))
        case Kind.INT:
            return f"((whole){int(node.value)})"
        case Kind.FLOAT:
            value = float(node.value)
    if abs(value) > LARGEST:
        return "INFINITY" if value > 0 else "(-INFINITY)"
    (value,) = struct.unpack("f", struct.pack("f", value))
    return f"{value!r}f" if str(value)[0] != "-" else f"({value!r}f)"
