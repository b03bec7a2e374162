"""Python expressions to expressions of the tree."""

from __future__ import annotations

import ast
from typing import Literal as Lit

from attndsl.diagnostics.report import Diagnostic
from attndsl.diagnostics.source import Span
from attndsl.frontend import limits, tree
from attndsl.frontend.check import names
from attndsl.frontend.python_source import Place

IMPORTED = ("pi", "inf", "sum", "count")
"""Values of `attndsl.lang` that need not be parameters of the function."""

_BINARY: dict[type[ast.operator], Lit["+", "-", "*", "/", "//", "%", "@", "^"]] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.MatMult: "@",
    ast.Pow: "^",
}  # fmt: skip
_COMPARE: dict[type[ast.cmpop], Lit["<", "<=", ">", ">=", "==", "!=", "in"]] = {
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=", ast.In: "in",
    ast.NotIn: "in",
}  # fmt: skip
_FOREIGN: dict[type[ast.operator], tuple[str, str]] = {
    ast.BitXor: ("^", "a power is `**`"), ast.BitAnd: ("&", "write `and`"), ast.BitOr: ("|", "write `or`"),
    ast.LShift: ("<<", "write `* 2**n`"), ast.RShift: (">>", "write `// 2**n`"),
}  # fmt: skip
_WHAT: dict[type[ast.AST], tuple[str, str]] = {
    ast.Lambda: ("a lambda", "write a nested `def`"), ast.List: ("a list", "write a tuple"),
    ast.Dict: ("a dict", ""), ast.Set: ("a set", ""), ast.JoinedStr: ("an f-string", ""),
    ast.ListComp: ("a comprehension", "functions map over tuples by themselves"),
    ast.GeneratorExp: ("a comprehension", "functions map over tuples by themselves"),
    ast.SetComp: ("a comprehension", ""), ast.DictComp: ("a comprehension", ""),
    ast.NamedExpr: ("`:=`", "assign on a line of its own"), ast.Starred: ("`*`", "name every argument"),
    ast.Slice: ("a slice", "a subscript that stops early gives a vector"), ast.Await: ("`await`", ""),
    ast.Yield: ("`yield`", ""), ast.YieldFrom: ("`yield`", ""),
}  # fmt: skip


class Expressions:
    """Translates expressions of one function. What has no counterpart is reported; a name without letters stands for
    it, about which the checker says nothing more."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.found: list[Diagnostic] = []
        self.known: set[str] = set()
        self.functions: set[str] = set()
        self.library: dict[str, str] = {}
        self.used: dict[str, str] = {}
        self.outside: frozenset[str] = frozenset()
        self._depth = 0
        self._nodes = 0

    def report(self, code: str, message: str, span: Span, label: str = "", help: str = "") -> tree.TreeExpr:
        self.found.append(Diagnostic(code, message, span, label, help))
        return tree.Name("", span=span)

    def expression(self, node: ast.expr) -> tree.TreeExpr:
        """The tree of an expression."""
        span = self.place.span(node)
        self._nodes += 1
        if self._nodes > limits.NODES:
            message = f"more than {limits.NODES} expression nodes in a function"
            return self.report("E0604", message, span) if self._nodes == limits.NODES + 1 else tree.Name("", span=span)
        if self._depth >= limits.NESTING:
            help_ = "assign parts of it to names; each operator of a chain such as `a + b + c` counts"
            return self.report("E0603", f"expression is nested deeper than {limits.NESTING}", span, "", help_)
        self._depth += 1
        try:
            return self._expression(node, span)
        finally:
            self._depth -= 1

    def _expression(self, node: ast.expr, span: Span) -> tree.TreeExpr:
        match node:
            case ast.Name(id=name):
                return self._name(name, span)
            case ast.Constant(value=value):
                return self._constant(value, span)
            case ast.BinOp(left=left, op=op, right=right):
                return self._binary(left, op, right, span)
            case ast.UnaryOp(op=op, operand=operand):
                return self._unary(op, operand, span)
            case ast.BoolOp(op=op, values=values):
                return self._bool(op, values)
            case ast.Compare():
                return self._compare(node, span)
            case ast.IfExp(test=test, body=body, orelse=orelse):
                parts = self.expression(test), self.expression(body), self.expression(orelse)
                return tree.Conditional(*parts, span=span)
            case ast.Call():
                return self._call(node, span)
            case ast.Attribute():
                return self._attribute(node, span)
            case ast.Subscript(value=base, slice=index):
                return self._subscript(base, index, span)
            case ast.Tuple(elts=elts):
                items = tuple(self.expression(e) for e in elts)
                if len(items) < 2:
                    return self.report("E0805", "a tuple has at least two items", span)
                return tree.TupleLiteral(items, span=span)
            case _:
                what, help_ = _WHAT.get(type(node), ("this expression", ""))
                return self.report("E0805", f"{what} has no meaning in an attention", span, "", help_)

    def _name(self, name: str, span: Span) -> tree.TreeExpr:
        if name in self.known or name in IMPORTED:
            return tree.Name(name, span=span)
        if name in names.VALUES:
            help_ = f"add it to the parameters: `def ...({name}, ...)`"
            return self.report("E0804", f"`{name}` is not a parameter of the function", span, "", help_)
        if name in self.functions or name in names.ARITY or name in self.library:
            return self.report(
                "E0203", f"`{name}` is a function", span, "a value was expected", f"call it: `{name}(...)`"
            )
        if name in self.outside:
            message = f"`{name}` is a variable outside the function; an attention reads none"
            help_ = f"declare it: `*, {name}=const(...)`, or scalar(...), or tensor(...)"
            return self.report("E0804", message, span, "", help_)
        found = names.suggestion(name, {*self.known, *names.VALUES})
        return self.report("E0201", f"unknown name `{name}`", span, "", names.did_you_mean(found))

    def _constant(self, value: object, span: Span) -> tree.TreeExpr:
        if isinstance(value, bool):
            return tree.Boolean(value, span=span)
        if isinstance(value, int | float):
            return tree.Number(value, span=span)
        what = "text" if isinstance(value, str) else "bytes" if isinstance(value, bytes) else f"`{value}`"
        return self.report("E0805", f"{what} is not a value of an attention", span)

    def _binary(self, left: ast.expr, op: ast.operator, right: ast.expr, span: Span) -> tree.TreeExpr:
        a, b = self.expression(left), self.expression(right)
        if type(op) in _FOREIGN:
            sign, help_ = _FOREIGN[type(op)]
            at = Span(span.source, a.span.stop, b.span.start)
            inner = at.text.find(sign)
            at = Span(span.source, at.start + inner, at.start + inner + len(sign)) if inner >= 0 else span
            return self.report("E0805", f"`{sign}` works on bits in Python", at, "", help_)
        return tree.Binary(_BINARY[type(op)], a, b, span=span)

    def _unary(self, op: ast.unaryop, operand: ast.expr, span: Span) -> tree.TreeExpr:
        value = self.expression(operand)
        if isinstance(op, ast.USub):
            return tree.Unary("-", value, span=span)
        if isinstance(op, ast.Not):
            return tree.Unary("not", value, span=span)
        sign, help_ = ("~", "write `not`") if isinstance(op, ast.Invert) else ("+", "leave it out")
        return self.report("E0805", f"`{sign}` before a value has no meaning in an attention", span, "", help_)

    def _bool(self, op: ast.boolop, values: list[ast.expr]) -> tree.TreeExpr:
        result = self.expression(values[0])
        for value in values[1:]:
            item = self.expression(value)
            result = tree.Binary(
                "and" if isinstance(op, ast.And) else "or", result, item, span=result.span.to(item.span)
            )
        return result

    def _compare(self, node: ast.Compare, span: Span) -> tree.TreeExpr:
        operands = tuple(self.expression(e) for e in (node.left, *node.comparators))
        wrong = [op for op in node.ops if type(op) not in _COMPARE]
        if wrong:
            return self.report("E0805", "`is` compares objects of Python", span, "", "write `==`")
        chain = tree.Comparison(tuple(_COMPARE[type(op)] for op in node.ops), operands, span=span)
        if not any(isinstance(op, ast.NotIn) for op in node.ops):
            return chain
        if len(node.ops) > 1:
            return self.report("E0115", "`not in` stands inside a chain of comparisons", span)
        return tree.Unary("not", chain, span=span)

    def function_name(self, node: ast.expr) -> str:
        """The name that a call calls: `exp`, `lang.exp`, `attndsl.lang.exp`; empty if it is no name."""
        base = node
        while isinstance(base, ast.Attribute):
            base = base.value
        if not isinstance(base, ast.Name) or (isinstance(node, ast.Attribute) and base.id in self.known):
            return ""
        return node.attr if isinstance(node, ast.Attribute) else base.id

    def _call(self, node: ast.Call, span: Span) -> tree.TreeExpr:
        name = self.function_name(node.func)
        if not name:
            at = self.place.span(node.func)
            return self.report("E0805", "only functions are called here", at, "", "write `*` to multiply")
        for keyword in node.keywords:
            at = Span(span.source, self.place.span(keyword).start, self.place.span(keyword.value).stop)
            message = f"arguments of `{name}` have no names"
            if keyword.arg == "where":
                message = "`where` stands in the outermost call of `return` only"
            self.report("E0806", message, at, "", "give arguments in order" if keyword.arg != "where" else "")
        if name == "size" and len(node.args) == 1 and isinstance(node.args[0], ast.Constant):
            value = node.args[0].value
            if isinstance(value, str) and value.isidentifier():
                return tree.Call("size", (tree.Name(value, span=self.place.span(node.args[0])),), span=span)
        arguments = tuple(self.expression(a) for a in node.args)
        if name not in names.ARITY and name not in self.functions:
            if name in self.library:
                self.used[name] = self.library[name]
            else:
                return self._unknown_function(name, self.place.span(node.func))
        return tree.Name("", span=span) if node.keywords else tree.Call(name, arguments, span=span)

    def _unknown_function(self, name: str, span: Span) -> tree.TreeExpr:
        if name in self.known:
            help_ = "write `*` to multiply"
            return self.report("E0203", f"`{name}` is not a function", span, "a function was expected", help_)
        if name in self.outside:
            message = f"`{name}` is a Python function, and only this function is read"
            return self.report("E0804", message, span, "", f"write `def {name}(...)` inside, with one `return`")
        found = names.function_suggestion(name, {*names.ARITY, *self.functions, *self.library})
        help_ = names.did_you_mean(found) or f"write `def {name}(...)` inside, with one `return`"
        return self.report("E0202", f"unknown function `{name}`", span, "", help_)

    def _attribute(self, node: ast.Attribute, span: Span) -> tree.TreeExpr:
        base = node.value
        if isinstance(base, ast.Name) and base.id in self.known:
            return tree.Attribute(self.expression(base), node.attr, span=span)
        if self.function_name(node) in IMPORTED:
            return tree.Name(node.attr, span=span)
        if isinstance(base, ast.Name):
            return self.expression(base)
        return self.report("E0805", "only q and k have coordinates", span)

    def _subscript(self, base: ast.expr, index: ast.expr, span: Span) -> tree.TreeExpr:
        indices = index.elts if isinstance(index, ast.Tuple) else [index]
        value = self.expression(base)
        return tree.Subscript(value, tuple(self.expression(i) for i in indices), span=span)
