"""The closed form of a tile's columns against all its rows, and both against the mask itself."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
from hypothesis import given, note, seed
from hypothesis import strategies as st

import attndsl.schedule.rows
from attndsl.frontend.compile import compile_text
from attndsl.ir.bind import bind
from attndsl.ir.simplify import simplify
from attndsl.schedule.axis import axis_ranges, row_tiles, solve_axis
from attndsl.schedule.classes import classes
from attndsl.schedule.piece import analyse
from attndsl.schedule.problem import Problem
from attndsl.schedule.rows import merged, touched
from attndsl.schedule.space import pairs
from tests.drawing import SEED, drawn

N = st.integers(-20, 60)
P = st.integers(1, 40)
FAMILIES = (
    "k <= q + {a}",
    "k <= q and q - k < {p}",
    "abs(q - k) <= {p}",
    "k <= q or k < {a}",
    "k <= q and (k < {p} or q - k < {r})",
    "q // {p} == k // {p}",
    "(q + {a}) // {p} >= k // {r}",
    "k >= q // {p} * {r} and k < q // {p} * {r} + {s}",
    "k * 3 <= q * 2 + {a} and k * 5 >= q * 3 - {p}",
    "min(k, {p}) <= q and max(k, q) < {a} + 2 * k",
    "abs(k - {p}) <= q // 2",
    "k // {p} <= q // {p} and k // {p} > q // {p} - 3",
    "q < {p} or k >= {r} and k <= q",
    "clamp(q, {p}, 100) - k <= {r} and k <= clamp(q, {p}, 100)",
    "doc[b, q] == doc[b, k] and k <= q",
    "doc[b, k] <= doc[b, q] + 1 and doc[b, k] >= doc[b, q] - 1",
    "doc[b, q] == doc[b, k] and q - k < {p}",
    "(q - k) % 4 == 0 and abs(q - k) <= {p}",
    "q % 3 == k % 3 and k <= q",
    "(q + k) % 5 < 2 and k <= q",
    "k % {p} == 0 or q - k < {r} and k <= q",
    "bitlen(q // 4 - k // 4) <= 3 and k <= q",
    "ispow2(q // 8 - k // 8) or abs(q - k) < {p}",
    "if q < {p} then k < {r} else k <= q and q - k < {s}",
    "not (k > q and k > {p})",
    "k <= q + {a} and 2 * k >= q - {p} and k < 90",
)


def _solved(mask: str, length: int, columns: int, transposed: bool, draw: int) -> Any:
    text = f"attention a(input doc: i32[B, L] sorted) {{ mask {mask} }}"
    attention = simplify(bind(compile_text(text)[0], {}))
    doc = np.sort(np.random.default_rng(draw).integers(0, 9, max(length, columns))).astype(np.int32)[None]
    sizes = {"B": 1, "H": 1, "Hkv": 1, "Lq": length, "Lk": columns, "L": max(length, columns), "D": 8, "Dv": 8}
    problem = Problem(sizes, tables={"doc": doc})
    (pair,) = pairs(attention, problem)
    _, (item,) = classes(attention, problem, pair)
    return analyse(item, rows_are_q=not transposed, split=True).separated.axes[0]


@seed(SEED)
@drawn(500)
@given(st.data())
def test_ends_agree_with_rows(data: st.DataObject) -> None:
    names = {n: data.draw(N if n == "a" else P) for n in ("a", "p", "r", "s")}
    mask = data.draw(st.sampled_from(FAMILIES)).format(**names)
    length, columns = data.draw(st.sampled_from([1, 17, 64, 129, 200])), data.draw(st.sampled_from([1, 33, 128, 190]))
    if "doc" in mask:
        columns = length
    box = data.draw(st.sampled_from([1, 4, 16, 64]))
    transposed = data.draw(st.booleans())
    note(f"{mask} {length}x{columns} box {box} transposed {transposed}")
    solved = _solved(mask, length, columns, transposed, data.draw(st.integers(0, 99)))
    tiles, _, _ = row_tiles(solved, box)
    for members in (solved.visible, solved.denied):
        with patch.object(attndsl.schedule.rows, "FEW_ROWS", 0):
            quick = touched(members, tiles, 16)
        slow = touched(members, tiles, 16, always_rows=True)
        assert quick.exact == slow.exact
        for name in ("tile", "lo", "hi"):
            assert np.array_equal(getattr(quick, name), getattr(slow, name)), name
    with patch.object(attndsl.schedule.rows, "FEW_ROWS", 0):
        quick_ranges, _ = axis_ranges(solved, box, 16)
    slow_ranges, _ = axis_ranges(solved, box, 16, enumerate_rows=True)
    for name, value in vars(slow_ranges).items():
        assert np.array_equal(getattr(quick_ranges, name), value), name


@seed(SEED)
@drawn(200)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30), st.integers(-2, 9)), max_size=12))
def test_merged_intervals_are_the_union(parts: list[tuple[int, int, int]]) -> None:
    tile, lo, size = (np.asarray([p[i] for p in parts], np.int64) for i in range(3))
    got = merged(tile, lo, lo + size)
    cells = np.zeros((4, 64), int)
    for t, a, n in parts:
        cells[t, a : max(a, a + n)] = 1
    seen = np.zeros_like(cells)
    for t, a, b in zip(*got, strict=True):
        assert a < b
        seen[t, a:b] += 1
    assert np.array_equal(cells, seen)
    for i in range(len(got[0]) - 1):
        assert got[0][i] < got[0][i + 1] or (got[0][i] == got[0][i + 1] and got[2][i] < got[1][i + 1])


def test_a_long_window_needs_no_rows() -> None:
    """At a million tokens no row of a window is enumerated: the certificate holds."""
    solved = _solved("k <= q and q - k < 1000", 1 << 20, 1 << 20, False, 0)
    with patch.object(attndsl.schedule.rows, "_enumerated", side_effect=AssertionError("rows were enumerated")):
        axis_ranges(solved, 128, 128)


def test_residues_split_an_axis() -> None:
    solved = _solved("q % 4 == k % 4 and k <= q", 200, 200, False, 0)
    assert (solved.split, solved.shift) == (4, 0)
    assert solve_axis(solved.axis, split=False).split == 1
    assert _solved("(k - q) % 6 == 2 and k <= q", 200, 200, False, 0).shift == 2
