"""Linear forms, and which way expressions go."""

from __future__ import annotations

import numpy as np
from hypothesis import given, seed

from attndsl.ir.evaluate import Env, evaluate
from attndsl.ir.expr import Expr, Index, integer, op
from attndsl.ir.types import INT
from attndsl.schedule.linear import Linear, expression, linear, split_divisions, tidy
from attndsl.schedule.monotone import UNLIMITED, trend
from tests.drawing import SEED, drawn
from tests.schedule.test_interval import TABLES, K, Q, ints

QS = np.arange(-15, 16)


@seed(SEED)
@drawn(300)
@given(ints())
def test_tidy_keeps_the_value(e: Expr) -> None:
    env = Env({Q: QS[:, None], K: QS[None, :]}, TABLES)
    shape = (len(QS), len(QS))
    assert np.array_equal(*(np.broadcast_to(evaluate(x, env), shape) for x in (e, tidy(e))))
    assert linear(tidy(e)) == linear(e)


@seed(SEED)
@drawn(300)
@given(ints())
def test_trends_are_true(e: Expr) -> None:
    """The table `s` is sorted but may be read outside here, so that only searches in it rise."""
    found = trend(e, Q)
    values = np.broadcast_to(evaluate(e, Env({Q: QS[:, None], K: QS[None, :]}, TABLES)), (len(QS), len(QS)))
    steps = np.diff(values, axis=0)
    if found.direction is not None:
        assert np.all(steps * (found.direction or 1) >= 0) and (found.direction or not steps.any())
    if found.step < UNLIMITED:
        assert np.all(np.abs(steps) <= found.step)


def test_terms_cancel() -> None:
    e = op("sub", op("add", Q, integer(5)), op("sub", Q, K))
    assert linear(e) == Linear({K: 1}, 5)
    assert expression(linear(op("sub", e, K))) == integer(5)


def test_divisions_split_where_the_rest_is_small() -> None:
    g = Index(INT, "h")
    x = op("add", op("mul", integer(4), Q), g)
    assert split_divisions(op("floordiv", x, integer(4)), {g: 4}) == Q
    assert split_divisions(op("mod", x, integer(4)), {g: 4}) == g
    kept = op("mod", x, integer(4))
    assert split_divisions(kept, {g: 5}) == kept
    assert split_divisions(op("eq", op("mod", x, integer(4)), g), {g: 4}).type == op("eq", g, g).type
