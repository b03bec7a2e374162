"""The operator under torch.compile, torch.export, opcheck and torch.func, on the CPU backend."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.library import opcheck

import attndsl
from attndsl.runtime.given import given
from attndsl.runtime.operator import ATTEND, BACKWARD
from attndsl.runtime.registry import runner_of

ALIBI = """attention alibi(scalar strength: float = 1.0, scalar window: int = 9, input slope: f32[H]) {
    score s - strength * slope[h] * (q - k)
    mask k <= q and q - k < window
}"""
DOCS = "attention docs(input doc: i32[B, L] sorted) { mask doc[b, q] == doc[b, k] and k <= q }"
GATED = """attention gated(input z: f32[H], input g: f32[B, H, Lq]) {
    mask k <= q weight exp(s) / (exp(z[h]) + sum) output o * sigmoid(g[b, h, q]) }"""
LINEAR = "attention retention(input gamma: f32[H]) { mask k <= q weight dot(Q, K) * gamma[h]^(q - k) / sum }"
GRID = "attention near { grid video(t, y) mask abs(q.t - k.t) <= 1 and abs(q.y - k.y) <= 1 }"


def tensors(dtype: torch.dtype = torch.float32, grad: bool = False, L: int = 12, B: int = 2) -> list[Tensor]:
    """q, k, v with two query heads a key head."""
    made = torch.Generator().manual_seed(L)
    shapes = (B, 4, L, 8), (B, 2, L, 8), (B, 2, L, 8)
    return [torch.randn(s, generator=made, dtype=torch.float64).to(dtype).requires_grad_(grad) for s in shapes]


class Graphs:
    """A backend of torch.compile that counts what it is given."""

    def __init__(self) -> None:
        self.graphs: list[torch.fx.GraphModule] = []

    def __call__(self, graph: torch.fx.GraphModule, examples: Any) -> Callable[..., Any]:
        self.graphs.append(graph)
        return graph.forward


def compiled(function: Callable[..., Any], backend: Any = "aot_eager", **options: Any) -> Callable[..., Any]:
    torch.compiler.reset()
    return torch.compile(function, fullgraph=True, backend=backend, **options)


CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (ALIBI, {"slope": torch.rand(4)}, {"strength": torch.tensor(0.5), "window": 5}),
    (DOCS, {"doc": (torch.arange(12, dtype=torch.int32) // 5).repeat(2, 1)}, {}),
    (GATED, {"z": torch.rand(4), "g": torch.randn(2, 4, 12)}, {"layout": "bshd"}),
    (GRID, {}, {"grid": (3, 4)}),
    (GRID, {}, {"grid": {"y": 4}}),
    (LINEAR, {"gamma": torch.tensor([0.5, 0.7, 0.9, 1.0])}, {}),
    ("attention dense {}", {}, {"q_offset": "end", "scale": 0.25}),
    ("attention dense {}", {}, {"q_offset": torch.tensor([0, 1]), "return_lse": True}),
]


@pytest.mark.parametrize(("text", "inputs", "options"), CASES)
def test_a_compiled_call_is_the_eager_one(text: str, inputs: dict[str, Any], options: dict[str, Any]) -> None:
    f = attndsl.load(text)
    floats = {n: t for n, t in inputs.items() if t.is_floating_point()}

    def call(q: Tensor, k: Tensor, v: Tensor, inputs: dict[str, Tensor]) -> list[Tensor]:
        if options.get("layout") == "bshd":
            q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        found = f(q, k, v, **inputs, **options)
        return list(found) if isinstance(found, tuple) else [found]

    results: list[list[Tensor]] = []
    for run in (call, compiled(call)):
        q, k, v = tensors(grad=True)
        live = {n: t.clone().requires_grad_() for n, t in floats.items()}
        found = run(q, k, v, inputs | live)
        sum(t.square().sum() for t in found).backward()
        results.append([*found, *(t.grad for t in (q, k, v, *live.values()) if t.grad is not None)])
    assert len(results[0]) == len(results[1]) == len(found) + 3 + len(floats)
    for eager, made in zip(*results, strict=True):
        assert torch.equal(eager, made) and eager.stride() == made.stride()


def test_inductor() -> None:
    f = attndsl.load(ALIBI)
    operands, slope = tensors(), torch.rand(4)

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return f(q, k, v, slope=slope)

    assert torch.equal(compiled(call, "inductor")(*operands), call(*operands))


def test_neither_lengths_nor_numbers_recompile() -> None:
    f = attndsl.load(ALIBI)
    counted = Graphs()
    slope = torch.rand(4)

    def call(q: Tensor, k: Tensor, v: Tensor, strength: Any, window: int, offset: int) -> Tensor:
        return f(q, k, v, slope=slope, strength=strength, window=window, q_offset=offset)

    run = compiled(call, counted, dynamic=True)
    for i, length in enumerate((7, 12, 33, 64)):
        given = (*tensors(L=length), torch.tensor(0.25 * i), 3 + i, 2 * i)
        assert torch.equal(run(*given), call(*given))
    assert len(counted.graphs) == 1
    names = [n.target for n in counted.graphs[0].graph.nodes if n.op == "call_function"]
    assert names.count(torch.ops.attndsl.attend.default) == 1


def test_a_wrong_call_is_told_when_it_is_compiled() -> None:
    f = attndsl.load(ALIBI)
    q, k, v = tensors()
    with pytest.raises(Exception, match="missing argument: input slope"):
        compiled(lambda q: f(q, k, v))(q)
    with pytest.raises(ValueError, match=r"'slope' must have shape \[H\] = \[4\], got \[3\]"):
        compiled(lambda q: f(q, k, v, slope=torch.rand(3)))(q)


def test_states_stay_outside_graphs() -> None:
    f = attndsl.load("attention linear { mask k <= q weight dot(Q, K) }")
    q, k, v = tensors()
    whole = f(q, k, v)

    def parts(q: Tensor) -> Tensor:
        first, state = f(q[:, :, :5], k[:, :, :5], v[:, :, :5], return_state=True)
        return torch.cat([first, f(q[:, :, 5:], k[:, :, 5:], v[:, :, 5:], initial_state=state)], 2)

    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(parts, backend="eager")(q), whole)
    with pytest.raises(Exception, match="disable"):
        compiled(parts, "eager")(q)


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attend = attndsl.load(GATED)
        self.z = torch.nn.Parameter(torch.zeros(4))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
        return self.attend(q, k, v, z=self.z, g=g)


@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_program_runs_without_the_function(strict: bool) -> None:
    block = Block()
    operands = (*tensors(), torch.randn(2, 4, 12))
    length = torch.export.Dim("length", min=2, max=4096)
    program: Any = torch.export.export(block, operands, dynamic_shapes=({2: length},) * 4, strict=strict)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    longer = (*tensors(L=29), torch.randn(2, 4, 29))
    wanted = block(*longer)
    block.attend = attndsl.load("attention other {}")
    again: Any = torch.export.load(file).module()
    torch.testing.assert_close(again(*longer), wanted)


@pytest.mark.parametrize(("text", "inputs", "options"), CASES)
def test_opcheck(text: str, inputs: dict[str, Any], options: dict[str, Any]) -> None:
    f = attndsl.load(text)
    lse = bool(options.get("return_lse"))
    options = {n: o for n, o in options.items() if n not in ("return_lse", "layout")}
    f(*tensors(), **inputs, **options)
    q, k, v = tensors(grad=True)
    inputs = {n: t.clone().requires_grad_(t.is_floating_point()) for n, t in inputs.items()}
    numbers = {n: options.pop(n) for n in ("strength", "window") if n in options}
    assert f._signature is not None  # pyright: ignore[reportPrivateUsage]
    operands = given(f._signature, q, k, v, inputs | numbers, **options)  # pyright: ignore[reportPrivateUsage]
    opcheck(ATTEND, (*operands, lse, False, False))
    results, kept = ATTEND(*operands, lse, False, True)
    saves = runner_of(operands.spec).saves(operands, lse)
    named, own = dict(zip(("out", "lse"), results, strict=False)), iter(kept)
    saved = [named[s] if isinstance(s, str) else next(own) for s in saves]
    with torch.no_grad():
        needs = [t.is_floating_point() for t in operands.tensors]
        opcheck(BACKWARD, (*operands, saved, [torch.ones_like(r) for r in results], [*range(len(results))], needs))


def test_gradcheck_in_double_precision() -> None:
    f = attndsl.load(GATED)
    q, k, v = (t[..., :3].detach().requires_grad_() for t in tensors(torch.float64, L=3, B=1))
    z, g = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((4,), (1, 4, 3)))
    assert gradcheck(lambda *t: f(*t[:3], z=t[3], g=t[4], return_lse=True), (q, k, v, z, g))


# torch.func


def test_vmap_joins_the_batch_or_loops() -> None:
    f = attndsl.load(GATED)
    q, k, v = (torch.stack([t, 2 * t, t - 1]) for t in tensors())
    z, g = torch.rand(3, 4), torch.randn(3, 2, 4, 12)

    def one(q: Tensor, k: Tensor, v: Tensor, z: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        return f(q, k, v, z=z, g=g, return_lse=True)

    for dims in ((0, 0, 0, 0, 0), (0, None, None, None, None), (0, 0, 0, None, 0), (None, None, None, 0, None)):
        chosen = [t if d is not None else t[0] for t, d in zip((q, k, v, z, g), dims, strict=True)]
        found = torch.vmap(one, dims)(*chosen)
        for i in range(3):
            want = one(*[t[i] if d is not None else t for t, d in zip(chosen, dims, strict=True)])
            for a, b in zip(found, want, strict=True):
                torch.testing.assert_close(a[i], b)
    moved = torch.vmap(one, (2, 1, 3, None, 0), (1, 2))(q.movedim(0, 2), k.movedim(0, 1), v.movedim(0, 3), z[0], g)
    torch.testing.assert_close(moved[0][:, 1], one(q[1], k[1], v[1], z[0], g[1])[0])


def test_vmap_of_a_spec_that_computes_with_the_batch() -> None:
    f = attndsl.load("attention odd { mask k <= q and (k + b) % 2 == 0 }")
    q, k, v = (torch.stack([t, 2 * t]) for t in tensors())
    found = torch.vmap(lambda q, k, v: f(q, k, v))(q, k, v)
    torch.testing.assert_close(found[1], f(q[1], k[1], v[1]))


def test_gradients_for_each_sample() -> None:
    f = attndsl.load(ALIBI)
    q, k, v = (torch.stack([t, 2 * t, t - 1]) for t in tensors())
    slope = torch.rand(4)

    def loss(q: Tensor, k: Tensor, v: Tensor, slope: Tensor) -> Tensor:
        return f(q, k, v, slope=slope).square().sum()

    found = torch.vmap(torch.func.grad(loss, (0, 1, 2, 3)), (0, 0, None, None))(q, k, v[0], slope)
    inputs_only = torch.vmap(torch.func.grad(loss, (0, 2)), (0, 0, None, None))(q, k, v[0], slope)
    for i in range(3):
        live = [t.clone().requires_grad_() for t in (q[i], k[i], v[0], slope)]
        loss(*live).backward()
        for a, t in zip(found, live, strict=True):
            torch.testing.assert_close(a[i], t.grad)
        torch.testing.assert_close(inputs_only[1][i], live[2].grad)
    summed = torch.func.grad(lambda q: torch.vmap(loss, (0, 0, 0, None))(q, k, v, slope).sum())(q)
    one = torch.func.grad(loss)(q[2], k[2], v[2], slope)
    torch.testing.assert_close(summed[2], one)


def test_compiled_torch_func() -> None:
    f = attndsl.load(ALIBI)
    q, k, v = tensors()
    slope = torch.rand(4)
    gradient = torch.func.grad(lambda q: f(q, k, v, slope=slope).square().sum())
    torch.testing.assert_close(compiled(gradient)(q), gradient(q))


# Threads, numbers


def test_calls_from_several_threads() -> None:
    f = attndsl.load(ALIBI)
    slope = torch.rand(4)
    lengths = (5, 12, 23)
    wanted = {n: f(*tensors(L=n), slope=slope) for n in lengths}
    found: list[bool] = []

    def work(i: int) -> None:
        for n in (*lengths[i:], *lengths[:i]):
            q, k, v = tensors(L=n, grad=True)
            out = f(q, k, v, slope=slope)
            out.sum().backward()
            found.append(torch.equal(out, wanted[n]) and q.grad is not None)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert found == [True] * 9


@pytest.mark.parametrize(
    ("numbers", "same"),
    [
        ({"strength": torch.tensor(0.25)}, {"strength": 0.25}),
        ({"window": torch.tensor(3)}, {"window": 3}),
        ({"scale": torch.tensor(2.0)}, {"scale": 2.0}),
        ({"q_offset": torch.tensor(4)}, {"q_offset": 4}),
    ],
)
def test_numbers_may_be_tensors(numbers: dict[str, Tensor], same: dict[str, Any]) -> None:
    f = attndsl.load(ALIBI)
    operands, slope = tensors(), torch.rand(4)
    assert torch.equal(f(*operands, slope=slope, **numbers), f(*operands, slope=slope, **same))
