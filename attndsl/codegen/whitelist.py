"""Generated Python is looked at before it runs: functions of straight-line code over known names, nothing else."""

from __future__ import annotations

import ast
from collections.abc import Collection

from attndsl.diagnostics.parsing import parse

ALLOWED = (
    ast.Module, ast.FunctionDef, ast.arguments, ast.arg, ast.Assign, ast.Return, ast.Expr, ast.Name, ast.Load,
    ast.Store, ast.Constant, ast.Call, ast.BinOp, ast.UnaryOp, ast.Compare, ast.Tuple,
    ast.Add, ast.Sub, ast.Mult, ast.BitAnd, ast.BitOr, ast.USub,
    ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq,
)  # fmt: skip


class UnsafeCodeError(ValueError):
    """Generated code holds what no generator writes."""


def check_generated(source: str, callables: Collection[str], values: Collection[str] = ()) -> ast.Module:
    """The parsed module. UnsafeCodeError on any statement or name that is not known.

    There are no imports, attributes, subscripts, loops, defaults or decorators; only `callables` are called, and a
    function reads its own arguments, names it assigned before, and `values`.
    """
    module = parse(source)
    for node in ast.walk(module):
        if not isinstance(node, ALLOWED):
            raise UnsafeCodeError(f"line {getattr(node, 'lineno', '?')}: {type(node).__name__} in generated code")
    for function in module.body:
        if not isinstance(function, ast.FunctionDef):
            raise UnsafeCodeError("generated code outside a function")
        _check_function(function, frozenset(callables), frozenset(values))
    return module


def _check_function(function: ast.FunctionDef, callables: frozenset[str], values: frozenset[str]) -> None:
    a = function.args
    if function.decorator_list or a.posonlyargs or a.kwonlyargs or a.vararg or a.kwarg or a.defaults:
        raise UnsafeCodeError(f"{function.name}: only plain arguments are generated")
    known = {x.arg for x in a.args}
    if known & callables or len(known) != len(a.args):
        raise UnsafeCodeError(f"{function.name}: an argument hides a function")
    for statement in function.body:
        if isinstance(statement, ast.Expr):
            if not (isinstance(statement.value, ast.Constant) and isinstance(statement.value.value, str)):
                raise UnsafeCodeError(f"{function.name}: a statement without effect")
            continue
        assert isinstance(statement, ast.Assign | ast.Return), statement
        if statement.value is not None:
            _check_value(statement.value, callables, known | values)
        if isinstance(statement, ast.Assign):
            for target in statement.targets:
                if not isinstance(target, ast.Name) or target.id in callables:
                    raise UnsafeCodeError(f"{function.name}: assignment to {ast.unparse(target)}")
                known.add(target.id)


def _check_value(value: ast.expr, callables: frozenset[str], known: Collection[str]) -> None:
    called = {id(n.func) for n in ast.walk(value) if isinstance(n, ast.Call)}
    for node in ast.walk(value):
        if isinstance(node, ast.Call) and (node.keywords or not isinstance(node.func, ast.Name)):
            raise UnsafeCodeError(f"line {node.lineno}: a call of {ast.unparse(node.func)}")
        if isinstance(node, ast.Name):
            allowed = callables if id(node) in called else known
            if node.id not in allowed:
                raise UnsafeCodeError(f"line {node.lineno}: unknown name {node.id}")
        if isinstance(node, ast.Constant) and not isinstance(node.value, bool | int | float):
            raise UnsafeCodeError(f"line {node.lineno}: a constant of type {type(node.value).__name__}")
