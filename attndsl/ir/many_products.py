"""Several dot products of a pair that are no single sum, each of which a kernel of tiles multiplies for itself.

`divided` names them in expressions: the first is `s`, others are leaves of `FURTHER`. Dot products that only stand
together, with factors that separate into one of the row and one of the key, stay one product of longer vectors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from attndsl.ir import build
from attndsl.ir.attention import Attention, Fact, Input
from attndsl.ir.build import ONE
from attndsl.ir.expr import (
    FURTHER,
    SCORE,
    Coord,
    Count,
    Decay,
    Expr,
    Extent,
    Index,
    Load,
    Member,
    Reduce,
    Size,
    Value,
    mentions,
    op,
    rewrite,
    walk,
)
from attndsl.ir.one_product import CannotProjectError, Linear, rebuilt, sides_of, tops_of
from attndsl.ir.separate import product
from attndsl.ir.types import FLOAT, INT, Kind, Type

FINAL = Value(FLOAT, "the final score")
"""The score in a weight, which is no dot product there."""
_Terms = list[tuple[Expr, Expr, Expr]]


@dataclass(frozen=True)
class Divided:
    """A score and a weight of several dot products. `first`: the terms (row vector, key vector, factor) that the one
    in place of `s` is the sum of; None where that is the scaled one of q and k, or stands nowhere. `further`: those of
    `FURTHER`, in order."""

    score: Expr
    weight: Expr | None
    first: _Terms | None
    further: list[_Terms]


def divided(score: Expr, weight: Expr | None, atoms: list[Expr]) -> Divided:
    """The dot products `atoms` of a score and a weight (`SCORE` among them where the score reads it) as products of
    their own. CannotProjectError where they are too many."""
    roots = (score, *(() if weight is None else (rewrite(weight, lambda n: FINAL if n == SCORE else None),)))
    tops = tops_of(roots, atoms)
    groups = _groups(tops, atoms)
    leaves, first = _leaves(groups, roots)
    named = {atom: leaf for group, leaf in zip(groups, leaves, strict=True) for atom in group}
    renamed = rebuilt(roots, {top: _sum(found, groups, named) for top, found in tops.items()})
    factors = {atom: factor for found in tops.values() for atom, factor in found.terms.items()}
    by_leaf = {leaf: _terms(group, factors) for group, leaf in zip(groups, leaves, strict=True)}
    whole = None if first == [SCORE] else by_leaf.get(SCORE)
    final = None if weight is None else rewrite(renamed[1], lambda n: SCORE if n == FINAL else None)
    return Divided(renamed[0], final, whole, [by_leaf[leaf] for leaf in FURTHER if leaf in by_leaf])


def spelled(attention: Attention) -> Attention:
    """An attention with its `products` as dot products of inputs, for whoever computes with vectors."""
    if not attention.products:
        return attention
    b, h, hkv, row, k = Index(INT, "b"), Index(INT, "h"), Index(INT, "hkv"), Index(INT, "row"), Index(INT, "k")
    written: dict[Expr, Expr] = {}
    for leaf, pair in zip(FURTHER, attention.products, strict=False):
        extent = pair[0].shape[-1]
        assert isinstance(extent, Size)
        sides = (
            Load(Type(Kind.FLOAT, (extent.name,)), p.name, at)
            for p, at in zip(pair, ((b, h, row), (b, hkv, k)), strict=True)
        )
        written[leaf] = op("dot", *sides)
    params = tuple(replace(p, facts=frozenset[Fact]()) if isinstance(p, Input) else p for p in attention.params)
    return replace(attention.map(lambda e: rewrite(e, written.get)), params=params)


def _groups(tops: dict[Expr, Linear], atoms: list[Expr]) -> list[list[Expr]]:
    """Dot products by the product that computes them: those that stand in the same sums, each with one factor that
    separates, together."""
    groups: dict[object, list[Expr]] = {}
    for atom in atoms:
        places = {top: found.terms[atom] for top, found in tops.items() if atom in found.terms}
        factors = set(places.values())
        if not places:
            continue
        factor = next(iter(factors))
        # torch does not know coordinates and reductions, which vectors would read with their factor
        joins = len(factors) == 1 and product(factor) is not None and not mentions(factor, _has_no_side)
        groups.setdefault(frozenset(places) if joins else atom, []).append(atom)
    return list(groups.values())


def _has_no_side(node: Expr) -> bool:
    return isinstance(node, Coord | Member | Extent | Value | Reduce | Count | Decay)


def _leaves(groups: list[list[Expr]], roots: tuple[Expr, ...]) -> tuple[list[Value], list[Expr]]:
    """The leaf of every group, and the group in place of `s`, which the weight must not read."""
    in_weight = {e for e in roots[1:] for e in _within(e, groups)}
    free = [g for g in groups if not in_weight.intersection(g)]
    # the scaled product of q and k needs no vectors of its own
    first = min(free, key=lambda g: (SCORE not in g, len(g) if SCORE in g else 0), default=list[Expr]())
    rest = [g for g in groups if g is not first]
    if len(rest) > len(FURTHER):
        raise CannotProjectError(f"more than {len(FURTHER) + 1} dot products of a pair that are no sum")
    names = {id(g): leaf for g, leaf in zip(rest, FURTHER, strict=False)}
    return [names.get(id(g), SCORE) for g in groups], first


def _within(e: Expr, groups: list[list[Expr]]) -> set[Expr]:
    return set(walk(e)).intersection(atom for group in groups for atom in group)


def _sum(found: Linear, groups: list[list[Expr]], named: dict[Expr, Value]) -> Expr:
    """A sum of dot products, by the leaves of their products."""
    total = found.rest
    for group in groups:
        if group[0] in found.terms:
            factor = found.terms[group[0]] if len(group) == 1 else ONE
            total = build.add(build.mul(named[group[0]], factor), total)
    return build.whole(total)


def _terms(group: list[Expr], factors: dict[Expr, Expr]) -> _Terms:
    """What a product is the sum of. The factor of a dot product alone stays in the expression."""
    found: _Terms = []
    for atom in group:
        query, key, own = sides_of(atom)
        found.append((query, key, own if len(group) == 1 else build.whole(build.mul(own, factors[atom]))))
    return found
