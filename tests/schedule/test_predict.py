"""Predicted times against what kernels on an H200 are known to take."""

from __future__ import annotations

import pytest

import attndsl
from attndsl.schedule.predict import predict

GNA = """
use masks (neighborhood)
attention gna(const window: int[3], const stride: int[3]) {
    grid video(t, y, x)
    mask all(neighborhood(q.video, k.video, size(video), window, stride, 1, false))
}
"""


def _milliseconds(attention: attndsl.AttentionFunction, **sizes: object) -> float:
    problem = attention.problem(**sizes)
    return predict(attention.plan(**sizes), problem).seconds * 1e3


def test_dense_and_causal() -> None:
    dense = _milliseconds(attndsl.load("attention a { }"), L=16384, H=16, D=128)
    causal = _milliseconds(attndsl.load("attention a { mask k <= q }"), L=16384, H=16, D=128)
    # FlexAttention takes 4.56 and 2.70 ms
    assert dense == pytest.approx(4.56, rel=0.15)
    assert causal == pytest.approx(2.70, rel=0.25)


def test_a_neighborhood() -> None:
    gna = attndsl.load(GNA, window=(18, 24, 24), stride=(2, 8, 8))
    # a plain kernel with 3-D boxes takes 27.9 ms
    assert _milliseconds(gna, grid=(30, 48, 80), H=24, D=128) == pytest.approx(27.9, rel=0.15)


def test_few_rows_are_bound_by_memory() -> None:
    decode = attndsl.load("attention a { mask k <= q }")
    sizes = {"Lq": 1, "Lk": 131072, "H": 32, "Hkv": 8, "D": 128, "q_offset": "end"}
    found = predict(decode.plan(**sizes), decode.problem(**sizes))
    assert found.bytes == pytest.approx(0.134e-3, rel=0.05)
