"""Pictures show what the mask and the plan say, for plans small enough to look at every pair."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from attndsl.viz.draw import COLOURS, Picture, draw
from attndsl.viz.neighborhood import MASKED, QUERY, SEEN_FULL, SEEN_PARTIAL, middle_query, neighborhood
from attndsl.viz.png import to_png
from attndsl.viz.sample import FULL, PARTIAL, SKIPPED, evenly, sample
from attndsl.viz.scene import Rect, Scene
from attndsl.viz.svg import to_svg
from attndsl.viz.terminal import neighborhood_picture, tile_picture
from tests.viz.hand_plans import grid, linear, near, window_1d

EVERYTHING = {"linear": linear, "grid": grid}


@pytest.mark.parametrize("made", EVERYTHING)
def test_samples_agree_with_the_mask(made: str) -> None:
    attention, problem, plan = EVERYTHING[made]()
    n = problem.sizes["Lq"]
    every = np.arange(n, dtype=np.int64)
    found = sample(attention, problem, plan, every, every)
    if made == "linear":
        expected = np.array([[window_1d(i, j) for j in range(n)] for i in range(n)])
    else:
        expected = np.array([[near(i // 20, j // 20) and near(i % 20, j % 20) for j in range(n)] for i in range(n)])
    assert found.seen is not None
    assert (found.seen == expected).all()
    assert not found.seen[found.kind == SKIPPED].any()
    assert found.seen[found.kind == FULL].all()
    assert {SKIPPED, PARTIAL} <= set(np.unique(found.kind))


def test_a_mask_on_an_unknown_tensor_is_not_guessed() -> None:
    from attndsl.frontend.compile import compile_text

    (attention,) = compile_text("attention d(input doc: i32[B, L]) { mask doc[b, q] == doc[b, k] }")
    _, problem, plan = linear()
    every = np.arange(8, dtype=np.int64)
    assert sample(attention, problem, plan, every, every).seen is None


def test_neighborhood_of_a_query() -> None:
    attention, problem, plan = grid()
    query = middle_query(attention, problem)
    (found,) = neighborhood(attention, problem, plan, query)
    assert found.at == (6, 10)
    assert found.cells.shape == (12, 20)
    assert found.cells[6, 10] == QUERY
    seen = np.isin(found.cells, (SEEN_FULL, SEEN_PARTIAL, QUERY))
    expected = np.array([[near(6, y) and near(10, x) for x in range(20)] for y in range(12)])
    assert (seen == expected).all()
    assert (found.cells == MASKED).any()


def test_terminal_pictures_are_small_and_plain() -> None:
    _, problem, plan = linear()
    lines = tile_picture(problem, plan, unicode=False)
    assert len(lines) == 8
    assert lines[0] == "++" + ".." * 7
    assert lines[3] == ".." + "++++++" + ".." * 4
    assert set("".join(lines)) <= set("#+.")
    attention, problem, plan = grid()
    lines = neighborhood_picture(attention, problem, plan, middle_query(attention, problem), unicode=False)
    assert len(lines) == 1 + 12 + 1
    assert sum(line.count("QQ") for line in lines) == 1


def test_no_pairs() -> None:
    attention, problem, plan = linear()
    empty = type(problem)({**problem.sizes, "Lq": 0})
    assert tile_picture(empty, plan, unicode=True) == ["(no pairs: Lq=0, Lk=128)"]
    assert "svg" in to_svg(draw(Picture(attention, empty, plan, "nothing")))


def test_evenly() -> None:
    assert evenly(5, 8).tolist() == [0, 1, 2, 3, 4]
    found = evenly(1_048_576, 256)
    assert len(found) == 256
    assert (np.diff(found) == 4096).all()


def test_svg_is_well_formed_small_and_names_its_colours() -> None:
    attention, problem, plan = grid()
    text = to_svg(draw(Picture(attention, problem, plan, "a <b> & c", query=100)))
    tree = ElementTree.fromstring(text)
    assert tree.tag == "{http://www.w3.org/2000/svg}svg"
    assert "a &lt;b&gt; &amp; c" in text
    assert len(text) < 100_000
    assert COLOURS[SEEN_PARTIAL] in text
    words = " ".join(t.text or "" for t in tree.iter("{http://www.w3.org/2000/svg}text"))
    assert "key position k" in words
    assert "PARTIAL tile: visible pair" in words
    assert "y=5, x=0" in words


def test_png_is_a_png() -> None:
    attention, problem, plan = linear()
    data = to_png(draw(Picture(attention, problem, plan, "window")))
    assert data.startswith(b"\x89PNG\r\n\x1a\n")


def test_raster_joins_cells() -> None:
    scene = Scene(10, 10, "t")
    values = np.array([[1, 1, 0], [1, 1, 2], [0, 0, 2]], np.uint8)
    scene.raster(0, 0, 1, values, {1: "a", 2: "b"})
    assert {(s.x, s.y, s.width, s.height, s.fill) for s in scene.shapes if isinstance(s, Rect)} == {
        (0, 0, 2, 2, "a"),
        (2, 1, 1, 2, "b"),
    }
