"""Consts get values: what is accepted, what is refused and how it is said."""

from __future__ import annotations

import math

import numpy as np
import pytest

from attndsl.diagnostics.report import SpecError
from attndsl.diagnostics.source import Source, Span
from attndsl.ir.attention import Attention, Const, Input, Require, Scalar
from attndsl.ir.bind import bind
from attndsl.ir.expr import FALSE, TRUE, Index, Load, ParamRef, Size, integer, op
from attndsl.ir.types import BOOL, FLOAT, INT, Kind

Q, K = Index(INT, "q"), Index(INT, "k")
W = ParamRef(INT, "window")


def windowed(**more: object) -> Attention:
    mask = op("lt", op("sub", Q, K), W)
    return Attention("a", (Const("window", Kind.INT),), mask=mask, **more)  # type: ignore[arg-type]


def test_substitutes_and_keeps_value() -> None:
    bound = bind(windowed(), {"window": 7})
    assert bound.mask == op("lt", op("sub", Q, K), integer(7))
    assert bound.consts[0].default == 7
    assert bind(bound, {}) == bound


@pytest.mark.parametrize("value", [np.int32(3), np.int64(3), np.array(3), 3])
def test_numpy_ints(value: object) -> None:
    assert bind(windowed(), {"window": value}).consts[0].default == 3


@pytest.mark.parametrize(
    ("values", "error", "text"),
    [
        ({}, TypeError, "const `window` has no default and was not given; expected an int"),
        ({"windw": 3}, TypeError, "no const `windw`; did you mean `window`"),
        ({"window": True}, TypeError, "const `window` is True (bool); expected an int"),
        ({"window": 3.0}, TypeError, "const `window` is 3.0 (float); expected an int"),
        ({"window": "3"}, TypeError, "const `window` is '3' (str); expected an int"),
        ({"window": None}, TypeError, "const `window` is None (NoneType); expected an int"),
        ({"window": (3, 3)}, TypeError, "const `window` is (3, 3) (tuple); expected an int"),
        ({"window": np.array([3, 3])}, TypeError, "expected an int"),
        ({"window": 2**31}, ValueError, "const `window` is 2147483648; expected a number between -2^31 and 2^31"),
        ({"window": 3, "zzz": 3}, TypeError, "there is no const `zzz`; consts are window"),
    ],
)
def test_refusals(values: dict[str, object], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as info:
        bind(windowed(), values)
    assert text in str(info.value)


def test_not_a_const() -> None:
    attention = Attention("a", (Scalar("bias", Kind.FLOAT), Input("z", "f32", (Size(INT, "H"),))))
    with pytest.raises(TypeError, match="`bias` is a scalar"):
        bind(attention, {"bias": 1.0})
    with pytest.raises(TypeError, match="`z` is an input"):
        bind(attention, {"z": 1.0})
    with pytest.raises(TypeError, match="no const `x`; it has no consts"):
        bind(attention, {"x": 1})


@pytest.mark.parametrize(
    ("kind", "length", "given", "expected"),
    [
        (Kind.INT, 3, 2, (2, 2, 2)),
        (Kind.INT, 3, [1, 2, 3], (1, 2, 3)),
        (Kind.INT, 3, np.array([1, 2, 3]), (1, 2, 3)),
        (Kind.INT, 1, (5,), (5,)),
        (Kind.BOOL, 2, True, (True, True)),
        (Kind.BOOL, 2, (True, np.bool_(False)), (True, False)),
        (Kind.FLOAT, None, 2, 2.0),
        (Kind.FLOAT, 2, (1, 0.5), (1.0, 0.5)),
        (Kind.FLOAT, None, np.float32(0.5), 0.5),
    ],
)
def test_accepted(kind: Kind, length: int | None, given: object, expected: object) -> None:
    bound = bind(Attention("a", (Const("c", kind, length),)), {"c": given})
    assert bound.consts[0].default == expected
    assert type(bound.consts[0].default) is type(expected)


@pytest.mark.parametrize(
    ("kind", "length", "given", "error", "text"),
    [
        (Kind.INT, 3, (1, 2), ValueError, "const `c` has 2 components; expected 3 of int, or one int for all"),
        (Kind.INT, 2, (1, 2.5), TypeError, "const `c[1]` is 2.5 (float); expected 2 of int"),
        (Kind.INT, 2, (1, True), TypeError, "const `c[1]` is True (bool)"),
        (Kind.INT, 2, np.ones((2, 2), int), TypeError, "const `c[0]` is [1, 1] (list)"),
        (Kind.BOOL, None, 1, TypeError, "const `c` is 1 (int); expected a bool"),
        (Kind.FLOAT, None, math.nan, ValueError, "const `c` is nan; expected a finite float"),
        (Kind.FLOAT, None, math.inf, ValueError, "const `c` is inf; expected a finite float"),
        (Kind.FLOAT, None, False, TypeError, "const `c` is False (bool); expected a float"),
    ],
)
def test_refused(kind: Kind, length: int | None, given: object, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as info:
        bind(Attention("a", (Const("c", kind, length),)), {"c": given})
    assert text in str(info.value)


def test_components_and_tables() -> None:
    table = Load(INT, "c", (op("mod", Q, integer(3)),))
    mask = op("and", op("lt", table, K), op("lt", K, ParamRef(INT, "c", 1)))
    fixed = op("lt", Load(INT, "c", (integer(2),)), Load(INT, "c", (integer(9),)))
    bound = bind(Attention("a", (Const("c", Kind.INT, 3),), mask=op("or", mask, fixed)), {"c": (4, 5, 6)})
    assert bound.mask == op("and", op("lt", table, K), op("lt", K, integer(5)))
    assert bound.consts[0].default == (4, 5, 6)


def test_shapes_take_consts() -> None:
    table = Input("t", "f32", (op("sub", op("mul", W, integer(2)), integer(1)),))
    bound = bind(Attention("a", (Const("window", Kind.INT), table)), {"window": 8})
    assert bound.inputs[0].shape == (integer(15),)


def located(text: str, part: str) -> Span:
    start = text.index(part)
    return Span(Source("x.attn", text), start, start + len(part))


def test_require() -> None:
    text = 'require window < 4, "too wide"'
    condition = op("lt", W, integer(4))
    attention = windowed(requires=(Require(condition, "too wide", located(text, "window < 4")),))
    assert bind(attention, {"window": 3}).requires == ()
    with pytest.raises(SpecError) as info:
        bind(attention, {"window": 9})
    shown = str(info.value)
    assert "too wide" in shown
    assert "^^^^^^^^^^ window = 9" in shown


def test_require_on_sizes_stays() -> None:
    require = Require(op("lt", W, Size(INT, "Lk")), "window leaves the keys")
    bound = bind(windowed(requires=(require,)), {"window": 3})
    assert bound.requires == (Require(op("lt", integer(3), Size(INT, "Lk")), "window leaves the keys"),)


def test_zero_divisors() -> None:
    text = "mask q // window == k % window"
    division = op("floordiv", Q, W, span=located(text, "q // window"))
    modulo = op("mod", K, W, span=located(text, "k % window"))
    attention = Attention("a", (Const("window", Kind.INT),), mask=op("eq", division, modulo))
    with pytest.raises(SpecError) as info:
        bind(attention, {"window": 0})
    assert [d.message for d in info.value.diagnostics] == ["division by a constant zero", "modulo by a constant zero"]
    assert all(d.label == "window = 0" for d in info.value.diagnostics)
    assert "^^^^^^^^^^^ window = 0" in str(info.value)


def test_zero_divisor_between_consts_and_in_floats() -> None:
    for bad in (op("floordiv", integer(4), W), op("div", ParamRef(FLOAT, "x"), op("to_float", W))):
        zero = op("lt", op("to_float", bad) if bad.type == INT else bad, op("to_float", Q))
        attention = Attention("a", (Const("window", Kind.INT), Const("x", Kind.FLOAT, None, 1.0)), mask=zero)
        with pytest.raises(SpecError, match="division by a constant zero"):
            bind(attention, {"window": 0})
        bind(attention, {"window": 1})


def test_zero_divisor_in_dead_code_is_fine() -> None:
    free = op("eq", W, integer(0))
    modulo = op("eq", op("mod", K, W), integer(0))
    params = (Const("window", Kind.INT),)
    assert bind(Attention("a", params, mask=op("or", free, modulo)), {"window": 0}).mask == TRUE
    chosen = op("select", free, TRUE, modulo)
    assert bind(Attention("a", params, mask=chosen), {"window": 0}).mask == TRUE


def test_bool_consts_choose() -> None:
    causal = op("le", K, Q)
    choice = op("select", ParamRef(BOOL, "causal"), causal, FALSE)
    attention = Attention("a", (Const("causal", Kind.BOOL, None, True),), mask=choice)
    assert bind(attention, {}).mask == causal
    assert bind(attention, {"causal": False}).mask == FALSE
