"""Bands are the mask, pair by pair."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import attndsl
from attndsl.codegen.triton_bands import KEY, bands_of
from attndsl.ir.evaluate import Env, evaluate
from attndsl.ir.expr import Expr, Index, ParamRef, walk
from attndsl.ir.types import INT

HUGE = 2**31 - 1

MASKS: list[tuple[str, str, int]] = [
    ("dense", "attention a {}", 1),
    ("causal", "attention a { mask k <= q }", 1),
    ("window", "attention a { mask k <= q and q - k < 9 }", 1),
    ("both sides", "attention a { mask abs(q - k) <= 5 }", 1),
    ("prefix", "attention a { mask k < 7 or k <= q }", 1),
    ("sink", "attention a { mask k <= q and (q - k < 9 or k < 3) }", 2),
    ("blocks", "attention a { mask q // 8 == k // 8 }", 1),
    ("blocks before", "attention a { mask k // 8 < q // 8 and q > 3 }", 1),
    ("rows", "attention a { mask q > 5 and k < 20 and 2 * k + 1 < 3 * q }", 1),
    ("scalar", "attention a(scalar w: int) { mask k <= q and q - k < w }", 1),
    ("far", "attention a(scalar w: int) { mask k - q <= w }", 1),
    ("dilated", "attention a { mask k <= q and (q - k) % 4 == 0 }", 0),
    ("three", "attention a { mask k < 3 or k > 30 or abs(q - k) < 4 }", 0),
    ("product", "attention a { mask (q * k) % 7 == 0 }", 0),
    ("overflow", "attention a(scalar w: int) { mask k - 3 * q <= 2 * w }", 0),
]


def seen(e: Expr | None, otherwise: Any, env: Env) -> Any:
    return otherwise if e is None else evaluate(e, env)


@pytest.mark.parametrize(("name", "text", "count"), MASKS, ids=[m[0] for m in MASKS])
def test_bands_are_the_mask(name: str, text: str, count: int) -> None:
    mask = attndsl.load(text).simplified.mask
    bands = bands_of(mask)
    if not count:
        assert bands is None
        return
    assert bands is not None
    assert len(bands) == count
    q, k = np.arange(-3, 40)[:, None], np.arange(45)[None, :]
    scalars = [n for n in walk(mask) if isinstance(n, ParamRef)]
    for value in (0, 1, 9, -2, HUGE, -HUGE) if scalars else (0,):
        env = Env({Index(INT, "q"): q, KEY: k, **dict.fromkeys(scalars, value)}, {})
        found = np.zeros((43, 45), bool)
        for band in bands:
            low, high = seen(band.low, -HUGE, env), seen(band.high, HUGE, env)
            assert np.all(np.abs(low) <= HUGE)
            assert np.all(np.abs(high) <= HUGE)
            found |= (k >= low) & (k < high) & evaluate(band.rows, env)
        assert np.array_equal(found, np.broadcast_to(evaluate(mask, env), found.shape)), value
