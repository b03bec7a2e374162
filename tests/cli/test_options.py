"""Values of flags: what is read, and that a typo is named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attndsl.cli.options import (
    check_names,
    parse_grid,
    parse_query,
    parse_settings,
    parse_shape,
    show_extents,
    show_setting,
)
from attndsl.cli.output import CallError


def test_shape() -> None:
    assert parse_shape("B=1, H=8,L=1_048_576") == {"B": 1, "H": 8, "L": 1048576}
    assert parse_shape(None) == {}
    with pytest.raises(CallError, match="--grid 12x10"):
        parse_shape("H=2,grid=12x10")
    assert parse_shape("L=0") == {"L": 0}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty item"),
        ("B=1,,H=2", "empty item"),
        ("B", "'B' is not NAME=VALUE"),
        ("B=", "not NAME=VALUE"),
        ("=3", "not NAME=VALUE"),
        ("B=two", "--shape B: 'two' is not a whole number"),
        ("B=1.5", "not a whole number"),
        ("D=0", "not between 1 and"),
        ("L=-1", "not between 0 and"),
        ("L=2147483648", "not between"),
        ("L=" + "9" * 5000, "not between"),
        ("L=１２", "not a whole number"),
        ("B=1,B=2", "gives B twice"),
    ],
)
def test_wrong_shape(text: str, says: str) -> None:
    with pytest.raises(CallError, match=says):
        parse_shape(text)


def test_grid() -> None:
    assert parse_grid("8x24x40") == ((8, 24, 40),)
    assert parse_grid("256,8x24x40") == ((256,), (8, 24, 40))
    assert parse_grid("text=256, video=8x24x40") == {"text": (256,), "video": (8, 24, 40)}
    assert parse_grid(None) is None


@pytest.mark.parametrize("text", ["", "8x", "8x24x", "x", "8xa", "0x3", "text=", "a=1,2", "a=1,a=2", "1 2", "-3"])
def test_wrong_grid(text: str) -> None:
    with pytest.raises(CallError, match="--grid"):
        parse_grid(text)


def test_settings() -> None:
    found = parse_settings(["window=3,9,9", "strength=0.5", "causal=true,false,true", "bias=-1e-3", "w=(1, 2)"])
    assert found == {"window": (3, 9, 9), "strength": 0.5, "causal": (True, False, True), "bias": -0.001, "w": (1, 2)}


@pytest.mark.parametrize("item", ["window", "window=", "window=a", "window=3,", "window=True", "=4", "w w=3"])
def test_wrong_settings(item: str) -> None:
    with pytest.raises(CallError, match="--set"):
        parse_settings([item])


def test_set_twice() -> None:
    with pytest.raises(CallError, match="gives w twice"):
        parse_settings(["w=1", "w=2"])


def test_query() -> None:
    assert parse_query("3,5,7") == (3, 5, 7)
    with pytest.raises(CallError, match="--query"):
        parse_query("3,x")


def test_unknown_names_have_a_suggestion() -> None:
    with pytest.raises(CallError, match=r"no 'windw' \(did you mean window\?\); it has window, stride"):
        check_names(["windw"], ["window", "stride"], "--set")


numbers = st.one_of(st.booleans(), st.integers(-(2**31) + 1, 2**31 - 1), st.floats(-1e6, 1e6))


@given(st.one_of(numbers, st.lists(numbers, min_size=2, max_size=4).map(tuple)))
def test_a_shown_setting_reads_back(value: object) -> None:
    assert parse_settings([f"name={show_setting(value)}"]) == {"name": value}


@given(st.dictionaries(st.sampled_from(["text", "video", "q"]), st.lists(st.integers(1, 99), min_size=1).map(tuple)))
def test_shown_extents_read_back(extents: dict[str, tuple[int, ...]]) -> None:
    if extents:
        expected = extents if len(extents) > 1 else tuple(extents.values())
        assert parse_grid(show_extents(extents)) == expected


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (parse_shape, parse_grid, parse_query, lambda t: parse_settings([t])):
        try:
            parse(text)
        except CallError as error:
            assert str(error)
