"""Typed expressions in the language's own notation, for people to read; consts that are bound stand as numbers."""

from __future__ import annotations

from attndsl.ir.expr import (
    Coord,
    Count,
    Decay,
    Expr,
    Extent,
    Index,
    Literal,
    Load,
    Member,
    Op,
    ParamRef,
    Reduce,
    Search,
    Size,
    Value,
)

BINARY = {
    "or": (1, "or"),
    "and": (2, "and"),
    "lt": (4, "<"),
    "le": (4, "<="),
    "gt": (4, ">"),
    "ge": (4, ">="),
    "eq": (4, "=="),
    "ne": (4, "!="),
    "add": (5, "+"),
    "sub": (5, "-"),
    "mul": (6, "*"),
    "div": (6, "/"),
    "floordiv": (6, "//"),
    "mod": (6, "%"),
    "matmul": (6, "@"),
    "pow": (8, "^"),
}
NOT, NEGATE, ATOM, CONDITIONAL = 3, 7, 9, 0
CALLS = {"vsoftmax": "softmax"}


def infix(expr: Expr, most: int = 2000) -> str:
    """The text of an expression; one longer than `most` characters is cut with an ellipsis."""
    text = _print(expr, 0)
    return text if len(text) <= most else text[: most - 1] + "…"


def _print(expr: Expr, outer: int) -> str:
    match expr:
        case Literal(value=value):
            text = str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else None
            text = str(value) if text is None else text
            return f"({text})" if text.startswith("-") and outer > NEGATE else text
        case Index(name=name) | Size(name=name) | Value(name=name):
            return name
        case ParamRef(name=name, component=component):
            return name if component is None else f"{name}[{component}]"
        case Coord(side=side, axis=axis):
            return f"{side}.{axis}"
        case Member(side=side, segment=segment):
            return _wrap(f"{side} in {segment}", 4, outer)
        case Extent(axis=axis):
            return f"size({axis})"
        case Load(tensor=tensor, indices=indices):
            return f"{tensor}[{_list(indices)}]"
        case Search(tensor=tensor, value=value, side=side):
            return f"count({tensor} {'<' if side == 'left' else '<='} {_print(value, 0)})"
        case Count():
            return "count"
        case Reduce(kind=kind, body=body):
            return f"{kind}({_print(body, 0)})"
        case Decay(tensor=tensor):
            return f"decay({tensor})"
        case Op(op=op, args=args):
            return _operation(op, args, outer)
        case _:
            return repr(expr)


def _operation(op: str, args: tuple[Expr, ...], outer: int) -> str:
    if op in ("to_float", "to_int"):
        return _print(args[0], outer)
    if op == "neg":
        return _wrap(f"-{_print(args[0], NEGATE)}", NEGATE, outer)
    if op == "not":
        return _wrap(f"not {_print(args[0], NOT)}", NOT, outer)
    if op == "select":
        condition, then, otherwise = (_print(a, CONDITIONAL) for a in args)
        return _wrap(f"if {condition} then {then} else {otherwise}", CONDITIONAL, outer or 0, strict=outer > 0)
    if op in BINARY:
        level, sign = BINARY[op]
        # Comparisons chain and `^` binds to the right: their own operands need brackets where others do not.
        left = level + 1 if level in (4, 8) else level
        right = level if op in ("and", "or", "add", "mul", "pow") else level + 1
        parts = [_print(args[0], left), *(_print(a, right) for a in args[1:])]
        joined = f" {sign} ".join(parts) if op != "pow" else "^".join(parts)
        return _wrap(joined, level, outer)
    return f"{CALLS.get(op, op)}({_list(args)})"


def _list(args: tuple[Expr, ...]) -> str:
    return ", ".join(_print(a, 0) for a in args)


def _wrap(text: str, level: int, outer: int, strict: bool = False) -> str:
    return f"({text})" if level < outer or strict else text
