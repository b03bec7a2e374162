"""Trees of texts: precedence, every form of the design, errors that stay where they are."""

import re
import time

import pytest
from hypothesis import given, settings

from attndsl.diagnostics.source import Source
from attndsl.frontend import tree
from attndsl.frontend.parser import parse, parse_expression, parse_type
from attndsl.frontend.tree import Binary, Call, Comparison, Conditional, Name, Number, Unary
from tests.frontend.random_trees import PROGRAMS, texts


def read(text: str) -> tree.TreeExpr:
    node, found = parse_expression(Source("t", text))
    assert node is not None, found
    return node


def good(text: str) -> tree.File:
    file, found = parse(Source("t", text))
    assert not found, found[0].render()
    return file


def codes(text: str) -> list[str]:
    return [d.code for d in parse(Source("t", text))[1]]


a, b, c, d, x = (Name(n) for n in "abcdx")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a + b * c", Binary("+", a, Binary("*", b, c))),
        ("a - b - c", Binary("-", Binary("-", a, b), c)),
        ("a * b // c % d @ x", Binary("@", Binary("%", Binary("//", Binary("*", a, b), c), d), x)),
        ("-a^b", Unary("-", Binary("^", a, b))),
        ("a^-b", Binary("^", a, Unary("-", b))),
        ("a^b^c", Binary("^", a, Binary("^", b, c))),
        ("-a * b", Binary("*", Unary("-", a), b)),
        ("a - -b", Binary("-", a, Unary("-", b))),
        ("a < b <= c", Comparison(("<", "<="), (a, b, c))),
        ("a in b", Comparison(("in",), (a, b))),
        ("a not in b", Unary("not", Comparison(("in",), (a, b)))),
        ("not a == b", Unary("not", Comparison(("==",), (a, b)))),
        ("not a and b or c", Binary("or", Binary("and", Unary("not", a), b), c)),
        ("a or b and c", Binary("or", a, Binary("and", b, c))),
        ("a == b + c", Comparison(("==",), (a, Binary("+", b, c)))),
        ("if a then b else c or d", Conditional(a, b, Binary("or", c, d))),
        ("if a then b else if c then d else x", Conditional(a, b, Conditional(c, d, x))),
        ("(a)", a),
        ("(a, b,)", tree.TupleLiteral((a, b))),
        ("f()", Call("f", ())),
        ("f(a, -1,)", Call("f", (a, Unary("-", Number(1))))),
        ("a[b, c][d].x", tree.Attribute(tree.Subscript(tree.Subscript(a, (b, c)), (d,)), "x")),
        ("true", tree.Boolean(True)),
        ("q.t", tree.Attribute(Name("q"), "t")),
        ("a @ b[c]", Binary("@", a, tree.Subscript(b, (c,)))),
    ],
)
def test_precedence(text: str, expected: tree.TreeExpr):
    assert read(text) == expected


def test_spans_are_exact():
    text = "alpha  + f( b , c ) [ d ]"
    node = read(text)
    assert isinstance(node, Binary)
    assert node.span.text == text
    assert node.left.span.text == "alpha"
    assert node.right.span.text == "f( b , c ) [ d ]"
    grouped = read("(a + b) * c")
    assert isinstance(grouped, Binary)
    assert grouped.span.text == "(a + b) * c" and grouped.left.span.text == "a + b"


def test_declarations():
    file = good("""
        use masks (causal, near,)  use "./x.attn" (far)
        fn f(q, k) = k <= q fn g() { let y = 1 return y }
        attention a(const w: int[3] = (3, 9, -9), scalar z: float, input t: f32[B, 2*w+1] sorted,
                    const e: bool = true) {
            grid q text(m) ++ (t, y)  require w > 0, "w"  require true  score s mask f(q, k) weight softmax
            feature phi(x) = x  output o
        }
        attention empty {}
    """)
    first, second = file.uses
    assert (first.module, first.is_path, first.names) == ("masks", False, ("causal", "near"))
    assert (second.module, second.is_path) == ("./x.attn", True)
    assert file.functions[1].lets == (tree.Let("y", Number(1)),)
    block = file.attentions[0]
    assert block.parameters[0].shape == (Number(3),)
    assert block.parameters[2].facts == ("sorted",) and block.parameters[2].name_span.text == "t"
    assert block.clauses[0] == tree.Grid("q", (tree.GridSegment("text", ("m",)), tree.GridSegment("", ("t", "y"))))
    assert isinstance(block.clauses[0], tree.Grid)
    assert [s.text for s in block.clauses[0].segments[1].axis_spans] == ["t", "y"]
    assert [s.text for s in file.functions[0].parameter_spans] == ["q", "k"]
    assert block.clauses[2] == tree.RequireClause(tree.Boolean(True), "")
    assert file.attentions[1].clauses == ()


def test_preconditions_stand_among_lets():
    (function,) = good('fn f(x) { let y = x require y > 0, "y" let z = y require z < 9 return z }').functions
    y, z = tree.Name("y"), tree.Name("z")
    assert function.statements == (
        tree.Let("y", tree.Name("x")),
        tree.RequireClause(tree.Comparison((">",), (y, Number(0))), "y"),
        tree.Let("z", y),
        tree.RequireClause(tree.Comparison(("<",), (z, Number(9))), ""),
    )
    assert [s.span.text for s in function.requires] == ['require y > 0, "y"', "require z < 9"]


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("fn f(x) { require x > 0 }", ["E0117"]),
        ("fn f(x) { return x require x > 0 }", ["E0117"]),
        ("attention a { feature f(x) { return x   require true   mask k <= q }", ["E0111"]),
        ("fn f(x) { require x >, return x }", ["E0110"]),
        ("fn f(x) { require x > 0, message return x }", ["E0110"]),
    ],
)
def test_wrong_preconditions(text: str, codes: list[str]):
    assert [d.code for d in parse(Source("t", text))[1]] == codes


DESIGN = """
attention relu2   { weight relu(s)^2 / count }
attention sigmoid_attention(scalar bias: float) { weight sigmoid(s + bias) }
attention cog     { mask k <= q   weight sign(s) * exp(abs(s)) / sum(exp(abs(s))) }
fn elu1(x) = elu(x) + 1
attention linear    { mask k <= q   weight dot(elu1(Q), elu1(K)) / sum }
attention retention(input gamma: f32[H]) { mask k <= q   weight dot(Q, K) * gamma[h]^(q - k) }
attention gla(input g: f32[B, Hkv, L, D] log_decay) { mask k <= q   weight dot(Q, K * decay(g)) }
attention pooled_keys { grid q (y, x)   grid k (v, u)   mask abs(q.y // 2 - k.v) <= 4 and abs(q.x // 2 - k.u) <= 4 }
"""


def test_clauses_on_one_line():
    file = good(DESIGN)
    assert [len(block.clauses) for block in file.attentions] == [1, 1, 2, 2, 2, 2, 3]


@pytest.mark.parametrize("program", PROGRAMS)
def test_library_and_examples_parse(program: str):
    good(program)


def test_each_error_once():
    text = """
attention a(const w int, scalar x: float =, input t: f32[B) {
    maks k <= q
    score s +
    mask (k <= q
    let y = = 1
    output o
}
fn f(x) { let y = 1 }
attention b { mask k <= q }
"""
    file, found = parse(Source("t", text))
    lines = [d.span.source.position(d.span.start)[0] for d in found]
    assert lines == [2, 2, 2, 3, 5, 5, 6, 9]
    assert [block.name for block in file.attentions] == ["a", "b"]
    assert file.attentions[0].clauses == (tree.Rewrite("output", Name("o")),)


@pytest.mark.parametrize("word", ["query", "key", "value", "select", "branch", "extra", "emit"])
def test_clauses_of_later_are_named(word: str):
    _, found = parse(Source("t", f"attention a {{ {word} near(Q) {{ mask 0 <= q }} mask k <= q }}"))
    assert [d.code for d in found] == ["E0114"]
    assert found[0].span.text == word


def test_reserved_word_is_said_once():
    assert codes("attention a(const value: int) { mask q - k < value  score s * value }") == ["E0113"]


def test_missing_brace_does_not_eat_the_next():
    file, found = parse(Source("t", "attention a { mask k <= q\nfn f(x) = x\nattention b { mask k <= q }"))
    assert [d.code for d in found] == ["E0111"]
    assert [f.name for f in file.functions] == ["f"] and [block.name for block in file.attentions] == ["b"]


def test_limits():
    assert codes("attention a { score " + "(" * 60 + "s" + ")" * 60 + " }") == []
    for deep in ("(" * 30000, "-" * 30000, "not " * 15000, "f(" * 20000, "x[" * 20000, "if " * 15000, "x^" * 20000):
        assert set(codes(f"attention a {{ mask {deep} }}")) == {"E0603"}
    assert codes("attention a { score " + " + ".join(["s"] * 3000) + " mask k <= q }") == ["E0603"]
    many = "let a = f(" + ", ".join(["1"] * 60) + ") "
    assert codes("attention a { " + many * 80 + "}") == ["E0604"]
    assert codes("#" * 70000) == ["E0601"]
    assert codes("$ " * 5000)[-1] == "E0605" and len(codes("$ " * 5000)) == 100


@pytest.mark.parametrize(
    "text",
    ["attention a {" + "fn " * 20000, "attention a { " + "maks mask " * 6000, "use masks (" * 5000, "mask " * 12000,
     '"' * 60000, "“" * 20000, "{" * 60000, "}" * 60000, "attention a(const " * 3000, "а" * 30000, "\n" * 60000,
     "fn f(x) { let " * 4000, "attention a { let x = " + "(" * 60000, "if then else " * 5000, "1." * 30000],
)  # fmt: skip
def test_no_text_takes_long(text: str):
    start = time.perf_counter()
    for found in parse(Source("t", text))[1]:
        found.render()
    assert time.perf_counter() - start < 5


def test_types():
    found, _ = parse_type(Source("t", "f32[B, H, 2*w + 1] log_decay sorted"))
    assert found is not None and found.base == "f32" and found.facts == ("log_decay", "sorted")
    assert parse_type(Source("t", "f32[B"))[1][0].code == "E0111"
    assert parse_type(Source("t", "f32[B] = 3"))[1][0].code == "E0110"


@given(texts)
@settings(max_examples=400, deadline=None)
def test_any_text_gives_findings_only(text: str):
    file, found = parse(Source("t", text))
    assert len(found) <= 100
    for each in found:
        assert re.fullmatch(r"E0\d{3}", each.code)
        assert 0 <= each.span.start <= each.span.stop <= len(text)
        each.render()
        each.to_json()
    if not found:
        assert parse(Source("t", text))[0] == file
