"""Parameters of an attention: consts with their defaults, scalars, inputs with their shapes and promises."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from attndsl.frontend import tree
from attndsl.frontend.check import names
from attndsl.frontend.check.values import (
    POISON,
    Poison,
    TableValue,
    TensorValue,
    TupleValue,
    Value,
    describe,
)  # fmt: skip
from attndsl.frontend.check.vectors import split_at_positions
from attndsl.ir.attention import Const, ConstValue, Fact, Input, Param, Scalar
from attndsl.ir.expr import Expr, Literal, ParamRef, Size
from attndsl.ir.types import DTYPES, INT, Kind, Type, kind_of_dtype

if TYPE_CHECKING:
    from attndsl.frontend.check.expression import Checker

LENGTH = 4096
"""Longest const array."""
DIMENSIONS = 6
"""Most dimensions of an input."""
_KINDS = ("bool", "int", "float")
_FACTS = ("sorted", "permutation", "log_decay")
_OTHER_TYPES = {
    "float": "f32", "int": "i32", "float32": "f32", "float16": "f16", "bfloat16": "bf16", "float64": "f64",
    "int32": "i32", "int64": "i64", "int8": "i8", "int16": "i16", "half": "f16", "double": "f64", "boolean": "bool",
}  # fmt: skip


class Parameters:
    """Declares the parameters of one attention: their names in the checker's frame, their IR in `made`."""

    def __init__(self, checker: Checker) -> None:
        self.checker = checker
        self.made: list[Param] = []

    def declare(self, node: tree.Parameter) -> None:
        """A const or a scalar."""
        value = POISON if node.facts and self._no_facts(node) else self._number(node)
        self.checker.frame.names[node.name] = value

    def _no_facts(self, node: tree.Parameter) -> bool:
        message = f"`{node.facts[0]}` is a promise about an input, and `{node.name}` is a {node.role}"
        self.checker.report("E0308", message, node.fact_spans[0])
        return True

    def _number(self, node: tree.Parameter) -> Value:
        if node.base not in _KINDS:
            other = kind_of_dtype(node.base) if node.base in DTYPES else names.suggestion(node.base, _KINDS)
            message = f"`{node.base}` is not a type of a {node.role}"
            help_ = names.did_you_mean(str(other))
            return self.checker.report("E0307", message, node.base_span, "bool, int or float was expected", help_)
        kind = Kind(node.base)
        if node.role == "scalar":
            if node.shape is not None:
                dtype = _OTHER_TYPES.get(node.base, "bool")
                help_ = f"several run-time numbers are an input: `input {node.name}: {dtype}[...]`"
                return self.checker.report("E0307", f"the scalar `{node.name}` has a shape", node.span, "", help_)
            default = self._default(node, kind, None)
            if isinstance(default, Poison | tuple):
                return self._reference(node.name, kind, node)
            self.made.append(Scalar(node.name, kind, default, span=node.span))
            return self._reference(node.name, kind, node)
        length = self._length(node)
        if isinstance(length, Poison):
            return POISON
        default = self._default(node, kind, length)
        if not isinstance(default, Poison):
            self.made.append(Const(node.name, kind, length, default, span=node.span))
        return self._reference(node.name, kind, node) if length is None else TableValue(node.name, kind, length)

    def _reference(self, name: str, kind: Kind, node: tree.Node) -> Expr:
        return self.checker.build.make(ParamRef(Type(kind), name, span=node.span))

    def _length(self, node: tree.Parameter) -> int | Poison | None:
        if node.shape is None:
            return None
        size = node.shape[0] if len(node.shape) == 1 else None
        value = size.value if isinstance(size, tree.Number) else None
        if isinstance(value, int) and 1 <= value <= LENGTH:
            return value
        span = size.span if size is not None else node.span
        if isinstance(value, int) and value > LENGTH:
            message = f"the const array `{node.name}` has {value} numbers"
            return self.checker.report("E0615", message, span, f"at most {LENGTH}", "a longer table is an `input`")
        what = f"`{node.name}: {node.base}[...]`"
        help_ = "a tensor whose size is known at the call is an `input`" if isinstance(size, tree.Name) else ""
        return self.checker.report(
            "E0307", f"the length of {what} is not a number", span, "one literal was expected", help_
        )

    def _default(self, node: tree.Parameter, kind: Kind, length: int | None) -> ConstValue | Poison | None:
        if node.default is None:
            return None
        value = self._evaluate(node.default)
        if isinstance(value, Poison):
            return POISON
        items = value.items if isinstance(value, TupleValue) else (value,)
        numbers = [self._constant(item, kind) for item in items]
        shown = f"{kind}[{length}]" if length is not None else str(kind)
        if any(n is None for n in numbers):
            message = f"the default of `{node.name}: {shown}` is {describe(value)} that is not known here"
            if all(isinstance(i, Literal) or self.checker.build.constant(i) is not None for i in items):
                message = f"the default of `{node.name}: {shown}` is {describe(value)}"
            article = "an" if kind is Kind.INT else "a"
            return self.checker.report("E0702", message, node.default.span, f"{article} {kind} literal was expected")
        found = cast("list[bool | int | float]", numbers)
        if not isinstance(value, TupleValue):
            return found[0] if length is None else (found[0],) * length
        if length != len(found):
            message = f"the default of `{node.name}: {shown}` has {len(found)} items"
            expected = f"{length} were expected" if length is not None else "one was expected"
            help_ = f"declare `{node.name}: {kind}[{len(found)}]`"
            return self.checker.report("E0702", message, node.default.span, expected, help_)
        return tuple(found)

    def _evaluate(self, node: tree.TreeExpr) -> Expr | TupleValue | Poison:
        checker = self.checker
        before, checker.place = checker.place, "default"
        try:
            return checker.operand(node)
        finally:
            checker.place = before

    def _constant(self, item: Expr, kind: Kind) -> bool | int | float | None:
        if isinstance(item, Literal) and isinstance(item.value, bool):
            return item.value if kind is Kind.BOOL else None
        value = self.checker.build.constant(item)
        if value is None or kind is Kind.BOOL:
            return None
        if kind is Kind.FLOAT:
            return float(value)
        return value if isinstance(value, int) and abs(value) < 2**31 else None

    # Inputs

    def input(self, node: tree.Parameter) -> None:
        """An input; consts are declared already, so that shapes can use them."""
        checker = self.checker
        checker.frame.names[node.name] = POISON
        if node.default is not None:
            message = f"the input `{node.name}` has a default"
            checker.report(
                "E0702", message, node.default.span, "tensors have none", "a number with a default is a `scalar`"
            )
        if node.base not in DTYPES:
            found = _OTHER_TYPES.get(node.base) or names.suggestion(node.base, DTYPES)
            label = f"one of {', '.join(DTYPES)} was expected"
            message = f"`{node.base}` is not an element type of a tensor"
            checker.report("E0307", message, node.base_span, label, names.did_you_mean(found))
            return
        dims = self._shape(node)
        if isinstance(dims, Poison):
            return
        facts = self._facts(node, dims)
        if isinstance(facts, Poison):
            return
        inner = node.span.text.partition(":")[2].strip() if node.span.text else ""
        spelling = inner or f"{node.base}[...]"
        checker.frame.names[node.name] = TensorValue(node.name, kind_of_dtype(node.base), dims, spelling, facts)
        self.made.append(Input(node.name, node.base, dims, facts, span=node.span))

    def _shape(self, node: tree.Parameter) -> tuple[Expr, ...] | Poison:
        checker = self.checker
        if len(node.shape or ()) > DIMENSIONS:
            message = f"the input `{node.name}` has {len(node.shape or ())} dimensions"
            return checker.report("E0615", message, node.span, f"at most {DIMENSIONS}")
        before, checker.place = checker.place, "shape"
        dims: list[Expr] = []
        for size in node.shape or ():
            value = checker.single(size, "a tensor's size")
            if isinstance(value, Poison):
                continue
            if value.type != INT:
                message = f"a size of `{node.name}` is {describe(value)}"
                checker.report("E0307", message, size.span, "an int was expected")
                continue
            known = checker.build.constant(value)
            if known is not None and known < 0:
                checker.report("E0307", f"a size of `{node.name}` is {known}", size.span, "at least 0")
                continue
            dims.append(value)
        checker.place = before
        return tuple(dims) if len(dims) == len(node.shape or ()) else POISON

    def _facts(self, node: tree.Parameter, dims: tuple[Expr, ...]) -> frozenset[Fact] | Poison:
        found: set[Fact] = set()
        report = self.checker.report
        kind = kind_of_dtype(node.base)
        for fact, span in zip(node.facts, node.fact_spans, strict=True):
            if fact not in _FACTS:
                help_ = names.did_you_mean(names.suggestion(fact, _FACTS)) or f"known are {', '.join(_FACTS)}"
                return report("E0308", f"unknown promise `{fact}`", span, "", help_)
            if fact == "log_decay":
                _, after = split_at_positions(dims)
                has = any(isinstance(d, Size) and d.name in ("L", "Lk") for d in dims)
                if kind is not Kind.FLOAT or not has or len(after) > 1:
                    label = "a float tensor [..., L] or [..., L, D] was expected"
                    return report("E0308", f"`{node.name}` cannot be `log_decay`", span, label)
            elif not dims or (fact == "permutation" and kind is not Kind.INT) or kind is Kind.BOOL:
                label = "an int tensor was expected" if fact == "permutation" else "a tensor of numbers was expected"
                return report("E0308", f"`{node.name}` cannot be `{fact}`", span, label)
            found.add(fact)
        return frozenset(found)


def fresh_sizes(parameters: tuple[tree.Parameter, ...], taken: set[str]) -> dict[str, tree.Name]:
    """Names that stand bare in shapes of inputs and mean nothing else: the call binds them."""
    found: dict[str, tree.Name] = {}
    for parameter in parameters:
        if parameter.role == "input":
            for size in parameter.shape or ():
                if isinstance(size, tree.Name) and size.id not in taken and size.id not in names.VALUES:
                    found.setdefault(size.id, size)
    return found
