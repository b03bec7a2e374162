"""Settings around a call hold for its backward pass, which autograd runs on a thread of its own on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from threading import Thread
from typing import Any

import pytest
import torch
from torch import Tensor

import attndsl
from attndsl.runtime.cpu.kernel import CpuKernel

AROUND: ContextVar[str] = ContextVar("around", default="nothing")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What surrounds the backward passes of kernels."""
    found: list[str] = []
    for name in ("backward", "scan_backward"):
        run = getattr(CpuKernel, name)

        def spied(*given: Any, run: Callable[..., Any] = run, **named: Any) -> Any:
            found.append(AROUND.get())
            return run(*given, **named)

        monkeypatch.setattr(CpuKernel, name, spied)
    return found


def surrounded(call: Callable[[], Tensor], around: str) -> Tensor:
    token = AROUND.set(around)
    try:
        return call()
    finally:
        AROUND.reset(token)


def elsewhere(run: Callable[[], Any]) -> None:
    """Run on another thread, as autograd does on a GPU."""
    thread = Thread(target=run)
    thread.start()
    thread.join()


@pytest.mark.parametrize("weight", ["", "weight dot(Q, K)"])
def test_backward_runs_in_the_context_of_its_call(seen: list[str], weight: str) -> None:
    f = attndsl.load(f"attention a {{ mask k <= q {weight} }}")
    q, k, v = (torch.randn(1, 2, 9, 8, requires_grad=True) for _ in range(3))
    # the first is a call of the operator, the others repeat it
    results = [surrounded(lambda: f(q, k, v), name) for name in ("first", "second", "third")]
    for out in results:
        elsewhere(lambda out=out: torch.autograd.grad(out.sum(), (q, k, v), create_graph=out is results[1]))
    assert seen == ["first", "second", "third"]


def test_two_threads_run_the_same_backward_at_once(seen: list[str]) -> None:
    q, k, v = (torch.randn(1, 2, 9, 8, requires_grad=True) for _ in range(3))
    out = surrounded(lambda: attndsl.load("attention a { mask k <= q }")(q, k, v), "both")

    def again() -> None:
        for _ in range(20):
            torch.autograd.grad(out.sum(), (q, k, v), retain_graph=True)

    threads = [Thread(target=again) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == ["both"] * 40
