"""Built-in functions of vectors, and `decay`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Literal as Lit

from attndsl.diagnostics.source import Span
from attndsl.frontend import tree
from attndsl.frontend.check.build import MismatchError, require_numbers
from attndsl.frontend.check.frame import NAMES, WHY, forbidden
from attndsl.frontend.check.values import (
    POISON,
    ROW_SIZES,
    Poison,
    TensorValue,
    Value,
    describe,
    dim_of,
)  # fmt: skip
from attndsl.ir.attention import Require
from attndsl.ir.expr import Decay, Expr, Index, Size, integer, op
from attndsl.ir.types import INT, Kind, Type

if TYPE_CHECKING:
    from attndsl.frontend.check.expression import Checker

_NUMBER_HELP = {
    "softmax": "over the keys of a row it is `weight softmax`, without an argument, or `exp(s) / sum`",
    "total": "a sum over keys is `sum(e)`",
}
Rule = Callable[["Checker", tuple[Expr, ...], Span], Expr]


def _vector(name: str, value: Expr, argument: int) -> None:
    if len(value.type.shape) != 1:
        message = f"`{name}` takes a vector, and this is {describe(value)}"
        help_ = ""
        if value.type.is_number:
            help_ = _NUMBER_HELP.get(name, "")
            if isinstance(value, Index) and value.name in ("q", "k"):
                help_ = f"`{value.name}` is a position; the vector is `{value.name.upper()}`"
        raise MismatchError("E0301", message, "a vector was expected", help_, argument)
    require_numbers(name, value)


def _two(name: str) -> Rule:
    def rule(checker: Checker, args: tuple[Expr, ...], span: Span) -> Expr:
        for i, a in enumerate(args):
            _vector(name, a, i)
        if name == "dot" and args[0].type.shape != args[1].type.shape:
            message = f"`dot` of {args[0].type} and {args[1].type}"
            raise MismatchError("E0302", message, "sizes must agree")
        return checker.build.op(name, *(checker.build.to_float(a) for a in args), span=span)

    return rule


def _one(name: str, operation: str) -> Rule:
    def rule(checker: Checker, args: tuple[Expr, ...], span: Span) -> Expr:
        _vector(name, args[0], 0)
        return checker.build.op(operation, checker.build.to_float(args[0]), span=span)

    return rule


def _turned(name: str) -> Rule:
    def rule(checker: Checker, args: tuple[Expr, ...], span: Span) -> Expr:
        x, by = args
        _vector(name, x, 0)
        if not by.type.is_number or by.type.kind is Kind.BOOL or (name == "roll" and by.type.kind is not Kind.INT):
            wanted = "an int" if name == "roll" else "a position"
            message = f"`{name}` turns a vector by {wanted}, and this is {describe(by)}"
            raise MismatchError("E0301", message, f"{wanted} was expected", argument=1)
        if name == "rope":
            _even(checker, x, span)
        return checker.build.op(name, checker.build.to_float(x), by, span=span)

    return rule


def _even(checker: Checker, x: Expr, span: Span) -> None:
    """`rope` turns component i with component i + size / 2."""
    (size,) = x.type.shape
    if size in ("D", "Dv"):
        condition = op("eq", op("mod", Size(INT, str(size)), integer(2)), integer(0))
        message = "`rope` turns pairs of components: an even size was expected"
        checker.requires.setdefault((condition, message), Require(condition, message, span))
    elif isinstance(size, int) and size % 2:
        raise MismatchError("E0302", f"`rope` of {x.type}", "it turns pairs of components: an even size was expected")


RULES: dict[str, Rule] = {
    "dot": _two("dot"), "outer": _two("outer"), "concat": _two("concat"), "norm": _one("norm", "norm"),
    "total": _one("total", "total"), "amax": _one("amax", "amax"),
    "softmax": _one("softmax", "vsoftmax"), "rmsnorm": _one("rmsnorm", "rmsnorm"),
    "roll": _turned("roll"), "rope": _turned("rope"),
}  # fmt: skip


def decay(checker: Checker, node: tree.Call) -> Value:
    """`decay(g)`: g is declared `log_decay`, its dimensions before L take their own indices."""
    argument = node.arguments[0]
    if "decay" in forbidden(checker.place):
        message = f"`decay` is not available in {NAMES[checker.place]}"
        return checker.report("E0402", message, node.span, "", WHY[checker.place])
    indices: tuple[Expr, ...] | None = None
    if isinstance(argument, tree.Subscript):
        tensor = checker.value(argument.base)
        given = [checker.operand(i) for i in argument.indices]
        good = tuple(i for i in given if isinstance(i, Expr))
        if len(good) < len(given):
            return POISON
        indices = good
    else:
        tensor = checker.value(argument)
    if isinstance(tensor, Poison):
        return POISON
    if not isinstance(tensor, TensorValue) or "log_decay" not in tensor.facts:
        what = describe(tensor) if not isinstance(tensor, TensorValue) else f"{tensor.name}: {tensor.spelling}"
        message = f"`decay` takes an input that is declared `log_decay`, and this is {what}"
        help_ = "declare it `input g: f32[B, H, L] log_decay` and pass its name" if "log_decay" not in what else ""
        return checker.report("E0309", message, argument.span, "", help_)
    before, after = split_at_positions(tensor.dims)
    own = [ROW_SIZES.get(d.name, "") if isinstance(d, Size) else "" for d in before]
    if indices is None:
        if not all(own):
            message = f"`decay({tensor.name})` knows only the indices of B, H and Hkv"
            return checker.report(
                "E0309", message, argument.span, f"it is {tensor.spelling}", "index what stands before L"
            )
        indices = tuple(checker.build.make(Index(INT, _index(n), span=checker.at(node))) for n in own)
    if len(indices) != len(before) or any(
        n and not (isinstance(i, Index) and i.name == n) for n, i in zip(own, indices, strict=True)
    ):
        message = f"`decay` runs along L: index exactly what stands before it in {tensor.spelling}"
        return checker.report("E0309", message, argument.span, "", f"write `decay({tensor.name})`")
    type_ = Type(Kind.FLOAT, tuple(dim_of(d) for d in after))
    return checker.build.make(Decay(type_, tensor.name, indices, span=checker.at(node)))


def _index(name: str) -> Lit["b", "h", "hkv"]:
    assert name in ("b", "h", "hkv")
    return name


def split_at_positions(dims: tuple[Expr, ...]) -> tuple[tuple[Expr, ...], tuple[Expr, ...]]:
    """The dimensions before and after the last L; without one, everything is before."""
    for i in reversed(range(len(dims))):
        size = dims[i]
        if isinstance(size, Size) and size.name in ("L", "Lk"):
            return dims[:i], dims[i + 1 :]
    return dims, ()
