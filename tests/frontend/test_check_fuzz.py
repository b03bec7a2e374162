"""Whatever parses is either checked or reported: nothing but SpecError leaves the checker."""

from hypothesis import given, settings
from hypothesis import strategies as st

from attndsl.diagnostics.codes import CODES
from attndsl.diagnostics.report import SpecError
from attndsl.frontend.check.names import ARITY, VALUES
from attndsl.frontend.compile import compile_text
from attndsl.ir.printer import print_attention
from attndsl.ir.reader import read_attention
from attndsl.ir.verify import verify
from tests.frontend.random_trees import texts

NAMES = sorted(
    {*VALUES, "w", "c", "table", "x", "doc", "u", "W", "g", "z", "d", "video", "text", "t", "nothing"} - {"V"}
)
ONE = sorted(n for n, (least, _) in ARITY.items() if least == 1)
TWO = sorted(n for n, (least, most) in ARITY.items() if least == 2)
HEAD = """
use masks (causal, neighborhood)
fn near(i, j, n) = abs(i - j) < n
fn twice(f, y) {{ let z = f * y  return if z > 0 then z else -z }}
attention a(
    const w: int = 3, const c: bool[3] = true, const table: float[5] = 1, const e: int[3] = (1, 2, 3), scalar x: float,
    input doc: i32[B, L] sorted, input u: f32[H, D], input W: f32[H, D, M], input g: f32[B, H, L] log_decay,
    input z: bool[H],
) {{
    grid text(m) ++ video(t, y, x)
    let d = q.video - k.video
    feature phi(y) = concat(softmax(y @ W[h]), y)
    {clauses}
}}
"""
MEANINGFUL = [
    "q", "k", "s", "doc[b, q]", "doc[b, k]", "u[h]", "W[h]", "z[h]", "dot(Q, K)", "q.t", "k.video", "size(video)", "c",
    "e", "d", "w", "table[q % 5]", "k in video", "decay(g)", "sum(exp(s))", "phi(Q)", "K[b, hkv, k + 1]", "o", "count",
    "sum", "k <= q", "2", "0.5", "true", "0", "(1, 2, 3)", "H", "norm(u[h])",
]  # fmt: skip

leaves = st.one_of(st.sampled_from(MEANINGFUL), st.sampled_from(NAMES), st.integers(0, 12).map(str))


def _grow(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    binary = st.sampled_from(["+", "-", "*", "/", "//", "%", "@", "^", "and", "or", "<", "==", ">=", "in"])
    return st.one_of(
        st.tuples(inner, binary, inner).map(lambda p: f"({p[0]} {p[1]} {p[2]})"),
        st.tuples(st.sampled_from(ONE), inner).map(lambda p: f"{p[0]}({p[1]})"),
        st.tuples(st.sampled_from([*TWO, "causal", "twice"]), inner, inner).map(lambda p: f"{p[0]}({p[1]}, {p[2]})"),
        st.tuples(inner, inner, inner).map(lambda p: f"(if {p[0]} then {p[1]} else {p[2]})"),
        st.tuples(inner, inner, inner).map(lambda p: f"near({', '.join(p)})"),
        st.tuples(inner, inner, inner).map(lambda p: f"clamp({', '.join(p)})"),
        st.tuples(inner, inner).map(lambda p: f"({p[0]})[{p[1]}]"),
        st.tuples(st.sampled_from(NAMES), inner, inner).map(lambda p: f"{p[0]}[{p[1]}, {p[2]}]"),
        inner.map(lambda e: f"(-{e})"),
        inner.map(lambda e: f"(not {e})"),
        inner.map(lambda e: f"({e}).t"),
    )


expressions = st.recursive(leaves, _grow, max_leaves=8)
clauses = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["mask", "score", "weight", "output", "require"]), expressions).map(" ".join),
        st.tuples(st.sampled_from(["n1", "n2", "q1", "d"]), expressions).map(lambda p: f"let {p[0]} = {p[1]}"),
    ),
    min_size=1,
    max_size=4,
).map("\n    ".join)


def compile_any(text: str) -> None:
    try:
        made = compile_text(text)
    except SpecError as error:
        assert error.diagnostics
        for found in error.diagnostics:
            assert found.code in CODES
            assert found.render() and found.to_json()
        return
    for attention in made:
        verify(attention)
        assert read_attention(print_attention(attention)) == attention


@settings(max_examples=300, deadline=None)
@given(texts)
def test_any_text(text: str):
    compile_any(text)


@settings(max_examples=500, deadline=None)
@given(clauses)
def test_any_clauses(text: str):
    compile_any(HEAD.format(clauses=text))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["mask", "score", "weight"]), expressions)
def test_one_clause(word: str, expression: str):
    compile_any(HEAD.format(clauses=f"{word} {expression}"))
