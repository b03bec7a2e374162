"""The rules of operations: how many arguments, of which kinds and shapes."""

from __future__ import annotations

from attndsl.ir.expr import COMPARISONS, LOGIC, OPS, OVER, VECTOR_OPS, Component, Literal, Op, result_type
from attndsl.ir.printer import print_type
from attndsl.ir.types import FLOAT, INT, Dim, Kind, Type

_NUMBERS = (Kind.INT, Kind.FLOAT)
_BINARY = frozenset(
    ("add", "sub", "mul", "div", "floordiv", "mod", "pow", "min", "max", "atan2", *COMPARISONS, "and", "or")
)
_KINDS: dict[str, tuple[Kind, ...]] = {
    **dict.fromkeys(("add", "sub", "mul", "neg", "min", "max", "pow", "abs", "sign", "relu"), _NUMBERS),
    **dict.fromkeys(("lt", "le", "gt", "ge", "floor", "ceil"), _NUMBERS),
    **dict.fromkeys(("eq", "ne"), (Kind.BOOL, *_NUMBERS)),
    **dict.fromkeys(LOGIC, (Kind.BOOL,)),
    **dict.fromkeys(("floordiv", "mod", "bitlen", "ispow2"), (Kind.INT,)),
    "to_float": (Kind.BOOL, Kind.INT),
    "to_int": (Kind.BOOL,),
}


def check_op(node: Op) -> str:
    """The rule that an operation breaks, or nothing."""
    types = tuple(a.type for a in node.args)
    if node.op not in OPS:
        return f"no operation `{node.op}`"
    if node.op in OVER:
        whole = len(types) == 3 and types[0] == FLOAT and isinstance(node.args[1], Component) and types[2] == INT
        return "" if whole and node.type == FLOAT else f"`{node.op}` takes a float, a component and an int"
    rule = _vector_op(node.op, types) if node.op in VECTOR_OPS else _elementwise(node)
    if rule:
        return rule
    expected = result_type(node.op, types)
    return "" if node.type == expected else f"has type {print_type(node.type)}, expected {print_type(expected)}"


def _elementwise(node: Op) -> str:
    types = tuple(a.type for a in node.args)
    arity = 3 if node.op == "select" else 2 if node.op in _BINARY else 1
    if len(types) != arity:
        return f"`{node.op}` takes {arity} arguments"
    shapes = [t.shape for t in types if t.shape]
    if any(len(s) != len(shapes[0]) or not all(map(_agree, s, shapes[0])) for s in shapes):
        return f"shapes of `{node.op}` differ"
    if node.op == "select":
        if types[0].kind is not Kind.BOOL or types[1].kind is not types[2].kind:
            return "`select` takes a bool and two of one kind"
        return ""
    if any(t.kind is not types[0].kind for t in types):
        return f"kinds of `{node.op}` differ"
    if types[0].kind not in _KINDS.get(node.op, (Kind.FLOAT,)):
        return f"`{node.op}` does not take {types[0].kind}"
    if node.op == "pow" and types[0].kind is Kind.INT:
        exponent = node.args[1]
        if not isinstance(exponent, Literal) or exponent.value < 0:
            return "an int has a literal power that is not negative"
    return ""


def _vector_op(name: str, types: tuple[Type, ...]) -> str:
    ranks = tuple(len(t.shape) for t in types)
    numbers = types[1:] if name in ("roll", "rope") else ()
    floats = types[: len(types) - len(numbers)]
    expected = {"dot": (1, 1), "outer": (1, 1), "matmul": (1, 2), "roll": (1, 0), "rope": (1, 0)}.get(name, (1,))
    if name == "concat":
        expected = (1,) * max(1, len(types))
    if ranks != expected or any(t.kind is not Kind.FLOAT for t in floats):
        return f"`{name}` does not take {', '.join(map(print_type, types))}"
    if numbers and numbers[0] != INT and not (name == "rope" and numbers[0] == FLOAT):
        return f"`{name}` takes an int"
    if name in ("dot", "matmul") and not _agree(types[0].shape[0], types[1].shape[0]):
        return f"components of `{name}` differ"
    return ""


def _agree(a: Dim, b: Dim) -> bool:
    """Whether two extents may be equal: a name and a number may."""
    return a == b or type(a) is not type(b)
