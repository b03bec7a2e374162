"""Batches and heads that see the same mask share one schedule.

Whatever in a mask varies with the batch and head alone (a head's window, a document table's row) is evaluated for
every batch and head; those with equal values form a class. In the mask of a class these values are numbers, and
every index of a table that has a fixed value is taken: what is left of the table is read by positions only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from attndsl.ir.attention import Attention, Const, Input
from attndsl.ir.evaluate import Env, evaluate
from attndsl.ir.expr import Coord, Decay, Expr, Index, Literal, Load, Value, mentions, rewrite, walk
from attndsl.ir.passes.boolean import boolean_node
from attndsl.ir.passes.fold import fold_node
from attndsl.ir.passes.select import select_node
from attndsl.ir.types import BOOL, INT
from attndsl.schedule.linear import split_divisions
from attndsl.schedule.problem import Problem
from attndsl.schedule.space import BATCH_OFFSET, Pair, literal

Ints = npt.NDArray[np.int32]
UNKNOWN_TABLE = "?"
_BATCH, _HEAD = Index(INT, "b"), Index(INT, "h")


@dataclass(frozen=True)
class ClassMask:
    """The mask of one class: its own expression, the tables it reads, and which of them are sorted."""

    pair: Pair
    tables: Mapping[str, npt.NDArray[Any]]
    sorted_tables: frozenset[str]
    missing: frozenset[str]


def classes(attention: Attention, problem: Problem, pair: Pair) -> tuple[Ints, tuple[ClassMask, ...]]:
    """The class of each batch and head, [1|B, 1|H], and the mask of each class."""
    tables = {**problem.tables, **_const_tables(attention)}
    mask, missing = _without_unknown(pair.mask, frozenset(tables), pair)
    batches = _range(problem.sizes["B"], _varies(mask, _BATCH) or _varies(mask, BATCH_OFFSET))
    heads = _range(problem.sizes["H"], _varies(mask, _HEAD))
    given: dict[Expr, Any] = {
        _BATCH: np.arange(batches)[:, None],
        _HEAD: np.arange(heads)[None, :],
    }
    if not isinstance(problem.q_offset, int):
        # without a batch as if there were one
        offsets = problem.q_offset if len(problem.q_offset) else [0]
        given[BATCH_OFFSET] = np.asarray(offsets, np.int64)[:batches, None]
    env = Env(given, tables)
    shape = (batches, heads)
    fixed = _fixed_parts(mask)
    values = {e: np.broadcast_to(np.asarray(evaluate(e, env)), shape) for e in fixed}
    class_of, chosen = _distinct(list(values.values()), shape)
    facts = {p.name: p.facts for p in attention.params if isinstance(p, Input)}
    found: list[ClassMask] = []
    for b, h in chosen:
        here = {e: v[b, h] for e, v in values.items()}
        found.append(_class_mask(replace(pair, mask=mask), here, tables, facts, missing))
    return class_of, tuple(found)


def _range(count: int, varies: bool) -> int:
    return count if varies and count else 1


def _const_tables(attention: Attention) -> dict[str, npt.NDArray[Any]]:
    arrays = {p.name: p.default for p in attention.params if isinstance(p, Const)}
    return {n: np.asarray(v) for n, v in arrays.items() if isinstance(v, tuple)}


def _varies(mask: Expr, leaf: Expr) -> bool:
    return mentions(mask, lambda n: n == leaf)


@lru_cache(maxsize=4096)
def _moves(expr: Expr) -> bool:
    """Whether an expression varies within a batch and head."""
    return isinstance(expr, Coord | Value | Decay) or any(_moves(c) for c in expr.children)


def _without_unknown(mask: Expr, known: frozenset[str], pair: Pair) -> tuple[Expr, frozenset[str]]:
    """Conditions on tensors without a value become reads of a table that nobody knows."""
    missing = frozenset(n.tensor for n in walk(mask) if isinstance(n, Load) and n.tensor not in known)
    if not missing:
        return mask, missing
    blank = Load(BOOL, UNKNOWN_TABLE, (*pair.q.nodes, *pair.k.nodes))

    def rule(node: Expr) -> Expr | None:
        if node.type != BOOL:
            return None
        reads = isinstance(node, Load) and node.tensor in missing
        return blank if reads or any(_reads(c, missing) for c in node.children) else None

    return rewrite(mask, rule), missing


def _reads(expr: Expr, names: frozenset[str]) -> bool:
    return mentions(expr, lambda n: isinstance(n, Load) and n.tensor in names)


def _fixed_parts(mask: Expr) -> list[Expr]:
    """Largest parts that depend on batch and head alone, leading table indices included."""
    found: dict[Expr, None] = {}
    stack = [mask]
    while stack:
        node = stack.pop()
        if not _moves(node):
            if mentions(node, lambda n: n in (_BATCH, _HEAD, BATCH_OFFSET) or isinstance(n, Load)):
                found[node] = None
        else:
            stack.extend(node.children)
    return list(found)


def _distinct(values: list[npt.NDArray[Any]], shape: tuple[int, int]) -> tuple[Ints, list[tuple[int, int]]]:
    if not values or shape == (1, 1):
        return np.zeros((1, 1), np.int32), [(0, 0)]
    codes = np.stack([np.unique(v.ravel(), return_inverse=True)[1].ravel() for v in values], axis=1)
    _, first, inverse = np.unique(codes, axis=0, return_index=True, return_inverse=True)
    chosen = [(int(i) // shape[1], int(i) % shape[1]) for i in first]
    return inverse.reshape(shape).astype(np.int32), chosen


def _class_mask(
    pair: Pair,
    here: Mapping[Expr, Any],
    tables: Mapping[str, npt.NDArray[Any]],
    facts: Mapping[str, frozenset[Any]],
    missing: frozenset[str],
) -> ClassMask:
    own: dict[str, npt.NDArray[Any]] = {}
    rising: set[str] = set()
    names: dict[tuple[str, tuple[Any, ...]], str] = {}

    def rule(node: Expr) -> Expr | None:
        if node in here:
            return literal(here[node], node.type.kind)
        if isinstance(node, Load) and node.tensor in tables:
            return _sliced(node, tables, facts, own, rising, names)
        return fold_node(node) or boolean_node(node) or select_node(node)

    small = {n: e for box in (pair.q, pair.k) for n, e in zip(box.nodes, box.extents, strict=True)}
    mask = _settled(split_divisions(_rewrite_outside(pair.mask, rule, here), small))
    return ClassMask(replace(pair, mask=mask), own, frozenset(rising), missing)


def _rewrite_outside(mask: Expr, rule: Any, here: Mapping[Expr, Any]) -> Expr:
    """Rewrite with the values of fixed parts put in before their insides are looked at."""
    top = {e: literal(v, e.type.kind) for e, v in here.items()}
    done: dict[Expr, Expr] = {}

    def visit(node: Expr) -> Expr:
        if node in top:
            return top[node]
        found = done.get(node)
        if found is None:
            new = tuple(visit(c) for c in node.children)
            built = node if new == node.children else node.with_children(new)
            found = done[node] = rule(built) or built
        return found

    return visit(mask)


def _settled(mask: Expr) -> Expr:
    return rewrite(mask, lambda n: fold_node(n) or boolean_node(n) or select_node(n))


def _sliced(
    node: Load,
    tables: Mapping[str, npt.NDArray[Any]],
    facts: Mapping[str, frozenset[Any]],
    own: dict[str, npt.NDArray[Any]],
    rising: set[str],
    names: dict[tuple[str, tuple[Any, ...]], str],
) -> Expr | None:
    """A read with its fixed indices taken: a slice of the table under a name of its own."""
    table = tables[node.tensor]
    fixed = tuple(int(i.value) if isinstance(i, Literal) else None for i in node.indices)
    if any(f is not None and not 0 <= f < n for f, n in zip(fixed, table.shape, strict=False)):
        return literal(0, node.type.kind) if node.type.is_number else None
    moving = [axis for axis, f in enumerate(fixed) if f is None]
    if not moving:
        return None
    key = (node.tensor, fixed)
    taken = len(moving) < len(fixed)
    name = names.setdefault(key, f"{node.tensor}@{len(names)}" if taken else node.tensor)
    own[name] = table[tuple(slice(None) if f is None else f for f in fixed)]
    if "sorted" in facts.get(node.tensor, ()) and moving == [table.ndim - 1]:
        rising.add(name)
    return Load(node.type, name, tuple(node.indices[axis] for axis in moving), span=node.span)
