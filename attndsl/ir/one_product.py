"""Several dot products of a pair as one.

A sum of `c * dot(a, b)`, with factors `c` that hold no dot product, is one dot product of longer vectors where each
factor is a product of a row's and a key's number. `unified` finds the sum that all of some expressions are made of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

from attndsl.ir import build
from attndsl.ir.build import ONE, Part
from attndsl.ir.expr import SCORE, Expr, Index, Load, Op, ParamRef, op, rewrite, walk
from attndsl.ir.features import vector_factors
from attndsl.ir.free import column_only, row_only
from attndsl.ir.types import FLOAT, INT, Kind, Type

SCALE = ParamRef(FLOAT, "the scale of the call")
"""The factor of q . k in `s`, where a query vector reads it."""
_VECTOR = Type(Kind.FLOAT, ("D",))
QUERIES = Load(_VECTOR, "Q", tuple(Index(INT, n) for n in ("b", "h", "row")))
KEYS = Load(_VECTOR, "K", tuple(Index(INT, n) for n in ("b", "hkv", "k")))


class CannotProjectError(Exception):
    """Why vectors of an attention cannot be taken out of its pairs, in words."""


def dots(e: Expr) -> list[Expr]:
    """The dot products in an expression."""
    return [n for n in walk(e) if isinstance(n, Op) and n.op == "dot"]


def sides_of(atom: Expr) -> tuple[Expr, Expr, Expr]:
    """(row vector, key vector, factor) of a dot product."""
    if atom == SCORE:
        return QUERIES, KEYS, SCALE
    rows: list[Expr] = []
    keys: list[Expr] = []
    for argument in atom.children:
        for factor in vector_factors(argument):
            if not row_only(factor) and not column_only(factor):
                raise CannotProjectError("a dot product with a vector of the pair")
            (rows if row_only(factor) else keys).append(factor)
    sides = [reduce(lambda a, b: op("mul", a, b), sorted(s, key=lambda v: not v.type.shape)) for s in (rows, keys) if s]
    if len(sides) != 2 or not all(s.type.shape for s in sides):
        raise CannotProjectError("a dot product that is not one of a vector of the query and one of the key")
    return sides[0], sides[1], ONE


def unified(roots: tuple[Expr, ...], atoms: list[Expr]) -> tuple[list[tuple[Expr, Expr, Expr]], tuple[Expr, ...]]:
    """The terms that sum to one dot product, and the expressions with `s` in its place."""
    if len(atoms) == 1:
        only = atoms[0]
        return [sides_of(only)], tuple(rewrite(e, lambda n: SCORE if n == only else None) for e in roots)
    tops = tops_of(roots, atoms)
    sums = {frozenset(t.terms.items()) for t in tops.values()}
    if len(sums) != 1:
        raise CannotProjectError("several dot products that are not one sum")
    terms = next(iter(tops.values())).terms

    sum_: list[tuple[Expr, Expr, Expr]] = []
    for atom, factor in terms.items():
        query, key, own = sides_of(atom)
        sum_.append((query, key, build.whole(build.mul(own, factor))))
    return sum_, rebuilt(roots, {top: build.whole(build.add(SCORE, found.rest)) for top, found in tops.items()})


def rebuilt(roots: tuple[Expr, ...], done: dict[Expr, Expr]) -> tuple[Expr, ...]:
    """The expressions with what is `done` in place of its keys, the largest of them first."""
    done = dict(done)
    for e in roots:
        for node in walk(e):
            if node not in done:
                done[node] = node.with_children(tuple(done[c] for c in node.children))
    return tuple(done[e] for e in roots)


def tops_of(roots: tuple[Expr, ...], atoms: list[Expr]) -> dict[Expr, Linear]:
    """The largest expressions that are sums of dot products."""
    known: dict[Expr, Linear | None] = {}
    for e in roots:
        for node in walk(e):
            known[node] = _linear(node, atoms, known)
    tops: dict[Expr, Linear] = {}
    stack, seen = list(roots), set[Expr]()
    while stack:
        node = stack.pop()
        found = known[node]
        if node in seen:
            continue
        seen.add(node)
        if found is None:
            stack.extend(node.children)
        elif found.terms:
            tops[node] = found
    return tops


@dataclass(frozen=True)
class Linear:
    """A sum of dot products times factors without any, and of a rest without any."""

    terms: dict[Expr, Expr]
    rest: Part

    def scaled(self, by: Callable[[Part], Part]) -> Linear:
        return Linear({a: build.whole(by(c)) for a, c in self.terms.items()}, by(self.rest))


def _linear(node: Expr, atoms: list[Expr], known: dict[Expr, Linear | None]) -> Linear | None:
    if node in atoms:
        return Linear({node: ONE}, None)
    parts = [known[c] for c in node.children]
    if not any(p is None or p.terms for p in parts):
        return Linear({}, node)
    if not isinstance(node, Op) or node.type != FLOAT or any(p is None for p in parts):
        return None
    left, right = parts[0], parts[1] if len(parts) > 1 else None
    assert left is not None
    match node.op:
        case "add" | "sub" if right is not None:
            combine = build.add if node.op == "add" else build.sub
            terms = {
                a: build.whole(combine(left.terms.get(a), right.terms.get(a)))
                for a in dict.fromkeys((*left.terms, *right.terms))
            }
            return Linear(terms, combine(left.rest, right.rest))
        case "neg":
            return left.scaled(build.neg)
        case "mul" if right is not None and not (left.terms and right.terms):
            sum_, factor = (left, node.args[1]) if left.terms else (right, node.args[0])
            return sum_.scaled(lambda x: build.mul(x, factor))
        case "div" if right is not None and not right.terms:
            return left.scaled(lambda x: build.div(x, node.args[1]))
        case _:
            return None
