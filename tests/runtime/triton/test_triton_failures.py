"""A kernel that does not compile: what the user is told, and the file that shows it with triton alone."""
# pyright: reportUnknownMemberType=false, reportMissingImports=false

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import attndsl
from attndsl.codegen.triton import TritonModule
from attndsl.runtime.binding import bind_call
from attndsl.runtime.triton import compilation, lowering
from attndsl.runtime.triton import launch as launch_module
from attndsl.runtime.triton.compilation import Wanted
from attndsl.runtime.triton.config import Config, configured
from attndsl.runtime.triton.kernel import TritonKernel
from attndsl.schedule.build import build

pytest.importorskip("triton")

SPEC = """fn near(i, j) = i - j < 100
attention broken(input slope: f32[H]) {
    score s - slope[h] * (q - k)
    mask k <= q and near(q, k)
}"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNDSL_CACHE_DIR", str(tmp_path / "cache"))


def spoil(module: TritonModule) -> TritonModule:
    """The kernel with a product of shapes that do not fit."""
    found, count = re.subn(r"tl\.dot\(q0, k0\.T", "tl.dot(q0, k0", module.source)
    assert count
    return replace(module, source=found)


def lowered(f: attndsl.AttentionFunction, **how: Any) -> lowering.Lowered:
    _, (found,) = lowering.lower(f.simplified, f.problem(L=1000, H=2, D=64), "bf16", **how)
    return found


def again(file: Path) -> subprocess.CompletedProcess[str]:
    """Run a reproducer where attndsl cannot be imported."""
    environment = {n: v for n, v in os.environ.items() if n != "PYTHONPATH"}
    code = f"import sys, runpy; sys.modules['attndsl'] = None; runpy.run_path({str(file)!r}, run_name='__main__')"
    return subprocess.run(
        [sys.executable, "-c", code], cwd=file.parent, env=environment, capture_output=True, text=True, check=False
    )


def test_a_build_says_spec_configuration_and_words(tmp_path: Path) -> None:
    (tmp_path / "broken.attn").write_text(SPEC)
    it = lowered(attndsl.load(tmp_path / "broken.attn"), config=Config(128, 32, 4, 2))
    with pytest.raises(attndsl.KernelError) as caught:
        lowering.compile_lowered(replace(it, module=spoil(it.module)))
    error, text = caught.value, str(caught.value)
    assert error.attention == "broken"
    assert error.place.endswith("broken.attn:2:11")
    assert "attention broken(input slope: f32[H]) {" in text
    assert error.configuration == "forward, tile 128x32, bf16, D=64, 4 warps, 2 stages, sm_90"
    assert error.configuration in text
    assert "tl.dot(q0, k0" in error.words
    assert "backend 'cpu' runs this attention" in text
    assert error.reproducer is not None
    assert error.reproducer.parent == tmp_path / "cache" / "failures"
    assert str(error.reproducer) in text
    ran = again(error.reproducer)
    assert ran.returncode == 1
    assert "CompilationError" in ran.stderr
    assert "tl.dot(q0, k0" in ran.stderr


def test_a_reproducer_of_a_good_kernel_compiles(tmp_path: Path) -> None:
    from attndsl.runtime.triton.failures import failure

    it = lowered(attndsl.load(SPEC), config=Config(128, 64, 8, 2, registers=128))
    found = failure(lowering.attempt_of(it, lowering.elements(it.attention)), "nothing\n\x1b[31munprintable é")
    assert found.place == "<text>:2:11"
    assert found.reproducer is not None
    assert found.reproducer.read_text().isascii()
    assert "\x1b" not in found.reproducer.read_text()
    assert '"num_stages": 2, "maxnreg": 128}' in found.reproducer.read_text()
    ran = again(found.reproducer)
    assert ran.returncode == 0, ran.stderr
    assert "bytes of shared memory" in ran.stdout


def test_fewer_stages_where_shared_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    it = lowered(attndsl.load(SPEC), config=Config(64, 32, 4, 3))
    most = lowering.compile_lowered(it).shared
    monkeypatch.setattr(lowering, "shared_memory", lambda _: most - 1)
    fitting, built = lowering.compile_fitting(it)
    assert fitting.stages < 3
    assert built.shared < most
    monkeypatch.setattr(lowering, "shared_memory", lambda _: 100)
    with pytest.raises(attndsl.KernelError, match=r"shared memory, required: \d+, hardware limit: 100"):
        lowering.compile_fitting(it)


class NoGpu:
    """A compilation that fails as Triton's does."""

    def __init__(self, error: Exception) -> None:
        self.error, self.tried = error, list[int]()

    def begin(self, it: Wanted) -> NoGpu:
        self.tried.append(it.options["num_stages"])
        return self

    def loaded(self) -> None:
        raise self.error


@pytest.mark.parametrize("kind", ["shared memory", "running"])
def test_a_call_says_it_too(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.runtime.errors import OutOfResources

    f = attndsl.load(SPEC)
    kernel = TritonKernel(f.simplified)
    q = torch.randn(1, 2, 100, 64, dtype=torch.bfloat16)
    call = bind_call(f.attention, f.simplified, q, q, q, {"slope": torch.ones(2)})
    gpu = NoGpu(OutOfResources(9999, 100, "shared memory") if kind == "shared memory" else RuntimeError("illegal"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))

    monkeypatch.setattr(compilation, "begin", gpu.begin)

    def run(it: launch_module.Launch) -> None:
        ready = launch_module.Prepared(it)
        ready.stages = 2
        launch_module.first_launch(it, ready, ready.arguments(call, it.tensors), 0, lambda _: pytest.fail("launched"))

    monkeypatch.setattr("attndsl.runtime.triton.kernel.launch", run)
    with configured(Config(32, 32, 4, 2)):
        plan = build(f.simplified, call.problem, kernel.tiling(call).tile(f.simplified, call.problem))
        with pytest.raises(RuntimeError) as caught:
            kernel.forward(call, plan, True, False)
    if kind == "running":
        assert str(caught.value) == "illegal"
        assert gpu.tried == [2]
        return
    error = caught.value
    assert isinstance(error, attndsl.KernelError)
    assert gpu.tried == [2, 1]
    assert "Required: 9999" in error.words
    assert error.configuration == "forward, tile 32x32, bf16, D=64, 4 warps, 1 stage, sm_90"
    assert error.reproducer is not None
    assert again(error.reproducer).returncode == 0


def test_a_failure_travels_between_processes() -> None:
    import pickle

    error = attndsl.KernelError("broken", "a.attn:1:1", "attention broken {", "forward", "words", None)
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, attndsl.KernelError)
    assert str(again) == str(error)
    assert (again.place, again.words, again.reproducer) == ("a.attn:1:1", "words", None)
    assert "set ATTNDSL_CACHE_DIR" in str(error)
