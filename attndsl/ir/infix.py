"""Typed expressions in the language's own notation, for people to read; consts that are bound stand as numbers."""

from __future__ import annotations

from attndsl.ir.expr import (
    Component,
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
CASTS = ("to_float", "to_int")
CALLS = {"vsoftmax": "softmax"}


def infix(expr: Expr, most: int = 2000) -> str:
    """The text of an expression; one longer than `most` characters is cut with an ellipsis."""
    text = _Writer(most).text(expr, CONDITIONAL)
    return text if len(text) <= most else text[: most - 1] + "…"


class _Writer:
    """Writes each shared subexpression once and no text beyond `most`, so that repeated doubling stays cheap."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: dict[tuple[Expr, int], str] = {}

    def text(self, expr: Expr, outer: int) -> str:
        """The text of an operand of something that binds as tightly as `outer`."""
        key = (expr, outer)
        if key not in self._known:
            self._known[key] = self._node(expr, outer)[: self._most + 1]
        return self._known[key]

    def _node(self, expr: Expr, outer: int) -> str:
        match expr:
            case Literal(value=value):
                text = str(value).lower() if isinstance(value, bool) else str(value)
                if isinstance(value, float):
                    text = f"{value:g}"
                return f"({text})" if text.startswith("-") and outer > NEGATE else text
            case Index(name=name) | Size(name=name) | Value(name=name) | Component(name=name):
                return name
            case ParamRef(name=name, component=component):
                return name if component is None else f"{name}[{component}]"
            case Coord(side=side, axis=axis):
                return f"{side}.{axis}"
            case Member(side=side, segment=segment):
                return _wrap(f"{side} in {segment}", 4, outer)
            case Extent(axis=axis):
                return f"size({axis})"
            case Load(tensor=tensor, indices=()):
                return tensor
            case Load(tensor=tensor, indices=indices):
                return f"{tensor}[{self._list(indices)}]"
            case Search(tensor=tensor, value=value, side=side):
                return f"count({tensor} {'<' if side == 'left' else '<='} {self.text(value, 0)})"
            case Count():
                return "count"
            case Reduce(kind=kind, body=body):
                return f"{kind}({self.text(body, 0)})"
            case Decay(tensor=tensor):
                return f"decay({tensor})"
            case Op(op=op, args=args):
                return self._operation(op, args, outer)
            case _:
                return repr(expr)

    def _operation(self, op: str, args: tuple[Expr, ...], outer: int) -> str:
        if op in CASTS:
            return self.text(args[0], outer)
        if op == "neg":
            return _wrap(f"-{self.text(args[0], NEGATE)}", NEGATE, outer)
        if op == "not":
            return _wrap(f"not {self.text(args[0], NOT)}", NOT, outer)
        if op == "select":
            condition, then, otherwise = (self.text(a, CONDITIONAL) for a in args)
            return _wrap(f"if {condition} then {then} else {otherwise}", CONDITIONAL, outer, strict=outer > 0)
        if op in BINARY:
            level, sign = BINARY[op]
            # Comparisons chain and `^` binds to the right: their own operands need brackets where others do not.
            left = level + 1 if level in (4, 8) else level
            right = level if op in ("and", "or", "add", "mul", "pow") else level + 1
            parts = [self.text(args[0], left)]
            # a product of remainders is not the remainder of a product
            parts += [self.text(a, level + 1 if op == "mul" and _rounds(a) else right) for a in args[1:]]
            joined = f" {sign} ".join(parts) if op != "pow" else "^".join(parts)
            return _wrap(joined, level, outer)
        return f"{CALLS.get(op, op)}({self._list(args)})"

    def _list(self, args: tuple[Expr, ...]) -> str:
        return ", ".join(self.text(a, 0) for a in args)


def _wrap(text: str, level: int, outer: int, strict: bool = False) -> str:
    return f"({text})" if level < outer or strict else text


def _rounds(e: Expr) -> bool:
    """Whether its value is rounded: to factor it is another expression."""
    while isinstance(e, Op) and e.op in CASTS:
        e = e.args[0]
    return isinstance(e, Op) and e.op in ("floordiv", "mod")
