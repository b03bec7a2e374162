"""Output clauses that no kernel of tiles computes as it stores a row.

Such a kernel has a part of the components of `o` at a time: what it does to them it does one by one, with numbers and
vectors of the row that are given to it. A clause that needs several components of `o` at once (`o / norm(o)`, `o @ W`,
`rope(o, q)`), or vectors made of coordinates, follows after the kernels of an attention without it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from attndsl.ir.attention import Attention, Input
from attndsl.ir.expr import VECTOR_OPS, Coord, Expr, Extent, Load, Member, Op, Value, mentions, walk
from attndsl.ir.free import tensors


@dataclass(frozen=True)
class Finished:
    """`inner` has all but the output clause of an attention, `output`."""

    inner: Attention
    output: Expr


@lru_cache(maxsize=512)
def finished(attention: Attention) -> Finished | None:
    """The two parts of an attention (consts bound, simplified); None where kernels compute the clause as well."""
    output = attention.output
    if output is None or not any(map(_is_beyond, walk(output))):
        return None
    parts = [e for e in (attention.mask, attention.score, attention.weight) if e is not None]
    read = frozenset[str]().union(*map(tensors, parts))
    params = tuple(p for p in attention.params if not isinstance(p, Input) or p.name in read)
    return Finished(replace(attention, params=params, output=None, requires=()), output)


def before_output(attention: Attention) -> Attention:
    """The attention whose kernels run for another: without its clause where that follows after them."""
    found = finished(attention)
    return attention if found is None else found.inner


def is_o(node: Expr) -> bool:
    """Whether a node is the weighted sum of values."""
    return isinstance(node, Value) and node.name == "o"


def is_made(e: Expr) -> bool:
    """Whether a vector is more than what is read of inputs, component by component."""
    return mentions(e, lambda n: isinstance(n, Op) and n.op in VECTOR_OPS) or mentions(
        e, lambda n: isinstance(n, Load) and n.tensor in ("Q", "K", "V")
    )


def _is_beyond(node: Expr) -> bool:
    if not isinstance(node, Op) or node.op not in VECTOR_OPS:
        return False
    return mentions(node, lambda n: is_o(n) or isinstance(n, Coord | Member | Extent))
