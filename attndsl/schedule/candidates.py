"""What is left of a mask without what only a device knows: a mask that hides nothing that the whole one shows.

A plan of it has every box that may hold a visible pair, whatever tensors hold. Its FULL boxes are those where all
conditions that are known hold.
"""

from __future__ import annotations

from collections.abc import Callable

from attndsl.ir.expr import COMPARISONS, FALSE, TRUE, Expr, Op, mentions, op
from attndsl.ir.simplify import simplify_expr
from attndsl.ir.types import BOOL

MOST_LISTED = 1 << 26
"""Boxes of all lists of a sweep."""


def loosened(mask: Expr, unknown: Callable[[Expr], bool]) -> Expr:
    """The mask with conditions on `unknown` nodes taken to be whatever shows more."""
    known: dict[tuple[Expr, bool], Expr] = {}

    def bound(node: Expr, upper: bool) -> Expr:
        """What is implied by a bool (`upper`), or implies it, and is known."""
        found = known.get((node, upper))
        if found is None:
            found = known[node, upper] = made(node, upper) if mentions(node, unknown) else node
        return found

    def made(node: Expr, upper: bool) -> Expr:
        match node:
            case Op(op="not", args=(a,)):
                return op("not", bound(a, not upper))
            case Op(op=("and" | "or") as name, args=(a, b)):
                return op(name, bound(a, upper), bound(b, upper))
            case Op(op="select", args=(c, a, b)) if node.type == BOOL:
                yes, no = bound(a, upper), bound(b, upper)
                if not mentions(c, unknown):
                    return op("select", c, yes, no)
                # either may be chosen
                return op("or" if upper else "and", yes, no)
            case Op(op=name, args=(Op(op="select", args=(c, a, b)), other)) if name in COMPARISONS:
                return bound(op("select", c, op(name, a, other), op(name, b, other)), upper)
            case Op(op=name, args=(other, Op(op="select", args=(c, a, b)))) if name in COMPARISONS:
                return bound(op("select", c, op(name, other, a), op(name, other, b)), upper)
            case _:
                return TRUE if upper else FALSE

    return simplify_expr(bound(mask, True))


def conditions(mask: Expr) -> tuple[Expr, ...]:
    """The members of a conjunction; `not (a or b)` is one too."""
    match mask:
        case Op(op="and", args=(a, b)):
            return (*conditions(a), *conditions(b))
        case Op(op="not", args=(Op(op="or", args=(a, b)),)):
            return (*conditions(simplify_expr(op("not", a))), *conditions(simplify_expr(op("not", b))))
        case _:
            return () if mask == TRUE else (mask,)
