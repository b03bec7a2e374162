"""Expressions in the language's notation."""

from __future__ import annotations

import time

from attndsl.frontend.compile import compile_text
from attndsl.ir.infix import infix


def score(text: str) -> str:
    (attention,) = compile_text(f"attention a(input w: f32[D], input t: f32[L, 3]) {{ score {text} }}")
    return infix(attention.score)


def test_brackets_stand_where_they_are_needed():
    assert score("(s + 1) * 2 - (s - (1 - s))") == "(s + 1) * 2 - (s - (1 - s))"
    for text in ("s * (q % 2)", "s * (q // 2) * 3", "s * (2 * q % 3)", "s / (q % 2)"):
        assert score(text) == text
    assert score("if q < k then s else -(s ^ 2)") == "if q < k then s else -s^2"


def test_reads():
    assert score("dot(Q, K * w) + t[k, 1]") == "dot(Q[b, h, row], K[b, hkv, k] * w) + t[k, 1]"


def test_a_long_text_is_cut_and_doubling_costs_nothing():
    functions = "\n".join(f"fn f{i}(x) = f{i - 1}(x) * f{i - 1}(x + 1)" for i in range(1, 40))
    (attention,) = compile_text(f"fn f0(x) = x + x\n{functions}\nattention a {{ score f39(s) }}")
    start = time.process_time()
    text = infix(attention.score, 500)
    assert time.process_time() - start < 1
    assert len(text) == 500 and text.endswith("…")
    assert infix(attention.score, 2000).startswith(text[:-1])
