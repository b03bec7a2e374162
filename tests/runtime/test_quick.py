"""Eager calls that repeat an earlier one: they see no operator, and give what it gives."""
# pyright: reportPrivateUsage=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from dense_kernel import DenseKernel
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import attndsl
from attndsl.runtime import entry, quick

ALIBI = """
attention alibi(input slope: f32[H], scalar c: float = 1.0, scalar w: int = 9) {
    score s - c * slope[h] * (q - k)
    mask k <= q and q - k < w
}
"""


@pytest.fixture
def operated(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """One entry for every call that the operator ran."""
    calls: list[int] = []
    plain = entry.attend

    def attend(*args: Any) -> Any:
        calls.append(1)
        return plain(*args)

    monkeypatch.setattr(entry, "attend", attend)
    yield calls


def tensors(L: int = 6, grad: bool = False, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((2, 4, L, 3), (2, 2, L, 3), (2, 2, L, 2), (4,))
    return [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_(grad) for s in shapes]


def fresh(text: str = ALIBI) -> attndsl.AttentionFunction:
    return attndsl.load(text)


def oracle(f: attndsl.AttentionFunction, q: Tensor, k: Tensor, v: Tensor, slope: Tensor, **options: Any) -> Any:
    """The same call, which the operator runs."""
    return f(q, k, v, slope=slope, checked=True, **options)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"c": 0.25},
    {"w": 3, "return_lse": True},
    {"scale": 0.5, "q_offset": 2},
    {"q_offset": "end"},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("grad", [False, True])
def test_a_repeated_call_gives_what_the_operator_gives(
    options: dict[str, Any], grad: bool, operated: list[int]
) -> None:
    f = fresh()
    f(*(t.detach() if not grad else t for t in tensors(grad=grad)[:3]), slope=tensors(grad=grad)[3], **options)
    f(*tensors(grad=grad)[:3], slope=tensors(grad=grad)[3], **options)
    operated.clear()
    *qkv, slope = tensors(grad=grad, seed=1)
    found = f(*qkv, slope=slope, **options)
    assert not operated
    wanted = oracle(f, *qkv, slope, **options)
    assert len(operated) == 1
    found, wanted = (x if isinstance(x, tuple) else (x,) for x in (found, wanted))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    if grad:
        leaves = (*qkv, slope)
        sums = [sum((x * x.detach().cos()).sum() for x in xs) for xs in (found, wanted)]
        for a, b in zip(*(torch.autograd.grad(s, leaves) for s in sums), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_positions_before_heads(operated: list[int]) -> None:
    f = fresh()
    *qkv, slope = tensors()
    turned = [t.transpose(1, 2).contiguous() for t in qkv]
    for _ in range(2):
        operated.clear()
        found = f(*turned, slope=slope, layout="bshd")
    assert not operated
    torch.testing.assert_close(found.transpose(1, 2), f(*qkv, slope=slope))


class Watching(TorchDispatchMode):
    """Sees the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def test_those_who_look_at_operators_see_one(operated: list[int]) -> None:
    f = fresh()
    *qkv, slope = tensors()
    for _ in range(2):
        f(*qkv, slope=slope)
    with Watching() as watching:
        f(*qkv, slope=slope)
    assert "attndsl.attend.default" in watching.seen
    many = torch.vmap(lambda q: f(q, *qkv[1:], slope=slope))(torch.stack([qkv[0], -qkv[0]]))
    torch.testing.assert_close(many[1], f(-qkv[0], *qkv[1:], slope=slope))
    traced = torch.jit.trace(lambda q: f(q, *qkv[1:], slope=slope), qkv[0], check_trace=False)
    torch.testing.assert_close(traced(-qkv[0]), many[1])


@pytest.mark.parametrize(
    "change",
    [
        lambda q: q.half(),
        lambda q: q.transpose(0, 1).contiguous().transpose(0, 1),
        lambda q: torch.cat([q, q], 3)[..., :3],
        lambda q: q[:1],
        lambda q: torch._neg_view(-q),
    ],
    ids=["type", "strides", "rows apart", "batch", "lazily negated"],
)  # fmt: skip
def test_another_kind_of_tensor_is_another_call(change: Callable[[Tensor], Tensor], operated: list[int]) -> None:
    f = fresh()
    *qkv, slope = tensors()
    for _ in range(2):
        f(*qkv, slope=slope)
    made = [change(t) for t in qkv]
    for _ in range(2):
        torch.testing.assert_close(f(*made, slope=slope), oracle(f, *[t.contiguous() for t in made], slope))


def test_mistakes_are_told_of_a_repeated_call_too() -> None:
    f = fresh()
    *qkv, slope = tensors()
    for _ in range(2):
        f(*qkv, slope=slope)
    with pytest.raises(TypeError, match="unknown argument 'slop'"):
        f(*qkv, slope=slope, slop=1)
    with pytest.raises(TypeError, match="scalar 'c' must be a float"):
        f(*qkv, slope=slope, c="1")
    with pytest.raises(TypeError, match="missing argument: input slope"):
        f(*qkv)
    with pytest.raises(ValueError, match="must fit in 32 bits"):
        f(*qkv, slope=slope, w=2**31)
    with pytest.raises(TypeError, match="'k' must be a torch"):
        f(qkv[0], None, qkv[2], slope=slope)


def test_another_kernel_is_another_call() -> None:
    f = fresh("attention own(input slope: f32[H]) { score s - slope[h] mask k <= q }")
    *qkv, slope = tensors()
    for _ in range(2):
        f(*qkv, slope=slope)
    kernel = DenseKernel()
    f._runner.use("cpu", kernel)
    f(*qkv, slope=slope)
    assert kernel.forwards


def test_second_derivatives_are_refused() -> None:
    f = fresh()
    *qkv, slope = tensors(grad=True)
    f(*qkv, slope=slope)
    (grad,) = torch.autograd.grad(f(*qkv, slope=slope).sum(), qkv[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives of an attention are not supported"):
        grad.sum().backward()


def test_saved_tensors_may_come_back_in_other_places() -> None:
    f = fresh()
    *qkv, slope = tensors(grad=True)
    wanted = torch.autograd.grad(oracle(f, *qkv, slope).sum(), (*qkv, slope))
    f(*qkv, slope=slope)

    def apart(t: Tensor) -> Tensor:
        return torch.cat([t, t], 3)[..., : t.shape[3]] if t.ndim == 4 else t

    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, apart):
        found = f(*qkv, slope=slope)
        grads = torch.autograd.grad(found.sum(), (*qkv, slope))
    for a, b in zip(grads, wanted, strict=True):
        torch.testing.assert_close(a, b)


def test_a_gradient_that_nobody_wants_is_not_computed() -> None:
    f = fresh()
    *qkv, slope = tensors()
    qkv[1].requires_grad_()
    for _ in range(2):
        out, lse = f(*qkv, slope=slope, return_lse=True)
    (grad,) = torch.autograd.grad(lse.sum(), qkv[1])
    assert grad.shape == qkv[1].shape
    del out


def test_few_different_calls_are_kept() -> None:
    f = fresh()
    for L in range(1, quick.CAPACITY + 20):
        *qkv, slope = tensors(L)
        f(*qkv, slope=slope)
    assert f._signature is not None
    assert 0 < len(f._signature.recent) <= quick.CAPACITY


def test_scalars_that_change_no_plan_do_not_make_another_call(operated: list[int]) -> None:
    f = fresh()
    *qkv, slope = tensors()
    f(*qkv, slope=slope)
    f(*qkv, slope=slope)
    operated.clear()
    for c in (0.5, -0.0, 2.0):
        torch.testing.assert_close(f(*qkv, slope=slope, c=c), oracle(f, *qkv, slope, c=c))
    assert len(operated) == 3
    known = len(recent(f))
    f(*qkv, slope=slope, w=4)
    assert len(recent(f)) == known + 1


def recent(f: attndsl.AttentionFunction) -> Any:
    """The calls that may repeat."""
    assert f._signature is not None
    return f._signature.recent
