"""Kernels are parsed in threads, which Python before 3.11.8 does not bear."""
# pyright: reportUnknownMemberType=false, reportMissingImports=false

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from threading import Barrier, Thread

import pytest

import attndsl
from attndsl.codegen.whitelist_triton import check_kernels
from attndsl.runtime.triton.compiled import our_cache
from attndsl.runtime.triton.modules import load_module

pytest.importorskip("triton")

SPEC = "attention a { mask k <= q score 20 * tanh(s / 20) + 0.5 * abs(q - k) }"


class Careful:
    """What is collected runs Python, in which another thread may have its turn."""

    def __init__(self) -> None:
        self.me = self

    def __del__(self) -> None:
        for _ in range(50):
            pass


def test_two_threads_parse_at_once() -> None:
    source = attndsl.load(SPEC).source(backend="triton")
    kernel = load_module(source).forward
    failed: list[BaseException] = []
    together = Barrier(2)

    def run(parse: Callable[[], object]) -> None:
        try:
            together.wait(60)
            for _ in range(40):
                Careful()
                parse()
        except BaseException as error:
            failed.append(error)

    interval, threshold = sys.getswitchinterval(), gc.get_threshold()
    threads = [Thread(target=run, args=(f,)) for f in (lambda: check_kernels(source), lambda: kernel.parse())]
    sys.setswitchinterval(1e-6)
    gc.set_threshold(20)
    try:
        with our_cache():
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        sys.setswitchinterval(interval)
        gc.set_threshold(*threshold)
    assert failed == []
