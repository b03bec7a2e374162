"""A decorated Python function as a program: its syntax tree is read, it is never executed.

The mapping, so that both front ends give equal trees:

| Python | text |
| --- | --- |
| `def f(q, k, s, *, w=const(8), a=scalar(1.0), t=tensor("f32[H]"))` | parameters `const w: int = 8`, ... |
| `x = e` | `let x = e` |
| `video = grid("video(t, y, x)")` | `grid video(t, y, x)` |
| `assert c, "message"` | `require c, "message"` |
| `def phi(x): return e` | `feature phi(x) = e`; `assert` inside is its `require` |
| `score(e)`, `mask(e)`, `weight(e)`, `output(e)` | the clause |
| `return softmax(e, where=m)` | `score e`, `mask m` |
| `return weight(e, where=m)`, `return e` | `mask m`, `weight e` |
| names of library functions | `use module (name)` |
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import replace
from types import CodeType
from typing import Any
from typing import Literal as Lit

from attndsl.diagnostics.report import Diagnostic
from attndsl.diagnostics.source import Source, Span
from attndsl.frontend import tree
from attndsl.frontend.check import names
from attndsl.frontend.library import library_functions
from attndsl.frontend.modules import Program, program_from_text
from attndsl.frontend.parser import parse, parse_type
from attndsl.frontend.python_expressions import Expressions
from attndsl.frontend.python_source import Place, find_function, moved

_ROLES: dict[str, Lit["const", "scalar", "input"]] = {"const": "const", "scalar": "scalar", "tensor": "input"}
_CLAUSES: dict[str, Lit["score", "mask", "weight", "output"]] = {
    "score": "score", "mask": "mask", "weight": "weight", "output": "output",
}  # fmt: skip


def read_function(function: Callable[..., Any]) -> Program:
    """The program that a Python function is. TypeError for what is no Python function; SpecError (E0801) where its
    source cannot be read; every other finding is in the program, with its place in the Python file."""
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType):
        raise TypeError(f"attention expects a Python function, not {type(function).__name__}")
    place, node = find_function(code)
    globals_: dict[str, Any] = getattr(function, "__globals__", {})
    return _Reader(place, frozenset(globals_) | frozenset(code.co_freevars)).read(node)


class _Reader:
    def __init__(self, place: Place, outside: frozenset[str]) -> None:
        self.place = place
        self.expressions = Expressions(place)
        self.expressions.outside = outside
        self.expressions.library = library_functions()
        self.clauses: list[tree.Clause] = []

    def report(self, code: str, message: str, span: Span, label: str = "", help: str = "") -> None:
        self.expressions.report(code, message, span, label, help)

    def read(self, node: ast.FunctionDef) -> Program:
        span = self.place.span(node)
        self._symbols(node.args)
        parameters = self._parameters(node.args)
        self._body(node)
        name_span = self.place.name_span(node)
        block = tree.AttentionBlock(node.name, parameters, tuple(self.clauses), span=span, name_span=name_span)
        used: dict[str, list[str]] = {}
        for name, module in self.expressions.used.items():
            used.setdefault(module, []).append(name)
        library = program_from_text("\n".join(f"use {module} ({', '.join(n)})" for module, n in used.items()))
        file = tree.File(library.file.uses, (), (block,), span=span)
        return Program(file, library.scope, tuple(sorted(self.expressions.found, key=lambda d: d.span.start)))

    # The signature

    def _symbols(self, args: ast.arguments) -> None:
        for extra in (args.vararg, args.kwarg):
            if extra is not None:
                self.report("E0802", f"`*{extra.arg}` has no meaning here", self.place.span(extra))
        for default in args.defaults:
            help_ = "parameters of the attention stand after a `*`"
            self.report("E0802", "a symbol of the pair has no default", self.place.span(default), "", help_)
        for arg in (*args.posonlyargs, *args.args):
            if arg.arg in names.VALUES:
                self.expressions.known.add(arg.arg)
                continue
            found = names.suggestion(arg.arg, names.VALUES)
            help_ = f"parameters of the attention stand after a `*`: `*, {arg.arg}=const(...)`"
            if found:
                help_ = f"{names.did_you_mean(found)} {help_}"
            label = "q, k, h, b, s, Q, K, ... were expected"
            self.report("E0802", f"`{arg.arg}` is not a symbol of the pair", self.place.span(arg), label, help_)
            self.expressions.known.add(arg.arg)

    def _parameters(self, args: ast.arguments) -> tuple[tree.Parameter, ...]:
        made: list[tree.Parameter] = []
        for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True):
            self.expressions.known.add(arg.arg)
            at = self.place.span(arg)
            if default is None:
                help_ = f"write `{arg.arg}=const(...)`, `scalar(...)` or `tensor(...)`"
                self.report("E0803", f"the parameter `{arg.arg}` is not declared", at, "", help_)
                continue
            parameter = self._parameter(arg.arg, default, at)
            if parameter is not None:
                made.append(parameter)
        return tuple(made)

    def _parameter(self, name: str, node: ast.expr, at: Span) -> tree.Parameter | None:
        span = self.place.span(node)
        what = self.expressions.function_name(node.func) if isinstance(node, ast.Call) else ""
        if not isinstance(node, ast.Call) or what not in _ROLES:
            help_ = f"write `{name}=const({span.text})`" if isinstance(node, ast.Constant) else ""
            label = "const(...), scalar(...) or tensor(...) was expected"
            self.report("E0803", f"the default of `{name}` does not declare it", span, label, help_)
            return None
        role = _ROLES[what]
        arguments: list[ast.expr] = list(node.args)
        for keyword in node.keywords:
            if keyword.arg == "default" and role != "input":
                arguments.append(keyword.value)
            else:
                self.report("E0803", f"`{what}` has no argument `{keyword.arg}`", self.place.span(keyword.value))
        first = arguments[0] if arguments else None
        if not arguments or len(arguments) > (1 if role == "input" else 2):
            self.report("E0803", f"`{what}` takes a type, a default, or both", span)
            return None
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            declared = self._type(first, first.value)
            value = arguments[1] if len(arguments) == 2 else None
        elif role == "input" or len(arguments) == 2 or first is None:
            self.report("E0803", f"`{what}` takes the type as text", span, 'such as "f32[H]" was expected')
            return None
        else:
            declared, value = self._inferred(first, name), first
        if declared is None:
            return None
        default = self.expressions.expression(value) if value is not None else None
        whole = at.to(span)
        return replace(declared, role=role, name=name, default=default, span=whole, name_span=at)

    def _type(self, node: ast.Constant, text: str) -> tree.Parameter | None:
        parsed, found = parse_type(Source("<type>", text))
        self._embed(node, found, 0)
        return self._moved(parsed, node, 0) if parsed is not None else None

    def _inferred(self, node: ast.expr, name: str) -> tree.Parameter | None:
        """The type of a literal: `const(8)` is an int, `const((3, 9, 9))` is int[3]."""
        items = node.elts if isinstance(node, ast.Tuple) else [node]
        kinds: set[type] = set()
        for item in items:
            inner = item.operand if isinstance(item, ast.UnaryOp) and isinstance(item.op, ast.USub) else item
            kinds.add(type(inner.value) if isinstance(inner, ast.Constant) else type(None))
        span = self.place.span(node)
        if not kinds <= {bool, int, float} or (bool in kinds and len(kinds) > 1) or not items:
            help_ = f'a type without a default is text: `{name}=const("int[3]")`'
            self.report(
                "E0803", f"the default of `{name}` is not a literal", span, "a number or a tuple was expected", help_
            )
            return None
        base = "bool" if bool in kinds else "float" if float in kinds else "int"
        shape = (tree.Number(len(items), span=span),) if isinstance(node, ast.Tuple) else None
        return tree.Parameter("const", name, base, shape, span=span, base_span=span)

    # Texts inside the Python file

    def _embed(self, node: ast.Constant, found: tuple[Diagnostic, ...], before: int) -> None:
        self.expressions.found += [self._moved(d, node, before) for d in found]

    def _moved(self, value: Any, node: ast.Constant, before: int) -> Any:
        """What was read from a string literal, with spans in the Python file; `before` characters preceded its text."""
        span = self.place.span(node)
        start = self.place.text_start(node)
        if start is None:
            return moved(value, span.source, -(2**40), span.start, span.stop)
        return moved(value, span.source, start - before, start, span.stop - 1)

    def _grid(self, node: ast.expr, targets: list[str] | None) -> None:
        span = self.place.span(node)
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            self.report("E0803", "a grid is given as text", span, '"video(t, y, x)" was expected')
            return
        before = "attention a { grid "
        file, found = parse(Source("<grid>", f"{before}{node.value}\n}}"))
        clauses = file.attentions[0].clauses if file.attentions else ()
        self._embed(node, found, len(before))
        if found:
            return
        if len(clauses) != 1 or not isinstance(clauses[0], tree.Grid):
            self.report("E0803", "this text is not one grid", span, '"video(t, y, x)" was expected')
            return
        grid: tree.Grid = self._moved(clauses[0], node, len(before))
        named = [s.name for s in grid.segments if s.name]
        if targets is not None and targets != named:
            wanted = ", ".join(named) or "nothing: its segment has no name"
            self.report("E0803", f"the grid is assigned to `{', '.join(targets)}`", span, f"it declares {wanted}")
        self.clauses.append(grid)
        self.expressions.known.update(named)

    # The body

    def _body(self, node: ast.FunctionDef) -> None:
        for i, statement in enumerate(node.body):
            if i == 0 and _is_docstring(statement):
                continue
            if isinstance(statement, ast.Return):
                self._return(statement)
                if i + 1 < len(node.body):
                    rest = self.place.span(node.body[i + 1])
                    self.report("E0805", "a statement after `return`", rest, "it is never reached")
                return
            self._statement(statement)

    def _statement(self, node: ast.stmt) -> None:
        span = self.place.span(node)
        match node:
            case ast.Assign(targets=[target], value=value):
                self._assign(target, value, span)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                self._assign(target, value, span)
            case ast.Assert():
                self.clauses.append(self._require(node, span))
            case ast.Expr(value=ast.Call() as call):
                self._clause(call, span)
            case ast.FunctionDef():
                self._feature(node)
            case ast.Pass():
                pass
            case _:
                self._unsupported(node, span)

    def _require(self, node: ast.Assert, span: Span) -> tree.RequireClause:
        message = node.msg
        text = message.value if isinstance(message, ast.Constant) and isinstance(message.value, str) else ""
        if message is not None and not text:
            self.report("E0805", "the message of `assert` is a text", self.place.span(message))
        return tree.RequireClause(self.expressions.expression(node.test), text, span=span)

    def _unsupported(self, node: ast.stmt, span: Span) -> None:
        word = span.text.split()[0].rstrip(":(") if span.text.split() else ""
        hints = {
            "if": "write `a if c else b`", "for": "functions map over the axes of a grid by themselves",
            "import": "import at the top of the file", "from": "import at the top of the file",
        }  # fmt: skip
        if isinstance(node, ast.AugAssign):
            self.report("E0805", "nothing is ever overwritten", span, "a plain assignment to a new name was expected")
            return
        if isinstance(node, ast.Assign):
            self.report("E0805", "one name is assigned at a time", span)
            return
        first = Span(span.source, span.start, span.start + max(1, len(word)))
        if isinstance(node, ast.Expr):
            self.report("E0805", "the value of this statement is lost", span, "", "assign it, or `return` it")
            return
        self.report("E0805", f"`{word}` has no meaning in an attention", first, "", hints.get(word, ""))

    def _assign(self, target: ast.expr, value: ast.expr, span: Span) -> None:
        call = self.expressions.function_name(value.func) if isinstance(value, ast.Call) else ""
        if isinstance(value, ast.Call) and call == "grid":
            elements = target.elts if isinstance(target, ast.Tuple) else [target]
            targets = [e.id for e in elements if isinstance(e, ast.Name)]
            self._grid_call(value, targets)
            return
        if not isinstance(target, ast.Name):
            self.report("E0805", "one name is assigned at a time", self.place.span(target), "a name was expected")
            return
        tree_value = self.expressions.expression(value)
        name_span = self.place.span(target)
        self.clauses.append(tree.Let(target.id, tree_value, span=span, name_span=name_span))
        self.expressions.known.add(target.id)

    def _grid_call(self, call: ast.Call, targets: list[str] | None) -> None:
        if len(call.args) != 1 or call.keywords:
            self.report("E0803", "`grid` takes one text", self.place.span(call), '"video(t, y, x)" was expected')
            return
        self._grid(call.args[0], targets)

    def _clause(self, call: ast.Call, span: Span) -> None:
        name = self.expressions.function_name(call.func)
        if name == "grid":
            self._grid_call(call, None)
        elif name in _CLAUSES and len(call.args) == 1 and not call.keywords:
            value = self._weight_value(name, call.args[0])
            self.clauses.append(tree.Rewrite(_CLAUSES[name], value, span=span))
        elif name in _CLAUSES:
            self.report("E0806", f"`{name}` takes one expression", span)
        else:
            help_ = "assign it to a name, or `return` it"
            self.report("E0805", "the value of this statement is lost", span, "", help_)

    def _weight_value(self, clause: str, node: ast.expr) -> tree.TreeExpr:
        if clause == "weight" and self.expressions.function_name(node) == "softmax":
            return tree.Name("softmax", span=self.place.span(node))
        return self.expressions.expression(node)

    def _feature(self, node: ast.FunctionDef) -> None:
        outer = set(self.expressions.known)
        args = node.args
        span = self.place.span(node)
        if args.kwonlyargs or args.vararg or args.kwarg or args.defaults or node.decorator_list:
            self.report("E0805", f"`{node.name}` takes plain parameters only", self.place.name_span(node))
        parameters = tuple(a.arg for a in (*args.posonlyargs, *args.args))
        self.expressions.known.update(parameters)
        statements: list[tree.Statement] = []
        value: tree.TreeExpr | None = None
        for i, statement in enumerate(node.body):
            at = self.place.span(statement)
            match statement:
                case ast.Return(value=ast.expr() as returned) if i + 1 == len(node.body):
                    value = self.expressions.expression(returned)
                case ast.Assign(targets=[ast.Name(id=name) as target], value=assigned):
                    inner = self.expressions.expression(assigned)
                    statements.append(tree.Let(name, inner, span=at, name_span=self.place.span(target)))
                    self.expressions.known.add(name)
                case ast.Assert():
                    statements.append(self._require(statement, at))
                case _ if i == 0 and _is_docstring(statement):
                    pass
                case _:
                    self.report("E0805", f"`{node.name}` holds assignments, `assert` and one `return`, at its end", at)
        self.expressions.known = outer
        if value is None:
            if not self.expressions.found:
                self.report("E0805", f"`{node.name}` returns nothing", self.place.name_span(node))
            return
        name_span = self.place.name_span(node)
        made = tree.Function("feature", node.name, parameters, tuple(statements), value, span=span, name_span=name_span)
        self.clauses.append(made)
        self.expressions.functions.add(node.name)

    def _return(self, node: ast.Return) -> None:
        value = node.value
        span = self.place.span(node)
        if value is None:
            return
        where: ast.expr | None = None
        name = self.expressions.function_name(value.func) if isinstance(value, ast.Call) else ""
        if isinstance(value, ast.Call):
            kept = [k for k in value.keywords if k.arg != "where"]
            where = next((k.value for k in value.keywords if k.arg == "where"), None)
            value = ast.copy_location(ast.Call(value.func, value.args, kept), value)
        score: tree.TreeExpr | None = None
        weight: tree.TreeExpr | None = None
        if isinstance(value, ast.Call) and name in ("softmax", "weight"):
            if len(value.args) != 1 or value.keywords:
                self.report("E0806", f"`{name}` takes one expression and `where=`", self.place.span(value))
                return
            inner = value.args[0]
            if name == "weight":
                weight = self._weight_value("weight", inner)
            elif not (isinstance(inner, ast.Name) and inner.id == "s" and "s" in self.expressions.known):
                score = self.expressions.expression(inner)
        else:
            weight = self.expressions.expression(value)
        if score is not None:
            self.clauses.append(tree.Rewrite("score", score, span=span))
        if where is not None:
            self.clauses.append(tree.Rewrite("mask", self.expressions.expression(where), span=span))
        if weight is not None:
            self.clauses.append(tree.Rewrite("weight", weight, span=span))


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
