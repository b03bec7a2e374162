"""Masks that imply k <= q, and what `decay` says to the others."""

from typing import Any

import numpy as np
import pytest

import attndsl
from attndsl.schedule.causal import implies_causal
from attndsl.schedule.problem import Problem

GIVEN = "input doc: i32[B, L], scalar w: int = 3"
CAUSAL = [
    "k <= q", "q >= k", "q - k >= 0", "0 <= q - k < 9", "k < q", "not (k > q)", "k + 1 <= q", "abs(q - k) < 1", "false",
    "q // 8 > k // 8", "k // 8 == q // 8 and k % 8 <= q % 8", "doc[b, q] == doc[b, k] and k <= q", "k == 0",
    "(k <= q and h > 0) or (k < q and h == 0)", "k + w <= q", "k * k <= q * q", "q == k and h > 0",
]  # fmt: skip
NOT_CAUSAL = [
    "true", "k <= q or k < 4", "k <= q + 1", "q // 8 >= k // 8", "doc[b, q] == doc[b, k]", "k <= q or h == 1", "k > q",
    "k <= q + w",
]  # fmt: skip


def proven(mask: str, length: int = 48, **more: Any) -> bool:
    function = attndsl.load(f"attention a({GIVEN}) {{ mask {mask} }}")
    return implies_causal(function.simplified, function.problem(**{"L": length, "H": 2, **more}))


@pytest.mark.parametrize("mask", CAUSAL)
def test_causal(mask: str):
    assert proven(mask)
    assert "*" in mask or proven(mask, 1 << 20)


@pytest.mark.parametrize("mask", NOT_CAUSAL)
def test_not_causal(mask: str):
    assert not proven(mask)
    assert not proven(mask, 1 << 20)


def test_it_depends_on_the_call():
    assert proven("k + w <= q", w=0) and not proven("k + w <= q", w=-1)
    assert proven("k < 9", Lq=4, Lk=16, L=None, q_offset=8)
    assert not proven("k < 9", Lq=4, Lk=16, L=None, q_offset=7)
    sorted_doc, other = np.arange(48)[None], np.arange(48)[None] // 2
    assert proven("doc[b, q] == doc[b, k]", doc=sorted_doc)
    assert not proven("doc[b, q] == doc[b, k]", doc=other)


@pytest.mark.parametrize(
    ("mask", "causal"),
    [("k <= q and q.t - k.t < 2", True), ("q.t > k.t", True), ("all(q.g >= k.g)", True), ("q.t >= k.t", False)],
)
def test_on_a_grid(mask: str, causal: bool):
    function = attndsl.load(f"attention a {{ grid g(t, y, x)  mask {mask} }}")
    assert implies_causal(function.simplified, function.problem(grid=(4, 6, 8))) is causal


DECAYS = [
    ("input g: f32[B, H, L] log_decay", "weight dot(Q, K) * decay(g)"),
    ("input g: f32[B, Hkv, L, D] log_decay", "weight dot(Q, K * decay(g))"),
    ("input g: f32[B, H, L] log_decay", "score s * decay(g)"),
]


@pytest.mark.parametrize(("params", "clause"), DECAYS)
def test_a_decay_needs_it(params: str, clause: str):
    torch = pytest.importorskip("torch")
    wrong = attndsl.load(f"attention a({params}) {{ mask q - k < 4  {clause} }}")
    right = attndsl.load(f"attention a({params}) {{ mask abs(q - k - 2) < 3  {clause} }}")
    q, k, v = (torch.randn(1, 2, 16, 8) for _ in range(3))
    g = -torch.rand(1, 2, 16, 8) if "D]" in params else -torch.rand(1, 2, 16)
    message = r"a: `decay\(g\)` needs a mask that implies k <= q.*add the clause `mask k <= q`"
    for ask in (lambda: wrong(q, k, v, g=g), lambda: wrong.plan(L=16, H=2), lambda: wrong.explain(L=16, H=2)):
        with pytest.raises(ValueError, match=message):
            ask()
    assert right.plan(L=16, H=2).visited
    if "weight" in clause:
        assert right(q, k, v, g=g).shape == q.shape


def test_it_is_looked_at_once_for_equal_problems(monkeypatch: pytest.MonkeyPatch):
    torch = pytest.importorskip("torch")
    import attndsl.schedule.causal as causal

    seen: list[Problem] = []
    real = causal.implies_causal
    monkeypatch.setattr(causal, "implies_causal", lambda a, p: seen.append(p) or real(a, p))
    function = attndsl.load(
        "attention a(input g: f32[B, H, L] log_decay) { mask q - k >= 0  weight dot(Q, K) * decay(g) }"
    )
    for length in (16, 16, 8, 16):
        q = torch.randn(1, 2, length, 8)
        function(q, q, q, g=-torch.rand(1, 2, length))
    assert [p.sizes["L"] for p in seen] == [16, 8]
