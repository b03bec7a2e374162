"""Tables visit exactly the boxes of the plan."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import pytest

import attndsl
from attndsl.runtime.triton.tables import PieceTables, QSegment, joined, launches
from attndsl.schedule.build import build
from attndsl.schedule.plan import Piece, Plan, runs
from attndsl.schedule.tiling import Tiling
from benchmarks.cases import GNA, JOINT, NA2D

LINE = [
    ("attention dense {}", 200),
    ("attention causal { mask k <= q }", 333),
    ("attention window { mask k <= q and q - k < 40 }", 333),
    ("attention dilated { mask k <= q and (q - k) % 4 == 0 }", 333),
    ("attention blocks { mask (q // 32 * 7 + k // 32 * 5) % 3 == 0 }", 333),
    ("attention ends { mask k < 20 or k > 300 or abs(q - k) < 9 }", 333),
]


def expected(plan: Plan, piece: Piece, tile: int, kind: int) -> set[tuple[int, ...]]:
    """(kind, first..., residue...) of every box of a row tile."""
    del plan
    steps = [a.box for a in piece.cols.axes]
    found: set[tuple[int, ...]] = set()
    for run in runs(piece.sources[kind], piece, tile):
        for at in np.ndindex(*run.count):
            first = tuple(f + i * s for f, i, s in zip(run.first, at, steps, strict=True))
            found.add((int(run.kind), *first, *run.residue))
    return found


def listed(tables: PieceTables, piece: Piece, tile: int, kind: int) -> list[tuple[int, ...]]:
    begin, middle, end = (int(x) for x in tables.bounds[kind, tile])
    axes = len(tables.box)
    real = [i for i, a in enumerate(piece.cols.axes) if not a.name.startswith("#")]
    found: list[tuple[int, ...]] = []
    for i in range(begin, end):
        entry = [int(x) for x in tables.boxes[i]]
        count = 1 if tables.form.flat else entry[1]
        rest = entry[axes:] if tables.form.flat else entry[2:]
        for n in range(count):
            first, residue = [0] * len(piece.cols.axes), [0] * len(piece.cols.axes)
            for j, a in enumerate(real):
                first[a] = entry[j] + (n * tables.box[j] if not tables.form.flat else 0)
                residue[a] = rest[j] if rest else 0
            found.append((2 if i < middle else 1, *first, *residue))
    return found


def spanned(tables: PieceTables, tile: int, kind: int, edges: tuple[int, int] = (2, 3)) -> list[tuple[int, ...]]:
    """As `listed`, from spans."""
    numbers = [int(x) for x in tables.bounds[kind, tile]]
    count = sum(edges)
    ends, origins, residue = numbers[:count], numbers[count : 2 * count], (numbers[2 * count :] or [0])[0]
    assert ends == sorted(ends)
    found: list[tuple[int, ...]] = []
    for i in range(ends[-1]):
        at = next(n for n in range(count) if i < ends[n])
        found.append((2 if at < edges[0] else 1, i * tables.box[0] + origins[at], residue))
    return found


@pytest.mark.parametrize(
    ("text", "length"), [*LINE[:4], LINE[5], ("attention dense {}", 1), ("attention dense {}", 64)]
)
def test_spans_are_the_boxes(text: str, length: int) -> None:
    f = attndsl.load(text)
    problem = f.problem(L=length)
    plan = build(f.simplified, problem, (32, 32))
    (tables,) = launches(plan, [QSegment("", 0, length)], 32, False, spans=True)
    (piece,), (own,) = plan.forward.pieces, tables.pieces
    assert own.form.spans
    for tile in range(tables.tiles):
        boxes = spanned(own, tile, 0)
        assert len(boxes) == len(set(boxes))
        assert set(boxes) == expected(plan, piece, tile, 0)
    middle, end = own.middle_and_end
    assert tables.bare == bool(np.array_equal(middle, end)) == (plan.partial == 0)


def test_many_runs_are_listed() -> None:
    f = attndsl.load(LINE[4][0])
    plan = build(f.simplified, f.problem(L=333), (32, 32))
    (tables,) = launches(plan, [QSegment("", 0, 333)], 32, False, spans=True)
    assert not tables.pieces[0].form.spans


def test_tables_of_long_sequences_are_small() -> None:
    """524,288 tokens: under 1 MiB for the device."""
    length = 1 << 19
    for text in ("attention dense {}", LINE[1][0], "attention window { mask k <= q and q - k < 4096 }"):
        f = attndsl.load(text)
        plan = build(f.simplified, f.problem(L=length), (128, 128))
        (tables,) = launches(plan, [QSegment("", 0, length)], 128, False, spans=True)
        assert len(joined(tables)[0]) * 4 < 1 << 20


def compare(text: str, consts: dict[str, Any], **sizes: Any) -> None:
    f = attndsl.load(text, **consts)
    problem = f.problem(**sizes)
    plan = build(f.simplified, problem, Tiling(32, 32).tile(f.simplified, problem))
    names = list(problem.q_extents) or [""]
    segments = [QSegment(n, 0, prod(problem.q_extents.get(n, (problem.sizes["Lq"],)))) for n in names]
    for segment, tables in zip(segments, launches(plan, segments, 32, bool(problem.q_extents)), strict=True):
        pieces = [p for p in plan.forward.pieces if p.rows.segment == segment.name]
        assert len(pieces) == len(tables.pieces)
        assert sorted(tables.order) == list(range(tables.tiles))
        for piece, own in zip(pieces, tables.pieces, strict=True):
            for kind in range(len(piece.sources)):
                for tile in range(tables.tiles):
                    boxes = listed(own, piece, tile, kind)
                    assert len(boxes) == len(set(boxes))
                    assert set(boxes) == expected(plan, piece, tile, kind)
        whole, places = joined(tables)
        for key, (start, stop) in places.items():
            assert start % 32 == 0
            assert stop <= len(whole), key


@pytest.mark.parametrize(("text", "length"), LINE)
def test_a_line(text: str, length: int) -> None:
    compare(text, {}, L=length)


def test_grids() -> None:
    compare(GNA, {"window": (3, 4, 5), "stride": (1, 2, 2)}, grid=(5, 6, 9))
    compare(GNA, {"window": (3, 3, 3), "dilation": (1, 2, 2)}, grid=(5, 6, 9))
    compare(NA2D, {"window": (7, 7)}, grid=(23, 17))
    compare(JOINT, {"window": (3, 3, 3)}, grid={"text": (20,), "video": (4, 5, 6)})


def test_long_tiles_come_first() -> None:
    f = attndsl.load("attention causal { mask k <= q }")
    problem = f.problem(L=500)
    plan = build(f.simplified, problem, (32, 32))
    (tables,) = launches(plan, [QSegment("", 0, 500)], 32, False)
    assert list(tables.order) == list(range(15, -1, -1))


def test_rows_without_keys_get_tiles() -> None:
    f = attndsl.load("attention none { mask k > q + 1000 }")
    problem = f.problem(L=100)
    plan = build(f.simplified, problem, (32, 32))
    (tables,) = launches(plan, [QSegment("", 0, 100)], 32, False)
    assert tables.pieces == ()
    assert tables.rows.tolist() == [[0, 32], [32, 64], [64, 96], [96, 100]]


@pytest.mark.parametrize(
    ("text", "offset", "even"),
    [
        ("attention causal { mask k <= q }", 0, True),
        ("attention window { mask k <= q and q - k < 41 }", 0, True),
        ("attention window { mask abs(q - k) <= 41 }", 0, False),
    ],
)
def test_boxes_that_begin_even(text: str, offset: int, even: bool) -> None:
    """Boxes of queries whose statistics can be loaded by TMA begin at multiples of four."""
    f = attndsl.load(text)
    plan = build(f.simplified, f.problem(L=333, q_offset=offset), Tiling(32, 32).tile(f.simplified, f.problem(L=333)))
    for spans in (True, False):
        (tables,) = launches(plan, [QSegment("", 0, 333)], 32, False, spans=spans, turned=True)
        assert tables.begin_even({}) == even


def test_small_boxes_do_not_begin_even() -> None:
    f = attndsl.load("attention causal { mask k <= q }")
    plan = build(f.simplified, f.problem(L=333), Tiling(16, 32).tile(f.simplified, f.problem(L=333)))
    (tables,) = launches(plan, [QSegment("", 0, 333)], 32, False, spans=True, turned=True)
    assert tables.pieces[0].box == (16,)
    assert not tables.begin_even({})


def test_lines_of_grids_that_begin_even() -> None:
    f = attndsl.load("attention blocks { grid map(y, x) mask abs(q.x // 8 - k.x // 8) <= 1 }")
    for extents, even in (((24, 32), True), ((24, 31), False)):
        problem = f.problem(grid=extents)
        plan = build(f.simplified, problem, Tiling(32, 32, (4, 8), (4, 8)).tile(f.simplified, problem))
        (tables,) = launches(plan, [QSegment("map", 0, prod(extents))], 32, True, turned=True)
        assert tables.pieces[0].begins_even
        assert tables.begin_even({"map": extents}) == even


def test_tiles_far_longer_than_most() -> None:
    for text, turned, skewed in (
        ("attention sink { mask k <= q and (q - k < 64 or k < 4) }", True, True),
        ("attention sink { mask k <= q and (q - k < 64 or k < 4) }", False, False),
        ("attention causal { mask k <= q }", True, False),
    ):
        f = attndsl.load(text)
        problem = f.problem(L=4096)
        plan = build(f.simplified, problem, Tiling(64, 64).tile(f.simplified, problem))
        (tables,) = launches(plan, [QSegment("", 0, 4096)], 64, False, spans=True, turned=turned)
        assert tables.skewed == skewed


@pytest.mark.parametrize("turned", [False, True])
def test_residues_split_tiles_for_all_segments_or_none(turned: bool) -> None:
    f = attndsl.load("""use masks (neighborhood)
    attention dilated { grid text(m) ++ video(y, x)
        mask not (q in video and k in video) or all(neighborhood(q.video, k.video, size(video), 3, 1, 2, false)) }""")
    plan = f.plan(B=1, H=1, D=64, Lq=62, Lk=62, grid={"text": (20,), "video": (6, 7)})
    pieces = (plan.dkdv if turned else plan.forward).pieces
    assert {tuple(a.split for a in p.rows.axes) for p in pieces if p.rows.segment == "video"} == {(1, 1), (2, 2)}
    segments = [QSegment("text", 0, 20), QSegment("video", 20, 42)]
    text, video = launches(plan, segments, 64, True, turned=turned)
    assert text.splits == (1,)
    assert video.splits == (1, 1)
    assert len(video.pieces) == 2
    assert plan.whole.whole is plan.whole
