"""`checked=True`: the promises that a call makes about its tensors, verified on the host.

Promises are `sorted`, `permutation` and `log_decay` of inputs, and that no visible pair reads outside a tensor.
Time grows with Lq * Lk; memory does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from attndsl.ir.attention import Attention, Input
from attndsl.ir.evaluate import Env, evaluate
from attndsl.ir.expr import (
    FALSE,
    TRUE,
    Coord,
    Count,
    Decay,
    Expr,
    Index,
    Load,
    Member,
    Op,
    Reduce,
    Size,
    Value,
    op,
    walk,
)
from attndsl.ir.free import tensors as tensors_read
from attndsl.ir.types import BOOL, INT
from attndsl.runtime.binding import host_table
from attndsl.runtime.call import Call
from attndsl.runtime.host import Facts, host_env, meaning
from attndsl.runtime.names import show_param

Array = Any
_PAIRS_AT_ONCE = 1 << 22


def check_promises(attention: Attention, call: Call) -> None:
    """ValueError naming the input, the promise and the place where it is broken. `attention` is the one that was
    written (consts bound): what the compiler proves away is checked as well."""
    for param in attention.inputs:
        if param.facts:
            _check_facts(attention.name, param, host_table(call.inputs[param.name]))
    _check_reads(attention, call)


def _check_facts(owner: str, param: Input, table: Array) -> None:
    shown = f"{owner}: {show_param(param)}"
    name, n = param.name, table.shape[-1]
    if "sorted" in param.facts and (place := _first(table[..., 1:] < table[..., :-1])):
        *at, i = place
        raise ValueError(
            f"{shown} is not sorted: {name}{[*at, i + 1]} = {table[*at, i + 1]} comes after {table[*at, i]}"
        )
    if "permutation" in param.facts and (place := _first(np.sort(table, axis=-1) != np.arange(n))):
        *at, _ = place
        held = f" of {name}{at}" if at else ""
        raise ValueError(f"{shown} is not a permutation of 0 to {n - 1}: the elements{held} are not each number once")
    if "log_decay" in param.facts and (place := _first(~(table <= 0))):
        raise ValueError(f"{shown} must be at most 0 everywhere, got {name}{place} = {table[*place]}")


def _first(broken: Array) -> list[int]:
    """The place of the first True, empty without one."""
    if not broken.any():
        return []
    return [int(i) for i in np.unravel_index(int(np.argmax(broken)), broken.shape)]


@dataclass(frozen=True)
class _Read:
    """A read that happens for the visible pairs on which `guard` holds."""

    node: Load | Decay
    guard: Expr


def _check_reads(attention: Attention, call: Call) -> None:
    reads = [r for r in _reads(attention) if _may_leave(r.node, call)]
    if not reads:
        return
    # Tensors by name, and Q, K and V by shape alone: what they hold decides no index.
    tables: dict[str, Array] = {n: host_table(t) for n, t in call.inputs.items()}
    tables |= {c.name: np.asarray(c.default) for c in attention.consts}
    shapes: dict[str, tuple[int, ...]] = {n: t.shape for n, t in tables.items()}
    shapes |= {n: tuple(t.shape) for n, t in (("Q", call.q), ("K", call.k), ("V", call.v))}
    fixed = host_env(attention, Facts(call.sizes, call.scalars, call.q_extents, call.k_extents))
    for env in _blocks(attention, call, Env(fixed.values, tables)):
        for read in reads:
            _check_read(attention, read, env, shapes[read.node.tensor])


def _check_read(attention: Attention, read: _Read, env: Env, shape: tuple[int, ...]) -> None:
    for axis, (index, n) in enumerate(zip(read.node.indices, shape, strict=False)):
        at = np.asarray(evaluate(index, env))
        outside = (at < 0) | (at >= n)
        if not outside.any():
            continue
        seen = _four(outside & evaluate(attention.mask, env) & evaluate(read.guard, env))
        place = _first(seen)
        if not place:
            continue
        value = int(np.broadcast_to(at, seen.shape)[*place])
        pair = ", ".join(f"{name} = {_at(env, name, place)}" for name in ("b", "h", "q", "k"))
        text = read.node.span.text or read.node.tensor
        raise ValueError(
            f"{attention.name}: {text} reads index {value} of dimension {axis}, which has {n}, "
            f"on the visible pair {pair}"
        )


def _four(values: Array) -> Array:
    """The same with all four dimensions of a pair, each of extent 1 where the value does not vary."""
    return np.broadcast_to(values, np.broadcast_shapes(np.shape(values), (1, 1, 1, 1)))


def _at(env: Env, name: str, place: list[int]) -> int:
    """An index of the pair at a place; where the finding does not vary with it, its first value."""
    index: Any = name
    values = env.values[Index(INT, index)]
    return int(values[*(p if n > 1 else 0 for p, n in zip(place, values.shape, strict=True))])


def _reads(attention: Attention) -> list[_Read]:
    """Every read of the attention with its guard: the branch it stands in, and what comes before it in `and`, `or`."""
    found: dict[_Read, None] = {}
    for expr in meaning(attention):
        _collect(expr, TRUE, found, set())
    return list(found)


def _collect(expr: Expr, guard: Expr, found: dict[_Read, None], seen: set[tuple[Expr, Expr]]) -> None:
    if (expr, guard) in seen or guard == FALSE or not tensors_read(expr):
        return
    seen.add((expr, guard))
    guards = [guard] * len(expr.children)
    match expr:
        case Load() | Decay():
            found[_Read(expr, guard)] = None
        case Op(op="select", args=(condition, _, _)) if _on_indices(condition):
            guards[1] = op("and", guard, condition)
            guards[2] = op("and", guard, op("not", condition))
        case Op(op="and" | "or", args=args):
            for i, before in enumerate(args[:-1], start=1):
                if _on_indices(before):
                    decides = before if expr.op == "and" else op("not", before)
                    guards[i] = op("and", guards[i - 1], decides)
        case _:
            pass
    for child, inner in zip(expr.children, guards, strict=True):
        _collect(child, inner, found, seen)


def _on_indices(expr: Expr) -> bool:
    """Whether a value can be had without the tensors Q, K, V and what is computed from them."""
    return not any(
        isinstance(n, Value | Reduce | Count | Decay) or (isinstance(n, Load) and n.tensor in ("Q", "K", "V"))
        for n in walk(expr)
    )


def _may_leave(node: Load | Decay, call: Call) -> bool:
    """Whether a read has an index that can be outside and that does not come from Q, K or V."""
    inside = {
        ("b", "B"), ("h", "H"), ("hkv", "Hkv"), ("row", "Lq"), ("k", "Lk"), ("k", "L"),
    }  # fmt: skip
    if node.tensor in ("Q", "K", "V"):
        return False
    declared = {p.name: p.shape for p in call.attention.inputs}.get(node.tensor, ())
    for i, index in enumerate(node.indices):
        dim = declared[i] if i < len(declared) else None
        fits = isinstance(index, Index) and isinstance(dim, Size) and (index.name, dim.name) in inside
        if not fits and _on_indices(index):
            return True
    return False


def _blocks(attention: Attention, call: Call, env: Env) -> Iterator[Env]:
    """Environments that give the pair indices values, [B, H, rows, Lk] at most `_PAIRS_AT_ONCE` pairs each."""
    B, H, Hkv, Lq, Lk = (call.sizes[n] for n in ("B", "H", "Hkv", "Lq", "Lk"))
    if not (B and H and Lq and Lk):
        return
    uses = {n.name for e in meaning(attention) for n in walk(e) if isinstance(n, Index)}
    per_head = not uses.isdisjoint(("h", "hkv"))
    per_batch = "b" in uses or not isinstance(call.q_offset, int)
    h = np.arange(H if per_head else 1).reshape(1, -1, 1, 1)
    b = np.arange(B if per_batch else 1).reshape(-1, 1, 1, 1)
    offset = call.q_offset if isinstance(call.q_offset, int) else call.q_offset.cpu().numpy().reshape(-1, 1, 1, 1)
    step = max(1, _PAIRS_AT_ONCE // (Lk * h.size * b.size))
    k = np.arange(Lk).reshape(1, 1, 1, -1)
    for first in range(0, Lq, step):
        row = np.arange(first, min(first + step, Lq)).reshape(1, 1, -1, 1)
        q = row + offset
        values: dict[Expr, Array] = {
            Index(INT, "b"): b, Index(INT, "h"): h, Index(INT, "hkv"): h // (H // Hkv),
            Index(INT, "row"): row, Index(INT, "q"): q, Index(INT, "k"): k,
        }  # fmt: skip
        values |= dict(_coordinates(attention, call, q, k))
        yield env.bind(values)


def _coordinates(attention: Attention, call: Call, q: Array, k: Array) -> Iterator[tuple[Expr, Array]]:
    for side, at, space, extents in (
        ("q", q, attention.q_space, call.q_extents),
        ("k", k, attention.k_space, call.k_extents),
    ):
        which: Any = side
        for segment in space.segments if space is not None else ():
            shape = extents[segment.name]
            length = int(np.prod(shape, dtype=np.int64))
            inside = (at >= 0) & (at < length)
            yield Member(BOOL, which, segment.name), inside
            rest = at
            for axis, n in reversed(list(zip(segment.axes, shape, strict=True))):
                yield Coord(INT, which, segment.name, axis), np.where(inside, rest % max(n, 1), -1)
                rest = rest // max(n, 1)
            at = at - length
