"""Trees to documents: how each piece of the language is written, with the fewest parentheses."""

from __future__ import annotations

import re

from attndsl.diagnostics.source import NOWHERE
from attndsl.frontend import tree
from attndsl.frontend.expressions import AND, BINARY, COMPARE, NEGATE, NOT, OR, POWER, PRODUCT, SUM
from attndsl.frontend.layout import LINE, SOFT, Doc, Group, Nest, OnlyBroken, join, render, separated
from attndsl.frontend.lexer import NUMBER

WIDTH = 100
CONDITIONAL = 0
ATOM = 9


def print_expression(node: tree.TreeExpr, width: int = WIDTH) -> str:
    """The text of an expression."""
    return render(expression(node), 0, width)


def level(node: tree.TreeExpr) -> int:
    """How tightly the outermost operator of a node binds."""
    if isinstance(node, tree.Conditional):
        return CONDITIONAL
    if isinstance(node, tree.Binary):
        return BINARY[node.operator]
    if isinstance(node, tree.Comparison) or _is_not_in(node):
        return COMPARE
    if isinstance(node, tree.Unary):
        return NEGATE if node.operator == "-" else NOT
    if isinstance(node, tree.Number) and node.value < 0:
        return NEGATE
    return ATOM


def expression(node: tree.TreeExpr, least: int = CONDITIONAL) -> Doc:
    """The document of an expression that stands where operators of at least this level may."""
    doc = _bare(node)
    return join("(", doc, ")") if level(node) < least else doc


def _bare(node: tree.TreeExpr) -> Doc:
    match node:
        case tree.Name():
            return node.id
        case tree.Number():
            return _number(node)
        case tree.Boolean():
            return "true" if node.value else "false"
        case tree.Attribute():
            return join(_base(node.base), ".", node.name)
        case tree.Subscript():
            return join(_base(node.base), _listed("[", [expression(i) for i in node.indices], "]"))
        case tree.Call():
            return join(node.function, _listed("(", [expression(a) for a in node.arguments], ")"))
        case tree.TupleLiteral():
            return _listed("(", [expression(i) for i in node.items], ")")
        case tree.Unary():
            return _unary(node)
        case tree.Binary():
            return _binary(node)
        case tree.Comparison():
            first, *rest = (expression(o, SUM) for o in node.operands)
            pairs = zip(node.operators, rest, strict=True)
            return Group(join(first, Nest(join(*(join(LINE, f"{o} ", operand) for o, operand in pairs)))))
        case tree.Conditional():
            return _conditional(node)


def _number(node: tree.Number) -> str:
    """The number as its user wrote it, where that is known."""
    text = node.span.text if node.span is not NOWHERE else ""
    if NUMBER.fullmatch(text) and not text.endswith("_"):
        plain = text.replace("_", "")
        written: int | float = int(plain) if re.fullmatch("[0-9]+", plain) else float(plain)
        if written == node.value and type(written) is type(node.value):
            return text
    return repr(node.value)


def _base(node: tree.TreeExpr) -> Doc:
    """What stands before `.` or `[`."""
    return join("(", expression(node), ")") if isinstance(node, tree.Number) else expression(node, ATOM)


def _listed(open_: str, items: list[Doc], close: str) -> Doc:
    if not items:
        return open_ + close
    return Group(join(open_, Nest(join(SOFT, separated(items))), SOFT, close))


def _is_not_in(node: tree.TreeExpr) -> bool:
    return (
        isinstance(node, tree.Unary)
        and node.operator == "not"
        and isinstance(node.operand, tree.Comparison)
        and node.operand.operators == ("in",)
    )


def _unary(node: tree.Unary) -> Doc:
    if _is_not_in(node) and isinstance(node.operand, tree.Comparison):
        left, right = (expression(o, SUM) for o in node.operand.operands)
        return Group(join(left, Nest(join(LINE, "not in ", right))))
    if node.operator == "not":
        return join("not ", expression(node.operand, NOT))
    twice = isinstance(node.operand, tree.Unary) or (isinstance(node.operand, tree.Number) and node.operand.value < 0)
    return join("-", expression(node.operand, ATOM if twice else NEGATE))


def _binary(node: tree.Binary) -> Doc:
    own = BINARY[node.operator]
    if own == POWER:
        return join(expression(node.left, ATOM), "^", expression(node.right, NEGATE))
    parts: list[Doc] = []
    left: tree.TreeExpr = node
    while isinstance(left, tree.Binary) and BINARY[left.operator] == own:
        parts.append(join(LINE, f"{left.operator} ", expression(left.right, own + 1)))
        left = left.left
    first = expression(left, own)
    rest = join(*reversed(parts))
    # factors stay with their sum: the sum breaks first
    return Group(join(first, Nest(rest) if own in (OR, AND, SUM, PRODUCT) else rest))


def _conditional(node: tree.Conditional) -> Doc:
    parts: list[Doc] = []
    otherwise: tree.TreeExpr = node
    word = "if "
    while isinstance(otherwise, tree.Conditional):
        parts += [word, expression(otherwise.condition, OR), LINE, "then ", expression(otherwise.then, OR), LINE]
        otherwise = otherwise.otherwise
        word = "else if "
    return Group(Nest(join(*parts, "else ", expression(otherwise, OR))))


# Declarations


def quoted(text: str) -> str:
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t"}
    return '"' + "".join(escapes.get(c, c) for c in text) + '"'


def parameter(node: tree.Parameter) -> Doc:
    parts: list[Doc] = [f"{node.role} {node.name}: {node.base}"]
    if node.shape is not None:
        parts.append(_listed("[", [expression(e) for e in node.shape], "]"))
    parts += [f" {fact}" for fact in node.facts]
    if node.default is not None:
        parts += [" = ", expression(node.default)]
    return join(*parts)


def clause(node: tree.Clause) -> Doc:
    """A clause other than a function with a block."""
    match node:
        case tree.Let():
            return join(f"let {node.name} = ", expression(node.value))
        case tree.Rewrite():
            return join(f"{node.target} ", expression(node.value))
        case tree.RequireClause():
            message = join(",", Nest(join(LINE, quoted(node.message)))) if node.message else ""
            return Group(join("require ", expression(node.condition), message))
        case tree.Grid():
            parts: list[Doc] = []
            for segment in node.segments:
                parts += [LINE, "++ "] if parts else []
                parts.append(join(segment.name, _listed("(", list(segment.axes), ")")))
            side = "" if node.side == "both" else f"{node.side} "
            return Group(join(f"grid {side}", Nest(join(*parts))))
        case tree.Function():
            return join(function_head(node), Group(join(" =", Nest(join(LINE, expression(node.value))))))


def function_head(node: tree.Function) -> Doc:
    return join(f"{node.kind} {node.name}", _listed("(", list(node.parameters), ")"))


def use(node: tree.Use) -> Doc:
    module = quoted(node.module) if node.is_path else node.module
    return join(f"use {module} ", _listed("(", list(node.names), ")"))


def attention_head(name: str, parameters: list[Doc]) -> Doc:
    """`attention name(...) {`, parameters one a line where they do not fit."""
    if not parameters:
        return f"attention {name} {{"
    listed = join("(", Nest(join(SOFT, separated(parameters), OnlyBroken(","))), SOFT, ")")
    return join(f"attention {name}", Group(listed), " {")
