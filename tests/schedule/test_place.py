"""Where boxes are put over the columns that a row tile sees."""

from __future__ import annotations

import numpy as np
from hypothesis import given, seed
from hypothesis import strategies as st

from attndsl.schedule.place import Boxes, estimate, place
from attndsl.schedule.plan import TileClass
from attndsl.schedule.rows import Touched, merged
from tests.drawing import SEED, drawn

Spans = list[tuple[int, int, int]]
TILES = 3
SPANS = st.lists(st.tuples(st.integers(0, TILES - 1), st.integers(0, 60), st.integers(1, 30)), max_size=8)


def _touched(spans: Spans, columns: int) -> Touched:
    tile, lo, size = (np.asarray([s[i] for s in spans], np.int64) for i in range(3))
    return Touched(*merged(tile, np.minimum(lo, columns), np.minimum(lo + size, columns)), True)


def _cells(spans: Touched, columns: int) -> np.ndarray:
    cells = np.zeros((TILES, columns), bool)
    for t, a, b in zip(spans.tile, spans.lo, spans.hi, strict=True):
        cells[t, a:b] = True
    return cells


@seed(SEED)
@drawn(400)
@given(SPANS, SPANS, st.integers(1, 80), st.sampled_from([1, 3, 4, 8, 16]))
def test_boxes_cover_what_is_visible_once(seen: Spans, hidden: Spans, columns: int, box: int) -> None:
    visible, denied = _touched(seen, columns), _touched(hidden, columns)
    boxes = place(visible, denied, columns, box, TILES)
    wanted, refused = _cells(visible, columns), _cells(denied, columns)
    painted = np.zeros((TILES, columns), int)
    for t, first, count, kind in zip(boxes.tile, boxes.first, boxes.count, boxes.kind, strict=True):
        for start in range(first, first + count * box, box):
            inside = np.arange(max(start, 0), min(start + box, columns))
            painted[t, inside] += 1
            assert wanted[t, inside].any(), "an empty box"
            whole = len(inside) == box and not refused[t, inside].any()
            assert (kind == TileClass.FULL) == whole
    assert painted.max(initial=0) <= 1
    assert painted[wanted].all()
    rows = [(int(t), int(f)) for t, f in zip(boxes.tile, boxes.first, strict=True)]
    assert rows == sorted(rows)


def _one(lo: int, hi: int, denied: list[tuple[int, int]], columns: int, box: int) -> Boxes:
    zero = np.zeros(len(denied), np.int64)
    hidden = Touched(zero, *(np.asarray([d[i] for d in denied], np.int64) for i in (0, 1)), True)
    return place(Touched(np.zeros(1, np.int64), np.array([lo]), np.array([hi]), True), hidden, columns, box, 1)


def test_boxes_start_where_most_are_full() -> None:
    boxes = _one(3, 37, [(3, 6), (30, 37)], 100, 8)
    full = [(f, c) for f, c, k in zip(boxes.first, boxes.count, boxes.kind, strict=True) if k == TileClass.FULL]
    assert full == [(6, 3)]


def test_ties_go_to_the_raster() -> None:
    boxes = _one(8, 24, [], 100, 16)
    assert boxes.first.tolist() == [8]
    boxes = _one(5, 15, [(0, 100)], 100, 16)
    assert boxes.first.tolist() == [0]


@seed(SEED)
@drawn(100)
@given(SPANS, SPANS, st.integers(1, 80))
def test_the_estimate_is_no_better_than_the_boxes(seen: Spans, hidden: Spans, columns: int) -> None:
    visible, denied = _touched(seen, columns), _touched(hidden, columns)
    sizes = np.array([1, 4, 8])
    counts, _ = estimate(visible, denied, columns, sizes, TILES)
    for size, count in zip(sizes, counts, strict=True):
        assert place(visible, denied, columns, int(size), TILES).count.sum() <= count
