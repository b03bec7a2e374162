"""Calls: built-in functions lowered to operations, `fn` and `feature` inlined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attndsl.frontend import tree
from attndsl.frontend.check import functions, grids, names, preconditions, vectors
from attndsl.frontend.check.build import MismatchError, require_numbers
from attndsl.frontend.check.frame import NAMES, WHY, Caller, Frame, forbidden
from attndsl.frontend.check.values import (
    POISON,
    Feature,
    Poison,
    TableValue,
    TupleValue,
    Value,
    describe,
)  # fmt: skip
from attndsl.frontend.modules import Definition
from attndsl.ir.expr import Expr, Reduce
from attndsl.ir.types import BOOL, Kind

if TYPE_CHECKING:
    from attndsl.frontend.check.expression import Checker


def call(checker: Checker, node: tree.Call) -> Value:
    """The value of a call."""
    name = node.function
    frame = checker.frame
    if name in names.ARITY:
        return _built_in(checker, node)
    feature = frame.features.get(name)
    definition = frame.scope.functions.get(name)
    function = feature.function if feature else definition.function if definition else None
    arguments = [checker.value(a) for a in node.arguments]
    if function is None:
        if frame.closed or name in frame.scope.missing:
            return POISON
        return unknown_function(checker, node)
    if not frame.closed and not right_count(checker, node, len(function.parameters), len(function.parameters)):
        return POISON
    if any(isinstance(a, Poison) for a in arguments) or len(arguments) != len(function.parameters):
        return POISON
    if not _lengths_agree(checker, node, arguments):
        return POISON
    target = feature or definition
    assert target is not None
    return inline(checker, target, arguments, node)


def unknown_function(checker: Checker, node: tree.Call) -> Poison:
    """Report a call of what is no function."""
    name = node.function
    frame = checker.frame
    if name in frame.names or name in names.VALUES:
        message = f"`{name}` is not a function"
        help_ = "write `*` to multiply" if name in frame.names or name not in names.VALUES else ""
        return checker.report("E0203", message, node.span, "a function was expected", help_)
    help_ = functions.function_help(name, {*names.ARITY, *frame.scope.functions, *frame.features})
    return checker.report("E0202", f"unknown function `{name}`", functions.called(node), "", help_)


def right_count(checker: Checker, node: tree.Call, fewest: int, most: int | None) -> bool:
    """Whether a call has a fitting number of arguments; reported if not."""
    wrong = functions.wrong_count(node, fewest, most)
    if wrong:
        checker.report("E0303", wrong, node.span)
    return not wrong


def _lengths_agree(checker: Checker, node: tree.Call, arguments: Sequence[Value]) -> bool:
    lengths: dict[int, int] = {}
    for i, a in enumerate(arguments):
        if isinstance(a, TupleValue | TableValue):
            lengths.setdefault(len(a.items) if isinstance(a, TupleValue) else a.length, i)
    if len(lengths) < 2:
        return True
    shown = " and ".join(str(n) for n in lengths)
    second = list(lengths.values())[1]
    message = f"`{node.function}` maps over its tuples, which have {shown} items"
    checker.report("E0302", message, node.arguments[second].span, "lengths must agree")
    return False


def inline(checker: Checker, target: Definition | Feature, arguments: Sequence[Value], node: tree.Call) -> Value:
    """The function's value on these arguments. Equal calls are worked out once."""
    function = target.function
    if id(function) in checker.cyclic or checker.damaged(function):
        return POISON
    key = (id(target), checker.place, tuple(arguments))
    if key in checker.memo:
        return checker.memo[key]
    outer = checker.frame
    bound = dict(zip(function.parameters, arguments, strict=True))
    shown = ", ".join(f"{p}: {describe(a)}" for p, a in bound.items())
    caller = Caller(node.function, node.span, shown) if outer.at is None else outer.caller
    closed = isinstance(target, Definition)
    at = outer.at or (node.span if closed and functions.is_library(target.scope.source) else None)
    if isinstance(target, Feature):
        frame = Frame({**target.names, **bound}, target.scope, False, dict(target.features), caller, at)
    else:
        frame = Frame(bound, target.scope, True, {}, caller, at)
    with checker.within(frame):
        for statement in function.statements:
            if isinstance(statement, tree.Let):
                frame.names[statement.name] = checker.value(statement.value)
                continue
            required = preconditions.condition(checker, statement)
            with checker.within(outer):
                good = preconditions.keep(checker, target, frame, node, statement, required)
            if not good:
                checker.memo[key] = POISON
                return POISON
        value = checker.value(function.value)
    checker.memo[key] = value
    return value


def _built_in(checker: Checker, node: tree.Call) -> Value:
    name = node.function
    if not right_count(checker, node, *names.ARITY[name]):
        for a in node.arguments:
            checker.value(a)
        return POISON
    if name == "size":
        return grids.size(checker, node)
    if name == "decay":
        return vectors.decay(checker, node)
    if name in ("sum", "mean"):
        before = checker.place
        if "sum" in forbidden(before):
            # the sum is the mistake; what stands in it would be right where a sum is
            checker.place = "weight"
        value = checker.operand(node.arguments[0])
        checker.place = before
        return reduction(checker, name, value, node)
    values = [checker.operand(a) for a in node.arguments]
    if name in ("all", "any"):
        return _join(checker, name, values[0], node)
    build, span = checker.build, checker.at(node)

    def rule(*args: Expr) -> Expr:
        if name in ("min", "max"):
            result = args[0]
            for a in args[1:]:
                result = build.arithmetic(name, result, a, span, name)
            return result
        if name == "clamp":
            raised = build.arithmetic("max", args[0], args[1], span, name)
            return build.arithmetic("min", raised, args[2], span, name)
        if name in vectors.RULES:
            return vectors.RULES[name](checker, args, span)
        require_numbers(name, *args)
        if name in ("bitlen", "ispow2"):
            if args[0].type.kind is not Kind.INT:
                raise MismatchError("E0301", f"`{name}` takes an int, and this is {describe(args[0])}", argument=0)
            return build.op(name, args[0], span=span)
        if name in ("floor", "ceil"):
            return args[0] if args[0].type.kind is Kind.INT else build.op(name, args[0], span=span)
        if name == "atan2":
            args = tuple(build.to_float(a) for a in args)
            return build.op(name, *args, span=span)
        return build.op(name, args[0] if name in names.KIND_FUNCTIONS else build.to_float(args[0]), span=span)

    return checker.apply(node, rule, node.arguments, *values)


def _join(checker: Checker, name: str, value: Expr | TupleValue | Poison, node: tree.Call) -> Value:
    if isinstance(value, Poison):
        return POISON
    items = value.items if isinstance(value, TupleValue) else (value,)
    if any(i.type != BOOL for i in items):
        message = f"`{name}` takes a tuple of bools, and this is {describe(value)}"
        return checker.report("E0301", message, node.arguments[0].span, "bools were expected")
    result = items[0]
    for item in items[1:]:
        result = checker.build.op("and" if name == "all" else "or", result, item, span=checker.at(node))
    return result


def reduction(checker: Checker, name: str, value: Value, node: tree.Node) -> Value:
    """`sum(e)` and `mean(e)` over the row's visible keys; of bools, how many or which share."""
    if "sum" in forbidden(checker.place):
        message = f"`{name}` over keys is not available in {NAMES[checker.place]}"
        return checker.report("E0402", message, node.span, "", WHY[checker.place])
    if isinstance(value, TupleValue):
        return checker.report("E0301", f"`{name}` of {describe(value)}", node.span, "a number or a vector was expected")
    if not isinstance(value, Expr):
        return POISON
    build = checker.build
    if name == "mean":
        value = build.to_float(value)
    elif value.type.kind is Kind.BOOL:
        value = build.op("to_int", value, span=checker.at(node))
    return build.make(Reduce(value.type, "sum" if name == "sum" else "mean", value, span=checker.at(node)))
