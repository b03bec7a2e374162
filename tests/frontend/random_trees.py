"""Random trees and random texts of the language, for the properties of lexer, parser and formatter."""

from __future__ import annotations

from pathlib import Path

from hypothesis import strategies as st

from attndsl.frontend import tree
from attndsl.frontend.lexer import LATER_FUNCTIONS, RESERVED

ROOT = Path(__file__).parents[2]
PROGRAMS = [p.read_text() for folder in ("attndsl/std", "examples") for p in sorted((ROOT / folder).glob("*.attn"))]

TAKEN = {*RESERVED, *LATER_FUNCTIONS, "q", "k", "True", "False", "infinity", "Inf"}
names = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,6}", fullmatch=True).filter(lambda n: n not in TAKEN)
positions = st.sampled_from(["q", "k"])
numbers = st.one_of(
    st.integers(0, 2**31 - 1), st.floats(0, allow_nan=False, allow_infinity=False, allow_subnormal=False)
)


def _grow(inner: st.SearchStrategy[tree.TreeExpr]) -> st.SearchStrategy[tree.TreeExpr]:
    several = st.lists(inner, min_size=1, max_size=3).map(tuple)
    comparison = st.lists(
        st.tuples(st.sampled_from(["<", "<=", ">", ">=", "==", "!=", "in"]), inner), min_size=1, max_size=3
    )
    return st.one_of(
        st.builds(tree.Attribute, inner, names),
        st.builds(tree.Subscript, inner, several),
        st.builds(tree.Call, names, st.lists(inner, max_size=3).map(tuple)),
        st.builds(tree.Unary, st.sampled_from(["-", "not"]), inner),
        st.builds(tree.Binary, st.sampled_from(["+", "-", "*", "/", "//", "%", "@", "^", "and", "or"]), inner, inner),
        st.builds(
            lambda first, rest: tree.Comparison(tuple(o for o, _ in rest), (first, *(e for _, e in rest))),
            inner,
            comparison,
        ),
        st.builds(tree.Conditional, inner, inner, inner),
        st.builds(tree.TupleLiteral, st.lists(inner, min_size=2, max_size=3).map(tuple)),
    )


expressions: st.SearchStrategy[tree.TreeExpr] = st.recursive(
    st.one_of(
        st.builds(tree.Name, st.one_of(names, positions)),
        st.builds(tree.Number, numbers),
        st.builds(tree.Boolean, st.booleans()),
    ),
    _grow,
    max_leaves=25,
)

_lists = st.lists(names, min_size=1, max_size=4).map(tuple)
messages = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cf", "Cs", "Zl", "Zp")), min_size=1).map(
    lambda t: t + '\n\t"\\'
)
lets = st.builds(tree.Let, names, expressions)
requires = st.builds(tree.RequireClause, expressions, st.one_of(st.just(""), messages))
statements = st.lists(st.one_of(lets, requires), max_size=3).map(tuple)


def _functions(kind: str) -> st.SearchStrategy[tree.Function]:
    parameters = st.lists(st.one_of(names, positions), max_size=4).map(tuple)
    return st.builds(tree.Function, st.just(kind), names, parameters, statements, expressions)


clauses = st.one_of(
    lets,
    _functions("feature"),
    requires,
    st.builds(tree.Rewrite, st.sampled_from(["score", "mask", "weight", "output"]), expressions),
    st.builds(
        tree.Grid,
        st.sampled_from(["both", "q", "k"]),
        st.lists(st.builds(tree.GridSegment, st.one_of(names, st.just("")), _lists), min_size=1, max_size=3).map(tuple),
    ),
)
parameters = st.builds(
    tree.Parameter,
    st.sampled_from(["const", "scalar", "input"]),
    names,
    names,
    st.one_of(st.none(), st.lists(expressions, min_size=1, max_size=3).map(tuple)),
    st.lists(names, max_size=2).map(tuple),
    st.one_of(st.none(), expressions),
)
attentions = st.builds(
    tree.AttentionBlock, names, st.lists(parameters, max_size=4).map(tuple), st.lists(clauses, max_size=4).map(tuple)
)
uses = st.one_of(
    st.builds(tree.Use, names, st.just(False), _lists), st.builds(tree.Use, messages, st.just(True), _lists)
)
files = st.builds(
    tree.File,
    st.lists(uses, max_size=2).map(tuple),
    st.lists(_functions("fn"), max_size=2).map(tuple),
    st.lists(attentions, max_size=2).map(tuple),
)

_PIECES = [
    *sorted(RESERVED), "q", "k", "s", "x", "f", "1", "0.5", '"m"', '"', "'", "#", "\n", "\r\n", " ", "(", ")", "[", "]",
    "{", "}", "+", "-", "*", "/", "//", "%", "@", "^", "<", "<=", ">", ">=", "==", "!=", "=", "++", ".", ",", ":", "а",
    "−", "≤", "\u00a0", "\u200b", "\x00", "\ud800", "\ufeff", "“", "１", "²", "99999999999", "1e999", "\\", ";", "&&",
]  # fmt: skip
pieces = st.lists(st.sampled_from(_PIECES), max_size=60).map(" ".join)


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A valid program with a few pieces cut out, doubled or put in."""
    text = draw(st.sampled_from(PROGRAMS))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        stop = min(len(text), start + draw(st.integers(0, 30)))
        text = text[:start] + draw(st.one_of(st.just(""), st.sampled_from(_PIECES), st.text(max_size=5))) + text[stop:]
    return text


texts = st.one_of(st.text(max_size=200), pieces, mutated())
