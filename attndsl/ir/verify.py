"""What must hold of an attention, whoever built or rewrote it."""

from __future__ import annotations

import math
from collections.abc import Iterable

from attndsl.ir.attention import Attention, Const, Input, Scalar, Space
from attndsl.ir.expr import (
    FURTHER,
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
    walk,
)
from attndsl.ir.printer import print_expr, print_type
from attndsl.ir.types import BOOL, DTYPES, INT, Kind, Type, kind_of_dtype
from attndsl.ir.verify_ops import check_op

SIZES = frozenset(("B", "H", "Hkv", "Lq", "Lk", "L", "D", "Dv"))
_VECTORS = {"Q": ("h", "D"), "K": ("hkv", "D"), "V": ("hkv", "Dv")}
_OWN_INDEX = {"B": "b", "H": "h", "Hkv": "hkv", "Lq": "row"}
_HOST = (Literal, Size, Extent, ParamRef, Op, Load, Search)
_PAIR = (*_HOST, Index, Coord, Member, Component)
_LARGEST = 2**63


class VerifyError(ValueError):
    """A rule that a node breaks. `node` is it; `clause` says where it stands."""

    def __init__(self, clause: str, rule: str, node: Expr | None = None) -> None:
        shown = "" if node is None else f": {print_expr(node)}"
        super().__init__(f"{clause}: {rule}{shown}")
        self.clause = clause
        self.node = node


def verify(attention: Attention) -> None:
    """Raise VerifyError if any rule of the IR is broken: types, arities, names, ranks, and what may stand where."""
    _params(attention)
    for side, space in (("q", attention.q_space), ("k", attention.k_space)):
        if space is not None:
            _space(side, space)
    if attention.shared and attention.q_space != attention.k_space:
        raise VerifyError("grid", "a shared grid is the same on both sides")
    scope = _Scope(attention)
    scope.check("mask", attention.mask, (*_PAIR,), Kind.BOOL)
    scores = ("s", *(leaf.name for leaf, _ in zip(FURTHER, attention.products, strict=False)))
    scope.check("score", attention.score, (*_PAIR, Value, Decay), Kind.FLOAT, scores)
    if attention.weight is not None:
        scope.check("weight", attention.weight, (*_PAIR, Value, Decay, Reduce, Count), Kind.FLOAT, scores)
    if attention.output is not None:
        scope.check("output", attention.output, (*_PAIR, Value), Kind.FLOAT, ("o",))
        for node in walk(attention.output):
            if _of_key(node):
                raise VerifyError("output", "depends on the key", node)
    for require in attention.requires:
        scope.check("require", require.condition, _HOST, Kind.BOOL)
    for param in attention.inputs:
        for size in param.shape:
            scope.check(f"shape of {param.name}", size, (Literal, Size, ParamRef, Op), Kind.INT)


def _of_key(node: Expr) -> bool:
    match node:
        case Index(name="k") | Coord(side="k") | Member(side="k") | Load(tensor="K" | "V"):
            return True
        case _:
            return False


def _params(attention: Attention) -> None:
    names = [p.name for p in attention.params]
    for name in names:
        if names.count(name) > 1 or name in _VECTORS:
            raise VerifyError("parameters", f"`{name}` is declared twice")
    for param in attention.params:
        match param:
            case Const(kind=kind, length=length, default=default):
                parts = default if isinstance(default, tuple) else () if default is None else (default,)
                whole = default is None or isinstance(default, tuple) == (length is not None)
                if not whole or (isinstance(default, tuple) and len(parts) != length):
                    raise VerifyError("parameters", f"the default of `{param.name}` has the wrong length")
                if any(not _is_kind(v, kind) for v in parts):
                    raise VerifyError("parameters", f"the default of `{param.name}` is no {kind}")
            case Scalar(kind=kind, default=default):
                if default is not None and not _is_kind(default, kind):
                    raise VerifyError("parameters", f"the default of `{param.name}` is no {kind}")
            case Input(dtype=dtype, facts=facts):
                if dtype not in DTYPES:
                    raise VerifyError("parameters", f"`{param.name}` has no element type {dtype}")
                if facts - {"sorted", "permutation", "log_decay", "operand", "channels"}:
                    raise VerifyError("parameters", f"`{param.name}` promises {', '.join(sorted(facts))}")


def _is_kind(value: object, kind: Kind) -> bool:
    if kind is Kind.FLOAT:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is (bool if kind is Kind.BOOL else int)


def _space(side: str, space: Space) -> None:
    names = [s.name for s in space.segments]
    axes = [a for s in space.segments for a in s.axes]
    if not names or len(set(names)) < len(names) or len(set(axes)) < len(axes):
        raise VerifyError("grid", f"segments and axes of {side} have distinct names")
    if any(not 1 <= len(s.axes) <= 3 for s in space.segments):
        raise VerifyError("grid", f"a segment of {side} has one to three axes")


class _Scope:
    """The names of an attention, and the rules that need them."""

    def __init__(self, attention: Attention) -> None:
        self.params = {p.name: p for p in attention.params}
        self.spaces = {"q": attention.q_space, "k": attention.k_space}
        self.sizes = SIZES | {e.name for p in attention.inputs for e in p.shape if isinstance(e, Size)}

    def check(
        self, clause: str, root: Expr, allowed: Iterable[type[Expr]], kind: Kind, values: tuple[str, ...] = ()
    ) -> None:
        legal = tuple(allowed)
        for node in walk(root):
            if not isinstance(node, legal):
                raise VerifyError(clause, f"{type(node).__name__} may not stand here", node)
            if isinstance(node, Value) and node.name not in values:
                raise VerifyError(clause, f"`{node.name}` has no value here", node)
            if clause == "require" or clause.startswith("shape"):
                self._host(clause, node)
            rule = self._broken(node)
            if rule:
                raise VerifyError(clause, rule, node)
        number = clause != "output"
        if root.type.kind is not kind or (number and not root.type.is_number) or len(root.type.shape) > 1:
            raise VerifyError(clause, f"has type {print_type(root.type)}", root)

    def _host(self, clause: str, node: Expr) -> None:
        """Shapes and requirements are known before any tensor is."""
        if isinstance(node, Load | Search) and not isinstance(self.params.get(node.tensor), Const):
            raise VerifyError(clause, "reads a run-time tensor", node)
        const = isinstance(node, ParamRef) and isinstance(self.params.get(node.name), Const)
        if clause.startswith("shape") and isinstance(node, ParamRef) and not const:
            raise VerifyError(clause, f"`{node.name}` is not a const", node)

    def _broken(self, node: Expr) -> str:
        """The rule that a node breaks, or nothing."""
        match node:
            case Literal(type=t, value=value):
                if not t.is_number or type(value) is not {"bool": bool, "int": int, "float": float}[t.kind.value]:
                    return f"a literal of type {print_type(t)}"
                return (
                    "not a number" if math.isnan(value) else "too large" if t == INT and abs(value) >= _LARGEST else ""
                )
            case Index(type=t) | Count(type=t) | Component(type=t):
                return "" if t == INT else "is an int"
            case Size(type=t, name=name):
                return "is an int" if t != INT else "" if name in self.sizes else f"no size `{name}`"
            case Coord(type=t, side=side, segment=segment, axis=axis):
                return "is an int" if t != INT else self._axis(side, segment, axis)
            case Extent(type=t, side=side, segment=segment, axis=axis):
                return "is an int" if t != INT else self._axis(side, segment, axis)
            case Member(type=t, side=side, segment=segment):
                return "is a bool" if t != BOOL else self._axis(side, segment, None)
            case ParamRef():
                return self._param(node)
            case Load():
                return self._load(node)
            case Decay():
                return self._decay(node)
            case Search(type=t, value=value):
                return "" if t == INT and value.type == INT and self._tensor(node.tensor) else "searches ints"
            case Value(type=t):
                return "" if t.kind is Kind.FLOAT else "is a float"
            case Reduce(type=t, body=body):
                return "" if t.shape == body.type.shape and t.kind is not Kind.BOOL else "has its body's shape"
            case Op():
                return check_op(node)
            case _:
                return f"unknown node {type(node).__name__}"

    def _axis(self, side: str, segment: str, axis: str | None) -> str:
        space = self.spaces[side]
        for s in () if space is None else space.segments:
            if s.name == segment and (axis is None or axis in s.axes):
                return ""
        return f"{side} has no grid `{segment}`" + ("" if axis is None else f" with an axis `{axis}`")

    def _param(self, node: ParamRef) -> str:
        param = self.params.get(node.name)
        if param is None or isinstance(param, Input):
            return f"no const or scalar `{node.name}`"
        length = param.length if isinstance(param, Const) else None
        if (length is None) != (node.component is None) or not 0 <= (node.component or 0) < (length or 1):
            return f"no component {node.component} of `{node.name}`"
        return "" if node.type == Type(param.kind) else f"`{node.name}` is a {param.kind}"

    def _tensor(self, name: str) -> Input | Const | None:
        param = self.params.get(name)
        return param if isinstance(param, Input) or (isinstance(param, Const) and param.length is not None) else None

    def _load(self, node: Load) -> str:
        if any(i.type != INT for i in node.indices):
            return "an index is an int"
        if node.tensor in _VECTORS:
            head, size = _VECTORS[node.tensor]
            names = [i.name if isinstance(i, Index) else "" for i in node.indices[:2]]
            if names != ["b", head] or len(node.indices) not in (3, 4):
                return f"{node.tensor} is read at [b, {head}, position]"
            return _vector_type(node.type, Kind.FLOAT, (size,)[len(node.indices) - 3 :])
        tensor = self._tensor(node.tensor)
        if tensor is None:
            return f"no tensor `{node.tensor}`"
        if isinstance(tensor, Const):
            return "" if node.type == Type(tensor.kind) and len(node.indices) == 1 else "a const array has one index"
        if len(node.indices) > len(tensor.shape):
            return f"`{node.tensor}` has {len(tensor.shape)} dimensions"
        for index, size in zip(node.indices, tensor.shape, strict=False):
            own = _OWN_INDEX.get(size.name) if isinstance(size, Size) else None
            if own and not (isinstance(index, Index) and index.name == own):
                return f"the dimension of `{node.tensor}` takes `{own}`"
        return _vector_type(node.type, kind_of_dtype(tensor.dtype), tensor.shape[len(node.indices) :])

    def _decay(self, node: Decay) -> str:
        tensor = self.params.get(node.tensor)
        if not isinstance(tensor, Input) or kind_of_dtype(tensor.dtype) is not Kind.FLOAT:
            return f"no float input `{node.tensor}`"
        at = len(node.indices)
        position = tensor.shape[at] if at < len(tensor.shape) else None
        if not isinstance(position, Size) or position.name not in ("L", "Lk"):
            return f"`{node.tensor}` decays along L"
        return _vector_type(node.type, Kind.FLOAT, tensor.shape[at + 1 :])


def _vector_type(t: Type, kind: Kind, rest: tuple[Expr | str, ...]) -> str:
    """Kind and rank agree, and named extents have their names."""
    if t.kind is not kind or len(t.shape) != len(rest) or len(rest) > 2:
        return f"has type {print_type(t)}"
    for dim, size in zip(t.shape, rest, strict=True):
        name = size.name if isinstance(size, Size) else size
        if isinstance(name, str) and isinstance(dim, str) and dim != name:
            return f"has type {print_type(t)}"
    return ""
