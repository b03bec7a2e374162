"""Laws that hold between calls, for the compiled attention and for the oracle."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, seed
from hypothesis import strategies as st
from torch import Tensor

import attndsl
from attndsl.frontend.compile import compile_text
from attndsl.ir.bind import bind
from attndsl.reference import reference
from tests.drawing import SEED, drawn

Engine = Callable[..., tuple[Tensor, Tensor | None]]
LENGTH = st.sampled_from([1, 2, 5, 17, 64, 100, 129])
SEEDS = st.integers(0, 1000)


def _oracle(text: str, q: Tensor, k: Tensor, v: Tensor, consts: Mapping[str, Any] | None = None, **arguments: Any
            ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    (attention,) = compile_text(text)
    names = {i.name for i in attention.inputs}
    scalars = {s.name: arguments.pop(s.name) for s in attention.scalars if s.name in arguments}
    inputs = {n: arguments.pop(n) for n in names}
    out, lse = reference(bind(attention, consts or {}), q, k, v, inputs=inputs, scalars=scalars, **arguments)
    return out, lse


def _compiled(text: str, q: Tensor, k: Tensor, v: Tensor, consts: Mapping[str, Any] | None = None, **arguments: Any
              ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    out, lse = attndsl.load(text, **(consts or {}))(q.float(), k.float(), v.float(), return_lse=True, **arguments)
    return out, lse


ENGINES: dict[str, tuple[Engine, float]] = {"oracle": (_oracle, 1e-9), "compiled": (_compiled, 2e-5)}
engines = pytest.mark.parametrize("engine", ENGINES)
SCORES = ["", "score s - 0.1 * abs(q - k)", "score 3 * tanh(s / 3)"]
scores = pytest.mark.parametrize("score", SCORES)


def qkv(L: int, Lk: int | None = None, H: int = 2, Hkv: int = 2, B: int = 1, number: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(number)
    shapes = [(B, H, L, 16), (B, Hkv, Lk or L, 16), (B, Hkv, Lk or L, 8)]
    # float32 numbers, so that both engines are given the same
    return [torch.randn(s, generator=generator).double() for s in shapes]


def equal(a: tuple[Tensor, Tensor | None], b: tuple[Tensor, Tensor | None], tolerance: float) -> None:
    torch.testing.assert_close(a[0].double(), b[0].double(), atol=tolerance, rtol=tolerance)
    if a[1] is not None and b[1] is not None:
        torch.testing.assert_close(a[1].double(), b[1].double(), atol=tolerance, rtol=tolerance)


def law(examples: int, **strategies: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return lambda f: seed(SEED)(drawn(examples)(given(**strategies)(f)))


@engines
@scores
def test_infinite_window_is_causal(engine: str, score: str) -> None:
    run, tolerance = ENGINES[engine]

    @law(8, L=LENGTH, number=SEEDS, extra=st.integers(0, 100))
    def check(L: int, number: int, extra: int) -> None:
        x = qkv(L, number=number)
        window = run(f"attention a(const w: int) {{ mask 0 <= q - k < w  {score} }}", *x, consts={"w": L + extra})
        equal(window, run(f"attention a {{ mask k <= q  {score} }}", *x), tolerance)

    check()


@engines
@pytest.mark.parametrize("weight", ["softmax", "exp(s) / sum", "sign(s) * exp(abs(s)) / sum(exp(abs(s)))"])
def test_parts_of_the_keys_merge_by_lse(engine: str, weight: str) -> None:
    run, tolerance = ENGINES[engine]

    @law(8, L=LENGTH, Lk=LENGTH, number=SEEDS, cut=st.integers(0, 129))
    def check(L: int, Lk: int, number: int, cut: int) -> None:
        x = qkv(L, Lk, number=number)
        text = f"""attention a(scalar low: int, scalar high: int) {{
            mask low <= k < high and (k - q) % 3 < 2  weight {weight} }}"""
        parts = [run(text, *x, low=a, high=b) for a, b in ((0, cut), (cut, Lk))]
        o, lse = torch.stack([p[0] for p in parts]), torch.stack([_present(p[1]) for p in parts])
        total = torch.logsumexp(lse, 0)
        share = torch.exp(lse - torch.where(total == -math.inf, 0, total))
        equal(((share[..., None] * o).sum(0), total), run(text, *x, low=0, high=Lk), tolerance)

    check()


def _present(lse: Tensor | None) -> Tensor:
    assert lse is not None
    return lse


@engines
def test_permuting_an_axis_permutes_the_output(engine: str) -> None:
    """A mask that looks at y alone does not care about the order of x."""
    run, tolerance = ENGINES[engine]

    @law(8, y=st.integers(1, 9), x=st.integers(1, 9), number=SEEDS, reach=st.integers(0, 4))
    def check(y: int, x: int, number: int, reach: int) -> None:
        q, k, v = qkv(y * x, number=number)
        order = torch.randperm(x, generator=torch.Generator().manual_seed(number))
        at = torch.arange(y * x).reshape(y, x)[:, order].reshape(-1)
        text = f"attention a {{ grid picture(y, x)  mask abs(q.y - k.y) <= {reach} }}"
        whole, lse = run(text, q, k, v, grid=(y, x))
        equal(run(text, q[:, :, at], k[:, :, at], v[:, :, at], grid=(y, x)),
              (whole[:, :, at], _present(lse)[:, :, at]), tolerance)  # fmt: skip

    check()


@engines
def test_swapping_axes_transposes(engine: str) -> None:
    run, tolerance = ENGINES[engine]

    @law(8, y=st.integers(1, 9), x=st.integers(1, 9), number=SEEDS)
    def check(y: int, x: int, number: int) -> None:
        tensors = qkv(y * x, number=number)
        at = torch.arange(y * x).reshape(y, x).T.reshape(-1)
        text = "attention a {{ grid picture({})  mask abs(q.y - k.y) <= 1 and (q.x - k.x) % 3 < 2 }}"
        whole, lse = run(text.format("y, x"), *tensors, grid=(y, x))
        turned = run(text.format("x, y"), *[t[:, :, at] for t in tensors], grid=(x, y))
        equal(turned, (whole[:, :, at], _present(lse)[:, :, at]), tolerance)

    check()


@engines
@scores
def test_documents_equal_separate_calls(engine: str, score: str) -> None:
    run, tolerance = ENGINES[engine]

    @law(8, lengths=st.lists(st.integers(1, 60), min_size=1, max_size=5), number=SEEDS)
    def check(lengths: list[int], number: int) -> None:
        q, k, v = qkv(sum(lengths), number=number)
        doc = torch.repeat_interleave(torch.arange(len(lengths), dtype=torch.int32), torch.tensor(lengths))[None]
        text = f"attention a(input doc: i32[B, L] sorted) {{ mask doc[b, q] == doc[b, k] and k <= q  {score} }}"
        packed = run(text, q, k, v, doc=doc)
        parts = [
            run(f"attention a {{ mask k <= q  {score} }}", *part)
            for part in zip(*[t.split(lengths, 2) for t in (q, k, v)], strict=True)
        ]
        outs, lses = torch.cat([p[0] for p in parts], 2), torch.cat([_present(p[1]) for p in parts], 2)
        equal(packed, (outs, lses), tolerance)

    check()


@engines
@scores
def test_last_rows_alone_equal_the_tail(engine: str, score: str) -> None:
    run, tolerance = ENGINES[engine]

    @law(8, L=LENGTH, number=SEEDS, rows=st.integers(1, 20), by_batch=st.booleans())
    def check(L: int, number: int, rows: int, by_batch: bool) -> None:
        rows = min(rows, L)
        q, k, v = qkv(L, number=number, B=2)
        text = f"attention a {{ mask 0 <= q - k < 30  {score} }}"
        out, lse = run(text, q, k, v)
        offset = torch.tensor([L - rows] * 2, dtype=torch.int32) if by_batch else "end"
        tail = run(text, q[:, :, L - rows :], k, v, q_offset=offset)
        equal(tail, (out[:, :, L - rows :], _present(lse)[:, :, L - rows :]), tolerance)

    check()


@engines
def test_shared_keys_equal_repeated_keys(engine: str) -> None:
    run, tolerance = ENGINES[engine]

    @law(8, L=LENGTH, number=SEEDS, group=st.integers(1, 4))
    def check(L: int, number: int, group: int) -> None:
        q, k, v = qkv(L, number=number, H=2 * group)
        text = "attention a { mask k <= q and (q - k) % (h + 1) == 0 }"
        repeated = run(text, q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1))
        equal(run(text, q, k, v), repeated, tolerance)

    check()


@engines
def test_a_sink_of_no_mass_is_softmax(engine: str) -> None:
    run, tolerance = ENGINES[engine]

    @law(8, L=LENGTH, number=SEEDS)
    def check(L: int, number: int) -> None:
        x = qkv(L, number=number)
        text = "attention a(input z: f32[H]) { mask k < q  weight exp(s) / (exp(z[h]) + sum) }"
        z = torch.full((2,), -math.inf)
        equal(run(text, *x, z=z), run("attention a { mask k < q }", *x), tolerance)

    check()


@engines
def test_order_of_keys_does_not_matter_to_positions_from_tensors(engine: str) -> None:
    run, tolerance = ENGINES[engine]

    @law(8, L=LENGTH, number=SEEDS)
    def check(L: int, number: int) -> None:
        q, k, v = qkv(L, number=number)
        at = torch.randperm(L, generator=torch.Generator().manual_seed(number))
        text = """attention a(input there: i32[B, L]) {
            mask 0 <= q - there[b, k] < 20  score s - 0.2 * (q - there[b, k]) }"""
        identity = torch.arange(L, dtype=torch.int32)[None]
        moved = run(text, q, k[:, :, at], v[:, :, at], there=identity[:, at].contiguous())
        equal(moved, run(text, q, k, v, there=identity), tolerance)

    check()


@engines
def test_const_scalar_and_input_of_one_value_agree(engine: str) -> None:
    run, tolerance = ENGINES[engine]

    @law(8, L=LENGTH, number=SEEDS, w=st.integers(1, 60))
    def check(L: int, number: int, w: int) -> None:
        x = qkv(L, number=number)
        body = "{{ mask abs(q - k) < {0} and q // {0} >= k // {0} }}"
        const = run(f"attention a(const w: int) {body.format('w')}", *x, consts={"w": w})
        scalar = run(f"attention a(scalar w: int) {body.format('w')}", *x, w=w)
        table = run(f"attention a(input w: i32[H]) {body.format('w[h]')}", *x, w=torch.full((2,), w, dtype=torch.int32))
        equal(scalar, const, tolerance)
        equal(table, const, tolerance)

    check()
