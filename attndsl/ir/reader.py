"""Reads what `printer` prints."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from attndsl.ir.attention import Attention, Const, ConstValue, Input, Param, Require, Scalar, Segment, Space
from attndsl.ir.expr import (
    FURTHER,
    OPS,
    SCORE,
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
)
from attndsl.ir.types import BOOL, FLOAT, INT, Kind, Type


class ReadError(ValueError):
    """Text that is not an S-expression of the IR."""


Form = str | list["Form"]
Reader = Callable[[list[Form]], Expr]

_TOKEN = re.compile(r'\s*(?:([()])|("(?:[^"\\]|\\.)*")|([^\s()":\[]+(?::\w+)?(?:\[[^\]]*\])?))')


def read_expr(text: str) -> Expr:
    """The expression that a text prints. Raises ReadError."""
    return _expr(_read(text), {})


def read_attention(text: str) -> Attention:
    """The attention that a text prints. Raises ReadError."""
    form = _list(_read(text))
    if len(form) < 2 or form[0] != "attention":
        raise ReadError("expected (attention NAME ...)")
    params: list[Param] = []
    requires: list[Require] = []
    more: dict[str, Any] = {"mask": TRUE, "score": SCORE}
    for clause in map(_list, form[2:]):
        match clause:
            case [("const" | "scalar" | "input"), *_]:
                params.append(_param(clause))
            case ["q-space", *segments]:
                more["q_space"] = _space(segments)
            case ["k-space", *segments]:
                more["k_space"] = _space(segments)
            case ["not-shared"]:
                more["shared"] = False
            case ["require", condition, message]:
                requires.append(Require(_expr(condition, {}), _name(message)))
            case ["mask" | "score" | "weight" | "output" as word, value]:
                more[word] = _expr(value, {})
            case _:
                raise ReadError(f"not a clause: {clause!r}")
    return Attention(_name(form[1]), tuple(params), requires=tuple(requires), **more)


def read_type(text: str) -> Type:
    """The type that `print_type` prints."""
    kind, _, dims = text.partition("[")
    if kind not in set(Kind) or (dims and not dims.endswith("]")):
        raise ReadError(f"not a type: {text!r}")
    shape = tuple(int(d) if d.isdecimal() else d for d in dims[:-1].split(",")) if dims else ()
    return Type(Kind(kind), shape)


def _read(text: str) -> Form:
    stack: list[list[Form]] = [[]]
    at = 0
    text = text.rstrip()
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise ReadError(f"unreadable at character {at}: {text[at : at + 20]!r}")
        at = found.end()
        if found[1] == "(":
            stack.append([])
        elif found[1] == ")":
            if len(stack) == 1:
                raise ReadError(f"`)` too many at character {at}")
            done = stack.pop()
            stack[-1].append(done)
        else:
            stack[-1].append(found[2] or found[3])
    if len(stack) != 1 or len(stack[0]) != 1:
        raise ReadError("expected one whole S-expression")
    return stack[0][0]


def _list(form: Form) -> list[Form]:
    if isinstance(form, str):
        raise ReadError(f"expected a list, found {form!r}")
    return form


def _name(form: Form) -> str:
    if not isinstance(form, str):
        raise ReadError(f"expected a name, found {form!r}")
    return str(json.loads(form)) if form.startswith('"') else form


def read_number(form: Form) -> bool | int | float:
    """The number that `print_number` prints."""
    text = _name(form)
    if text in ("true", "false"):
        return text == "true"
    try:
        return int(text) if re.fullmatch(r"-?\d+", text) else float(text)
    except ValueError:
        raise ReadError(f"not a number: {text!r}") from None


def _expr(form: Form, names: dict[str, Expr]) -> Expr:
    if isinstance(form, str):
        return names[form] if form in names else _leaf(form)
    if not form:
        raise ReadError("an empty list is no expression")
    if form[0] == "let":
        names = dict(names)
        for binding in map(_list, form[1:-1]):
            name, value = binding
            names[_name(name)] = _expr(value, names)
        return _expr(form[-1], names)
    head, _, mark = _name(form[0]).partition(":")
    given = read_type(mark) if mark else None
    try:
        return _inner(head, form[1:], given, names)
    except (IndexError, ValueError, TypeError) as wrong:
        if isinstance(wrong, ReadError):
            raise
        raise ReadError(f"not an expression: {form!r}") from wrong


def _leaf(text: str) -> Expr:
    word, _, mark = text.partition(":")
    given = read_type(mark) if mark else None
    match word:
        case "q" | "k" | "row" | "h" | "b" | "hkv":
            return Index(given or INT, word)
        case "s" | "o":
            return Value(given or FLOAT, word)
        case _ if Value(FLOAT, word) in FURTHER:
            return Value(FLOAT, word)
        case "count":
            return Count(given or INT)
        case _:
            value = read_number(word)
            return Literal(given or {bool: BOOL, int: INT, float: FLOAT}[type(value)], value)


def _inner(head: str, rest: Sequence[Form], given: Type | None, names: dict[str, Expr]) -> Expr:
    def expressions(forms: Sequence[Form]) -> tuple[Expr, ...]:
        return tuple(_expr(f, names) for f in forms)

    match head:
        case "coord":
            side, segment, axis = map(_name, rest)
            return Coord(given or INT, _side(side), segment, axis)
        case "extent":
            side, segment, axis = map(_name, rest)
            return Extent(given or INT, _side(side), segment, axis)
        case "member":
            side, segment = map(_name, rest)
            return Member(given or BOOL, _side(side), segment)
        case "size":
            (name,) = map(_name, rest)
            return Size(given or INT, name)
        case "component":
            (name,) = map(_name, rest)
            return Component(given or INT, name)
        case "param":
            name, *component = map(_name, rest)
            return ParamRef(given or INT, name, int(component[0]) if component else None)
        case "load":
            return Load(given or FLOAT, _name(rest[0]), expressions(rest[1:]))
        case "decay":
            return Decay(given or FLOAT, _name(rest[0]), expressions(rest[1:]))
        case "search":
            side = _name(rest[1])
            (value,) = expressions(rest[2:])
            return Search(given or INT, _name(rest[0]), value, "left" if side == "left" else "right")
        case "sum" | "mean":
            (body,) = expressions(rest)
            return Reduce(given or body.type, head, body)
        case _ if head in OPS:
            args = expressions(rest)
            return Op(given or result_type(head, tuple(a.type for a in args)), head, args)
        case _:
            raise ReadError(f"not an operation: {head!r}")


def _side(text: str) -> Any:
    if text not in ("q", "k"):
        raise ReadError(f"expected q or k, found {text!r}")
    return text


def _param(clause: list[Form]) -> Param:
    match clause:
        case ["const", name, kind, *default]:
            word, _, length = _name(kind).partition("[")
            return Const(_name(name), Kind(word), int(length[:-1]) if length else None, _default(default))
        case ["scalar", name, kind, *default]:
            value = _default(default)
            if isinstance(value, tuple):
                raise ReadError(f"not a scalar: {clause!r}")
            return Scalar(_name(name), Kind(_name(kind)), value)
        case ["input", name, dtype, shape, *facts]:
            promised: Any = frozenset(map(_name, facts))
            return Input(_name(name), _name(dtype), tuple(_expr(e, {}) for e in _list(shape)), promised)
        case _:
            raise ReadError(f"not a parameter: {clause!r}")


def _default(forms: list[Form]) -> ConstValue | None:
    if not forms:
        return None
    return read_number(forms[0]) if isinstance(forms[0], str) else tuple(read_number(v) for v in forms[0])


def _space(segments: list[Form]) -> Space:
    parts = [[_name(w) for w in _list(s)] for s in segments]
    return Space(tuple(Segment(name, tuple(axes)) for name, *axes in parts))
