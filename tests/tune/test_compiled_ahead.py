"""What workers compile is what calls then find: tuning would compile everything twice otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import attndsl
from attndsl.runtime.binding import bind_call
from attndsl.runtime.triton import decode_launch
from attndsl.runtime.triton.config import Config, Pass, configured
from attndsl.runtime.triton.kernel import TritonKernel
from attndsl.schedule.build import build
from attndsl.tune.machines import gpu_of
from attndsl.tune.workers import compile_job, job_of
from tests.runtime.triton.pretend import pretend

pytest.importorskip("triton")

SPEC = """attention window(input slope: f32[H]) { score s - slope[h] * (q - k) mask k <= q and q - k < 70 }"""
CONFIG = Config(64, 32, 4, 2)
STEPS: tuple[Pass, ...] = ("forward", "dq", "dkdv", "decode")


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("ATTNDSL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    pretend(monkeypatch)
    yield tmp_path / "cache"


def run(step: Pass) -> Any:
    """A call with one configuration in a pass; the kernels of the other passes are compiled before."""
    f = attndsl.load(SPEC)
    few = step == "decode"
    q, v = (torch.randn(1, 4 if few else 2, 2 if few else 200, d, dtype=torch.bfloat16) for d in (64, 64))
    k, v = (torch.randn(1, 2, 200, 64, dtype=torch.bfloat16) for _ in range(2))
    slope = torch.ones(q.shape[1])
    call = bind_call(f.attention, f.simplified, q, k, v, {"slope": slope}, q_offset=198 if few else 0)
    kernel = TritonKernel(f.simplified)
    yield f.simplified, call.problem
    asked = configured(CONFIG, decode=None) if not few else configured(decode=CONFIG)
    with torch.no_grad(), asked:
        tiling = kernel.tiling(call)
        problem = tiling.problem(f.simplified, call.problem)
        plan = build(f.simplified, problem, tiling.tile(f.simplified, problem))
        if step in ("forward", "decode"):
            yield "ready"
            kernel.forward(call, plan, False, save=False)
            return
        _, _, saved = kernel.forward(call, plan, False, save=True)
        grad = torch.randn_like(q)
        needs = {"dq": frozenset({"q"}), "dkdv": frozenset({"k", "v"})}
        other: Pass = "dkdv" if step == "dq" else "dq"
        # `prepare` and all tables
        kernel.backward(call, plan, saved, grad, None, needs[other])
        yield "ready"
        with configured(**{step: CONFIG}):
            kernel.backward(call, plan, saved, grad, None, needs[step])


@pytest.mark.parametrize("step", STEPS)
def test_a_call_finds_what_was_compiled_for_it(step: Pass, root: Path) -> None:
    running = run(step)
    attention, problem = next(running)
    built = compile_job(job_of(attention, problem, "bf16", gpu_of("h200"), step, CONFIG))
    assert built.error == ""
    assert 0 < built.registers <= 255
    assert built.stages == CONFIG.stages
    assert next(running) == "ready"
    before = set((root / "compiled").glob("*"))
    assert before
    list(running)
    assert set((root / "compiled").glob("*")) == before


@pytest.mark.parametrize("step", STEPS)
def test_one_call_runs_with_the_configuration_that_is_asked_for(step: Pass, monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates with the same tile, one after another on the same call."""
    asked: list[tuple[int, int]] = []
    options, first = Config.options, decode_launch.Step.first

    def launched(self: Config, stages: int) -> dict[str, int]:
        asked.append((self.warps, self.stages))
        return options(self, stages)

    def decoded(self: Any, call: Any, values: Any) -> Any:
        asked.append((self.warps, self.stages))
        return first(self, call, values)

    monkeypatch.setattr(Config, "options", launched)
    monkeypatch.setattr(decode_launch.Step, "first", decoded)
    f = attndsl.load(SPEC)
    few, backward = step == "decode", step in ("dq", "dkdv")
    q = torch.randn(1, 2, 2 if few else 100, 64, dtype=torch.bfloat16)
    k, v = (torch.randn(1, 2, 100, 64, dtype=torch.bfloat16) for _ in range(2))
    call = bind_call(f.attention, f.simplified, q, k, v, {"slope": torch.ones(2)}, q_offset=98 if few else 0)
    kernel = TritonKernel(f.simplified)
    for config in (Config(32, 32, w, s) for w, s in ((4, 2), (2, 1), (4, 1))):
        asked.clear()
        others = {"decode": config if few else None, **({step: config} if backward else {})}
        with torch.no_grad(), configured(CONFIG if backward else config, **others):
            tiling = kernel.tiling(call)
            problem = tiling.problem(f.simplified, call.problem)
            plan = build(f.simplified, problem, tiling.tile(f.simplified, problem))
            _, _, saved = kernel.forward(call, plan, False, save=backward)
            if backward:
                needs = frozenset({"q"} if step == "dq" else {"k", "v"})
                kernel.backward(call, plan, saved, torch.randn_like(q), None, needs)
        assert (config.warps, config.stages) in asked
