"""Tokens: what is one, what is none, and what is said about it."""

import pytest
from hypothesis import given, settings

from attndsl.diagnostics.source import Source
from attndsl.frontend.lexer import LATER_WORDS, RESERVED, Kind, tokenize
from tests.frontend.random_trees import texts


def values(text: str) -> list[object]:
    lexed = tokenize(Source("t", text))
    assert lexed.diagnostics == ()
    return [t.value for t in lexed.tokens[:-1]]


def codes(text: str) -> list[str]:
    return [d.code for d in tokenize(Source("t", text)).diagnostics]


def test_words_are_longest():
    assert values("k <= q orange") == ["k", "<=", "q", "orange"]
    assert values("qk q k queryx") == ["qk", "q", "k", "queryx"]


def test_positions_are_tokens_of_their_own():
    kinds = [t.kind for t in tokenize(Source("t", "q k h mask")).tokens]
    assert kinds == [Kind.INDEX, Kind.INDEX, Kind.NAME, Kind.WORD, Kind.END]


def test_all_clause_words_are_reserved():
    assert {"query", "key", "value", "select", "branch", "extra", "emit"} == set(LATER_WORDS)
    assert {"grid", "let", "require", "score", "mask", "weight", "output", "feature"} < RESERVED


def test_newlines_mean_nothing():
    assert values("mask\nk\r\n<=\n\tq") == values("mask k <= q")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("16", 16), ("1_000", 1000), ("0.5", 0.5), (".5", 0.5), ("1.", 1.0), ("1e-6", 1e-6), ("2147483647", 2**31 - 1),
     ("007", 7)],
)  # fmt: skip
def test_numbers(text: str, expected: float):
    (value,) = values(text)
    assert value == expected and type(value) is type(expected)


@pytest.mark.parametrize("text", ["2s", "0x1F", "1.2.3", "1__0", "1_", "1e", "1.x", "3abc"])
def test_malformed_numbers(text: str):
    assert codes(text) == ["E0106"]


@pytest.mark.parametrize("text", ["2147483648", "9" * 60000, "1e999"])
def test_large_numbers(text: str):
    assert codes(text) == ["E0602"]


def test_text():
    assert values(r'"a \"b\" \\ \n"') == ['a "b" \\ \n']
    assert codes('"a\nb') == ["E0107"]
    assert codes('"a\\') == ["E0107"]
    assert codes(r'"\x"') == ["E0108"]


@pytest.mark.parametrize(
    ("text", "meant"),
    [("а", "a"), ("−", "-"), ("≤", "<="), ("≠", "!="), ("１６", 1), ("（", "("), ("“m”", "m"), ("'m'", "m"),
     ("∧", "and"), ("×", "*"), ("ｑ", "q"), ("mаѕk", "mask"), ("𝑞", "q")],
)  # fmt: skip
def test_look_alikes_are_named_and_understood(text: str, meant: object):
    lexed = tokenize(Source("t", text))
    assert [d.code for d in lexed.diagnostics] == ["E0103"]
    assert lexed.tokens[0].value == meant


def test_spaces_that_are_not():
    assert codes("k\u00a0<= q") == ["E0103"]
    assert codes("k\u200b <= q") == ["E0104"]
    assert codes("k\x00 <= q") == ["E0104"]
    assert codes("# \u202e") == ["E0104"]
    assert codes("k <= q\r\n") == []
    assert codes("k <=\rq") == ["E0104"]


def test_comments():
    lexed = tokenize(Source("t", "# own é\nk # behind\n  # own too"))
    assert [(c.text, c.own_line) for c in lexed.comments] == [
        ("# own é", True),
        ("# behind", False),
        ("# own too", True),
    ]


@given(texts)
@settings(max_examples=300, deadline=None)
def test_any_text_is_covered(text: str):
    """Tokens and comments stand in order, do not overlap, and what is outside them is white space or reported."""
    lexed = tokenize(Source("t", text))
    parts = sorted([(t.start, t.stop) for t in lexed.tokens] + [(c.start, c.stop) for c in lexed.comments])
    reported = {i for d in lexed.diagnostics for i in range(d.span.start, d.span.stop)}
    at = 0
    for start, stop in parts:
        gap = range(at, start)
        assert all(text[i] in " \t\n\r;" or i in reported or lexed.diagnostics for i in gap)
        at = max(at, stop)
    assert lexed.tokens[-1].kind is Kind.END
    for found in lexed.diagnostics:
        assert 0 <= found.span.start <= found.span.stop <= len(text)
        found.render()
