"""The operator under autograd, on a dense kernel."""

from __future__ import annotations

import functools
import subprocess
import sys
from typing import Any

import pytest
import torch
from dense_kernel import DenseKernel
from torch import Tensor
from torch.autograd import gradcheck
from torch.utils.checkpoint import checkpoint

import attndsl

ALIBI = """
attention alibi(input slope: f32[H], input doc: i32[B, L]) {
    score s - slope[h] * (q - k)
    mask k <= q and doc[b, k] == doc[b, q]
}
"""
DOC = (torch.arange(5, dtype=torch.int32) // 3).expand(2, 5)
PLAIN = "attention plain { mask k <= q }"


loaded = functools.cache(attndsl.load)


def dense(kernel: DenseKernel, text: str = ALIBI) -> attndsl.AttentionFunction:
    """The attention with the kernel as its backend for CPU tensors."""
    made = loaded(text)
    made._runner.use("cpu", kernel)  # pyright: ignore[reportPrivateUsage]
    return made


def tensors(dtype: torch.dtype = torch.float64, grad: bool = True) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_(grad)

    return [draw(2, 4, 5, 3), draw(2, 2, 5, 3), draw(2, 2, 5, 2), draw(4)]


def run(
    kernel: DenseKernel, q: Tensor, k: Tensor, v: Tensor, slope: Tensor, lse: bool = False, **options: Any
) -> tuple[Tensor, Tensor | None]:
    found = dense(kernel)(q, k, v, slope=slope, doc=DOC, return_lse=lse, **options)
    return found if lse else (found, None)


def test_gradients_of_output_and_lse() -> None:
    def both(*operands: Tensor) -> tuple[Tensor, ...]:
        out, lse = run(DenseKernel(), *operands, lse=True)
        assert lse is not None
        return out, lse

    assert gradcheck(both, tensors())


def test_gradient_of_lse_alone() -> None:
    def only(*operands: Tensor) -> Tensor:
        lse = run(DenseKernel(), *operands, lse=True)[1]
        assert lse is not None
        return lse

    assert gradcheck(only, tensors())


def test_only_wanted_gradients_are_computed() -> None:
    kernel = DenseKernel()
    q, k, v, slope = tensors()
    out, _ = run(kernel, q, k.detach(), v.detach(), slope)
    out.sum().backward()
    assert kernel.needs == {"q", "slope"}
    assert q.grad is not None and slope.grad is not None


def test_a_gradient_that_the_kernel_leaves_out_is_zero() -> None:
    class Silent(DenseKernel):
        def backward(self, *args: Any, **options: Any) -> dict[str, Tensor]:
            return {}

    q, k, v, slope = tensors()
    run(Silent(), q, k, v, slope)[0].sum().backward()
    assert slope.grad is not None and torch.equal(slope.grad, torch.zeros(4, dtype=torch.float64))


def test_nothing_is_saved_without_gradients() -> None:
    class Watched(DenseKernel):
        def forward(self, call: Any, plan: Any, need_lse: bool, save: bool) -> Any:
            assert not save
            return super().forward(call, plan, need_lse, save)

    for operands in (tensors(grad=False), tensors()):
        with torch.set_grad_enabled(not operands[0].requires_grad):
            assert not run(Watched(), *operands)[0].requires_grad
    with torch.inference_mode():
        assert run(Watched(), *tensors())[0].is_inference()


def test_second_derivative_is_refused_in_words() -> None:
    q, k, v, slope = tensors()
    out, _ = run(DenseKernel(), q, k, v, slope)
    (first,) = torch.autograd.grad(out.sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="alibi: second derivatives of an attention are not supported"):
        first.sum().backward()


def test_backward_twice_needs_a_retained_graph() -> None:
    q, k, v, slope = tensors()
    out, _ = run(DenseKernel(), q, k, v, slope)
    out.sum().backward(retain_graph=True)
    once = q.grad.clone() if q.grad is not None else None
    q.grad = None
    out.sum().backward()
    assert once is not None and torch.equal(once, q.grad)
    with pytest.raises(RuntimeError, match="second time"):
        out.sum().backward()


def test_a_tensor_changed_in_place_is_noticed() -> None:
    q, k, v, slope = tensors()
    scaled = q * 1.0
    out, _ = run(DenseKernel(), scaled, k, v, slope)
    scaled.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing(reentrant: bool) -> None:
    plain, again = tensors(), tensors()
    kernel = DenseKernel()
    run(kernel, *plain)[0].sum().backward()
    assert kernel.forwards == 1

    def section(*operands: Tensor) -> Tensor:
        return run(kernel, *operands)[0]

    result: Any = checkpoint(section, *again, use_reentrant=reentrant)
    result.sum().backward()
    assert kernel.forwards == 3
    for a, b in zip(plain, again, strict=True):
        assert a.grad is not None and b.grad is not None and torch.equal(a.grad, b.grad)


def test_autocast_lowers_q_k_v_and_the_kernel_stays_outside() -> None:
    kernel = DenseKernel()
    q, k, v, slope = tensors(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, lse = run(kernel, q, k, v, slope, lse=True)
        mixed, _ = run(kernel, q.to(torch.bfloat16), k, v, slope)
    assert out.dtype == mixed.dtype == torch.bfloat16
    assert kernel.dtypes == {torch.bfloat16}
    assert lse is not None
    out.sum().backward()
    assert q.grad is not None and q.grad.dtype == torch.float32


def test_functional_gradient() -> None:
    q, k, v, _ = tensors(grad=False)
    plain = dense(DenseKernel(), PLAIN)

    def loss(q: Tensor) -> Tensor:
        return plain(q, k, v).square().sum()

    live = q.clone().requires_grad_()
    loss(live).backward()
    torch.testing.assert_close(torch.func.grad(loss)(q), live.grad)


@pytest.mark.parametrize("layout", ["bhsd", "bshd"])
def test_layouts_and_strides_mean_the_same(layout: str) -> None:
    q, k, v, slope = tensors(grad=False)
    want, _ = run(DenseKernel(), q, k, v, slope)

    def laid(t: Tensor) -> Tensor:
        return t.transpose(1, 2).contiguous() if layout == "bshd" else t

    columns = [laid(t).transpose(-1, -2).contiguous().transpose(-1, -2) for t in (q, k, v)]
    padded = [torch.cat([laid(t), laid(t)], -1)[..., : t.shape[-1]] for t in (q, k, v)]
    for given in ([laid(t) for t in (q, k, v)], columns, padded):
        live = [t.clone(memory_format=torch.preserve_format).requires_grad_() for t in given]
        out, _ = run(DenseKernel(), live[0], live[1], live[2], slope, layout=layout)
        torch.testing.assert_close(out.transpose(1, 2) if layout == "bshd" else out, want)
        out.sum().backward()
        assert all(t.grad is not None and t.grad.shape == t.shape for t in live)


def test_expanded_tensors_add_their_gradients() -> None:
    q, k, v, _ = tensors(grad=False)
    one = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    head = k[:, :1].clone().requires_grad_()
    run(DenseKernel(), q, head.expand(2, 4, 5, 3), v.repeat(1, 2, 1, 1), one.expand(4))[0].square().sum().backward()
    wide = head.detach().repeat(1, 4, 1, 1).requires_grad_()
    slopes = torch.full((4,), 0.3, dtype=torch.float64, requires_grad=True)
    run(DenseKernel(), q, wide, v.repeat(1, 2, 1, 1), slopes)[0].square().sum().backward()
    assert one.grad is not None and slopes.grad is not None and wide.grad is not None
    torch.testing.assert_close(one.grad, slopes.grad.sum())
    torch.testing.assert_close(head.grad, wide.grad.sum(1, keepdim=True))


@pytest.mark.parametrize("shape", [(0, 5, 5), (2, 0, 5), (2, 5, 0), (2, 0, 0)])
def test_empty_tensors(shape: tuple[int, int, int]) -> None:
    B, Lq, Lk = shape
    q, k, v = (torch.randn(B, 2, n, 4, dtype=torch.float64, requires_grad=True) for n in (Lq, Lk, Lk))
    out, lse = dense(DenseKernel(), PLAIN)(q, k, v, return_lse=True)
    assert out.shape == (B, 2, Lq, 4) and lse.shape == (B, 2, Lq)
    out.sum().backward()
    assert q.grad is not None and not q.grad.any()


def test_a_first_call_loads_no_compiler_of_torch() -> None:
    """Which takes seconds."""
    code = (
        "import sys, torch, attndsl\n"
        "q = torch.randn(1, 1, 8, 16, requires_grad=True)\n"
        "for text in ('attention a { mask k <= q }', 'attention b { mask k <= q weight dot(Q, K) }'):\n"
        "    attndsl.load(text)(q, q, q).sum().backward()\n"
        "loaded = [m for m in ('torch._dynamo', 'torch._inductor') if m in sys.modules]\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
