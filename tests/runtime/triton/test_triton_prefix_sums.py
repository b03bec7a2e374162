"""Sums of decays before the kernels of tiles run."""

from __future__ import annotations

import pytest
import torch

import attndsl
from attndsl.runtime.binding import bind_call

pytest.importorskip("triton")

TEXT = "attention fading(input g: f32[B, Hkv, L] log_decay) { mask k <= q weight dot(Q, K)^2 * decay(g) }"


@pytest.mark.parametrize("length", [1, 2, 129])
def test_the_first_step_has_no_gradient(length: int) -> None:
    """No pair reaches over it; kernels round what rows and keys add up to in their own ways."""
    from attndsl.runtime.triton.kernels import kernel_for
    from attndsl.runtime.triton.projected import ProjectedKernel

    f = attndsl.load(TEXT)
    q, k, v = (torch.randn(1, h, length, 16) for h in (4, 2, 2))
    g = (-torch.rand(1, 2, length)).requires_grad_()
    kernel = kernel_for(f.simplified)
    assert isinstance(kernel, ProjectedKernel)
    inner = kernel.projected(bind_call(f.attention, f.simplified, q, k, v, {"g": g}))
    sums = [t for t in inner.inputs.values() if t.requires_grad]
    assert sums
    (found,) = torch.autograd.grad(sums, [g], [torch.randn_like(t) for t in sums])
    assert float(found[..., 0].abs().max()) == 0.0
    assert length == 1 or float(found[..., 1:].abs().min()) > 0.0
    assert all(float(t.detach()[..., 0].abs().max()) == 0.0 for t in sums)
