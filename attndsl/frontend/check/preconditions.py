"""`require` inside a function: each call makes it a condition on the call's arguments."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from attndsl.diagnostics.source import NOWHERE
from attndsl.frontend import printer, tree
from attndsl.frontend.check.frame import Frame, forbidden
from attndsl.frontend.check.functions import expressions, is_library
from attndsl.frontend.check.values import (
    POISON,
    SIZES,
    Feature,
    Poison,
    TableValue,
    TupleValue,
    Value,
    describe,
)  # fmt: skip
from attndsl.frontend.layout import render
from attndsl.frontend.modules import Definition
from attndsl.ir.attention import Named, Precondition, Require
from attndsl.ir.expr import Expr, Extent, Literal, Op, ParamRef, Size, rewrite, walk
from attndsl.ir.types import BOOL, INT

if TYPE_CHECKING:
    from attndsl.frontend.check.expression import Checker

_INGREDIENTS = {
    "q": "the query's position", "k": "the key's position", "h": "the head", "hkv": "the key head", "b": "the batch",
    "tensor": "a tensor", "s": "the score", "sum": "a sum over keys", "count": "the number of keys",
}  # fmt: skip


def condition(checker: Checker, clause: tree.RequireClause) -> Value:
    """What a precondition says, in the frame of the function. What it is made of is looked at in `keep`."""
    before = checker.place, checker.deferred
    checker.place, checker.deferred = "require", True
    try:
        value = checker.operand(clause.condition)
        items = _items(value)
        if any(i.type != BOOL for i in items):
            what = f"the condition of `require` is {describe(value)}"
            return checker.report("E0310", what, clause.condition.span, "a bool was expected")
        return value
    finally:
        checker.place, checker.deferred = before


def keep(
    checker: Checker,
    target: Definition | Feature,
    frame: Frame,
    node: tree.Call,
    clause: tree.RequireClause,
    value: Value,
) -> bool:
    """Make a precondition one of the attention's, one for each component of a tuple. `frame` is the function's, the
    checker is in the caller's. False if it was reported: a condition that is not decided before the call looks at
    data, or that is false already."""
    if isinstance(value, Poison):
        return False
    if checker.uses.of(value) & forbidden("require"):
        _varying(checker, target, frame, node, clause)
        return False
    place = NOWHERE if is_library(target.scope.source) else clause.span
    names = tuple(_mentioned(target.function, clause.condition))
    items = _items(value)
    for i, item in enumerate(items):
        values = tuple(v for n in names if (v := _named(n, frame, i if len(items) > 1 else None)) is not None)
        of = Precondition(target.function.name, _text(clause), values, place, target.function.span)
        require = Require(item, clause.message, checker.at(node), of)
        decided = _decided(item)
        if decided is None:
            checker.requires.setdefault((item, clause.message), require)
        elif not decided:
            _report_broken(checker, require, of)
            return False
    return True


def _items(value: Value) -> tuple[Expr, ...]:
    if isinstance(value, TupleValue):
        return value.items
    return (value,) if isinstance(value, Expr) else ()


def _text(clause: tree.RequireClause) -> str:
    return render(printer.expression(clause.condition), 0, 10**6)


def _mentioned(function: tree.Function, root: tree.TreeExpr) -> Iterator[str]:
    """The names that an expression is made of, those of lets followed to what they are made of; each once."""
    lets = {let.name: let.value for let in function.lets}
    seen: set[str] = set()
    pending = [root]
    while pending:
        for node in expressions(pending.pop(0)):
            if isinstance(node, tree.Name) and node.id not in seen:
                seen.add(node.id)
                if node.id in lets:
                    pending.append(lets[node.id])
                else:
                    yield node.id


def _named(name: str, frame: Frame, component: int | None) -> Named | None:
    """A name of the function with its value, for messages; of a tuple the component that is at hand."""
    value = frame.names.get(name)
    if value is None and name in SIZES:
        value = Size(INT, name)
    if isinstance(value, TableValue):
        value = TupleValue(tuple(value.item(i) for i in range(value.length)))
    parts = _items(value) if value is not None else ()
    if isinstance(value, TupleValue) and component is not None:
        parts = (parts[component],)
    if not parts:
        return None
    origin = _origin(parts)
    return Named(name, parts, "" if origin == name else origin)


def _origin(parts: tuple[Expr, ...]) -> str:
    match parts[0]:
        case ParamRef(name=name, component=component):
            return name if component is None or len(parts) > 1 else f"{name}[{component}]"
        case Size(name=name):
            return name
        case Extent(axis=axis) if len(parts) == 1:
            return f"size of {axis}"
        case _:
            return ""


def _decided(root: Expr) -> bool | None:
    """Whether literals alone make a condition true or false; None where they do not decide it."""
    if not all(isinstance(n, Literal | Op) for n in walk(root)):
        return None
    from attndsl.ir.passes.boolean import boolean_node
    from attndsl.ir.passes.fold import fold_node
    from attndsl.ir.passes.select import select_node

    folded = rewrite(root, lambda n: fold_node(n) or boolean_node(n) or select_node(n))
    return bool(folded.value) if isinstance(folded, Literal) else None


def _report_broken(checker: Checker, require: Require, of: Precondition) -> None:
    from attndsl.ir.precondition import broken

    found = broken(require, of)
    checker.sink.report(found.code, found.message, found.span, label=found.label, help=found.help, notes=found.notes)


def _varying(
    checker: Checker, target: Definition | Feature, frame: Frame, node: tree.Call, clause: tree.RequireClause
) -> None:
    """Report the arguments of a call that a precondition cannot be decided with."""
    function = target.function
    text = _text(clause)
    said = f"`{function.name}` requires `{text}`, which is decided before the call looks at data"
    help_ = f"{said}; where it varies, write the function's formula out"
    culprits = [
        n for n in _mentioned(function, clause.condition) if n in function.parameters and _varies(checker, frame, n)
    ]
    for name in culprits:
        argument = node.arguments[function.parameters.index(name)]
        message = f"`{name}` of `{function.name}` cannot depend on {_ingredients(checker, frame, name)}"
        checker.report("E0311", message, argument.span, "consts, scalars, sizes and extents only", help_)
    if culprits:
        return
    direct = {n.id for n in expressions(clause.condition) if isinstance(n, tree.Name)} - {x.name for x in function.lets}
    if any(_varies(checker, frame, n) or (n not in frame.names and n in _INGREDIENTS) for n in direct):
        return  # a feature that looks at the pair itself: reported where it was declared
    message = f"`{function.name}` requires what depends on the pair"
    checker.report("E0311", message, node.span, "consts, scalars, sizes and extents only", said)


def _varies(checker: Checker, frame: Frame, name: str) -> bool:
    return bool(checker.uses.of(frame.names.get(name, POISON)) & forbidden("require"))


def _ingredients(checker: Checker, frame: Frame, name: str) -> str:
    used = sorted(checker.uses.of(frame.names[name]) & forbidden("require"))
    return " and ".join(_INGREDIENTS.get(u, f"`{u}`") for u in used)
