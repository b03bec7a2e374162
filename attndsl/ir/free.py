"""What an expression depends on: the query's side of a pair, the key's side, the score, reductions, tensors."""

from __future__ import annotations

from attndsl.ir.expr import Coord, Count, Decay, Expr, Index, Load, Member, Reduce, Value, walk

_NONE: frozenset[str] = frozenset()


def depends(expr: Expr) -> frozenset[str]:
    """What the value varies with.

    Indices by name (`q`, `k`, `row`, `h`, `b`, `hkv`); coordinates and membership as `q` or `k` together with
    `coords`; `s` (the score, and every dot product of a pair) and `o`; `sum` and `count` for reductions over a row's
    keys (which bind `k` and `s`, and make the value vary with `q`); `decay`; tensors as `@name`. Sizes, extents,
    scalars and consts do not count.
    """
    known = _KNOWN.get(expr)
    if known is not None:
        return known
    if len(_KNOWN) > _MOST:
        _KNOWN.clear()
    for node in walk(expr):
        if node not in _KNOWN:
            found = _leaf(node).union(*(_KNOWN[c] for c in node.children))
            _KNOWN[node] = found - {"k", "s"} | {"sum", "q"} if isinstance(node, Reduce) else found
    return _KNOWN[expr]


_KNOWN: dict[Expr, frozenset[str]] = {}
_MOST = 65536


def _leaf(expr: Expr) -> frozenset[str]:
    match expr:
        case Index(name=name):
            return frozenset((name,))
        case Coord(side=side) | Member(side=side):
            return frozenset((side, "coords"))
        case Value(name=name):
            # further dot products vary as the first does
            return frozenset(("o" if name == "o" else "s",))
        case Count():
            return frozenset(("count", "q"))
        case Decay(tensor=tensor):
            return frozenset(("decay", "q", "k", "@" + tensor))
        case Load(tensor="Q"):
            return frozenset(("@Q", "q"))
        case Load(tensor="K" | "V"):
            return frozenset(("@" + expr.tensor, "k"))
        case Load():
            return frozenset(("@" + expr.tensor,))
        case _:
            return _NONE


_Q = frozenset(("q", "row", "s", "o"))
_K = frozenset(("k", "s"))


def q_side(expr: Expr) -> bool:
    """Whether the value varies with the query of a pair (it may vary with the key too). The score does."""
    return not _Q.isdisjoint(depends(expr))


def k_side(expr: Expr) -> bool:
    """Whether the value varies with the key of a pair (it may vary with the query too). The score does."""
    return not _K.isdisjoint(depends(expr))


def row_only(expr: Expr) -> bool:
    """Whether all keys of a row see the same value (constants included)."""
    return not k_side(expr)


def column_only(expr: Expr) -> bool:
    """Whether all rows see the same value of a key (constants included)."""
    return not q_side(expr)


def uniform(expr: Expr) -> bool:
    """Whether the value is the same for all pairs of a head."""
    return not k_side(expr) and not q_side(expr)


def tensors(expr: Expr) -> frozenset[str]:
    """Names of the tensors and const arrays that are read."""
    return frozenset(d[1:] for d in depends(expr) if d.startswith("@"))


def leaves(expr: Expr) -> frozenset[Expr]:
    """Nodes without children under `expr` (literals included)."""
    return frozenset(n for n in walk(expr) if not n.children)
