"""Reading tensors: `slope[h]`, `doc[b, q]`, `Q[b, h, q]`, const arrays under an index."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attndsl.frontend import tree
from attndsl.frontend.check.frame import NAMES, WHY, forbidden
from attndsl.frontend.check.values import (
    POISON,
    POSITION_SIZES,
    ROW_SIZES,
    Poison,
    TableValue,
    TensorValue,
    TupleValue,
    Value,
    describe,
    dim_of,
    indexless,
)  # fmt: skip
from attndsl.ir.expr import Expr, Index, Load, ParamRef, Size
from attndsl.ir.types import INT, Kind, Type

if TYPE_CHECKING:
    from attndsl.frontend.check.expression import Checker

_VECTORS = {
    "Q": TensorValue("Q", Kind.FLOAT, tuple(Size(INT, n) for n in ("B", "H", "Lq", "D")), "Q[B, H, Lq, D]"),
    "K": TensorValue("K", Kind.FLOAT, tuple(Size(INT, n) for n in ("B", "Hkv", "Lk", "D")), "K[B, Hkv, Lk, D]"),
    "V": TensorValue("V", Kind.FLOAT, tuple(Size(INT, n) for n in ("B", "Hkv", "Lk", "Dv")), "V[B, Hkv, Lk, Dv]"),
}


def subscript(checker: Checker, node: tree.Subscript) -> Value:
    """A tensor, table or tuple under indices."""
    base = _base(checker, node.base)
    match base:
        case Poison():
            for index in node.indices:
                checker.value(index)
            return POISON
        case TensorValue():
            return _tensor(checker, base, node)
        case TableValue():
            return _table(checker, base, node)
        case TupleValue():
            return _component(checker, base, node)
        case Expr() if not base.type.is_number:
            help_ = "write all indices in one pair of brackets" if isinstance(node.base, tree.Subscript) else ""
            if isinstance(node.base, tree.Name) and isinstance(base, Load):
                indices = ", ".join(i.span.text for i in (*base.indices, *node.indices))
                help_ = f"read the number from the tensor: `{base.tensor}[{indices}]`"
            what = "matrix" if len(base.type.shape) == 2 else "vector"
            return checker.report("E0304", f"components of a {what} cannot be read one by one", node.span, "", help_)
        case _:
            name = node.base.id if isinstance(node.base, tree.Name) else "this"
            message = f"{f'`{name}`' if name != 'this' else name} is {describe(base)}: it has no elements"
            return checker.report("E0304", message, node.base.span, "a tensor was expected", _hint(name, base))


def _hint(name: str, base: Value) -> str:
    if isinstance(base, ParamRef) and base.name == name:
        return f"for a number per head or position declare `input {name}: f32[...]`"
    return ""


def _base(checker: Checker, node: tree.TreeExpr) -> Value:
    if isinstance(node, tree.Name) and node.id in _VECTORS and node.id not in checker.frame.names:
        if checker.frame.closed:
            return POISON
        if node.id in forbidden(checker.place):
            message = f"`{node.id}` is not available in {NAMES[checker.place]}"
            return checker.report("E0402", message, node.span, "", WHY[checker.place])
        return _VECTORS[node.id]
    return checker.value(node)


def bare(checker: Checker, tensor: TensorValue, node: tree.Node) -> Expr | Poison:
    """A tensor without subscript, where all of its dimensions may stay."""
    return _load(checker, tensor, (), node, node)


def _tensor(checker: Checker, tensor: TensorValue, node: tree.Subscript) -> Value:
    indices: list[Expr] = []
    if len(node.indices) > len(tensor.dims):
        for index in node.indices:
            checker.value(index)
        n_dims, n_indices = len(tensor.dims), len(node.indices)
        message = f"{tensor.name} has {_many(n_dims, 'dimension', 'dimensions')}"
        message += f" and is given {_many(n_indices, 'index', 'indices')}"
        return checker.report("E0304", message, node.span, f"it is {tensor.spelling}")
    for size, index in zip(tensor.dims, node.indices, strict=False):
        value = _index(checker, tensor, size, index)
        if not isinstance(value, Poison):
            indices.append(value)
    if len(indices) < len(node.indices):
        return POISON
    return _load(checker, tensor, tuple(indices), node, node.base)


def _many(n: int, one: str, several: str) -> str:
    return f"{n or 'no'} {one if n == 1 else several}"


def _index(checker: Checker, tensor: TensorValue, size: Expr, node: tree.TreeExpr) -> Expr | Poison:
    """An index that its dimension takes."""
    value = checker.operand(node)
    if isinstance(value, Poison):
        return POISON
    if isinstance(value, TupleValue) or value.type != INT:
        return checker.report(
            "E0304", f"an index of {tensor.name} is {describe(value)}", node.span, "an int was expected"
        )
    if not isinstance(size, Size) or size.name not in ROW_SIZES:
        return value
    own = ROW_SIZES[size.name]
    if not isinstance(value, Index) or value.name != own:
        message = f"dimension {size.name} of {tensor.name} takes only its own index `{own}`"
        help_ = ""
        if size.name == "Lq":
            help_ = "Lq means this row; a tensor that is read at other positions has the size L"
        elif size.name == "Hkv" and isinstance(value, Index) and value.name == "h":
            help_ = "`hkv` is the key head of h: h // (H // Hkv)"
        elif own != "b":
            if isinstance(value, Size) and value.name == size.name:
                help_ = f"`{own}` is the index, `{size.name}` how many there are"
            else:
                help_ = f"{tensor.name} is {tensor.spelling}; give it a size of its own to read it elsewhere"
        return checker.report("E0305", message, node.span, f"`{own}` was expected", help_)
    if own == "q":
        return checker.build.make(Index(INT, "row", span=value.span))
    return value


def _load(
    checker: Checker, tensor: TensorValue, indices: tuple[Expr, ...], node: tree.Node, base: tree.Node
) -> Expr | Poison:
    rest = tensor.dims[len(indices) :]
    needs = [d.name for d in rest if isinstance(d, Size) and d.name in (*ROW_SIZES, *POSITION_SIZES)]
    if needs or len(rest) > 2:
        natural = f"{tensor.name}{indexless(tensor)}"
        what = f"dimension {needs[0]}" if needs else "at most two dimensions may stay; the first one"
        message = f"{tensor.name} is a tensor {tensor.spelling}: {what} needs an index"
        help_ = f"write `{natural}`" if natural != tensor.name and "..." not in natural else ""
        return checker.report("E0304", message, base.span, "", help_)
    type_ = Type(tensor.kind, tuple(dim_of(d) for d in rest))
    return checker.build.make(Load(type_, tensor.name, indices, span=checker.at(node)))


def _table(checker: Checker, table: TableValue, node: tree.Subscript) -> Value:
    index = _only_index(checker, table.name, node)
    if isinstance(index, Poison):
        return POISON
    known = checker.build.constant(index)
    if isinstance(known, int):
        if not 0 <= known < table.length:
            return _outside(checker, node, known, table.length)
        return checker.build.make(table.item(known))
    return checker.build.make(Load(Type(table.kind), table.name, (index,), span=checker.at(node)))


def _component(checker: Checker, base: TupleValue, node: tree.Subscript) -> Value:
    index = _only_index(checker, "a tuple", node)
    if isinstance(index, Poison):
        return POISON
    known = checker.build.constant(index)
    if not isinstance(known, int):
        help_ = "a const array or an input is read at any index"
        return checker.report("E0304", "a tuple takes only literal indices", node.indices[0].span, "", help_)
    if not 0 <= known < len(base.items):
        return _outside(checker, node, known, len(base.items))
    return base.items[known]


def _only_index(checker: Checker, name: str, node: tree.Subscript) -> Expr | Poison:
    values = [checker.operand(i) for i in node.indices]
    if len(values) != 1:
        return checker.report("E0304", f"{name} has one dimension", node.span, "one index was expected")
    value = values[0]
    if isinstance(value, Poison):
        return POISON
    if isinstance(value, TupleValue) or value.type != INT:
        span = node.indices[0].span
        return checker.report("E0304", f"an index of {name} is {describe(value)}", span, "an int was expected")
    return value


def _outside(checker: Checker, node: tree.Subscript, index: int, length: int) -> Poison:
    message = f"index {index} of a tuple of {length}"
    return checker.report("E0304", message, node.indices[0].span, f"0 to {length - 1} were expected")
