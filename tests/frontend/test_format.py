"""Canonical text: the same meaning, the same comments, and stable."""

import re

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from attndsl.diagnostics.report import SpecError
from attndsl.diagnostics.source import Source
from attndsl.frontend import limits, tree
from attndsl.frontend.format import format_text, print_tree
from attndsl.frontend.lexer import tokenize
from attndsl.frontend.parser import parse, parse_expression
from attndsl.frontend.printer import print_expression
from tests.frontend.random_trees import PROGRAMS, expressions, files


def formatted(text: str) -> str:
    return format_text(Source("t", text))


@pytest.mark.parametrize("program", PROGRAMS)
def test_library_and_examples_are_canonical(program: str):
    assert formatted(program) == program


def test_layout():
    text = """
# head
use masks (causal)
use   "./x.attn"(near,)
attention relu2   { weight relu(s)^2/count } # behind
fn f(x)=x+1
fn g(x) { let y = x # first


  # own
  return (y) # last
}
attention a(const w:int[3]=(1,2,-3), # w

    # v
    const v:bool=false
    # end
  ) { # body
    grid text(m)++video(t,y,x)
    require (w>0), "say \\"w\\""

    mask not (q in video and k in video) or
      # inside
      all(near(q.video, k.video, w))
    feature phi(x) { let z = x return z }
    # nothing more
}
# fin
"""
    assert (
        formatted(text)
        == """\
# head
use masks (causal)
use "./x.attn" (near)

attention relu2 {
    weight relu(s)^2 / count
}  # behind

fn f(x) = x + 1

fn g(x) {
    let y = x  # first

    # own
    return y  # last
}

attention a(
    const w: int[3] = (1, 2, -3),  # w

    # v
    const v: bool = false,
    # end
) {
    # body
    grid text(m) ++ video(t, y, x)
    require w > 0, "say \\"w\\""

    # inside
    mask not (q in video and k in video) or all(near(q.video, k.video, w))
    feature phi(x) {
        let z = x
        return z
    }
    # nothing more
}
# fin
"""
    )


def test_long_lines_break_at_the_loosest_operator():
    conjunct = "some_function(argument, another) == " + "x" * 20
    assert formatted(f"attention a {{ mask {conjunct} and {conjunct} and not {conjunct} }}") == (
        f"attention a {{\n    mask {conjunct}\n        and {conjunct}\n        and not {conjunct}\n}}\n"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("((a))+(b*c)", "a + b * c"), ("(a+b)*c", "(a + b) * c"), ("a-(b-c)", "a - (b - c)"), ("(a-b)-c", "a - b - c"),
        ("(-a)^b", "(-a)^b"), ("-(a^b)", "-a^b"), ("(a^b)^c", "(a^b)^c"), ("a^(b^c)", "a^b^c"), ("a^(-b)", "a^-b"),
        ("-(-a)", "-(-a)"), ("not(a in b)", "a not in b"), ("not (a and b)", "not (a and b)"),
        ("(a < b) == c", "(a < b) == c"), ("(not a) == b", "(not a) == b"), ("1_000", "1_000"), ("1e-6", "1e-6"),
        ("(if a then b else c) + 1", "(if a then b else c) + 1"), ("f((a, b))", "f((a, b))"), ("(1)[a]", "(1)[a]"),
        ("a and (b and c)", "a and (b and c)"),
    ],
)  # fmt: skip
def test_fewest_parentheses(text: str, expected: str):
    node, _ = parse_expression(Source("t", text))
    assert node is not None
    assert print_expression(node) == expected


def test_wrong_text_is_not_formatted():
    with pytest.raises(SpecError):
        formatted("attention a { maks k <= q }")


def test_empty():
    assert formatted("") == ""
    assert formatted("\n\n# only\n\n\n# comments\n") == "# only\n\n# comments\n"


def test_other_line_ends():
    assert formatted("# a\r\nattention a {  # b\r\n\r\n    mask k <= q\r\n}\r\n") == (
        "# a\nattention a {\n    # b\n\n    mask k <= q\n}\n"
    )


@given(expressions)
@settings(max_examples=150, deadline=None)
def test_expressions_come_back(node: tree.TreeExpr):
    text = print_expression(node)
    back, found = parse_expression(Source("t", text))
    assume(not any(d.code == "E0603" for d in found))
    assert back == node, text


@given(files)
@settings(max_examples=50, deadline=None)
def test_files_come_back(file: tree.File):
    text = print_tree(file)
    assume(len(text) < limits.SOURCE_BYTES)
    back, found = parse(Source("t", text))
    assume(not any(d.code in ("E0603", "E0604") for d in found))
    assert back == file, text
    assert formatted(text) == text


@st.composite
def commented(draw: st.DrawFn) -> str:
    """A program with comments and white space put between its tokens."""
    text = draw(st.sampled_from(PROGRAMS))
    tokens = tokenize(Source("t", text)).tokens
    out: list[str] = []
    chosen = draw(st.sets(st.integers(0, len(tokens) - 1), max_size=6))
    at = 0
    for i, token in enumerate(tokens):
        out.append(text[at : token.start])
        if i in chosen:
            out.append(draw(st.sampled_from(["  # note\n", "\n# own\n", "\n\n\n# apart\n\n\n", "\n\n", "\n", " #\n"])))
        out.append(text[token.start : token.stop])
        at = token.stop
    return "".join(out)


@given(commented())
@settings(max_examples=80, deadline=None)
def test_comments_stay_and_text_is_stable(text: str):
    file, found = parse(Source("t", text))
    assume(not found)
    once = formatted(text)
    assert parse(Source("t", once))[0] == file
    assert formatted(once) == once
    assert sorted(re.findall("#.*", once)) == sorted(c.text for c in tokenize(Source("t", text)).comments)
