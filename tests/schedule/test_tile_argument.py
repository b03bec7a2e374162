"""`tile=`: what it fixes, and what every misuse of it says."""

from typing import Any

import pytest

import attndsl
from attndsl.schedule.build import build

WINDOW = attndsl.load("attention a { mask 0 <= q - k < 9 }")
VIDEO = attndsl.load("attention a { grid video(t, y, x)  mask all(abs(q.video - k.video) <= 1) }")
JOINT = attndsl.load(
    "attention a { grid text(m) ++ video(t, y, x)  mask q in text or k in text or all(abs(q.video - k.video) <= 1) }"
)
POOLED = attndsl.load("attention a { grid q (y, x)  grid k (v)  mask q.y <= k.v }")
MIXED = attndsl.load("attention a { grid image(y, x) ++ video(t, v, u) }")
CALLS: dict[attndsl.AttentionFunction, dict[str, Any]] = {
    WINDOW: {"L": 64},
    VIDEO: {"grid": (4, 8, 8)},
    JOINT: {"grid": (5, 4, 8, 8)},
    POOLED: {"grid": {"y": 8, "x": 8, "v": 16}},
    MIXED: {"grid": (4, 4, 2, 4, 4)},
}


def boxes(function: attndsl.AttentionFunction, tile: Any, **more: Any) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The q and k boxes of each pair of segments in the plan."""
    plan = build(function.simplified, function.problem(**{**CALLS[function], **more}), tile)
    assert plan.visited
    return [(p.rows.box, p.cols.box) for p in plan.forward.pieces]


def test_boxes_are_those_that_are_given():
    assert boxes(WINDOW, (16, 8)) == boxes(WINDOW, ((16,), (8,))) == [((16,), (8,))]
    assert boxes(VIDEO, ((1, 4, 8), (2, 8, 8))) == [((1, 4, 8), (2, 8, 8))]
    assert boxes(POOLED, ((4, 8), 16)) == [((4, 8), (1, 16))]
    assert boxes(VIDEO, (16, 32), q_offset=3, Lq=100, Lk=256) == [((16,), (32,))]


def test_a_segment_of_one_axis_beside_a_grid_takes_as_many_positions():
    found = boxes(JOINT, ((1, 4, 8), (2, 8, 8)))
    assert found[1:] == [((1, 1, 32), (2, 8, 8)), ((1, 4, 8), (1, 1, 128)), ((1, 4, 8), (2, 8, 8))]


def test_boxes_by_segment():
    tile = {"text": (16, 8), "video": ((1, 4, 8), (2, 8, 8))}
    assert boxes(JOINT, tile) == [
        ((16,), (8,)), ((1, 1, 16), (2, 8, 8)), ((1, 4, 8), (1, 1, 8)), ((1, 4, 8), (2, 8, 8)),
    ]  # fmt: skip
    assert boxes(JOINT, {"video": ((1, 4, 8), (2, 8, 8))})[-1] == ((1, 4, 8), (2, 8, 8))
    assert boxes(MIXED, {"image": ((2, 4), (4, 4)), "video": ((1, 4, 4), (2, 4, 4))})[0] == ((2, 4), (4, 4))


WRONG: list[tuple[attndsl.AttentionFunction, Any, str]] = [
    (WINDOW, ((2, 8, 8), (2, 8, 8)), r"tile: the q box \(2, 8, 8\) has 3 axes, expected 1 axis"),
    (WINDOW, (64, (8, 8)), r"tile: the k box \(8, 8\) has 2 axes, expected 1 axis"),
    (WINDOW, {"video": (64, 64)}, r"tile: .* no segment has a name; expected \(q box, k box\)"),
    (WINDOW, {}, "tile: the mapping is empty"),
    (WINDOW, (0, 64), "tile: the q box must be a positive int, or one for each axis, got 0"),
    (WINDOW, (64, -8), "tile: the k box must be a positive int, .* got -8"),
    (WINDOW, (True, 64), "tile: the q box must be a positive int, .* got True"),
    (WINDOW, (64, 8.0), r"tile: the k box must be a positive int, .* got 8\.0"),
    (WINDOW, (64, (8.5,)), r"tile: the k box must be a positive int, .* got \(8\.5,\)"),
    (WINDOW, ((), ()), r"tile: the q box must be a positive int, .* got \(\)"),
    (WINDOW, ("64", 64), "tile: the q box must be a positive int, .* got '64'"),
    (WINDOW, 64, r"tile: expected \(q box, k box\), or one such pair per segment name, got 64"),
    (WINDOW, (64, 64, 64), r"tile: expected \(q box, k box\).* got \(64, 64, 64\)"),
    (VIDEO, (64, 64), "tile: the q box 64 has 1 axis, expected 3 axes"),
    (VIDEO, ((2, 8, 8), 128), "tile: the k box 128 has 1 axis, expected 3 axes"),
    (VIDEO, ((2, 0, 8), (2, 8, 8)), r"tile: the q box must be .* got \(2, 0, 8\)"),
    (VIDEO, {"vidio": ((2, 8, 8), (2, 8, 8))}, "tile: there is no segment 'vidio'; expected 'video'"),
    (VIDEO, {3: ((2, 8, 8), (2, 8, 8))}, "tile: there is no segment 3; expected 'video'"),
    (VIDEO, {"video": (2, 8, 8)}, r"tile\['video'\]: expected \(q box, k box\), got \(2, 8, 8\)"),
    (VIDEO, {"video": ((2, 8, 8), (8, 8))}, r"tile\['video'\]: the k box .* 2 axes, expected 3 axes \(t, y, x\)"),
    (JOINT, {"text": ((2, 8, 8), 8)}, r"tile\['text'\]: the q box \(2, 8, 8\) has 3 axes, expected 1 axis \(m\)"),
    (JOINT, {"image": (8, 8)}, "tile: there is no segment 'image'; expected 'text' or 'video'"),
    (POOLED, ((4, 8), (4, 8)), r"tile: the k box \(4, 8\) has 2 axes, expected 1 axis"),
    (MIXED, ((1, 4, 4), (1, 4, 4)), "tile: the q box .* has 3 axes, and segment 'image' has 2; expected one pair"),
]  # fmt: skip


@pytest.mark.parametrize(("function", "tile", "message"), WRONG, ids=[repr(w[1]) for w in WRONG])
def test_misuse(function: attndsl.AttentionFunction, tile: Any, message: str):
    with pytest.raises(ValueError, match=message):
        build(function.simplified, function.problem(**CALLS[function]), tile)
    # a wrong kind of thing is a TypeError of the argument, before any plan is looked at
    with pytest.raises((ValueError, TypeError), match="tile"):
        function.plan(tile=tile, **CALLS[function])


def test_with_an_offset_a_grid_is_one_sequence():
    with pytest.raises(ValueError, match="has 3 axes, expected 1 axis"):
        VIDEO.plan(**CALLS[VIDEO], q_offset=3, Lq=100, Lk=256, tile=((1, 8, 8), (1, 8, 8)))
