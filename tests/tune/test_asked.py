"""`tune=` and `tuning()` where there is nothing to tune."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import attndsl
from attndsl.runtime.tuning import asked


def test_calls_on_a_cpu() -> None:
    f = attndsl.load("attention causal { mask k <= q }")
    q = torch.randn(1, 2, 16, 8)
    with attndsl.tuning(budget=5):
        assert asked() is not None
        tuned = f(q, q, q)
    assert asked() is None
    assert torch.equal(tuned, f(q, q, q))
    with pytest.raises(ValueError, match=r"tune='now' needs tensors on a GPU .* backend 'cpu' has nothing to tune"):
        f(q, q, q, tune="now")
    with pytest.raises(ValueError, match="causal: tune is 'now' or left out, got 'later'"):
        f(q, q, q, tune="later")


def test_a_budget_is_positive() -> None:
    with pytest.raises(ValueError, match="budget: expected seconds above 0"), attndsl.tuning(budget=0):
        pass


def test_a_call_whose_passes_are_all_tuned_tunes_nothing() -> None:
    pytest.importorskip("triton")
    from attndsl.tune.online import tune_passes

    nothing: Any = None
    assert tune_passes(nothing, nothing, nothing, [], 5.0) == []
