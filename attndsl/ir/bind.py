"""Give the compile-time parameters of an attention their values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, cast

import numpy as np

from attndsl.diagnostics.codes_ir import DIVISION_BY_ZERO, REQUIREMENT
from attndsl.diagnostics.report import Diagnostic, SpecError
from attndsl.diagnostics.source import Span
from attndsl.ir.attention import Attention, Const, ConstValue
from attndsl.ir.expr import Expr, Literal, Load, Op, ParamRef, rewrite, walk
from attndsl.ir.passes.boolean import boolean_node
from attndsl.ir.passes.fold import DIVISIONS, fold_node
from attndsl.ir.passes.select import select_node
from attndsl.ir.precondition import broken
from attndsl.ir.types import Kind, Type

LIMIT = 2**31
"""Consts are below this in absolute value."""


def bind(attention: Attention, values: Mapping[str, object]) -> Attention:
    """The same attention with every const a number; the consts keep their values as defaults.

    A tuple const takes a sequence of its length or one number for all its components. An array const that is
    read under a run-time index stays a `Load`. Raises TypeError for an unknown or missing name and a wrong type,
    ValueError for a wrong length or a number that is out of range, SpecError for a failed `require` that consts
    alone decide and for a division by a const zero. A `require` that holds is dropped.
    """
    _check_names(attention, values)
    consts = {c.name: replace(c, default=_value_of(c, values)) for c in attention.consts}
    bound = attention.map(lambda e: _substitute(e, consts))
    bound = replace(bound, params=tuple(consts.get(p.name, p) for p in bound.params))
    problems = [*_failed(attention, bound, consts), *_zero_divisors(attention, bound, consts)]
    if problems:
        raise SpecError(problems)
    return replace(bound, requires=tuple(r for r in bound.requires if not isinstance(r.condition, Literal)))


def _check_names(attention: Attention, values: Mapping[str, object]) -> None:
    known = [c.name for c in attention.consts]
    others = {p.name: "a scalar" for p in attention.scalars} | {p.name: "an input" for p in attention.inputs}
    for name in values:
        if name in known:
            continue
        if name in others:
            raise TypeError(f"{attention.name}: `{name}` is {others[name]}: give it at the call, not as a const")
        near = get_close_matches(name, known, 1)
        hint = f"; did you mean `{near[0]}`?" if near else f"; consts are {', '.join(known)}" if known else ""
        raise TypeError(f"{attention.name}: there is no const `{name}`{hint or '; it has no consts'}")


def _value_of(const: Const, values: Mapping[str, object]) -> ConstValue:
    if const.name in values:
        return const_value(const, values[const.name])
    if const.default is None:
        raise TypeError(f"const `{const.name}` has no default and was not given; expected {_expected(const)}")
    return const_value(const, const.default)


def const_value(const: Const, given: object) -> ConstValue:
    """`given` as a value of the const: a number, or a tuple of its length. Raises TypeError and ValueError."""
    plain: Any = cast(Any, given).tolist() if isinstance(given, np.ndarray | np.generic) else given
    if const.length is None:
        return _number(const, plain, const.name)
    if not isinstance(plain, list | tuple):
        return (_number(const, plain, const.name),) * const.length
    items: Sequence[Any] = cast(Sequence[Any], plain)
    if len(items) != const.length:
        raise ValueError(f"const `{const.name}` has {len(items)} components; expected {_expected(const)}")
    return tuple(_number(const, v, f"{const.name}[{i}]") for i, v in enumerate(items))


def _number(const: Const, given: Any, where: str) -> bool | int | float:
    given = cast(Any, given).item() if isinstance(given, np.generic) else given
    kinds = {Kind.BOOL: bool, Kind.INT: int, Kind.FLOAT: (int, float)}[const.kind]
    if not isinstance(given, kinds) or (const.kind is not Kind.BOOL and isinstance(given, bool)):
        raise TypeError(f"const `{where}` is {given!r} ({type(given).__name__}); expected {_expected(const)}")
    if isinstance(given, int) and abs(given) >= LIMIT:
        raise ValueError(f"const `{where}` is {given}; expected a number between -2^31 and 2^31")
    if not math.isfinite(given):
        raise ValueError(f"const `{where}` is {given}; expected a finite float")
    return float(given) if const.kind is Kind.FLOAT else given


def _expected(const: Const) -> str:
    kind = {Kind.BOOL: "bool", Kind.INT: "int", Kind.FLOAT: "float"}[const.kind]
    article = "an" if kind == "int" else "a"
    return f"{article} {kind}" if const.length is None else f"{const.length} of {kind}, or one {kind} for all"


def _substitute(expr: Expr, consts: Mapping[str, Const]) -> Expr:
    def rule(node: Expr) -> Expr | None:
        if isinstance(node, ParamRef) and node.name in consts:
            return _literal(consts[node.name], node.component, node.type, node.span)
        if isinstance(node, Load) and node.tensor in consts and isinstance(node.indices[0], Literal):
            return _literal(consts[node.tensor], int(node.indices[0].value), node.type, node.span)
        return fold_node(node) or boolean_node(node) or select_node(node)

    return rewrite(expr, rule)


def _literal(const: Const, component: int | None, kind: Type, span: Span) -> Literal:
    value = const.default
    if isinstance(value, tuple):
        assert component is not None, f"tuple const `{const.name}` is used whole"
        value = value[component] if 0 <= component < len(value) else {Kind.BOOL: False, Kind.INT: 0}.get(kind.kind, 0.0)
    assert value is not None
    return Literal(kind, value, span=span)


def _failed(attention: Attention, bound: Attention, consts: Mapping[str, Const]) -> Iterator[Diagnostic]:
    wrong = [
        (written, decided)
        for written, decided in zip(attention.requires, bound.requires, strict=True)
        if isinstance(decided.condition, Literal) and not decided.condition.value
    ]
    # what the attention requires itself says it better than the functions that it calls
    own = [w for w in wrong if w[1].of is None] or wrong
    seen: set[tuple[Span, str]] = set()
    for written, decided in own:
        if decided.of is not None:
            # one axis of a tuple is enough
            if (decided.span, decided.of.text) in seen:
                continue
            seen.add((decided.span, decided.of.text))
            yield broken(decided, decided.of)
        else:
            yield Diagnostic(REQUIREMENT, written.message or "a requirement is not met", written.span,
                             label=_involved(written.condition, consts) or "this is false")  # fmt: skip


def _zero_divisors(attention: Attention, bound: Attention, consts: Mapping[str, Const]) -> Iterator[Diagnostic]:
    written = [n for e in expressions(attention) for n in walk(e) if isinstance(n, Op) and n.op in DIVISIONS]
    # what a function computes for arguments that it refuses is no second mistake
    refused = [
        span
        for r in bound.requires
        if r.of is not None and isinstance(r.condition, Literal) and not r.condition.value
        for span in (r.span, r.of.body)
    ]
    seen: set[tuple[str, int, int]] = set()
    for expr in expressions(bound):
        for node in walk(expr):
            place = (node.span.source.name, node.span.start, node.span.stop)
            if not isinstance(node, Op) or node.op not in DIVISIONS or place in seen:
                continue
            if any(_lies_in(node.span, span) for span in refused):
                continue
            divisor = node.args[1]
            if isinstance(divisor, Literal) and divisor.value == 0:
                seen.add(place)
                same = [n.args[1] for n in written if n.span == node.span]
                values = ", ".join(dict.fromkeys(filter(None, (_involved(d, consts) for d in same))))
                word = "modulo" if node.op == "mod" else "division"
                yield Diagnostic(DIVISION_BY_ZERO, f"{word} by a constant zero", node.span, label=values)


def _lies_in(inner: Span, outer: Span) -> bool:
    return inner.source is outer.source and outer.start <= inner.start and inner.stop <= outer.stop


def expressions(attention: Attention) -> Iterator[Expr]:
    """Every expression of an attention, in reading order; the mask, score, weight, output, then the rest."""
    yield attention.mask
    yield attention.score
    if attention.weight is not None:
        yield attention.weight
    if attention.output is not None:
        yield attention.output
    yield from (r.condition for r in attention.requires)
    yield from (e for p in attention.inputs for e in p.shape)


def _involved(expr: Expr, consts: Mapping[str, Const]) -> str:
    """The values of the consts that an expression mentions, in words."""
    names = dict.fromkeys(
        n.name if isinstance(n, ParamRef) else n.tensor for n in walk(expr) if isinstance(n, ParamRef | Load)
    )
    return ", ".join(f"{n} = {_shown(consts[n].default)}" for n in names if n in consts)


def _shown(value: ConstValue | None) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(_shown(v) for v in value)})"
    return str(value).lower() if isinstance(value, bool) else str(value)
