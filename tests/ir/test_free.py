"""Which side of a pair an expression belongs to."""

from __future__ import annotations

from attndsl.ir.expr import SCORE, Coord, Count, Decay, Expr, Extent, Index, Load, Member, ParamRef, Reduce, Size, op
from attndsl.ir.free import column_only, depends, k_side, leaves, q_side, row_only, tensors, uniform
from attndsl.ir.types import BOOL, FLOAT, INT, Kind, Type

Q, K, H, B, ROW = (Index(INT, n) for n in ("q", "k", "h", "b", "row"))
VECTOR = Type(Kind.FLOAT, ("D",))


def sides(expr: Expr) -> tuple[bool, bool]:
    return q_side(expr), k_side(expr)


def test_sides() -> None:
    for expr in (Q, ROW, Coord(INT, "q", "v", "t"), Member(BOOL, "q", "v"), Load(VECTOR, "Q", ()), Count(INT)):
        assert sides(expr) == (True, False)
        assert row_only(expr) and not column_only(expr)
    for expr in (K, Coord(INT, "k", "v", "t"), Member(BOOL, "k", "v"), Load(VECTOR, "K", ()), Load(VECTOR, "V", ())):
        assert sides(expr) == (False, True)
        assert column_only(expr) and not row_only(expr)
    for expr in (H, B, Size(INT, "Lk"), Extent(INT, "q", "v", "t"), ParamRef(FLOAT, "x"), Load(FLOAT, "z", (H,))):
        assert sides(expr) == (False, False)
        assert uniform(expr)
    for expr in (SCORE, op("sub", Q, K), Decay(FLOAT, "g", (B, H)), Load(FLOAT, "t", (op("sub", Q, K),))):
        assert sides(expr) == (True, True)


def test_depends() -> None:
    doc = Load(INT, "doc", (B, Q))
    assert depends(op("eq", doc, Load(INT, "doc", (B, K)))) == {"b", "q", "k", "@doc"}
    assert depends(Coord(INT, "k", "v", "t")) == {"k", "coords"}
    assert depends(Size(INT, "Lq")) == frozenset()
    assert tensors(doc) == {"doc"}
    assert leaves(op("sub", Q, K)) == {Q, K}


def test_reductions_bind_the_key() -> None:
    total = Reduce(FLOAT, "sum", Load(FLOAT, "t", (H, K)))
    assert depends(total) == {"@t", "h", "q", "sum"}
    assert row_only(total)
    assert row_only(Reduce(FLOAT, "sum", op("exp", SCORE)))
