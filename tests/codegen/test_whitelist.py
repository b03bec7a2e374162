"""Generated code is refused unless it is straight-line calls of known names."""

from __future__ import annotations

import pytest

from attndsl.codegen.whitelist import UnsafeCodeError, check_generated

GOOD = 'def mask(q, k):\n    """Doc."""\n    x0 = q - k\n    return (x0 < 4) & modulo(k, 2)\n'


def test_accepts_what_generators_write() -> None:
    check_generated(GOOD, {"modulo"})


@pytest.mark.parametrize(
    "body",
    [
        "import os", "return q.data", "return __import__('os')", "return (lambda: 1)()", "return [x for x in q]",
        "return q[0]", "return modulo(q, k=1)", "return unknown", "return modulo", "modulo(q, k)", "return 'text'",
        "modulo = q", "return q(k)", "global q", "return q if k else q", "while q: pass", "x = y = eval(q)",
    ],
)  # fmt: skip
def test_refuses(body: str) -> None:
    with pytest.raises(UnsafeCodeError):
        check_generated(f"def mask(q, k):\n    {body}\n    return q\n", {"modulo"})


@pytest.mark.parametrize(
    "text", ["x = 1\n", "def f(q=modulo(1, 2)):\n    return q\n", "@modulo\ndef f(q):\n    return q\n",
             "def f(modulo):\n    return modulo\n", "def f(*q):\n    return q\n"],
)  # fmt: skip
def test_refuses_other_definitions(text: str) -> None:
    with pytest.raises(UnsafeCodeError):
        check_generated(text, {"modulo"})
