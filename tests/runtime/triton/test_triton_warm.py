"""A process with a warm cache: no template is filled, nothing is compiled, and Triton does not read itself."""
# pyright: reportUnknownMemberType=false, reportMissingImports=false

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import attndsl
from attndsl.codegen import templates
from attndsl.runtime.binding import bind_call
from attndsl.runtime.triton import toolchain
from attndsl.runtime.triton.config import Config, configured
from attndsl.runtime.triton.kernel import TritonKernel
from attndsl.runtime.triton.modules import load_module
from attndsl.schedule.build import build
from tests.runtime.triton.pretend import pretend

pytest.importorskip("triton")

SMALL = Config(32, 32, 4, 1)


def run() -> None:
    """Forward, backward and decode of a new function, and boxes that a device finds on a line and on a grid."""
    some = torch.arange(100, dtype=torch.int32) // 40
    for text, given in (
        ("attention near(input doc: i32[L] sorted) { mask doc[q] == doc[k] and k <= q }", {}),
        ("attention tiles(input doc: i32[L]) { grid g(y, x) mask doc[q] == doc[k] and abs(q.y - k.y) < 3 }",
         {"grid": (10, 10)}),
    ):  # fmt: skip
        q, k, v = (torch.randn(1, 2, 100, 32, dtype=torch.bfloat16) for _ in range(3))
        with torch.no_grad(), configured(SMALL):
            attndsl.load(text)(q, k, v, doc=some, **given)
    f = attndsl.load("attention near(input slope: f32[H]) { score s - slope[h] * (q - k) mask k <= q and q - k < 70 }")
    for rows in (100, 1):
        q = torch.randn(1, 2, rows, 32, dtype=torch.bfloat16)
        k, v = (torch.randn(1, 2, 100, 32, dtype=torch.bfloat16) for _ in range(2))
        call = bind_call(f.attention, f.simplified, q, k, v, {"slope": torch.ones(2)}, q_offset=100 - rows)
        kernel = TritonKernel(f.simplified)
        few = {"decode": SMALL if rows == 1 else None}
        with torch.no_grad(), configured(SMALL, dq=SMALL, dkdv=SMALL, **few):
            tiling = kernel.tiling(call)
            problem = tiling.problem(f.simplified, call.problem)
            plan = build(f.simplified, problem, tiling.tile(f.simplified, problem))
            _, _, saved = kernel.forward(call, plan, False, save=rows > 1)
            if rows > 1:
                kernel.backward(call, plan, saved, torch.randn_like(q), None, frozenset("qkv"))


def test_the_next_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.backends.nvidia.compiler import CUDABackend
    from triton.runtime import cache

    monkeypatch.setenv("ATTNDSL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    monkeypatch.setattr(toolchain, "_answers", {})
    pretend(monkeypatch)
    done: list[str] = []

    def noted(name: str) -> Any:
        def never(*arguments: Any, **more: Any) -> Any:
            done.append(name)
            raise AssertionError(name)

        return never

    run()
    # what a process remembers
    load_module.cache_clear()
    monkeypatch.setattr(toolchain, "_answers", {})
    monkeypatch.setattr(templates, "environment", noted("a template was filled"))
    monkeypatch.setattr(CUDABackend, "add_stages", noted("a kernel was compiled"))
    monkeypatch.setattr(cache, "triton_key", noted("Triton was hashed"))
    run()
    assert done == []
    with pytest.raises(AssertionError, match="a template was filled"):
        attndsl.load("attention other { mask k >= q }").source(backend="triton")
