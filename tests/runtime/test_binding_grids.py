"""Every form of `grid=`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attndsl.frontend.compile import compile_text
from attndsl.ir.attention import Attention
from attndsl.ir.bind import bind
from attndsl.runtime.grids import grid_extents, positions


def spec(clauses: str) -> Attention:
    (written,) = compile_text(f"attention a {{ {clauses} }}")
    return bind(written, {})


VIDEO = spec("grid video(t, y, x) mask k <= q")
JOINT = spec("grid text(m) ++ video(t, y, x) mask k <= q")
POOLED = spec("grid q (y, x) grid k (v, u) mask q.y == k.v")
SEPARATE = spec("grid q image(y, x) grid k tokens(n) mask q.y == k.n")
ONLY_K = spec("grid k (v, u) mask q >= k.v")
PLAIN = spec("mask k <= q")


@pytest.mark.parametrize(
    "grid",
    [
        (2, 3, 4), [2, 3, 4], (np.int64(2), 3, 4), np.array([2, 3, 4]), (None, 3, 4), (2, -1, 4), (2, 3, None),
        {"t": 2, "y": 3, "x": 4}, {"x": 4, "t": 2}, {"video": (2, 3, 4)}, {"video": (2, None, 4)}, ((2, 3, 4),),
    ],
)  # fmt: skip
def test_forms_of_a_segment(grid: Any) -> None:
    q, k = grid_extents(VIDEO, grid, 24, 24, 24)
    assert q == k == {"video": (2, 3, 4)}
    assert all(type(n) is int for n in q["video"])


@pytest.mark.parametrize(
    "grid",
    [
        (5, 2, 3, 4), ((5,), (2, 3, 4)), (5, (2, 3, 4)), {"text": 5, "video": (2, 3, 4)},
        {"m": 5, "t": 2, "y": 3, "x": 4},
        {"text": (5,), "t": 2, "y": 3, "x": 4}, {"t": 2, "y": 3, "x": 4}, {"video": (2, 3, 4)}, (None, 2, 3, 4),
        (5, 2, None, 4), (-1, (2, 3, 4)),
    ],
)  # fmt: skip
def test_forms_of_two_segments(grid: Any) -> None:
    assert grid_extents(JOINT, grid, 29, 29, 29)[0] == {"text": (5,), "video": (2, 3, 4)}


@pytest.mark.parametrize(
    "grid",
    [
        {"q": (4, 6), "k": (2, 3)}, ((4, 6), (2, 3)), (4, 6, 2, 3), {"y": 4, "x": 6, "v": 2, "u": 3},
        {"y": 4, "v": 2}, {"q": (4, None), "k": {"u": 3}}, {"q": {"y": 4}, "k": (-1, 3)},
    ],
)  # fmt: skip
def test_forms_of_two_sides(grid: Any) -> None:
    assert grid_extents(POOLED, grid, 24, 6, 24) == ({"": (4, 6)}, {"": (2, 3)})


def test_one_axis_may_be_inferred_whole() -> None:
    assert grid_extents(spec("grid row(x) mask k.x <= q.x"), None, 9, 9) == ({"row": (9,)}, {"row": (9,)})
    assert grid_extents(spec("grid row(x) mask k.x <= q.x"), 9, 9, 9)[0] == {"row": (9,)}
    assert grid_extents(SEPARATE, {"q": (2, 3)}, 6, 7) == ({"image": (2, 3)}, {"tokens": (7,)})
    assert grid_extents(ONLY_K, (2, 3), 5, 6) == ({}, {"": (2, 3)})


def test_without_lengths_nothing_is_inferred() -> None:
    assert positions(grid_extents(VIDEO, (2, 3, 4), None, None)[0]) == 24
    with pytest.raises(ValueError, match="needs the extent of 'x'"):
        grid_extents(VIDEO, (2, 3, None), None, None)


@pytest.mark.parametrize(
    ("attention", "grid", "error", "words"),
    [
        (VIDEO, None, ValueError, r"needs the extents of 't', 'y', 'x' in video\(t, y, x\); grid=\(t, y, x\)"),
        (VIDEO, (2, None, None), ValueError, "needs the extents of 'y', 'x'.*one extent can be inferred"),
        (VIDEO, (2, 3), ValueError, r"must have 3 extents, video\(t, y, x\), got \(2, 3\)"),
        (VIDEO, (2, 3, 5), ValueError, r"video\(2, 3, 5\) has 30 positions, but the length is 24"),
        (VIDEO, (5, 3, None), ValueError, r"no extent of 'x' makes grid video.*t=5, y=3, x=\?.*24 positions"),
        (VIDEO, (2, 3, 4.0), TypeError, "grid extent 'x' must be an int, got float 4.0"),
        (VIDEO, (2, 3, True), TypeError, "grid extent 'x' must be an int, got bool True"),
        (VIDEO, (2, 3, -4), ValueError, "grid extent 'x' must be from 0"),
        (VIDEO, (2, 3, 2**40), ValueError, "grid extent 'x' must be from 0 to 2147483647, got 1099511627776"),
        (VIDEO, (0, 0, None), ValueError, "no extent of 'x'"),
        (VIDEO, {"t": 2, "y": 3, "z": 4}, ValueError, "no axis or segment 'z'"),
        (VIDEO, {"vidoe": (2, 3, 4)}, ValueError, "did you mean 'video'"),
        (VIDEO, {"video": (2, 3)}, ValueError, r"segment video\(t, y, x\) must have 3 extents, got \(2, 3\)"),
        (VIDEO, {"video": (2, 3, 4), "t": 2}, ValueError, r"gives the extent of \['t'\] twice"),
        (VIDEO, "2x3x4", TypeError, "got str '2x3x4'"),
        (VIDEO, 2.5, TypeError, "must be extents of"),
        (VIDEO, 24, ValueError, "must have 3 extents"),
        (JOINT, {"video": (2, 3, 5)}, ValueError, "no extent of 'm'"),
        (JOINT, (5, 2, 3), ValueError, "must have 4 extents"),
        (POOLED, None, ValueError, "needs the extents of 'y', 'x'"),
        (POOLED, (4, 6), ValueError, r"must be \(q's extents, k's extents\)"),
        (POOLED, 4, TypeError, r"must be dict\(q=..., k=...\)"),
        (POOLED, {"q": (4, 6), "k": (2, 4)}, ValueError, r"\(2, 4\) has 8 positions, but Lk is 6"),
        (ONLY_K, {"q": (2, 3)}, ValueError, "q has no grid"),
        (PLAIN, (2, 3, 4), ValueError, "the attention declares no grid"),
    ],
)
def test_bad_grids(attention: Attention, grid: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        grid_extents(attention, grid, 24, 6 if attention in (POOLED, ONLY_K) else 24)
    assert str(caught.value).startswith("a: ")


def test_a_name_that_both_sides_have_is_ambiguous() -> None:
    both = spec("grid q (y, x) grid k (y, x) mask q.y == k.y")
    assert grid_extents(both, {"q": (2, 3), "k": (4, 5)}, 6, 20) == ({"": (2, 3)}, {"": (4, 5)})
    with pytest.raises(ValueError, match="'y' stands for more than one axis"):
        grid_extents(both, {"y": 2, "x": 3}, 6, 6)


@given(st.lists(st.integers(1, 9), min_size=4, max_size=4), st.integers(0, 3))
def test_any_one_extent_is_inferred(extents: list[int], missing: int) -> None:
    m, t, y, x = extents
    length = m + t * y * x
    holed: list[int | None] = [*extents]
    holed[missing] = None
    assert grid_extents(JOINT, holed, length, length)[0] == {"text": (m,), "video": (t, y, x)}
