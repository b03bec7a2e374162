"""Masks that read tables of several dimensions, in every order of indices, against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import attndsl
from attndsl.reference import visible
from tests.brute_force import check_plan

SIZES = {"B": 2, "H": 2, "Hkv": 2, "Lq": 50, "Lk": 50, "D": 8, "Dv": 8}
LENGTHS = {"B": 2, "L": 50, "M": 30}

MASKS = (
    ("t[min(q, M - 1), 0] > 0", "f32[M, 3]"),
    ("k < t[min(q, M - 1), 0]", "f32[M, 3]"),
    ("t[q // 2, q % 2] > 0", "f32[M, 2]"),
    ("t[k // 2, k % 2] > 0 and k <= q", "f32[M, 2]"),
    ("t[q // 2, k % 2] > 0", "f32[M, 2]"),
    ("total(t[q]) > 0", "f32[L, 3]"),
    ("total(t[k]) > 0", "f32[L, 3]"),
    ("dot(t[k], t[q]) > 0", "f32[L, 3]"),
    ("t[k, 0] == t[q, 0] and k <= q", "i32[L, 2] sorted"),
    ("t[0, k] == t[0, q] and k <= q", "i32[2, L] sorted"),
    ("t[b, k, 0] == t[b, q, 0]", "i32[B, L, 2] sorted"),
    ("total(t[b, k]) > total(t[b, q])", "f32[B, L, 3]"),
    ("t[5, k] == t[-1, q]", "i32[2, L] sorted"),
    ("t[k, b] == t[q, b]", "i32[L, B]"),
    ("t[q, k % 4] > 0 and k < q", "f32[L, L]"),
)


@pytest.mark.parametrize(("mask", "shape"), MASKS)
def test_plan_of_a_mask_on_a_table(mask: str, shape: str) -> None:
    function = attndsl.load(f"attention a(input t: {shape}) {{ mask {mask} }}")
    dims = shape[shape.index("[") + 1 : shape.index("]")].split(", ")
    rng = np.random.default_rng(0)
    values = rng.standard_normal([LENGTHS[d] if d in LENGTHS else int(d) for d in dims])
    table = np.sort((values * 4).astype(np.int32), axis=-1) if shape.startswith("i") else values.astype(np.float32)
    seen = visible(function.attention, SIZES, inputs={"t": torch.from_numpy(table)})
    for tile in (None, (8, 8), (16, 4)):
        plan = function.plan(L=50, H=2, B=2, t=table, tile=tile)
        assert check_plan(plan, seen.expand(2, 2, 50, 50).numpy()) == []
