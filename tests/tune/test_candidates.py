"""Candidates keep the limits of the hardware; shapes of boxes are those of the plan's cost model."""

from __future__ import annotations

from math import prod

import pytest

import attndsl
from attndsl.runtime.triton.choices import Facts, untuned
from attndsl.runtime.triton.config import Config, Pass
from attndsl.runtime.triton.labels import label
from attndsl.schedule.boxes import box_choices
from attndsl.tune.candidates import REGISTERS, candidates, footprint, spread
from attndsl.tune.machines import CAPABILITIES, GPUS, gpu_of, like
from attndsl.tune.spaces import with_boxes
from tests.runtime.cache.facts import A100

STEPS: tuple[Pass, ...] = ("forward", "dq", "dkdv", "decode")


def facts(gpu: str, L: int = 4096, Lq: int | None = None, D: int = 128, dtype: str = "bf16", H: int = 8) -> Facts:
    sizes = {"B": 1, "H": H, "Hkv": H, "Lq": L if Lq is None else Lq, "Lk": L, "L": L, "D": D, "Dv": D}
    return Facts(gpu_of(gpu).machine, dtype, sizes, {}, {})


@pytest.mark.parametrize("gpu", sorted(CAPABILITIES))
@pytest.mark.parametrize("step", STEPS)
def test_limits(gpu: str, step: Pass) -> None:
    for D, dtype in ((64, "bf16"), (128, "bf16"), (256, "fp16"), (96, "fp32")):
        where = facts(gpu, D=D, dtype=dtype)
        default = untuned(step, where)
        found = candidates(step, where, gpu_of(gpu), default)
        assert found[0] == default
        assert len(set(map(label, found))) == len(found) > (1 if D > 128 else 3)
        for config in found[1:]:
            need = footprint(step, config, D, D, dtype)
            assert need.registers <= REGISTERS
            assert need.shared <= gpu_of(gpu).machine.shared_memory


def test_what_was_measured_best_is_among_them() -> None:
    found = candidates("forward", facts("h200"), gpu_of("h200"), Config(128, 128, 8, 3))
    for config in (Config(128, 128, 8, 2), Config(128, 64, 8, 4), Config(64, 64, 4, 3), Config(64, 128, 4, 3)):
        assert config in found
    assert any(c.specialize for c in found)
    assert not any(c.specialize for c in candidates("forward", facts("a100"), gpu_of("a100"), Config(128, 64, 8, 2)))


def test_sweeps_that_compute_dq_along() -> None:
    found = candidates("dkdv", facts("h200"), gpu_of("h200"), Config(64, 64, 4, 2))
    assert Config(128, 64, 8, 2, fused="boxes") in found
    assert footprint("dkdv", Config(128, 64, 8, 2, fused="boxes"), 128, 128, "bf16").shared == 180224
    assert not any(c.fused for c in candidates("dq", facts("h200"), gpu_of("h200"), Config(128, 64, 8, 3)))
    for gpu, dtype in (("a100", "bf16"), ("h200", "fp32")):
        where = facts(gpu, dtype=dtype)
        assert not any(c.fused for c in candidates("dkdv", where, gpu_of(gpu), untuned("dkdv", where)))


def test_short_calls_get_small_tiles() -> None:
    default = Config(128, 128, 8, 3)
    found = candidates("forward", facts("h200", L=4096, Lq=40), gpu_of("h200"), default)
    assert {c.rows for c in found[1:]} <= {16, 32, 64}
    found = candidates("dkdv", facts("h200", L=4096, Lq=40), gpu_of("h200"), default)
    assert {c.columns for c in found[1:]} <= {32, 64}


def test_splits_fill_the_multiprocessors() -> None:
    where = facts("h200", L=131072, Lq=1)
    found = candidates("decode", where, gpu_of("h200"), untuned("decode", where))
    assert {0, 132 // 8, 2 * 132 // 8} <= {c.splits for c in found}
    assert all(c.rows == found[0].rows for c in found)


def test_gpus() -> None:
    assert gpu_of("SM_90") is gpu_of("h200")
    with pytest.raises(ValueError, match=r"no GPU 'h20' \(did you mean h200\?\)"):
        gpu_of("h20")
    assert like(GPUS["h200"].machine) is GPUS["h200"]
    assert like(A100) is not GPUS["h200"]
    other = like(gpu_of("h100").machine.__class__("NVIDIA H20", 90, 78, 232448))
    assert other.tensor < GPUS["h100"].tensor


def test_boxes_of_a_grid() -> None:
    text = "attention g { grid m(y, x) mask abs(q.y - k.y) <= 9 and abs(q.x - k.x) <= 3 }"
    f = attndsl.load(text)
    problem = f.problem(grid=(64, 48), D=64)
    found = box_choices(f.simplified, problem, 64, 128, 4)
    assert len(found) == 4
    for q, k in found:
        assert (prod(q), prod(k)) == (64, 128)
        plan = f.plan(grid=(64, 48), D=64, tile=(q, k))
        assert plan.forward.pieces[0].rows.box == q
    # the first is the one that visits least
    visited = [f.plan(grid=(64, 48), D=64, tile=t).visited for t in found]
    assert visited[0] <= min(visited) * 1.1
    configs = with_boxes((Config(128, 64, 8, 3), Config(64, 64, 4, 3)), f.simplified, problem, "forward")
    shaped = [c for c in configs if c.q_box]
    assert shaped
    assert {(c.rows, c.columns) for c in shaped} == {(128, 64), (64, 64)}


def test_no_boxes_on_a_line() -> None:
    f = attndsl.load("attention causal { mask k <= q }")
    assert box_choices(f.simplified, f.problem(L=512), 64, 64, 4) == ()
    assert with_boxes((Config(64, 64, 4, 3),), f.simplified, f.problem(L=512), "forward") == (Config(64, 64, 4, 3),)


def test_candidates_that_differ_in_kind_come_before_variants() -> None:
    default = Config(128, 128, 4, 2, specialize=True)
    ranked = [default, Config(64, 64, 4, 2), Config(64, 64, 4, 3), Config(64, 64, 4, 4), Config(128, 64, 8, 2),
              Config(128, 64, 8, 3), Config(64, 32, 4, 2)]  # fmt: skip
    assert spread(ranked, 3) == [*ranked[:2], ranked[4]]
    assert spread(ranked, 5) == [*ranked[:3], ranked[4], ranked[6]]
    assert spread(ranked, 100) == ranked
    assert spread(ranked, 1) == [default]
    special = [Config(r, c, 4, 2, specialize=True) for r in (64, 128, 256) for c in (64, 128)]
    others = [Config(64, 64, 4, n) for n in (1, 2)] + [Config(128, 64, 8, 2)]
    chosen = spread([Config(128, 128, 8, 3), *special, *others], 5)
    assert [c.specialize for c in chosen] == [False, True, True, False, False]
