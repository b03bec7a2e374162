"""Any Python function gives an attention or SpecError; every finding has a place inside the file."""

import linecache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attndsl.diagnostics.codes import CODES
from attndsl.diagnostics.report import SpecError
from attndsl.frontend.compile import compile_python
from attndsl.ir.verify import verify

NAME = "<a generated spec>"
LEAVES = [
    "q", "k", "s", "h", "w", "x", "t", "q.t", "k.video", "t[h]", "1", "2.5", "True", "None", "'text'", "...", "1j",
    "b''", "video", "count", "sum", "lang.pi", "λ", "(1, 2)", "[q]", "{}", "lambda: q", "(yield)", "f'{q}'", "10**400",
    "9" * 400, "1e999", "()", "*q", "q[1:2]", "(z := q)", "[i for i in q]", "size('video')", "size(video)",
]  # fmt: skip


def _grow(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    binary = st.sampled_from(["+", "**", "//", "%", "@", "^", "&", "<<", "and", "or", "<", "==", "in", "not in", "is"])
    call = st.sampled_from(
        ["exp", "lang.tanh", "softmax", "causal", "neighborhood", "near", "print", "q.t", "min", "phi"]
    )
    return st.one_of(
        st.tuples(inner, binary, inner).map(lambda p: f"({p[0]} {p[1]} {p[2]})"),
        st.tuples(st.sampled_from(["-", "not ", "~", "+"]), inner).map(lambda p: f"({p[0]}{p[1]})"),
        st.tuples(inner, inner, inner).map(lambda p: f"({p[0]} if {p[1]} else {p[2]})"),
        st.tuples(call, st.lists(inner, max_size=3)).map(lambda p: f"{p[0]}({', '.join(p[1])})"),
        st.tuples(inner, inner).map(lambda p: f"softmax({p[0]}, where={p[1]})"),
        st.tuples(inner, inner).map(lambda p: f"({p[0]})[{p[1]}]"),
        inner.map(lambda e: f"({e}).y"),
    )


expressions = st.recursive(st.sampled_from(LEAVES), _grow, max_leaves=8)
statements = st.one_of(
    expressions,
    expressions.map(lambda e: f"return {e}"),
    st.tuples(st.sampled_from(["y", "z", "w", "a.b", "(a, b)", "c = d", "y: int"]), expressions).map(" = ".join),
    expressions.map(lambda e: f"assert {e}, 'message'"),
    expressions.map(lambda e: f"assert {e}, {e}"),
    expressions.map(lambda e: f"mask({e})"),
    expressions.map(lambda e: f"weight({e})"),
    expressions.map(lambda e: f"def phi(x, y): return {e}"),
    expressions.map(lambda e: f"for i in {e}: pass"),
    st.sampled_from([
        "video = grid('video(t, y, x)')", "grid('q (y, x)')", "grid('é(')", "grid(3)", "pass", "import os", "y += 1",
        "global q", "del q", "class C: pass", "def phi(): pass", "def phi(*a): return 1", "text, video = grid('a(b)')",
        "raise q", "with q: pass", "while q: pass", "'doc'", "score(s, s)", "return", "output(o)",
    ]),
)  # fmt: skip
defaults = st.sampled_from([
    "const(3)", "const('int[3]', 1)", "const((1, 2.5, True))", "const(())", "scalar('é')", "scalar(-1.5)", "tensor()",
    "tensor('f32[H, D]')", "tensor(\"f32[H\")", "tensor('f32' '[H]')", "tensor('''f32[\\n H]''')", "tensor(H)", "3",
    "const(default=3)", "const('int', x=3)", "lang.const(1)", "const(q)", "const('int[3]', (1, 2))", "tensor('f32[Q]')",
])  # fmt: skip


@st.composite
def functions(draw: st.DrawFn) -> str:
    """The text of a module with one function."""
    symbols = draw(st.lists(st.sampled_from(["q", "k", "s", "h", "o", "é", "alpha"]), max_size=4, unique=True))
    parameters = "".join(f", {n}={draw(defaults)}" for n in draw(st.sampled_from([(), ("w",), ("w", "t"), ("x",)])))
    head = ", ".join(symbols) + (("*" if not symbols else ", *") + parameters if parameters else "")
    body = draw(st.lists(statements, min_size=1, max_size=4))
    return f"# ünï\ndef a({head}):\n    " + "\n    ".join(body) + "\n"


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
@settings(max_examples=400, deadline=None)
@given(functions())
def test_any_function(text: str):
    stubs: dict[str, Any] = dict.fromkeys(("const", "scalar", "tensor"), lambda *a, **k: None)
    stubs |= {"lang": type("lang", (), {"const": lambda *a: None}), "q": 1, "H": 1}
    try:
        code = compile(text, NAME, "exec")
    except SyntaxError:
        return
    linecache.cache[NAME] = (len(text), None, text.splitlines(keepends=True), NAME)
    exec(code, stubs)
    try:
        verify(compile_python(stubs["a"]))
    except SpecError as error:
        assert error.diagnostics
        for found in error.diagnostics:
            assert found.code in CODES and found.render()
            assert found.span.source.name == NAME and 0 <= found.span.start <= found.span.stop <= len(text)
