"""Interval arithmetic against all values in the box."""

from __future__ import annotations

import numpy as np
from hypothesis import given, seed
from hypothesis import strategies as st

from attndsl.ir.evaluate import Env, evaluate
from attndsl.ir.expr import Expr, Index, Load, Op, Search, integer, op
from attndsl.ir.types import BOOL, INT, Kind
from attndsl.schedule.interval import Boxes, bounds
from attndsl.schedule.tables import AreaTable, RangeTable, table_of
from tests.drawing import SEED, drawn

Q, K = Index(INT, "q"), Index(INT, "k")
TABLE = np.array([3, -1, 4, 1, -5, 9, 2, 6, -5, 3], np.int32)
SORTED = np.sort(TABLE)
TABLES = {"t": TABLE, "s": SORTED}
INTS = ("add", "sub", "mul", "floordiv", "mod", "min", "max")
TESTS = ("lt", "le", "gt", "ge", "eq", "ne")


def ints() -> st.SearchStrategy[Expr]:
    leaves = st.sampled_from([Q, K]) | st.integers(-9, 9).map(integer)

    def grow(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
        two = st.builds(lambda name, a, b: op(name, a, b), st.sampled_from(INTS), inner, inner)
        one = st.builds(lambda name, a: op(name, a), st.sampled_from(["neg", "abs", "bitlen", "sign"]), inner)
        read = st.builds(lambda name, a: Load(INT, name, (a,)), st.sampled_from(["t", "s"]), inner)
        search = st.builds(lambda a, side: Search(INT, "s", a, side), inner, st.sampled_from(["left", "right"]))
        square = st.builds(lambda a, n: op("pow", a, integer(n)), inner, st.integers(0, 3))
        chosen = st.builds(lambda c, a, b: op("select", c, a, b), conditions_on(inner), inner, inner)
        return two | one | read | search | square | chosen

    return st.recursive(leaves, grow, max_leaves=8)


def conditions_on(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    compared = st.builds(lambda name, a, b: op(name, a, b), st.sampled_from(TESTS), inner, inner)
    return compared | inner.map(lambda a: op("ispow2", a))


def conditions() -> st.SearchStrategy[Expr]:
    def grow(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
        pair = st.builds(lambda name, a, b: op(name, a, b), st.sampled_from(["and", "or", "eq", "ne"]), inner, inner)
        return pair | inner.map(lambda a: op("not", a))

    return st.recursive(conditions_on(ints()), grow, max_leaves=4)


def _floats(e: Expr) -> Expr:
    return Op(BOOL, "le", (op("sqrt", op("to_float", e)), op("exp", op("div", op("to_float", e), op("to_float", K)))))


RANGES = st.tuples(st.integers(-12, 12), st.integers(0, 6))


@seed(SEED)
@drawn(400)
@given(ints() | conditions() | ints().map(_floats), RANGES, RANGES)
def test_bounds_hold_every_value(e: Expr, q: tuple[int, int], k: tuple[int, int]) -> None:
    qs, ks = np.arange(q[0], q[0] + q[1] + 1)[:, None], np.arange(k[0], k[0] + k[1] + 1)[None, :]
    tables = {n: RangeTable(t, n == "s") for n, t in TABLES.items()}
    low, high = bounds(e, Boxes({Q: (q[0], q[0] + q[1]), K: (k[0], k[0] + k[1])}, tables))
    values = np.broadcast_to(evaluate(e, Env({Q: qs, K: ks}, TABLES)), (len(qs), ks.shape[1]))
    if e.type.kind is Kind.BOOL:
        assert values.all() or not np.all(low)
        assert not values.any() or np.any(high)
    elif np.all(np.abs(values) < 2**40):
        assert np.all(low <= values) and np.all(values <= high)


def test_one_occurrence_is_exact() -> None:
    e = op("floordiv", op("sub", Q, op("mul", integer(3), K)), integer(4))
    low, high = bounds(e, Boxes({Q: (5, 9), K: (0, 2)}, {}))
    assert (low, high) == ((5 - 6) // 4, 9 // 4)


def test_many_boxes_at_once() -> None:
    starts = np.arange(0, 100, 10)
    sure, maybe = bounds(op("le", K, Q), Boxes({Q: (starts, starts + 9), K: (20, 29)}, {}))
    assert sure.tolist() == [s >= 29 for s in starts]
    assert maybe.tolist() == [s + 9 >= 20 for s in starts]


def test_ranges_of_an_unsorted_table() -> None:
    rng = np.random.default_rng(0)
    table = rng.integers(-100, 100, 1000)
    ranges = RangeTable(table, False)
    lo = rng.integers(0, 1000, 200)
    hi = np.minimum(lo + rng.integers(0, 300, 200), 999)
    low, high = ranges.bounds(lo, hi)
    for a, b, x, y in zip(lo, hi, low, high, strict=True):
        assert x <= table[a : b + 1].min() and y >= table[a : b + 1].max()


@seed(SEED)
@drawn(200)
@given(st.integers(0, 2**32), RANGES, RANGES)
def test_areas_of_a_table_of_blocks(draw: int, q: tuple[int, int], k: tuple[int, int]) -> None:
    rng = np.random.default_rng(draw)
    table = rng.random((int(rng.integers(1, 9)), int(rng.integers(1, 9)))) < rng.random()
    e = Load(BOOL, "t", (op("floordiv", Q, integer(2)), op("sub", K, integer(1))))
    ranges = {Q: (q[0], q[0] + q[1]), K: (k[0], k[0] + k[1])}
    sure, maybe = bounds(e, Boxes(ranges, {"t": AreaTable(table)}))
    qs, ks = np.arange(q[0], q[0] + q[1] + 1)[:, None], np.arange(k[0], k[0] + k[1] + 1)[None, :]
    values = evaluate(e, Env({Q: qs, K: ks}, {"t": table}))
    assert values.all() or not sure
    assert not values.any() or maybe
    assert sure == values.all() and maybe == values.any()


def test_only_small_tables_of_blocks_are_summed() -> None:
    assert isinstance(table_of(np.zeros((3, 4), bool), False), AreaTable)
    assert table_of(np.zeros((3, 4), np.int32), False) is None
    assert table_of(np.broadcast_to(np.zeros((), bool), (1 << 13, 1 << 13)), False) is None
