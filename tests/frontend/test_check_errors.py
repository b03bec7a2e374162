"""What the checker finds: independent errors, each once, at its place, without consequences; limits, no hang."""

import time

import pytest

from attndsl.diagnostics.codes_check import CHECK_CODES
from attndsl.diagnostics.report import Diagnostic, SpecError
from attndsl.frontend import tree
from attndsl.frontend.check import check
from attndsl.frontend.compile import compile_text
from attndsl.frontend.modules import Program, Scope, program_from_text

TEXT_CODES = sorted(c for c in CHECK_CODES if not c.startswith("E08"))


def found(text: str) -> tuple[Diagnostic, ...]:
    with pytest.raises(SpecError) as caught:
        compile_text(text)
    return caught.value.diagnostics


def codes(text: str) -> list[str]:
    return [d.code for d in found(text)]


@pytest.mark.parametrize("code", TEXT_CODES)
def test_wrong_example_gives_its_code_alone(code: str):
    assert {d.code for d in found(CHECK_CODES[code].wrong)} == {code}


@pytest.mark.parametrize("code", TEXT_CODES)
def test_right_example_compiles(code: str):
    assert compile_text(CHECK_CODES[code].right)


def test_all_errors_of_a_file_at_once():
    text = """
        fn f(x) = y
        attention a(input z: f33[H]) { mask far  score s + bool_name  weight exp(s) / summ }
        attention b { mask q + k  mask }
    """
    assert codes(text) == ["E0201", "E0307", "E0201", "E0201", "E0201", "E0310", "E0112"]


def test_an_error_has_no_consequences():
    assert codes("attention a { let d = nothing  let e = d + 1  mask e < 3 and all(e)  score s * e }") == ["E0201"]
    assert codes("attention a(input t: g32[L]) { mask t[q] < 3  score s + t[k, 4] }") == ["E0307"]
    assert codes("attention a { grid video(t, t)  mask q.video < 3 and size(video) < 1 and k in video }") == ["E0206"]
    assert codes("fn f(x) = x + oops\nattention a { mask f(q) < 3 and f(k) < f(3) }") == ["E0201"]
    assert codes("fn f(x) = f(x)\nattention a { mask f(q) < 3 and f(k) < f(3) }") == ["E0405"]


def test_a_refused_name_is_not_reported_where_it_is_used():
    assert codes("attention a(const K: int = 2) { mask q - k < K }") == ["E0204"]
    assert codes("attention a { let h = q > k  mask h }") == ["E0204"]
    assert codes("attention a(input t: f32[2 * M]) { score s + M }") == ["E0201"]


def test_a_wrong_body_is_reported_once_however_often_it_is_called():
    assert codes("fn f(x) = x and x\nattention a { mask f(q)  mask f(k)  score f(s) }") == ["E0301"]


def test_the_library_is_never_blamed():
    (one,) = found("use masks (neighborhood)\nattention a { mask neighborhood(q, k, s > 0, 3, 1, 1, false) }")
    assert one.code == "E0402"
    (one,) = found("use masks (swin_wrapped)\nattention a { mask swin_wrapped(q, k, 0, 4, 2) }")
    assert one.code == "E0701"
    assert one.span.text == "swin_wrapped(q, k, 0, 4, 2)"
    assert "swin_wrapped" in one.message and "n: an int" in one.help


def test_the_call_that_leads_to_an_error_is_named():
    (one,) = found("fn f(x) = x // 2\nattention a { score f(s) }")
    assert one.span.text == "x"
    assert one.notes[0].span.text == "f(s)"


@pytest.mark.parametrize(
    ("text", "help_"),
    [
        ("attention a(const windw: int = 3) { mask k < window }", "`windw`"),
        ("attention a { score dot(K, Q_) }", "`Q`"),
        ("attention a { mask causal(q, k) }", "use masks (causal)"),
        ("attention a(const slope: float = 1.0) { score s * slope[h] }", "input slope: f32"),
        ("attention a(input slope: f32[H]) { score s * slope }", "slope[h]"),
        ("attention a { grid video(t, y, x)  mask abs(q.video - k.video) < 3 }", "all(...)"),
        ("attention a { let d = q - k  let count = 3 }", "`number`"),
        ("attention a { score s * (q < k) }", "if c then 1 else 0"),
    ],
)
def test_help(text: str, help_: str):
    assert help_ in found(text)[0].help + found(text)[0].message


def test_lets_may_not_hide_and_clauses_may_not_repeat():
    one = found("attention a { weight exp(s)  weight s }")[0]
    assert one.notes[0].span.text == "weight exp(s)"
    one = found("attention a(const d: int = 1) { let d = 3 }")[0]
    assert one.notes[0].span.text == "d"


def test_functions_see_only_what_they_may():
    assert codes("fn f() = H\nattention a { score s }") == ["E0207"]
    assert codes("attention a { score phi(s)  feature phi(x) = x }") == ["E0202"]
    assert codes("attention a { feature phi(x) = phi(x) }") == ["E0202"]
    assert codes("attention a(const w: int = 2) { feature f(w) = w }") == ["E0206"]


def doubling(levels: int, first: str = "x + 1") -> str:
    lines = [f"fn f0(x) = {first}"]
    lines += [f"fn f{i}(x) = f{i - 1}(x) * f{i - 1}(x + {i})" for i in range(1, levels)]
    return "\n".join(lines) + f"\nattention a {{ mask f{levels - 1}(q) < 3 }}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (doubling(40), "E0611"),
        ("\n".join(f"fn g{i}(x) = g{i + 1}(x) + 1" for i in range(300)) + "\nfn g300(x) = x\n"
         "attention a { mask g0(q) < 3 }", "E0612"),
        ("attention a { " + "\n".join(f"let a{i} = {f'a{i - 1}' if i else 'q'} + k" for i in range(500))
         + " mask a499 < 3 }", "E0612"),
        ("attention a { " + " ".join("score s * s + 1" for _ in range(300)) + " }", "E0612"),
        ("attention a(" + ",".join(f"const c{i}: int = 1" for i in range(3000)) + ") { mask q < k }", ""),
    ],
)  # fmt: skip
def test_limits_are_reported_quickly(text: str, expected: str):
    start = time.perf_counter()
    if expected:
        assert set(codes(text)) == {expected}
    else:
        compile_text(text)
    assert time.perf_counter() - start < 5


def test_shared_calls_cost_nothing():
    text = "fn f0(x) = x * 3\n" + "\n".join(f"fn f{i}(x) = f{i - 1}(x) + f{i - 1}(x)" for i in range(1, 60))
    start = time.perf_counter()
    assert compile_text(text + "\nattention a { mask f59(q) < 3 }")
    assert time.perf_counter() - start < 2


def test_constant_folding_of_shared_parts_is_linear():
    lets = " ".join(f"let a{i} = {f'a{i - 1}' if i else '1'} - {f'a{i - 1}' if i else '1'}" for i in range(60))
    assert codes(f"attention a {{ {lets}  mask q % a59 == 0 }}") == ["E0701"]


def test_trees_built_by_hand():
    source = program_from_text("").scope.source
    value = tree.Binary("+", tree.Name("s"), tree.Number(1))
    block = tree.AttentionBlock("a", (), (tree.Rewrite("score", value),))
    made, wrong = check(Program(tree.File((), (), (block,)), Scope(source)))
    assert not wrong and len(made) == 1
    deep: tree.TreeExpr = tree.Name("s")
    for _ in range(5000):
        deep = tree.Unary("-", deep)
    block = tree.AttentionBlock("a", (), (tree.Rewrite("score", deep),))
    made, wrong = check(Program(tree.File((), (), (block,)), Scope(source)))
    assert not made and [d.code for d in wrong] == ["E0612"]


@pytest.mark.parametrize(
    ("text", "at", "help_"),
    [
        ("attention a { output o - mean(V * s) }", "mean(V * s)", "once per row"),
        ("attention a(input z: float32[H]) { score s * z[h] }", "float32", "`f32`"),
        ("attention a(input z: i32[L] srted) { mask z[q] == z[k] }", "srted", "`sorted`"),
        ("attention a(input z: f32(H)) { score s * z[h] }", "(", "`f32[...]`"),
        ("attention a { mask: k <= q }", ":", "without `:`"),
        ("attention a { let d: int = q - k mask d > 0 }", ":", "no type"),
        ("attention a { score dot(q, K) }", "q", "`Q`"),
        ("attention a { weight softmax(s) }", "s", "`weight softmax`"),
        ("attention a(input z: f32[L, 3]) { let y = z[k] score s * y[0] }", "y[0]", "`z[k, 0]`"),
        ("attention a(input z: f32[L]) { score s * z[k, 0] }", "z[k, 0]", ""),
    ],
)
def test_one_finding_at_its_place_with_a_suggestion(text: str, at: str, help_: str):
    (finding,) = found(text)
    assert finding.span.text == at
    assert help_ in finding.help
