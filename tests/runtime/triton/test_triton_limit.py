"""Kernels whose compilation does not end: what bounds it, what the caller is told, and what is written down."""
# pyright: reportUnknownMemberType=false, reportMissingImports=false, reportPrivateUsage=false

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from threading import Event
from typing import Any

import pytest

import attndsl
from attndsl.runtime.failures import KernelError
from attndsl.runtime.triton import limit
from attndsl.runtime.triton.limit import TooLongError, within
from attndsl.runtime.triton.lowering import compile_lowered, lower

pytest.importorskip("triton")

SPEC = "attention plain { mask k <= q }"


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNDSL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    monkeypatch.delenv("ATTNDSL_COMPILE_LIMIT", raising=False)


def compile_plain() -> Any:
    f = attndsl.load(SPEC)
    _, (found,) = lower(f.simplified, f.problem(L=1000, D=64), "bf16")
    return compile_lowered(found)


def test_what_ends_is_passed_on() -> None:
    assert within(60.0, "ttir", lambda: 5) == 5
    with pytest.raises(ZeroDivisionError):
        within(60.0, "ttir", lambda: 1 // 0)


def test_what_does_not_end_is_given_up() -> None:
    done = Event()

    def loops() -> None:
        while not done.is_set():
            pass

    try:
        with pytest.raises(TooLongError, match=r"\(ttgir\) did not end within 0\.05 s"):
            within(0.05, "ttgir", loops)
    finally:
        done.set()


def test_who_waits_takes_no_time_of_the_processor() -> None:
    """A busy machine is no compiler that hangs; a lock that nobody gives back is."""
    assert within(0.05, "ttir", lambda: time.sleep(0.2) or 7) == 7
    done = Event()
    try:
        with pytest.raises(TooLongError):
            within(0.01, "ttir", done.wait)
    finally:
        done.set()


def test_the_limit_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert limit.limit() == limit.SECONDS
    for given, seconds in (("7.5", 7.5), ("0", float("inf")), ("off", float("inf"))):
        monkeypatch.setenv(limit.VARIABLE, given)
        assert limit.limit() == seconds
    for given in ("soon", "-1", "nan"):
        monkeypatch.setenv(limit.VARIABLE, given)
        with pytest.warns(UserWarning, match="not a number of seconds"):
            assert limit.limit() == limit.SECONDS


def test_an_error_is_the_same_in_another_process() -> None:
    error = TooLongError("cubin", 3.0, earlier=True)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_an_assembler_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(limit.VARIABLE, "1")
    source = tmp_path / "kernel.ptx"
    source.write_text("")
    with pytest.raises(TooLongError, match=r"\(cubin\)"):
        limit.Assembler().run([sys.executable, "-c", "while True: pass", str(source)], check=True, close_fds=False)
    assert not source.exists()


def test_an_assembler_that_waits_for_ever_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(limit.VARIABLE, "0.2")
    monkeypatch.setattr(limit, "_bound", lambda process, seconds: False)
    with pytest.raises(TooLongError, match=r"\(cubin\)"):
        limit.Assembler().run([sys.executable, "-c", "import time; time.sleep(60)"], check=True)


def test_an_assembler_is_run_as_triton_runs_it() -> None:
    run = limit.Assembler().run
    assert run([sys.executable, "-c", ""], check=True).returncode == 0
    assert run([sys.executable, "-c", "raise SystemExit(3)"]).returncode == 3
    with pytest.raises(subprocess.CalledProcessError):
        run([sys.executable, "-c", "raise SystemExit(3)"], check=True)
    assert limit.Assembler().CalledProcessError is subprocess.CalledProcessError


def test_a_kernel_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the kernel and what to do; the next try, here or elsewhere, fails at once but with more time."""
    stages: list[str] = []

    def counted(seconds: float, stage: str, work: Any) -> Any:
        stages.append(stage)
        return within(seconds, stage, work)

    monkeypatch.setattr(limit, "within", counted)
    monkeypatch.setenv(limit.VARIABLE, "0.002")
    with pytest.raises(KernelError) as caught:
        compile_plain()
    said = str(caught.value)
    assert "forward, tile 128x64, bf16, D=64, 4 warps" in said
    assert "within 0.002 s; ATTNDSL_COMPILE_LIMIT" in said
    assert caught.value.reproducer is not None
    assert caught.value.reproducer.exists()
    stages.clear()
    with pytest.raises(KernelError, match="were not tried again"):
        compile_plain()
    assert not stages
    monkeypatch.setenv(limit.VARIABLE, "600")
    assert compile_plain().spills == 0
    assert stages == ["ttir", "ttgir", "llir", "ptx"]
    # what is compiled is there, whatever the limit
    monkeypatch.setenv(limit.VARIABLE, "0.002")
    assert compile_plain().spills == 0


def test_triton_is_left_as_it_was() -> None:
    import triton.backends.nvidia.compiler as nvidia

    from attndsl.runtime.triton.compiled import our_cache

    before: object = nvidia.CUDABackend.add_stages
    with our_cache(), our_cache():
        assert nvidia.CUDABackend.add_stages is not before
        assert isinstance(nvidia.subprocess, limit.Assembler)
    assert nvidia.CUDABackend.add_stages is before
    assert nvidia.subprocess is subprocess


def test_a_process_ends_while_a_pass_does_not(tmp_path: Path) -> None:
    """A thread that was given up, and comes back, does not crash the process on its way out."""
    code = (
        "import tests.runtime.triton.test_triton_limit as t\n"
        "t.limit.GRACE = 120\n"
        "try: t.compile_plain()\n"
        "except t.KernelError: print('given up')\n"
    )
    environment = {
        **os.environ, "ATTNDSL_COMPILE_LIMIT": "0.002", "ATTNDSL_CACHE_DIR": str(tmp_path / "other"),
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "given up\n"), done.stderr
