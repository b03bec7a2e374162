"""Generated Triton modules are looked at before they run: kernels over known names, nothing else."""

from __future__ import annotations

import ast

from attndsl.codegen.whitelist import UnsafeCodeError
from attndsl.diagnostics.parsing import parse

_NODES = (
    ast.Module, ast.Import, ast.alias, ast.FunctionDef, ast.arguments, ast.arg, ast.Assign, ast.AnnAssign,
    ast.AugAssign, ast.Return, ast.Expr, ast.For, ast.If, ast.Name, ast.Load, ast.Store, ast.Constant, ast.Call,
    ast.keyword, ast.Attribute, ast.Subscript, ast.Slice, ast.Tuple, ast.List, ast.BinOp, ast.UnaryOp, ast.Compare,
    ast.Add, ast.Sub, ast.Mult,
    ast.Div, ast.FloorDiv, ast.Mod, ast.BitAnd, ast.BitOr, ast.RShift, ast.LShift, ast.USub, ast.Lt, ast.LtE, ast.Gt,
    ast.GtE, ast.Eq, ast.NotEq,
)  # fmt: skip
_IMPORTS = {("triton", None), ("triton.language", "tl")}
_MEMBERS = frozenset(("to", "load", "store", "atomic_add", "T", "dtype", "element_ty"))
"""What is asked of a value; of `tl` any name without underscores in front."""
_CALLS = frozenset(("range", "float"))


def check_kernels(source: str) -> None:
    """UnsafeCodeError on any statement, import, call or attribute that no template writes."""
    module = parse(source)
    defined = {f.name for f in module.body if isinstance(f, ast.FunctionDef)}
    for statement in module.body:
        if not isinstance(statement, ast.Import | ast.FunctionDef):
            raise UnsafeCodeError(f"line {statement.lineno}: {type(statement).__name__} outside a kernel")
    for node in ast.walk(module):
        if not isinstance(node, _NODES):
            raise UnsafeCodeError(f"line {getattr(node, 'lineno', '?')}: {type(node).__name__} in a generated kernel")
        _check(node, defined)


def _check(node: ast.AST, defined: set[str]) -> None:
    match node:
        case ast.Import(names=names):
            if any((n.name, n.asname) not in _IMPORTS for n in names):
                raise UnsafeCodeError(f"line {node.lineno}: an import of {', '.join(n.name for n in names)}")
        case ast.FunctionDef(name=name, decorator_list=decorators):
            if len(decorators) != 1 or not ast.unparse(decorators[0]).startswith("triton.jit") or name.startswith("_"):
                raise UnsafeCodeError(f"line {node.lineno}: {name} is not a kernel")
        case ast.Name(id=name):
            if name.startswith("_"):
                raise UnsafeCodeError(f"line {node.lineno}: the name {name}")
        case ast.Attribute(value=value, attr=attr):
            of_library = isinstance(value, ast.Name) and value.id == "tl" and not attr.startswith("_")
            is_jit = isinstance(value, ast.Name) and value.id == "triton" and attr == "jit"
            if not (of_library or is_jit or attr in _MEMBERS):
                raise UnsafeCodeError(f"line {node.lineno}: the attribute {attr}")
        case ast.Call(func=ast.Name(id=name)):
            if name not in defined | _CALLS:
                raise UnsafeCodeError(f"line {node.lineno}: a call of {name}")
        case ast.Call(func=func) if not isinstance(func, ast.Attribute):
            raise UnsafeCodeError(f"line {node.lineno}: a call of {ast.unparse(func)}")
        case _:
            pass
