"""Decorated Python functions: the trees of the equivalent texts, and errors that point into the Python file."""

import linecache
import os
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attndsl import lang
from attndsl.diagnostics.codes_python import PYTHON_CODES
from attndsl.diagnostics.report import Diagnostic, SpecError
from attndsl.frontend.compile import compile_python, compile_text
from attndsl.frontend.modules import program_from_text
from attndsl.frontend.python import read_function
from tests.frontend.python_specs import good

EQUIVALENT = {
    "alibi_window": """
        attention alibi_window(const window: int = 1024, scalar strength: float = 1.0, input slope: f32[H]) {
            score s - strength * slope[h] * (q - k)
            mask k <= q and q - k < window
        }""",
    "gna": """
        use masks (neighborhood)
        attention gna(const window: int[3], const stride: int[3] = 1,
                      const dilation: int[3] = 1, const causal: bool[3] = false) {
            require all(stride <= window), "stride exceeds window"
            grid video(t, y, x)
            mask all(neighborhood(q.video, k.video, size(video), window, stride, dilation, causal))
        }""",
    "documents": "attention documents(input doc: i32[B, L] sorted) { mask doc[b, q] == doc[b, k] and k <= q }",
    "duo": """
        attention duo(input full: bool[H], const sink: int = 64, const recent: int = 256) {
            mask k <= q and (full[h] or k < sink or q - k < recent)
        }""",
    "sink_gated": """
        attention sink_gated(input z: f32[H], input g: f32[B, H, Lq]) {
            mask k <= q
            weight exp(s) / (exp(z[h]) + sum)
            output o * sigmoid(g[b, h, q])
        }""",
    "relu2": "attention relu2 { weight relu(s)^2 / count }",
    "sigmoid_attention": "attention sigmoid_attention(scalar bias: float) { weight sigmoid(s + bias) }",
    "linear": """
        use features (elu1)
        attention linear { mask k <= q   weight dot(elu1(Q), elu1(K)) / sum }""",
    "gla": "attention gla(input g: f32[B, Hkv, L, D] log_decay) { mask k <= q   weight dot(Q, K * decay(g)) }",
    "hedgehog": """
        attention hedgehog(input W: f32[H, D, M]) {
            feature phi(x) { let y = x @ W[h]  return concat(softmax(y), softmax(-y)) }
            mask k <= q
            weight dot(phi(Q), phi(K)) / sum
        }""",
    "bounded": """
        attention bounded(const window: int = 4) {
            feature near(d) {
                let most = window - 1
                require most >= 0, "no window"
                require window <= Lk
                return d >= 0 and d <= most
            }
            mask near(q - k)
        }""",
    "joint": """
        attention joint(const window: int[3] = (3, 9, 9)) {
            grid text(m) ++ video(t, y, x)
            let far = not (q in video and k in video)
            score s * (if q not in text then 2 else 1)
            mask far or all(abs(q.video - k.video) <= window // 2)
        }""",
    "pooled_keys": """
        attention pooled_keys {
            grid q (y, x)
            grid k (v, u)
            mask abs(q.y // 2 - k.v) <= 4 and abs(q.x // 2 - k.u) <= 4
        }""",
    "dotted": """
        attention dotted(const far: float = -1.5, const flags: bool[2] = (true, false)) {
            let near = 0 <= q - k < 9
            score tanh(s) * pi + min(far, 0.5)
            mask near or any(flags)
        }""",
}


@pytest.mark.parametrize("name", EQUIVALENT)
def test_the_tree_is_that_of_the_text(name: str):
    function = getattr(good, name)
    text = program_from_text(EQUIVALENT[name])
    assert read_function(function).file == text.file
    assert (compile_python(function),) == compile_text(EQUIVALENT[name])


def test_a_function_is_not_executed():
    def burns(q, k, s, *, w=lang.const(3)):
        return softmax(s, where=(q - k) // w == undefined(q))  # noqa: F821

    with pytest.raises(SpecError):
        compile_python(burns)


counter = 0


def define(body: str, tmp_path: Path, head: str = "") -> Callable[..., Any]:
    """Write a module with a function `a`, and import it."""
    global counter
    counter += 1
    path = tmp_path / f"spec_{counter}.py"
    imports = "from attndsl.lang import const, scalar, tensor\n"
    text = imports + head + textwrap.dedent(body).strip("\n") + "\n"
    path.write_text(text, encoding="utf-8")
    scope: dict[str, Any] = {}
    exec(compile(text, str(path), "exec"), scope)
    linecache.checkcache(str(path))
    return scope["a"]


def found(body: str, tmp_path: Path, head: str = "") -> tuple[Diagnostic, ...]:
    with pytest.raises(SpecError) as caught:
        compile_python(define(body, tmp_path, head))
    assert all(d.render() for d in caught.value.diagnostics)
    return caught.value.diagnostics


def at(diagnostic: Diagnostic) -> str:
    return diagnostic.span.text


WRONG = {
    "a positional parameter": ("def a(q, k, window): return softmax(s)", "E0802", "window"),
    "a default of a symbol": ("def a(q=1): return softmax(q)", "E0802", "1"),
    "star arguments": ("def a(*rest): pass", "E0802", "rest"),
    "an undeclared parameter": ("def a(q, k, *, w): return weight(q - k)", "E0803", "w"),
    "a plain default": ("def a(q, k, *, w=3): return weight(q - k)", "E0803", "3"),
    "a type that does not parse": ('def a(s, *, w=tensor("f32[H")): return weight(s)', "E0111", "["),
    "an unknown type": ('def a(s, *, w=const("i32")): return weight(s)', "E0307", "i32"),
    "a global": ("def a(q, k, s): return softmax(s, where=q - k < WINDOW)", "E0804", "WINDOW"),
    "an unlisted symbol": ("def a(q, k): return softmax(s, where=k <= q)", "E0804", "s"),
    "another function": ("def a(q, k): return weight(near(q, k))", "E0804", "near"),
    "a misspelt function": ("def a(s): return sigmoyd(s)", "E0202", "sigmoyd"),
    "bit operators": ("def a(q, k, s): return softmax(s, where=(k <= q) & (q - k < 8))", "E0805", "&"),
    "a power by ^": ("def a(s): return s ^ 2", "E0805", "^"),
    "a loop": ("def a(s):\n    for i in s: pass\n    return weight(s)", "E0805", "for"),
    "an if statement": ("def a(s):\n    if s: pass\n    return weight(s)", "E0805", "if"),
    "overwriting": ("def a(s):\n    s += 1\n    return weight(s)", "E0805", "s += 1"),
    "a lambda": ("def a(s): return weight(s + (lambda: 1))", "E0805", "lambda: 1"),
    "a list": ("def a(s): return weight([s])", "E0805", "[s]"),
    "a slice": ("def a(s, *, t=tensor('f32[L]')): return weight(t[1:2])", "E0805", "1:2"),
    "is": ("def a(q, k, s): return softmax(s, where=q is k)", "E0805", "q is k"),
    "text": ("def a(s): return weight(s + 'x')", "E0805", "'x'"),
    "a lost value": ("def a(s):\n    s + 1\n    return weight(s)", "E0805", "s + 1"),
    "named arguments": ("def a(s): return exp(x=s)", "E0806", "x=s"),
    "where inside": ("def a(q, s): return weight(exp(s, where=q > 0) * 2)", "E0806", "where=q > 0"),
    "a grid that does not parse": ("def a(s):\n    g = grid('g(y,, x)')\n    return weight(s)", "E0110", ","),
    "a grid of other names": ("def a(s):\n    g = grid('f(y, x)')\n    return weight(s)", "E0803", "'f(y, x)'"),
    "clauses in a grid": ("def a(s):\n    grid('f(y)  mask true')\n    return weight(s)", "E0803", "'f(y)  mask true'"),
    "a wrong type": ("def a(q, k): return softmax(k <= q)", "E0310", "k <= q"),
    "a shadowed name": ("def a(s):\n    x = s\n    x = 2\n    return weight(x)", "E0206", "x"),
    "deep nesting": ("def a(s): return weight(" + "-" * 90 + "s)", "E0603", "-" * 26 + "s"),
    "after letters outside ASCII": ("def a(s): x = 'äöü'; return weight(s + oops)", "E0201", "oops"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong(name: str, tmp_path: Path):
    body, code, place = WRONG[name]
    head = "WINDOW = 3\ndef near(q, k): pass\n"
    matching = [d for d in found(body, tmp_path, head) if d.code == code]
    assert place in [at(d) for d in matching]
    diagnostic = next(d for d in matching if at(d) == place)
    assert diagnostic.span.source.name.startswith(str(tmp_path))
    line, column = diagnostic.span.source.position(diagnostic.span.start)
    written = Path(diagnostic.span.source.name).read_text(encoding="utf-8").split("\n")
    assert written[line - 1][column - 1 :].startswith(place)


def test_all_errors_at_once(tmp_path: Path):
    body = """
        def a(q, k, *, w=const(1.5)):
            x = far + 1
            y = q % 0
            return softmax(z, where=q & k)
    """
    assert [d.code for d in found(body, tmp_path)] == ["E0201", "E0701", "E0201", "E0805"]


def test_an_async_function(tmp_path: Path):
    assert [d.code for d in found("async def a(s): return weight(s)", tmp_path)] == ["E0805"]


def test_decorators_methods_and_indentation(tmp_path: Path):
    body = """
        def twice(f): return f
        class C:
            @twice
            @(lambda f: f)
            def a(q, k, s, *, w=const(4)):
                '''Words.'''
                d: int = q - k
                pass
                return softmax(s, where=d < w)
        a = C.a
    """
    (text,) = compile_text("attention a(const w: int = 4) { let d = q - k  mask d < w }")
    assert compile_python(define(body, tmp_path)) == text


def test_without_a_source():
    scope: dict[str, Any] = {}
    exec("def a(q, k, s): return softmax(s, where=k <= q)", scope)
    with pytest.raises(SpecError, match=r"E0801.*`a`"):
        compile_python(scope["a"])
    with pytest.raises(SpecError, match="lambda"):
        compile_python(lambda q, k: k <= q)


def test_a_file_that_changed(tmp_path: Path):
    function = define("def a(s): return weight(s)", tmp_path)
    path = Path(function.__code__.co_filename)
    for text in ("\n\n\n\ndef a(s): return weight(s)\n", "def a(s:\n", ""):
        path.write_text(text)
        linecache.checkcache(str(path))
        with pytest.raises(SpecError, match="E0801"):
            compile_python(function)


def test_what_is_no_function():
    with pytest.raises(TypeError, match="not int"):
        compile_python(3)  # type: ignore[arg-type]


def test_words_outside_a_spec():
    with pytest.raises(lang.OutsideSpecError, match="softmax"):
        lang.softmax(1)
    with pytest.raises(lang.OutsideSpecError):
        lang.pi + 1
    with pytest.raises(lang.OutsideSpecError):
        lang.sum(lang.count)
    assert "f32[H]" in repr(lang.tensor("f32[H]"))


def test_every_word_of_the_language_is_importable():
    from attndsl.frontend.check.names import ARITY
    from attndsl.frontend.library import library_functions
    from attndsl.frontend.python_expressions import IMPORTED

    assert [n for n in (*ARITY, *library_functions(), *IMPORTED) if not hasattr(lang, n)] == []


@pytest.mark.parametrize("code", PYTHON_CODES)
def test_rendering(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What a user sees, letter by letter; UPDATE_SNAPSHOTS=1 writes it anew."""
    monkeypatch.chdir(tmp_path)
    wrong = PYTHON_CODES[code].wrong.replace("@attndsl.attention\n", "")
    Path("spec.py").write_text(wrong.replace("import attndsl\n", ""), encoding="utf-8")
    linecache.checkcache("spec.py")
    scope: dict[str, Any] = {}
    source = wrong.replace("@attndsl.attention\\n", "") if code == "E0801" else Path("spec.py").read_text()
    exec(compile(source, "spec.py", "exec"), scope)
    with pytest.raises(SpecError) as caught:
        compile_python(scope["a"])
    shown = str(caught.value) + "\n"
    expected = Path(__file__).parents[1] / "bad" / f"{code}_python.txt"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        expected.write_text(shown, encoding="utf-8")
    assert shown == expected.read_text(encoding="utf-8")


@pytest.mark.parametrize("code", sorted(PYTHON_CODES.keys() - {"E0801"}))
def test_explained_examples(code: str, tmp_path: Path):
    def module(text: str) -> Callable[..., Any]:
        head, _, body = text.partition("@attndsl.attention\n")
        return define(body, tmp_path, head.replace("import attndsl\n", ""))

    info = PYTHON_CODES[code]
    with pytest.raises(SpecError) as caught:
        compile_python(module(info.wrong))
    assert {d.code for d in caught.value.diagnostics} == {code}
    assert compile_python(module(info.right))
