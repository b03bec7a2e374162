"""Hypothesis strategies for well-typed expressions and attentions, and environments to evaluate them in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from attndsl.ir.attention import Attention, Const, Input, Param, Require, Scalar, Segment, Space
from attndsl.ir.evaluate import Env
from attndsl.ir.expr import (
    SCORE,
    Coord,
    Count,
    Decay,
    Expr,
    Extent,
    Index,
    Load,
    Member,
    ParamRef,
    Reduce,
    Size,
    Value,
    integer,
    number,
    op,
)
from attndsl.ir.expr import Literal as Lit
from attndsl.ir.types import BOOL, FLOAT, INT, Kind, Type

INDICES = {n: Index(INT, n) for n in ("q", "k", "row", "h", "b", "hkv")}
Q, K, ROW, H, B, HKV = INDICES.values()
D, M = Type(Kind.FLOAT, ("D",)), Type(Kind.FLOAT, ("M",))


def size(name: str) -> Size:
    return Size(INT, name)


PARAMS: tuple[Param, ...] = (
    Const("window", Kind.INT, None, 5),
    Const("span", Kind.INT, 3, (3, 1, 2)),
    Const("turn", Kind.INT, 5, (4, 0, -2, 7, 1)),
    Const("causal", Kind.BOOL, 2, (True, False)),
    Const("rate", Kind.FLOAT, None, 0.5),
    Scalar("strength", Kind.FLOAT, 1.5),
    Scalar("cut", Kind.INT, 3),
    Scalar("flag", Kind.BOOL, True),
    Input("doc", "i32", (size("B"), size("L")), frozenset(("sorted",))),
    Input("slope", "f32", (size("H"),)),
    Input("full", "bool", (size("H"),)),
    Input("bias", "f32", (size("H"), op("sub", op("mul", ParamRef(INT, "window"), integer(2)), integer(1)))),
    Input("gate", "f32", (size("B"), size("H"), size("Lq"))),
    Input("g", "f32", (size("B"), size("Hkv"), size("L")), frozenset(("log_decay",))),
    Input("W", "f32", (size("H"), size("D"), size("M"))),
    Input("u", "f32", (size("H"), size("D"))),
)

GRID = Space((Segment("text", ("m",)), Segment("video", ("t", "y", "x"))))
SIZES = {"B": 2, "H": 4, "Hkv": 2, "Lq": 6, "Lk": 7, "L": 7, "D": 4, "Dv": 4, "M": 3}


@dataclass(frozen=True)
class Scope:
    """What may stand in an expression."""

    pair: bool = True
    key: bool = True
    floats: bool = True
    grid: bool = False
    score: bool = False
    reduce: bool = False
    divide: bool = True


def ints(depth: int = 3, scope: Scope = Scope()) -> SearchStrategy[Expr]:
    """Int numbers."""
    return _ints(depth, scope)


@st.composite
def _ints(draw: DrawFn, depth: int, scope: Scope) -> Expr:
    if depth <= 0 or draw(st.integers(0, 5)) == 0:
        return draw(_int_leaf(scope))
    kind = draw(st.sampled_from(("binary",) * 5 + ("unary", "select", "load", "pow", "bits", "round", "to_int")))
    inner = ints(depth - 1, scope)
    match kind:
        case "binary":
            divisions = ("floordiv", "mod") if scope.divide else ()
            return op(draw(st.sampled_from(("add", "sub", "mul", "min", "max", *divisions))), draw(inner), draw(inner))
        case "unary":
            return op(draw(st.sampled_from(("neg", "abs", "sign", "relu"))), draw(inner))
        case "select":
            return op("select", draw(bools(depth - 1, scope)), draw(inner), draw(inner))
        case "load":
            if scope.pair and draw(st.booleans()):
                return Load(INT, "doc", (B, draw(inner)))
            return Load(INT, "turn", (draw(inner),))
        case "pow":
            return op("pow", draw(_int_leaf(scope)), integer(draw(st.integers(0, 3))))
        case "bits":
            return op("bitlen", draw(inner))
        case "round" if scope.floats:
            return op(draw(st.sampled_from(("floor", "ceil"))), draw(floats(depth - 1, scope)))
        case _:
            return op("to_int", draw(bools(depth - 1, scope)))


def _int_leaf(scope: Scope) -> SearchStrategy[Expr]:
    leaves: list[Expr] = [ParamRef(INT, "window"), ParamRef(INT, "cut"), ParamRef(INT, "span", 1), size("Lk")]
    if scope.pair:
        leaves += [Q, Q, K, K, H, B, ROW, HKV] if scope.key else [Q, ROW, H, B]
        if scope.grid:
            leaves += [Coord(INT, "q", "video", "t"), Coord(INT, "k" if scope.key else "q", "video", "x")]
    if scope.grid:
        leaves += [Extent(INT, "q", "video", "y")]
    return st.one_of(st.sampled_from(leaves), st.builds(integer, st.integers(-4, 9)))


def bools(depth: int = 3, scope: Scope = Scope()) -> SearchStrategy[Expr]:
    """Bool numbers."""
    return _bools(depth, scope)


@st.composite
def _bools(draw: DrawFn, depth: int, scope: Scope) -> Expr:
    if depth <= 0:
        leaves: list[Expr] = [ParamRef(BOOL, "flag"), ParamRef(BOOL, "causal", 1), Lit(BOOL, True), Lit(BOOL, False)]
        if scope.pair:
            leaves += [Load(BOOL, "full", (H,)), op("le", K if scope.key else ROW, Q)]
        if scope.grid and scope.pair:
            leaves += [Member(BOOL, "k" if scope.key else "q", "video"), Member(BOOL, "q", "text")]
        return draw(st.sampled_from(leaves))
    kind = draw(st.sampled_from(("compare",) * 4 + ("real", "logic", "logic", "not", "select", "equal", "power")))
    inner = bools(depth - 1, scope)
    match kind:
        case "real" if scope.floats:
            name = draw(st.sampled_from(("lt", "le", "gt", "ge", "eq", "ne")))
            return op(name, draw(floats(depth - 1, scope)), draw(floats(depth - 1, scope)))
        case "logic":
            return op(draw(st.sampled_from(("and", "or"))), draw(inner), draw(inner))
        case "not":
            return op("not", draw(inner))
        case "select":
            return op("select", draw(inner), draw(inner), draw(inner))
        case "equal":
            return op(draw(st.sampled_from(("eq", "ne"))), draw(inner), draw(inner))
        case "power":
            return op("ispow2", draw(ints(depth - 1, scope)))
        case _:
            name = draw(st.sampled_from(("lt", "le", "gt", "ge", "eq", "ne")))
            return op(name, draw(ints(depth - 1, scope)), draw(ints(depth - 1, scope)))


UNARY = ("neg", "abs", "sign", "exp", "tanh", "sigmoid", "relu", "elu", "silu", "gelu", "softplus", "erf", "sin", "cos")


def floats(depth: int = 3, scope: Scope = Scope()) -> SearchStrategy[Expr]:
    """Float numbers. Domains of log, sqrt, acos and real powers are kept by their arguments."""
    return _floats(depth, scope)


@st.composite
def _floats(draw: DrawFn, depth: int, scope: Scope) -> Expr:
    if depth <= 0 or draw(st.integers(0, 5)) == 0:
        leaves: list[Expr] = [ParamRef(FLOAT, "rate"), ParamRef(FLOAT, "strength")]
        if scope.pair:
            leaves += [Load(FLOAT, "slope", (H,)), Load(FLOAT, "gate", (B, H, ROW))]
        leaves += [SCORE, SCORE] if scope.score else []
        leaves += [op("to_float", Count(INT))] if scope.reduce else []
        return draw(st.one_of(st.sampled_from(leaves), st.builds(number, st.integers(-8, 8).map(lambda n: n / 4))))
    kind = draw(
        st.sampled_from(("binary",) * 4 + ("unary",) * 3 + ("int", "select", "load", "vector", "domain", "sum"))
    )
    inner = floats(depth - 1, scope)
    match kind:
        case "unary":
            return op(draw(st.sampled_from(UNARY)), draw(inner))
        case "int":
            return op("to_float", draw(ints(depth - 1, scope)))
        case "select":
            return op("select", draw(bools(depth - 1, scope)), draw(inner), draw(inner))
        case "load" if scope.pair:
            return Load(FLOAT, "bias", (H, draw(ints(depth - 1, scope))))
        case "vector" if scope.key and scope.pair:
            return draw(_vector_number(depth - 1, scope))
        case "sum" if scope.reduce:
            name = draw(st.sampled_from(("sum", "mean")))
            return Reduce(FLOAT, name, draw(inner))
        case "domain":
            away = op("add", op("abs", draw(inner)), number(0.5))
            name = draw(st.sampled_from(("log", "sqrt", "pow", "atan2", "acos", "div")))
            if name in ("log", "sqrt"):
                return op(name, away)
            if name == "acos":
                return op("acos", op("mul", number(0.9), op("tanh", draw(inner))))
            if name == "pow":
                return op("pow", away, draw(inner))
            return op(name, draw(inner), away)
        case _:
            return op(draw(st.sampled_from(("add", "sub", "mul", "min", "max"))), draw(inner), draw(inner))


@st.composite
def _vector_number(draw: DrawFn, depth: int, scope: Scope) -> Expr:
    a, b = draw(vectors(depth, scope)), draw(vectors(depth, scope))
    matrix = Load(Type(Kind.FLOAT, ("D", "M")), "W", (H,))
    match draw(st.sampled_from(("dot", "norm", "total", "amax", "matmul", "concat"))):
        case "dot":
            return op("dot", a, b)
        case "norm":
            return op("norm", op("add", a, number(0.25)))
        case "total":
            return op("total", op("outer", a, b))
        case "amax":
            return op("amax", a)
        case "matmul":
            return op("dot", op("matmul", a, matrix), op("matmul", b, matrix))
        case _:
            return op("total", op("concat", a, op("vsoftmax", b)))


@st.composite
def vectors(draw: DrawFn, depth: int = 2, scope: Scope = Scope()) -> Expr:
    """Vectors of D floats."""
    if depth <= 0:
        reads: list[Expr] = [Load(D, "Q", (B, H, ROW)), Load(D, "K", (B, HKV, K)), Load(D, "u", (H,))]
        return draw(st.sampled_from(reads))
    inner = vectors(depth - 1, scope)
    match draw(st.sampled_from(("scale", "add", "map", "roll", "rope", "select"))):
        case "scale":
            return op("mul", draw(floats(depth - 1, scope)), draw(inner))
        case "add":
            return op("add", draw(inner), draw(inner))
        case "map":
            return op(draw(st.sampled_from(("elu", "relu", "tanh", "vsoftmax", "rmsnorm"))), draw(inner))
        case "roll":
            return op("roll", draw(inner), draw(ints(1, scope)))
        case "rope":
            return op("rope", draw(inner), Q)
        case _:
            return op("select", draw(bools(depth - 1, scope)), draw(inner), draw(inner))


@st.composite
def attentions(draw: DrawFn, depth: int = 3) -> Attention:
    """Whole attentions that verify."""
    grid = draw(st.booleans())
    scope = Scope(grid=grid)
    weight = None
    if draw(st.booleans()):
        weight = draw(floats(depth, Scope(grid=grid, score=True, reduce=True)))
        if draw(st.booleans()):
            weight = op("mul", weight, Decay(FLOAT, "g", (B, HKV)))
    output = None
    if draw(st.booleans()):
        output = op("mul", Value(Type(Kind.FLOAT, ("Dv",)), "o"), draw(floats(depth, Scope(key=False))))
    host = Scope(pair=False, grid=grid, floats=False)
    requires = tuple(Require(c, 'a "quoted" reason') for c in draw(st.lists(bools(1, host), max_size=2)))
    return Attention(
        "random",
        PARAMS,
        mask=draw(bools(depth, scope)),
        score=draw(floats(depth, Scope(grid=grid, score=True))),
        weight=weight,
        output=output,
        q_space=GRID if grid else None,
        k_space=GRID if grid else None,
        shared=grid or draw(st.booleans()),
        requires=requires,
    )


def environment(seed: int, consts: bool = True) -> Env:
    """Values for every leaf: arrays [B, H, Lq, Lk] by broadcasting, also positions outside the tensors."""
    rng = np.random.default_rng(seed)
    shape = {"b": (2, 1, 1, 1), "h": (1, 4, 1, 1), "q": (1, 1, 6, 1), "k": (1, 1, 1, 7)}
    h = np.arange(4).reshape(shape["h"])
    row, k = np.arange(6).reshape(shape["q"]), np.arange(7).reshape(shape["k"])
    values: dict[Expr, Any] = {
        B: np.arange(2).reshape(shape["b"]), H: h, HKV: h // 2, ROW: row, Q: row + int(rng.integers(-2, 3)), K: k,
        SCORE: rng.normal(size=(2, 4, 6, 7)) * 2, Count(INT): rng.integers(0, 7, (2, 4, 6, 1)),
        ParamRef(FLOAT, "strength"): float(rng.normal()), ParamRef(INT, "cut"): int(rng.integers(-3, 6)),
        ParamRef(BOOL, "flag"): bool(rng.integers(0, 2)),
        Decay(FLOAT, "g", (B, HKV)): np.exp(-rng.random((2, 4, 6, 7))),
    }  # fmt: skip
    values |= {Size(INT, n): v for n, v in SIZES.items()}
    if consts:
        values |= {
            ParamRef(INT, "window"): int(rng.integers(0, 6)), ParamRef(INT, "span", 1): int(rng.integers(0, 4)),
            ParamRef(BOOL, "causal", 1): bool(rng.integers(0, 2)), ParamRef(FLOAT, "rate"): float(rng.normal()),
        }  # fmt: skip
    for side, at, n in (("q", "q", 6), ("k", "k", 7)):
        full: tuple[int, ...] = tuple(n if i == (2 if at == "q" else 3) else 1 for i in range(4))
        for segment, axes in (("text", ("m",)), ("video", ("t", "y", "x"))):
            values[Member(BOOL, side, segment)] = rng.integers(0, 2, full).astype(bool)  # type: ignore[arg-type]
            for axis in axes:
                values[Coord(INT, side, segment, axis)] = rng.integers(-1, 4, full)  # type: ignore[arg-type]
                values[Extent(INT, side, segment, axis)] = 4  # type: ignore[arg-type]
    tables = {
        "turn": np.array([4, 0, -2, 7, 1]), "doc": np.sort(rng.integers(0, 4, (2, 7)).astype(np.int32)),
        "slope": rng.normal(size=4).astype(np.float32), "full": rng.integers(0, 2, 4).astype(bool),
        "bias": rng.normal(size=(4, 9)), "gate": rng.normal(size=(2, 4, 6)), "g": -rng.random((2, 2, 7)),
        "W": rng.normal(size=(4, 4, 3)), "u": rng.normal(size=(4, 4)), "Q": rng.normal(size=(2, 4, 6, 4)),
        "K": rng.normal(size=(2, 2, 7, 4)), "V": rng.normal(size=(2, 2, 7, 4)),
    }  # fmt: skip
    return Env(values, tables)
