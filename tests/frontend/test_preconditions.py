"""`require` inside functions: what each call makes of it, and what a user sees where it does not hold."""

import re
from typing import Any

import pytest

import attndsl
from attndsl.diagnostics.report import Diagnostic, SpecError
from attndsl.diagnostics.source import Source
from attndsl.frontend.compile import compile_text
from attndsl.frontend.format import format_text
from attndsl.ir.printer import print_attention, print_expr
from attndsl.ir.reader import read_attention
from attndsl.ir.verify import verify

RECENT = """
fn recent(i, j, w) {
    let last = w - 1
    require last >= 0, "no window"
    return j <= i and i - j <= last
}
"""


def conditions(text: str) -> list[str]:
    (attention,) = compile_text(text)
    verify(attention)
    assert read_attention(print_attention(attention)) == attention
    return [print_expr(r.condition) for r in attention.requires]


def found(text: str, **consts: Any) -> tuple[Diagnostic, ...]:
    with pytest.raises(SpecError) as caught:
        attndsl.load(text, **consts)
    return caught.value.diagnostics


def test_a_call_makes_it_a_condition_on_its_arguments():
    (attention,) = compile_text(RECENT + "attention a(const w: int) { mask recent(q, k, w + 1) }")
    (require,) = attention.requires
    (written,) = compile_text("attention a(const w: int) { require w + 1 - 1 >= 0  mask true }")
    assert require.condition == written.requires[0].condition
    assert require.message == "no window"
    assert require.span.text == "recent(q, k, w + 1)"


def test_equal_ones_are_one():
    text = "attention a(const w: int) { mask recent(q, k, w) and not recent(k, q, w) and recent(q, k, 3) }"
    assert len(conditions(RECENT + text)) == 1


def test_one_for_each_component():
    text = "attention a(const w: int[2]) { grid (y, x)  mask recent(q.y, k.y, w[1]) and all(recent(q.y, k.x, w)) }"
    assert len(conditions(RECENT + text)) == 2


def test_what_the_attention_requires_itself_comes_first():
    own = "attention a(const w: int) { mask recent(q, k, w)  require w < 9  require w - 1 >= 0 }"
    assert len(conditions(RECENT + own)) == 2
    (attention,) = compile_text(RECENT + own)
    assert [r.of is None for r in attention.requires] == [True, True]


def test_functions_hand_it_on():
    text = RECENT + "fn both(i, j, w) = recent(i, j, w) or recent(j, i, w)\nattention a(const w: int) {"
    assert len(conditions(text + " feature near(w2) = both(q, k, w2)  mask near(w) }")) == 1
    (one,) = found(text + " mask both(q, k, w) }", w=0)
    assert one.span.text == "recent(i, j, w)"


def test_sizes_and_scalars_are_decided_at_the_call():
    text = """fn inside(i, j, w, n) {
        require w <= n, "too wide"
        return i - j < w
    }
    attention a(const w: int, scalar far: int) {
        grid video(t)
        mask inside(q, k, w, size(t)) and inside(q, k, far, L)
    }"""
    near = attndsl.load(text, w=5)
    assert near.plan(grid=(8,), far=8).visited
    message = r"a: in `inside` \(<text>:7:\d+\): too wide \(required: w <= n\), where w = 5, n = 4 \(size of t\)"
    with pytest.raises(ValueError, match=message):
        near.plan(grid=(4,), far=3)
    with pytest.raises(ValueError, match=r"where w = 9 \(far\), n = 8 \(L\)"):
        near.plan(grid=(8,), far=9)


def test_consts_are_decided_when_they_are_bound():
    (one,) = found(RECENT + "attention a(const w: int) { mask recent(q, k, w) }", w=0)
    assert (one.code, one.span.text, one.label) == ("E0721", "recent(q, k, w)", "w = 0")
    assert "no window" in one.message and "last >= 0" in one.help
    assert one.notes[0].span.text == 'require last >= 0, "no window"'


def test_literals_are_decided_when_the_text_is_checked():
    with pytest.raises(SpecError) as caught:
        compile_text(RECENT + "attention a(const w: int) { mask recent(q, k, 0) and k < w }")
    assert [d.code for d in caught.value.diagnostics] == ["E0721"]
    assert conditions(RECENT + "attention a { mask recent(q, k, 1) }") == []


def test_a_broken_one_has_no_consequences():
    text = 'fn f(x, d) { require d != 0, "zero"  return x % d == 0 }\nattention a(const d: int = 0) { mask f(k, d) }'
    assert [d.code for d in found(text)] == ["E0721"]
    assert [d.code for d in found(text.replace("f(k, d)", "f(k, 0)"))] == ["E0721"]


@pytest.mark.parametrize(
    ("argument", "what"),
    [
        ("q + 1", "the query's position"), ("k", "the key's position"), ("h", "the head"), ("b", "the batch"),
        ("span[0]", "a tensor"), ("q.t", "the query's position"), ("span[h] + k", "the head and the key's position"),
        ("count", "the number of keys"), ("floor(s)", "the score"), ("if q in video then 1 else 2", "query's position"),
    ],
)  # fmt: skip
def test_the_argument_that_varies_is_named(argument: str, what: str):
    clause = "weight" if argument in ("count", "floor(s)") else "mask"
    value = f"recent(q, k, {argument})" if clause == "mask" else f"if recent(q, k, {argument}) then 1 else 2"
    (one,) = found(RECENT + f"attention a(input span: i32[8]) {{ grid video(t)  {clause} {value} }}")
    assert (one.code, one.span.text) == ("E0311", argument)
    assert "`w` of `recent`" in one.message and what in one.message
    assert "`last >= 0`" in one.help


def test_only_the_arguments_that_it_speaks_of():
    text = "attention a(const w: int, input span: i32[H]) { mask recent(q + span[h], k, w) and recent(q, k, span[h]) }"
    (one,) = found(RECENT + text, w=3)
    assert one.span.text == "span[h]"


def test_a_feature_may_look_at_parameters_alone():
    text = """attention a(const w: int, scalar z: int) {
        feature f(x) { require x < w and z > 0, "m" return x }
        mask k < f(1)
    }"""
    assert len(conditions(text)) == 1
    with pytest.raises(ValueError, match=r"required: x < w and z > 0\), where x = 1, w = 3, z = 0"):
        attndsl.load(text, w=3).plan(L=8, z=0)
    for looks in ("q > x", "h < x", "Q[0] > 1", "t[0] > x", "q.y > 0"):
        wrong = (
            f"attention a(input t: i32[4]) {{ grid (y)  feature f(x) {{ require {looks} return x }} mask k < f(1) }}"
        )
        assert {d.code for d in found(wrong)} <= {"E0402", "E0304"}
    (one,) = found("attention a { feature f(x) { let y = q + x  require y > 0 return x } mask k < f(1) }")
    assert (one.code, one.span.text) == ("E0311", "f(1)")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("require x", "E0310"), ("require y > 0", "E0201"), ("require g(x)", "E0202"), ("require f(x)", "E0405"),
        ("require z > 0  let z = x", "E0201"), ("require x > Q", "E0207"), ("require x and x", "E0301"),
    ],
)  # fmt: skip
def test_wrong_conditions(body: str, code: str):
    assert [d.code for d in found(f"fn f(x) {{ {body} return x }}\nattention a {{ mask f(3) < k }}")] == [code]


def test_a_pickled_attention_still_requires():
    import pickle

    gna = attndsl.load(
        "use masks (neighborhood)\nattention a { grid (x)  mask neighborhood(q.x, k.x, size(x), 5, 1, 1, false) }"
    )
    again = pickle.loads(pickle.dumps(gna))
    with pytest.raises(ValueError, match="the window exceeds the axis"):
        again.plan(grid=(4,))


def test_formatting_keeps_places_and_comments():
    text = """fn f(x) {
    # above
    require x > 0, "m"  # behind
    let y = x + 1
    require y < 9
    return y
}
"""
    assert format_text(Source("t", text)) == text
    assert format_text(Source("t", re.sub(r"\n +", "\n", text))) == text
