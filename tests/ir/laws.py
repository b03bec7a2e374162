"""What every pass keeps: the value in any environment, and the rules of the IR."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from random_ir import environment

from attndsl.ir.evaluate import evaluate
from attndsl.ir.expr import Expr


def same_value(before: Expr, after: Expr, seed: int) -> None:
    """Both evaluate to the same numbers, also where they are not finite."""
    assert before.type == after.type
    env = environment(seed)
    a, b = np.broadcast_arrays(evaluate(before, env), evaluate(after, env))
    assert np.array_equal(a, b, equal_nan=a.dtype.kind == "f"), (before, after)


def keeps(rule: Callable[[Expr], Expr], expr: Expr, seed: int) -> None:
    same_value(expr, rule(expr), seed)
