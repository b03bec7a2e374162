"""Processes that compile: answers in order, the compiler's words, and a compiler that crashes."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import attndsl
from attndsl.runtime.binding import bind_call
from attndsl.runtime.cache import folder, tidy
from attndsl.runtime.cache.store import Store
from attndsl.runtime.triton.choices import decide, facts_of
from attndsl.runtime.triton.config import Config
from attndsl.runtime.triton.kernel import TritonKernel
from attndsl.tune import offline
from attndsl.tune import workers as workers_module
from attndsl.tune.failures import CrashedError, crashed
from attndsl.tune.machines import gpu_of
from attndsl.tune.offline import predict_passes
from attndsl.tune.oracle import Subject
from attndsl.tune.parts import parts_of
from attndsl.tune.trials import CallTrials, Predictions
from attndsl.tune.workers import Compiled, Job, Ranking, Workers, job_of

pytest.importorskip("triton")

SPEC = "attention causal { mask k <= q }"


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATTNDSL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    monkeypatch.setattr(folder, "_warned", set())
    monkeypatch.setattr(tidy, "_cleaned", set())
    return tmp_path / "cache"


@pytest.fixture
def workers() -> Iterator[Workers]:
    made = Workers(1)
    yield made
    made.close()


@pytest.fixture(scope="module")
def pool() -> Iterator[Workers]:
    """One that tests share: a process takes seconds to start."""
    made = Workers(1)
    yield made
    made.close()


def job(config: Config, D: int = 16) -> Job:
    f = attndsl.load(SPEC)
    return job_of(f.simplified, f.problem(L=256, D=D), "bf16", gpu_of("h200"), "forward", config)


def test_answers(workers: Workers) -> None:
    good, wrong, gone = workers.compile(
        [job(Config(16, 16, 1, 1)), replace(job(Config(16, 16, 1, 1)), attention="(nothing"), job(Config(16, 16, 1, 2))]
    )
    assert good.error == ""
    assert 0 < good.registers <= 255
    assert good.stages == 1
    assert wrong.error
    assert gone.error == ""
    process = workers._every[0]  # pyright: ignore[reportPrivateUsage]
    process.kill()
    process.wait()
    assert workers.compile([job(Config(16, 16, 1, 1))]) == [good], "what was asked before is known"
    (crashed,) = workers.compile([job(Config(16, 32, 1, 1))])
    assert crashed.error == "the compiler crashed"
    (again,) = workers.compile([job(Config(16, 32, 1, 1))])
    assert again.error == ""


def test_a_compiler_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    script = "import time; time.sleep(60)"

    def hangs() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    monkeypatch.setattr(workers_module, "_start", hangs)
    made = Workers(1, limit=0.2)
    try:
        (found,) = made.compile([job(Config(16, 16, 1, 1))])
        assert found.error == "the compiler did not end in 0 s"
        (after,) = made.compile([job(Config(16, 16, 1, 2))])
        assert "did not end" in after.error
    finally:
        made.close()
    with pytest.raises(RuntimeError):
        made.compile([job(Config(16, 16, 1, 4))])


def test_jobs_are_the_same_whatever_the_order_of_their_sizes(pool: Workers) -> None:
    one = job(Config(16, 16, 1, 1))
    tables = {"t": np.arange(3)}
    problem = replace(one.problem, sizes=dict(reversed(one.problem.sizes.items())))
    assert pool.ask(one) is pool.ask(replace(one, problem=problem))
    asked = [pool.ask(replace(one, problem=replace(problem, tables=t))) for t in (tables, {"t": np.arange(3)}, {})]
    assert asked[0] is asked[1]
    assert asked[0] is not asked[2]
    assert pool.ask(replace(one, problem=replace(problem, tables={"t": np.ones(3)}))) is not asked[0]
    assert pool.ask(replace(one, config=Config(16, 16, 1, 2))) is not asked[2]


def test_answers_that_come_ahead(pool: Workers) -> None:
    some = [job(Config(16, 16, 1, 1)), job(Config(16, 32, 1, 1))]
    pool.ahead(some)
    assert [c.error for c in pool.compile(some)] == ["", ""]
    ranking = Ranking(some[0].attention, some[0].problem, "bf16", gpu_of("h200"), "forward", 4)
    configs = pool.ask(ranking).result()
    assert len(configs) == 4
    assert len(set(configs)) == 4


def test_what_does_not_fit_is_said(pool: Workers) -> None:
    f = attndsl.load(SPEC)
    gpu = gpu_of("sm_89")
    safe, large = Config(64, 64, 4, 3), Config(64, 64, 4, 4)
    made = Predictions(f.simplified, f.problem(L=512, D=256), "bf16", "forward", gpu, pool, safe)
    found = made.compile([safe, large])
    assert found[large] == "shared memory holds 1 stages"
    assert found[safe] == "", "what runs untuned runs with as many as fit"


def test_warps_that_are_not_specialised_are_no_candidate(pool: Workers) -> None:
    f = attndsl.load("attention table(input t: f32[L]) { score s + t[k] }")
    wished = Config(128, 64, 4, 2, specialize=True)
    made = Predictions(
        f.simplified, f.problem(L=512, D=64), "bf16", "forward", gpu_of("h200"), pool, Config(64, 64, 4, 3)
    )
    said = made.compile([wished])[wished]
    assert said == "warps are not specialised: vectors of inputs are loaded by pointers"
    # what calls run untuned is compared with, in the loops that it runs in
    q, k, v = (torch.randn(1, 2, 512, 64, dtype=torch.bfloat16) for _ in range(3))
    call = bind_call(f.attention, f.simplified, q, k, v, {"t": torch.randn(512)})
    kernel = TritonKernel(f.simplified)
    trials = CallTrials(kernel, Subject(f.attention, call, None), "forward", wished, gpu_of("h200"), pool)
    other = replace(wished, columns=128)
    assert trials.compile([wished, other]) == {wished: "", other: said}


def test_a_prediction_for_a_gpu_that_is_not_here(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline, "AHEAD", 2)
    f = attndsl.load(SPEC)
    problem = f.problem(L=64, D=16)
    (entry,) = predict_passes(f.simplified, "causal", problem, "bf16", ["dkdv"], gpu_of("sm_80"), 0.0)
    assert entry.best is not None
    assert not entry.measured
    assert entry.key.machine.name == "NVIDIA A100-SXM4-80GB"
    assert "registers" in entry.timings[entry.best].note
    assert Store().read(entry.key) == entry


def test_what_is_compiled_is_what_calls_run() -> None:
    """Masks that read tensors have their boxes found on the device, in lists that the host does not know."""
    f = attndsl.load("attention documents(input doc: i32[L] sorted) { mask doc[q] == doc[k] and k <= q }")
    problem = f.problem(L=512, D=32, doc=np.repeat(np.arange(4, dtype=np.int32), 128))
    for step in ("forward", "dq", "dkdv"):
        it = job_of(f.simplified, problem, "bf16", gpu_of("h200"), step, Config(64, 64, 4, 2))  # type: ignore[arg-type]
        assert all(one.located is not None for one in workers_module.lowered(it))


def test_a_crash_is_told_with_the_kernels_that_crashed() -> None:
    """Where the spec stands, which candidate it was, and files that compile its kernels with triton alone."""
    f = attndsl.load(SPEC)
    made = Predictions(
        f.simplified, f.problem(L=256, D=32), "bf16", "dkdv", gpu_of("h200"), Workers(1), Config(64, 64, 4, 2)
    )
    found = CrashedError(Config(64, 32, 4, 2, fused="boxes"), "crashed: illegal instruction")
    (found.job,) = made.jobs([found.config])  # type: ignore[list-item]
    error = crashed(found, f.attention)
    said = str(error)
    assert "64x32 w4 s2 fused=boxes" in said
    assert "pass 'dkdv'" in said
    assert "illegal instruction" in said
    assert SPEC in said
    (kept,) = error.reproducers
    assert str(kept) in said
    text = kept.read_text()
    assert "crashed the GPU when it ran" in text
    compile(text, kept, "exec")
    assert str(pickle.loads(pickle.dumps(error))) == said


def test_sums_that_come_first_are_tuned_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kernel of a weight that needs sums has an entry of its own, which calls of it find."""

    class Compiles(Workers):
        def compile(self, jobs: Sequence[Job]) -> list[Compiled]:
            return [Compiled(registers=100, stages=4)] * len(jobs)

    monkeypatch.setattr(offline, "Workers", Compiles)
    f = attndsl.load("attention a { mask k <= q weight relu(s - mean(s)) / sum }")
    problem, gpu = f.problem(L=4096, H=8, D=64), gpu_of("a100")
    found = predict_passes(f.simplified, "a", problem, "bf16", ("forward", "dkdv", "decode"), gpu, 60)
    names = ["a sums 1", "a", "a sums 1", "a", "a sums 1", "a sums 1.2", "a"]
    assert [e.name for e in found] == names
    assert len({e.key for e in found}) == len(names)
    for step in ("forward", "dkdv", "decode"):
        for part in parts_of(f.simplified, problem, step):  # type: ignore[arg-type]
            facts = facts_of(part.attention, part.problem, "bf16", gpu.machine)
            choice = decide(part.attention, step, facts)  # type: ignore[arg-type]
            assert choice.origin == "tuned"
            assert "predicted for a" in choice.why
