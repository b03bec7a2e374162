"""What calls do on the host, in counts: nothing is planned, looked up, read back or compiled for a new length."""
# pyright: reportUnknownMemberType=false, reportMissingImports=false, reportUnknownLambdaType=false
# pyright: reportPrivateUsage=false

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import attndsl
from attndsl.runtime import scans
from attndsl.runtime.binding import HostTables
from attndsl.runtime.triton import choices, lines, visits
from tests.runtime.triton.pretend import Pretended, pretend

pytest.importorskip("triton")

MASKS = {
    "causal": "attention causal { mask k <= q }",
    "window": "attention window(const w: int = 200) { mask k <= q and q - k < w }",
    "sink and window": "attention sink { mask k <= q and (q - k < 200 or k < 64) }",
    "documents": "attention docs(input doc: i32[B, L] sorted) { mask doc[b, q] == doc[b, k] and k <= q }",
}


@pytest.fixture(autouse=True)
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pretended:
    monkeypatch.setenv("ATTNDSL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    return pretend(monkeypatch)


def never(what: str) -> Any:
    def fail(*_: Any, **__: Any) -> Any:
        pytest.fail(what)

    return fail


def test_offsets_on_the_device_are_not_looked_at(gpu: Pretended) -> None:
    f = attndsl.load(MASKS["causal"])
    q = torch.zeros(2, 8, 400, 64, dtype=torch.bfloat16)
    f(q, q, q, q_offset=torch.tensor([3, 5]))
    assert gpu.launched[-1] == "forward"


@pytest.mark.parametrize("mask", MASKS)
def test_a_new_length(mask: str, gpu: Pretended, monkeypatch: pytest.MonkeyPatch) -> None:
    f = attndsl.load(MASKS[mask])
    q = torch.zeros(1, 8, 4000, 64, dtype=torch.bfloat16)
    doc = torch.zeros(1, 4000, dtype=torch.int32)

    def call(n: int) -> None:
        given = {"doc": doc[:, :n]} if mask == "documents" else {}
        f(q[:, :, :n], q[:, :, :n], q[:, :, :n], **given)

    call(4000)
    expected = list(gpu.launched)
    assert expected[-1] == "forward"
    monkeypatch.setattr(choices, "lookup", never("looked up"))
    monkeypatch.setattr(visits, "_looked_at", never("looked at"))
    monkeypatch.setattr("attndsl.schedule.build.build", never("planned"))
    monkeypatch.setattr(HostTables, "__getitem__", never("read back"))
    made: list[Any] = []
    real = lines._spans
    monkeypatch.setattr(lines, "_spans", lambda runs, like, box: made.append(like) or real(runs, like, box))
    gpu.forget()
    for n in range(3999, 3980, -1):
        call(n)
    assert gpu.compiled == gpu.found == []
    assert gpu.launched == expected * 19
    # of 32 tiles that which the end cuts
    starts = [(n - 1) // 128 * 128 for n in range(3999, 3980, -1)]
    assert made == ([] if mask == "documents" else starts)


@pytest.mark.parametrize("layout", ["bhsd", "bshd"])
def test_a_repeated_scan(layout: str, gpu: Pretended, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its arguments are looked at once, whatever the numbers in them."""
    f = attndsl.load("attention r(input g: f32[H]) { mask k <= q weight dot(Q, K) * g[h]^(q - k) }")
    shape = (1, 2, 128, 32) if layout == "bhsd" else (1, 128, 2, 32)

    def call() -> torch.Tensor:
        q, k, v = (torch.zeros(shape, dtype=torch.bfloat16) for _ in range(3))
        return f(q, k, v, g=torch.full((2,), 0.9), layout=layout)

    assert call().shape == shape
    launched = list(gpu.launched)
    monkeypatch.setattr(scans, "bind_call", never("bound"))
    gpu.forget()
    assert call().shape == shape
    assert gpu.launched == launched
    assert gpu.compiled == gpu.found == []
