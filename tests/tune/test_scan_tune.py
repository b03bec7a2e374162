"""Tuning of linear attention: candidates, keys without a length, what they launch, predictions, and what calls take."""

from __future__ import annotations

import json
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

import attndsl
from attndsl.cli.main import main
from attndsl.runtime.binding import bind_call
from attndsl.runtime.cache import lookup
from attndsl.runtime.cache.entry import Entry, Timing
from attndsl.runtime.cache.store import Store
from attndsl.runtime.triton import scan_kernel
from attndsl.runtime.triton.kernel import TritonKernel
from attndsl.runtime.triton.labels import config_data, label, scan_config_of
from attndsl.runtime.triton.scan_choices import ScanFacts, decide_scan, scan_facts, scan_key, untuned_scan
from attndsl.runtime.triton.scan_config import (
    SCAN_PASSES,
    ScanConfig,
    ScanPass,
    choose_step,
    cut,
    hazard,
    scan_configured,
)
from attndsl.runtime.triton.scan_launch import recording
from attndsl.runtime.triton.scan_lowering import Gpu, bare_call, lower_scan
from attndsl.schedule.legalise import ScanForm, legalise
from attndsl.tune import online, scan_trials, scans
from attndsl.tune.machines import gpu_of
from attndsl.tune.model import predict_scan
from attndsl.tune.oracle import Subject
from attndsl.tune.scan_candidates import shape_of
from attndsl.tune.search import Sample
from attndsl.tune.workers import Compiled, ScanJob, compile_scan_job

RETENTION = "attention retention(input gamma: f32[H]) { mask k <= q weight dot(Q, K) * gamma[h]^(q - k) }"
CHANNEL = "attention gla(input g: f32[B, Hkv, L, D] log_decay) { mask k <= q weight dot(Q, K * decay(g)) }"
TOTAL = "use features (elu1) attention total { weight dot(elu1(Q), elu1(K)) / sum }"
H200 = gpu_of("h200")


def setup(text: str, dtype: str = "bf16", **sizes: int) -> tuple[attndsl.AttentionFunction, ScanFacts, ScanForm]:
    f = attndsl.load(text)
    problem = f.problem(**({"L": 32768, "H": 16, "D": 128} | sizes))  # type: ignore[arg-type]
    form = scans.scan_of(f.simplified, problem)
    assert form is not None
    return f, scan_facts(form, problem.sizes, dtype, H200.machine), form


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("step", SCAN_PASSES)
def test_candidates_have_no_known_miscompile_and_no_length(dtype: str, step: ScanPass) -> None:
    for text in (RETENTION, CHANNEL):
        _, facts, form = setup(text, dtype)
        found = scans.scan_space(step, facts, form, H200)
        assert found[0] == untuned_scan(step, facts)
        assert 5 < len(set(found)) == len(found) < 300
        assert all(c.segments == 0 for c in found)
        if step != "step":
            assert all(hazard(c, dtype) is None for c in found)
            assert text == RETENTION or step == "scan" or {c.chunk for c in found} == {found[0].chunk}
        for config in found:
            assert scan_config_of(json.loads(json.dumps(config_data(config)))) == config
            assert predict_scan(step, config, shape_of(step, facts, form), H200) > 0


def test_a_sequence_that_fills_the_gpu_is_cut_in_no_way() -> None:
    _, facts, form = setup(RETENTION, B=64)
    found = scans.scan_space("scan", facts, form, H200)
    assert all(shape_of("scan", facts, form).cut(c, H200)[0] == 1 for c in found)
    assert {(c.resident, c.least, c.state_columns, c.state_stages) for c in found[1:]} == {(1, 4, 0, 0)}
    assert cut(1024, 64, 1, 132) == (4, 256)
    assert cut(1024, 64, 1, 132, least=16) == (1, 1024)
    assert cut(4096, 64, 1, 132, least=16) == (4, 1024)


def test_keys_have_no_length() -> None:
    f, short, _ = setup(RETENTION, L=1000)
    _, long, _ = setup(RETENTION, L=1_000_000)
    _, more, _ = setup(RETENTION, L=1000, B=4)
    for step in SCAN_PASSES:
        assert scan_key(f.simplified, step, short) == scan_key(f.simplified, step, long)
        assert scan_key(f.simplified, step, short) != scan_key(f.simplified, step, more)


@pytest.mark.parametrize(
    ("text", "whole", "kernels"),
    [
        (RETENTION, False, {"outputs"}),
        (CHANNEL, False, {"careful", "outputs"}),
        (CHANNEL, True, {"gates", "careful", "outputs"}),
    ],
)
def test_what_a_configuration_launches(text: str, whole: bool, kernels: set[str]) -> None:
    f, facts, form = setup(text)
    problem = f.problem(L=32768, H=16, D=128)
    config = ScanConfig(64, 128, 8, 2, state_columns=64, state_warps=4, state_stages=3, gate_whole=whole)
    target = Gpu(90, H200.machine.multiprocessors)
    for step in scans.scan_passes(form, ("forward", "dq", "dkdv")):
        found = lower_scan(f.simplified, problem, "bf16", step, config, target)
        # the forward pass says how weights of chunks are made
        needed = kernels if step == "scan" else kernels - {"gates"}
        assert (
            needed
            <= {it.kernel.__name__ for it in found}
            <= (kernels if step == "scan" else kernels | {"gates", "finish", "finish_careful"}) | {"states", "outputs"}
        )
        assert any((it.kernel.__name__, it.warps, it.stages) == ("outputs", 8, 2) for it in found)
        # the states that the gradient of values finds are those of keys
        own = any((it.kernel.__name__, it.warps, it.stages) == ("states", 4, 3) for it in found)
        assert own == (step != "scan_dv") == shape_of(step, facts, form).states
    full = f.problem(L=512, B=64, H=16, D=128)
    assert {it.kernel.__name__ for it in lower_scan(f.simplified, full, "bf16", "scan", config, target)} == kernels
    (one,) = lower_scan(f.simplified, problem, "bf16", "step", ScanConfig(1, 32, 2, 1), target)
    assert (one.kernel.__name__, one.warps) == ("step", 2)
    assert choose_step(128, 128) == untuned_scan("step", facts)


def test_a_candidate_compiles() -> None:
    f, _, _ = setup(RETENTION)
    problem = f.problem(L=32768, H=16, D=128)
    job = ScanJob.of(f.simplified, problem, "bf16", H200, "scan_dv", ScanConfig(64, 64, 4, 2))
    found = compile_scan_job(job)
    assert not found.error
    assert found.spills == 0
    assert 64 < found.registers <= 255
    assert 64 << 10 < found.shared < 227 << 10
    broken = compile_scan_job(replace(job, attention=job.attention.replace("gamma", "gama", 1)))
    assert broken.error


def test_a_reduction_has_its_forward_pass_alone() -> None:
    _, _, form = setup(TOTAL)
    assert form.kind == "reduction"
    assert scans.scan_passes(form, ("forward", "dq", "dkdv", "decode")) == ("scan",)
    with pytest.raises(ValueError, match="total: as a reduction it has no pass 'dq'; it has forward"):
        scans.asked_passes("total", form, ["dq"])


class Quick:
    """Workers that know at once; one candidate takes too much."""

    def ask(self, job: ScanJob) -> Future[Any]:
        found: Future[Any] = Future()
        found.set_result(Compiled(200, 0, (300 if job.config.stages == 3 else 100) << 10, job.config.stages))
        return found

    def close(self) -> None:
        pass


def run(*arguments: str) -> int:
    return main(list(arguments))


@pytest.fixture
def nothing_shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU that the package knows nothing of."""
    monkeypatch.setattr(lookup, "shipped_entries", lambda gpu: ())  # pyright: ignore[reportUnknownLambdaType]
    monkeypatch.setattr(lookup, "every_shipped_entry", lambda: ())


@pytest.mark.usefixtures("nothing_shipped")
def test_the_commands(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("ATTNDSL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(scans, "Workers", Quick)
    spec = tmp_path / "r.attn"
    spec.write_text(RETENTION)
    where = ("--target", "sm_90", "--shape", "L=32768,H=16,D=128")
    assert run("tune", str(spec), *where, "--passes", "forward,dq,dkdv,decode", "--json") == 0
    entries = json.loads(capsys.readouterr().out)["entries"]
    assert [e["key"]["step"] for e in entries] == list(SCAN_PASSES)
    assert all(e["key"]["bucket"]["Lk"] == 0 for e in entries)
    first = entries[0]["payload"]["timings"]
    assert {t["state"] for t in first.values()} == {"predicted", "unfit"}
    assert all("300 KiB" in t["note"] for t in first.values() if t["state"] == "unfit")
    assert run("cache", "show", "retention") == 0
    assert "64x64 w4 s4" in capsys.readouterr().out
    assert run("doctor", str(spec), "--target", "sm_90", "--shape", "L=777,H=16,D=128", "--json") == 0
    passes = json.loads(capsys.readouterr().out)["calls"]["passes"]
    assert list(passes) == list(SCAN_PASSES)
    assert passes["scan"]["config"] == "64x64 w4 s4"
    assert "too little for a prediction" in passes["scan"]["why"]


def measured(step: ScanPass, facts: ScanFacts, f: attndsl.AttentionFunction, config: ScanConfig) -> Entry:
    usual = untuned_scan(step, facts)
    timings = {label(c): Timing(config_data(c), "measured", ms) for c, ms in ((usual, 1.0), (config, 0.9))}
    return Entry(scan_key(f.simplified, step, facts), "retention", {"L": 32768}, timings, label(usual))


@pytest.mark.usefixtures("nothing_shipped")
def test_calls_take_what_was_measured_whatever_their_length(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNDSL_CACHE_DIR", str(tmp_path / "cache"))
    f, facts, form = setup(RETENTION)
    better = ScanConfig(128, 64, 4, 2, resident=2, least=8)
    assert Store().write(measured("scan", facts, f, better))
    _, other, _ = setup(RETENTION, L=1234)
    found = decide_scan(f.simplified, "scan", other)
    assert (found.config, found.origin) == (better, "tuned")
    _, near, _ = setup(RETENTION, L=1234, B=2)
    assert decide_scan(f.simplified, "scan", near).origin == "near"
    assert decide_scan(f.simplified, "scan_dq", other).origin == "default"
    kernel = TritonKernel(f.simplified)
    assert kernel.scan_choices.tuned(form, other.sizes, "bf16", H200.machine) == (("scan", better),)
    assert kernel.scan_choices.tuned(form, other.sizes, "bf16", None) == ()
    # a file that nobody checked must not reach the compiler
    assert Store().write(measured("scan", facts, f, ScanConfig(64, 32, 4, 2)))
    assert decide_scan(f.simplified, "scan", other).origin == "default"
    with scan_configured(scan=ScanConfig(64, 64, 8, 1)):
        assert decide_scan(f.simplified, "scan", other).config.warps == 8
    for wrong in ({"chunk": 63}, {"warps": 64}, {"segments": -1}, {"least": 0}, {"tile": 3}, {"stages": 2.0}):
        with pytest.raises(ValueError, match="configuration"):
            scan_config_of({**config_data(better), **wrong})
    with pytest.raises(TypeError, match="no pass 'scan_dkdv'"), scan_configured(scan_dkdv=better):
        pass


def test_a_tuned_configuration_is_what_kernels_run_with(monkeypatch: pytest.MonkeyPatch) -> None:
    f, _, _ = setup(RETENTION)
    tuned = (("scan", ScanConfig(128, 64, 8, 1)), ("scan_dv", ScanConfig(128, 64, 4, 2)))
    monkeypatch.setattr(TritonKernel, "_tuned", lambda *_: tuned)
    call = bare_call(f.simplified, f.problem(L=32768, H=16, D=128).sizes, {}, torch.bfloat16)
    form = legalise(f.simplified, call.problem).form
    assert form is not None
    kernel = TritonKernel(f.simplified)
    with recording(90, 132) as launches:
        *_, saved = kernel.scan(call, form, None, False, save=True)
        forward = {(it.kernel.__name__, it.warps, it.stages) for it in launches}
        launches.clear()
        kernel.scan_backward(call, form, None, saved, call.v, (None, None), frozenset("qkv"))
        backward = [(it.warps, it.stages) for it in launches if it.kernel.__name__ == "outputs"]
    assert forward >= {("outputs", 8, 1), ("states", 8, 1)}
    assert backward == [(4, 4), (4, 4), (4, 2)]


class Made:
    """Trials whose times are made up: 64x64 w8 s2 is best, stages of one are wrong."""

    apart = True

    def __init__(self, *given: Any) -> None:
        self.step = given[4]

    def skip_safe(self) -> None:
        raise AssertionError("the default is right")

    def alive(self) -> bool:
        return True

    def predict(self, config: ScanConfig) -> float:
        return 1.0 + 0.1 * abs(config.stages - 2) + 0.2 * (config.warps != 8) + 0.3 * (config.columns != 64)

    def jobs(self, configs: Any) -> list[Any]:
        return []

    def compile(self, configs: Any) -> dict[ScanConfig, str]:
        return dict.fromkeys(configs, "")

    def check(self, config: ScanConfig) -> str:
        return "out: error" if config.stages == 1 and config.chunk > 1 else ""

    def measure(self, config: ScanConfig, seconds: float) -> Sample:
        return Sample(self.predict(config) + 0.01 * (config.resident + config.least), 0.01)


@pytest.mark.usefixtures("nothing_shipped")
@pytest.mark.parametrize(
    ("rows", "differentiated", "states"), [(64, False, False), (64, True, False), (1, False, True)]
)
def test_calls_tune_their_passes_once(
    rows: int, differentiated: bool, states: bool, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTNDSL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(scan_trials, "ScanTrials", Made)
    monkeypatch.setattr(scans, "Workers", lambda: Quick())
    monkeypatch.setattr(Quick, "ahead", lambda *_: None, raising=False)
    monkeypatch.setattr(online, "_done", set())
    monkeypatch.setattr(scan_kernel, "machine_of", lambda _: H200.machine)
    f = attndsl.load(RETENTION)
    q, k, v = (torch.randn(1, 2, rows, 128, dtype=torch.bfloat16).requires_grad_(differentiated) for _ in range(3))
    call = bind_call(f.attention, f.simplified, q, k, v, {"gamma": torch.ones(2)})
    kernel = TritonKernel(f.simplified)
    form = scans.scan_of(f.simplified, call.problem)
    assert form is not None
    tune: Any = online._tune_scan  # pyright: ignore[reportPrivateUsage]
    found = tune(kernel, Subject(f.attention, call, None), form, 5.0, None, states)
    steps = ["step"] if states else ["scan", "scan_dq", "scan_dk", "scan_dv"] if differentiated else ["scan"]
    assert [e.key.step for e in found] == steps
    facts = kernel.scan_facts(call, form)
    for entry in found:
        assert entry.measured, entry.timings
        assert decide_scan(f.simplified, entry.key.step, facts).origin == "tuned"
    if not states:
        best = scan_config_of(found[0].config or {})
        assert (best.columns, best.warps, best.stages) == (64, 8, 2)
        wrong = [n for n, t in found[0].timings.items() if t.state == "wrong"]
        assert all(" s1" in n for n in wrong)
        # calls after it run with what was found, whatever their length
        assert dict(
            kernel.scan_choices.tuned(form, {**call.sizes, "L": 9, "Lq": 9, "Lk": 9}, "bf16", H200.machine)
        ) == {e.key.step: scan_config_of(e.config or {}) for e in found}
    assert tune(kernel, Subject(f.attention, call, None), form, 5.0, None, states) == []
