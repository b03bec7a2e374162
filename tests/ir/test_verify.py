"""Each rule of the IR is broken once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from random_ir import GRID, PARAMS, B, D, H, K, Q, size

from attndsl.ir.attention import Attention, Const, Input, Require, Scalar, Segment, Space
from attndsl.ir.expr import (
    SCORE,
    TRUE,
    Coord,
    Count,
    Decay,
    Expr,
    Index,
    Literal,
    Load,
    Member,
    Op,
    ParamRef,
    Reduce,
    Search,
    Size,
    Value,
    integer,
    number,
    op,
)
from attndsl.ir.types import BOOL, FLOAT, INT, Kind, Type
from attndsl.ir.verify import VerifyError, verify

BASE = Attention("a", PARAMS, q_space=GRID, k_space=GRID)
OUT = Value(Type(Kind.FLOAT, ("Dv",)), "o")


def test_legal() -> None:
    verify(BASE)
    verify(replace(BASE, weight=op("div", op("exp", SCORE), Reduce(FLOAT, "sum", op("exp", SCORE))), output=OUT))
    verify(replace(BASE, mask=op("le", Search(INT, "doc", Q, "left"), K)))
    verify(replace(BASE, score=op("mul", SCORE, Load(FLOAT, "Q", (B, H, Q, integer(0))))))


def masks() -> list[tuple[Expr, str]]:
    return [
        (Q, "has type int"),
        (op("lt", op("to_float", Q), SCORE), "Value may not stand here"),
        (op("lt", Count(INT), Q), "Count may not stand here"),
        (op("lt", Decay(FLOAT, "g", (B, Index(INT, "hkv"))), number(1)), "Decay may not stand here"),
        (op("le", ParamRef(INT, "nothing"), Q), "no const or scalar `nothing`"),
        (op("le", ParamRef(INT, "doc"), Q), "no const or scalar `doc`"),
        (op("le", ParamRef(INT, "span"), Q), "no component None of `span`"),
        (op("le", ParamRef(INT, "span", 3), Q), "no component 3 of `span`"),
        (op("le", ParamRef(INT, "strength"), Q), "`strength` is a float"),
        (op("le", Load(INT, "nope", (Q,)), Q), "no tensor `nope`"),
        (op("le", Load(INT, "doc", (B, Q, Q)), Q), "`doc` has 2 dimensions"),
        (op("le", Load(INT, "doc", (Q, Q)), Q), "takes `b`"),
        (op("le", Load(INT, "doc", (B,)), Q), "has type int"),
        (op("le", Load(INT, "turn", (TRUE,)), Q), "an index is an int"),
        (op("le", Load(INT, "turn", (Q, Q)), Q), "a const array has one index"),
        (op("lt", op("norm", Load(D, "Q", (B, Q))), number(1)), "Q is read at [b, h, position]"),
        (op("le", Coord(INT, "q", "audio", "t"), Q), "q has no grid `audio` with an axis `t`"),
        (op("le", Coord(INT, "q", "video", "z"), Q), "with an axis `z`"),
        (Member(BOOL, "k", "audio"), "k has no grid `audio`"),
        (op("le", Size(INT, "Z"), Q), "no size `Z`"),
        (op("le", Literal(INT, 2**63), Q), "too large"),
        (op("lt", Literal(FLOAT, float("nan")), number(1)), "not a number"),
        (Literal(BOOL, 1), "a literal of type bool"),
        (Literal(Type(Kind.BOOL, ("D",)), True), "a literal of type"),
        (op("le", Index(FLOAT, "q"), number(1)), "is an int"),
        (op("le", Q, number(1)), "kinds of `le` differ"),
        (op("and", Q, Q), "`and` does not take int"),
        (op("lt", TRUE, TRUE), "`lt` does not take bool"),
        (op("not", TRUE, TRUE), "`not` takes 1 arguments"),
        (Op(INT, "le", (Q, K)), "has type int, expected bool"),
        (Op(BOOL, "frob", (Q, K)), "no operation `frob`"),
        (op("eq", op("pow", Q, K), K), "literal power"),
        (op("eq", op("pow", Q, integer(-1)), K), "literal power"),
        (op("eq", op("floordiv", number(1), number(1)), number(1)), "`floordiv` does not take float"),
        (op("le", op("div", Q, K), number(1)), "`div` does not take int"),
        (op("select", Q, TRUE, TRUE), "`select` takes a bool"),
        (op("lt", op("dot", Q, Q), number(0)), "`dot` does not take int, int"),
        (op("lt", op("norm", op("roll", Load(D, "u", (H,)), number(1))), number(0)), "`roll` takes an int"),
        (op("lt", op("dot", Load(D, "u", (H,)), op("concat", Load(D, "u", (H,)), Load(D, "u", (H,)))), number(0)),
         "components of `dot` differ"),
        (op("lt", Search(INT, "doc", number(1), "left"), Q), "searches ints"),
    ]  # fmt: skip


@pytest.mark.parametrize(("mask", "rule"), masks())
def test_broken_masks(mask: Expr, rule: str) -> None:
    with pytest.raises(VerifyError) as info:
        verify(replace(BASE, mask=mask))
    assert rule in str(info.value)
    assert info.value.clause == "mask"


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"score": op("mul", SCORE, Reduce(FLOAT, "sum", SCORE))}, "score: Reduce may not stand here"),
        ({"score": Value(FLOAT, "o")}, "score: `o` has no value here"),
        ({"score": Value(INT, "s")}, "is a float"),
        ({"score": Load(D, "u", (H,))}, "score: has type float[D]"),
        ({"weight": OUT}, "weight: `o` has no value here"),
        ({"weight": Reduce(Type(Kind.FLOAT, ("D",)), "sum", SCORE)}, "has its body's shape"),
        ({"weight": Decay(FLOAT, "slope", (H,))}, "`slope` decays along L"),
        ({"weight": Decay(FLOAT, "doc", (B,))}, "no float input `doc`"),
        ({"output": op("mul", OUT, op("to_float", K))}, "output: depends on the key"),
        ({"output": SCORE}, "output: `s` has no value here"),
        ({"requires": (Require(op("le", Q, K), ""),)}, "require: Index may not stand here"),
        ({"requires": (Require(op("le", Load(INT, "doc", (size("B"), size("B"))), integer(1)), ""),)},
         "require: reads a run-time tensor"),
        ({"params": (Input("t", "f32", (ParamRef(INT, "cut"),)), Scalar("cut", Kind.INT))}, "`cut` is not a const"),
        ({"params": (Input("t", "f32", (number(1),)),)}, "shape of t: has type float"),
        ({"params": (Const("a", Kind.INT), Scalar("a", Kind.INT))}, "`a` is declared twice"),
        ({"params": (Const("a", Kind.INT, 2, (1,)),)}, "wrong length"),
        ({"params": (Const("a", Kind.INT, None, (1,)),)}, "wrong length"),
        ({"params": (Const("a", Kind.INT, None, True),)}, "the default of `a` is no int"),
        ({"params": (Scalar("a", Kind.BOOL, 1),)}, "the default of `a` is no bool"),
        ({"params": (Input("a", "f33", ()),)}, "`a` has no element type f33"),
        ({"k_space": None}, "a shared grid is the same on both sides"),
        ({"k_space": Space(()), "shared": False}, "distinct names"),
        ({"q_space": Space((Segment("a", ("x",)), Segment("b", ("x",)))), "shared": False}, "distinct names"),
        ({"q_space": Space((Segment("a", tuple("wxyz")),)), "shared": False}, "one to three axes"),
    ],
)  # fmt: skip
def test_broken_clauses(change: dict[str, Any], rule: str) -> None:
    with pytest.raises(VerifyError) as info:
        verify(replace(BASE, **change))
    assert rule in str(info.value)
