"""Expressions and attentions as S-expressions, which `reader` reads back to the same thing.

    (and (le k q) (lt (sub q k) (param window)))

A head or a leaf carries its type (`load:float[D]`) where that is not the usual one. A large subtree that occurs
more than once is written once: `(let (%0 ...) ... body)`. Spans are not written.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable

from attndsl.ir.attention import Attention, Const, ConstValue, Input, Param, Scalar, Space
from attndsl.ir.expr import (
    TRUE,
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
    result_type,
    walk,
)
from attndsl.ir.types import BOOL, FLOAT, INT, Type

WIDTH = 100
_SHARE = 6
"""Subtrees of fewer nodes are written again where they occur again."""


def print_expr(expr: Expr) -> str:
    """The text of an expression, on several lines where it is long."""
    return _layout(_form(expr), 0)


def print_attention(attention: Attention) -> str:
    """The text of an attention, one clause after another. Clauses that say the usual are left out."""
    clauses: list[Form] = [_param(p) for p in attention.params]
    for word, space in (("q-space", attention.q_space), ("k-space", attention.k_space)):
        if space is not None:
            clauses.append([word, *_segments(space)])
    if not attention.shared:
        clauses.append(["not-shared"])
    clauses += [["require", _form(r.condition), json.dumps(r.message)] for r in attention.requires]
    if attention.mask != TRUE:
        clauses.append(["mask", _form(attention.mask)])
    clauses.append(["score", _form(attention.score)])
    for word, expr in (("weight", attention.weight), ("output", attention.output)):
        if expr is not None:
            clauses.append([word, _form(expr)])
    lines = [_layout(c, 2) for c in clauses]
    return "\n  ".join([f"(attention {_name(attention.name)}", *lines]) + ")"


def print_type(value: Type) -> str:
    """`int`, `float[D,M]`."""
    return f"{value.kind.value}[{','.join(map(str, value.shape))}]" if value.shape else value.kind.value


Form = str | list["Form"]


def usual_type(node: Expr) -> Type:
    """The type that a node has when its text does not say one."""
    match node:
        case Op():
            return result_type(node.op, tuple(a.type for a in node.args))
        case Load() | Decay() | Value():
            return FLOAT
        case Reduce():
            return node.body.type
        case Member():
            return BOOL
        case Literal():
            return {bool: BOOL, int: INT, float: FLOAT}[type(node.value)]
        case _:
            return INT


def _form(root: Expr) -> Form:
    nodes = list(walk(root))
    uses = Counter(c for n in nodes for c in n.children)
    size: dict[Expr, int] = {}
    forms: dict[Expr, Form] = {}
    shared: list[Form] = []
    for node in nodes:
        form = _node_form(node, [forms[c] for c in node.children])
        size[node] = 1 + sum(size[c] for c in node.children)
        if uses[node] > 1 and size[node] >= _SHARE:
            name = f"%{len(shared)}"
            shared.append([name, form])
            form = name
            size[node] = 1
        forms[node] = form
    return ["let", *shared, forms[root]] if shared else forms[root]


def _node_form(node: Expr, children: list[Form]) -> Form:
    mark = "" if node.type == usual_type(node) else ":" + print_type(node.type)
    match node:
        case Literal(value=value):
            return print_number(value) + mark
        case Index(name=name) | Value(name=name):
            return name + mark
        case Count():
            return "count" + mark
        case Coord(side=side, segment=segment, axis=axis):
            return ["coord" + mark, side, _name(segment), _name(axis)]
        case Extent(side=side, segment=segment, axis=axis):
            return ["extent" + mark, side, _name(segment), _name(axis)]
        case Member(side=side, segment=segment):
            return ["member" + mark, side, _name(segment)]
        case Size(name=name):
            return ["size" + mark, _name(name)]
        case Component(name=name):
            return ["component" + mark, _name(name)]
        case ParamRef(name=name, component=component):
            return ["param" + mark, _name(name), *([] if component is None else [str(component)])]
        case Load(tensor=tensor):
            return ["load" + mark, _name(tensor), *children]
        case Decay(tensor=tensor):
            return ["decay" + mark, _name(tensor), *children]
        case Search(tensor=tensor, side=side):
            return ["search" + mark, _name(tensor), side, *children]
        case Reduce(kind=kind):
            return [kind + mark, *children]
        case Op(op=op):
            return [op + mark, *children]
        case _:
            raise TypeError(f"not a node: {node!r}")


def print_number(value: bool | int | float) -> str:
    """A number whose text tells its kind: `true`, `3`, `3.0`, `inf`, `nan`."""
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _name(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z_]\w*", name) else json.dumps(name)


def _param(param: Param) -> Form:
    match param:
        case Const(name=name, kind=kind, length=length, default=default):
            word = kind.value if length is None else f"{kind.value}[{length}]"
            return ["const", _name(name), word, *_default(default)]
        case Scalar(name=name, kind=kind, default=default):
            return ["scalar", _name(name), kind.value, *_default(default)]
        case Input(name=name, dtype=dtype, shape=shape, facts=facts):
            return ["input", _name(name), dtype, [_form(e) for e in shape], *sorted(facts)]


def _default(value: ConstValue | None) -> Iterable[Form]:
    if value is None:
        return []
    return [[print_number(v) for v in value] if isinstance(value, tuple) else print_number(value)]


def _segments(space: Space) -> list[Form]:
    return [[_name(s.name), *map(_name, s.axes)] for s in space.segments]


def _layout(form: Form, indent: int) -> str:
    """On one line if it fits, else the head with what is short and then one argument to a line."""
    flat = _flat(form)
    if isinstance(form, str) or indent + len(flat) <= WIDTH:
        return flat
    first = 0
    while first < len(form) and isinstance(form[first], str):
        first += 1
    head = " ".join(map(_flat, form[:first]))
    inner = "\n" + " " * (indent + 2)
    return "(" + inner.join([head, *(_layout(f, indent + 2) for f in form[first:])]).lstrip() + ")"


def _flat(form: Form) -> str:
    return form if isinstance(form, str) else "(" + " ".join(map(_flat, form)) + ")"
