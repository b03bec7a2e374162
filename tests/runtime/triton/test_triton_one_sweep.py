"""When one sweep over keys computes all gradients, and when two sweeps do."""
# pyright: reportUnknownMemberType=false, reportPrivateUsage=false

from __future__ import annotations

import pytest
import torch

import attndsl
from attndsl.runtime.binding import bind_call
from attndsl.runtime.triton.backward import Backward, _Run
from attndsl.runtime.triton.config import Config, apart, choose
from attndsl.runtime.triton.labels import config_data, config_of, label
from attndsl.schedule.build import build
from attndsl.schedule.tiling import Tiling

pytest.importorskip("triton")

FUSED = Config(64, 32, 4, 2, fused="boxes")
SINK = """attention sink(input z: f32[H], input slope: f32[H]) {
    score s - slope[h] * (q - k) mask k <= q weight exp(s) / (exp(z[h]) + sum) }"""


def run(needs: frozenset[str]) -> _Run:
    """A backward pass that has not begun."""
    f = attndsl.load(SINK)
    q, k, v = (torch.zeros(1, 2, 40, 16) for _ in range(3))
    inputs = {"z": torch.zeros(2), "slope": torch.zeros(2)}
    call = bind_call(f.attention, f.simplified, q, k, v, inputs)
    plan = build(f.simplified, call.problem, Tiling(32, 32).tile(f.simplified, call.problem))
    backward = Backward(f.simplified, lambda step, _: FUSED if step == "dkdv" else Config(32, 32, 4, 2))
    return _Run(backward, call, plan, (q, torch.zeros(1, 2, 40)), torch.zeros_like(q), None, needs)


@pytest.mark.parametrize(
    ("needs", "fused"),
    [("q k v", True), ("q v", True), ("q k v z", True), ("q", False), ("k v", False), ("q k v slope", False)],
)
def test_one_sweep_where_it_finds_all(needs: str, fused: bool) -> None:
    found = run(frozenset(needs.split()))
    assert found.fused == fused
    assert bool(found.dkdv.fused) == fused
    if not fused:
        assert found.dkdv == apart(FUSED, "fp32", 16, 16)


def test_never_where_results_must_be_the_same() -> None:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        assert not run(frozenset("qkv")).fused
    finally:
        torch.use_deterministic_algorithms(before)


def test_configurations_as_text() -> None:
    assert label(FUSED) == "64x32 w4 s2 fused=boxes"
    assert config_of(config_data(FUSED)) == FUSED
    with pytest.raises(ValueError, match="not a configuration"):
        config_of({**config_data(FUSED), "fused": "somehow"})


@pytest.mark.parametrize("head", [64, 128, 256])
def test_the_default_beside_a_fused_one_is_not_fused(head: int) -> None:
    for dtype in ("bf16", "fp32"):
        assert not apart(choose("dkdv", dtype, head, head), dtype, head, head).fused
