"""The CPU kernel against the dense oracle, over the features of the language."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import attndsl
from attndsl.runtime.cpu import CpuKernel
from attndsl.runtime.cpu.support import tanh
from tests.runtime.cpu_cases import Case


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(11))


B, H, HKV, L, D = 2, 4, 2, 33, 8
DOCS = torch.tensor([[0] * 10 + [1] * 5 + [3] * 18, [1] * 20 + [2] * 13], dtype=torch.int32)
CASES = {
    "dense": Case("attention a { }"),
    "causal": Case("attention a { mask k <= q }"),
    "window": Case("attention a(const w: int = 5) { mask k <= q and q - k < w }"),
    "alibi": Case(
        "attention a(scalar t: float = 1.0, input slope: f32[H]) { score s - t * slope[h] * (q - k) mask k <= q }",
        inputs={"slope": normal(H)},
    ),
    "softcap": Case("attention a(scalar c: float = 1.5) { score tanh(s / c) * c mask k <= q }"),
    "scaled": Case("attention a(input t: f32[H]) { score s * t[h] + 1 }", inputs={"t": normal(H)}),
    "documents": Case("attention a(input doc: i32[B, L] sorted) { mask doc[b, q] == doc[b, k] and k <= q }",
                      inputs={"doc": DOCS}),
    "duo": Case("attention a(input full: bool[H]) { mask k <= q and (full[h] or k < 2 or q - k < 4) }",
                inputs={"full": torch.tensor([True, False, False, True])}),
    "sink": Case(
        "attention a(input z: f32[H], input g: f32[B, H, Lq]) { mask k <= q weight exp(s) / (exp(z[h]) + sum)"
        " output o * sigmoid(g[b, h, q]) }", inputs={"z": normal(H), "g": normal(B, H, L)}),
    "softmax1": Case("attention a { weight exp(s) / (1 + sum) }"),
    "sink_q": Case("attention a { mask k < q score s - (q - k) weight exp(s) / (exp(dot(Q, Q) / 8) + sum) }"),
    "decay_score": Case("attention a(input g: f32[B, H, L] log_decay) { mask k <= q score s + decay(g) }",
                        inputs={"g": -normal(B, H, L).abs()}),
    "decay_slope": Case("attention a(input g: f32[B, H, L] log_decay) { mask k <= q score s * decay(g) }",
                        inputs={"g": -normal(B, H, L).abs()}),
    "relu2": Case("attention a { mask k <= q weight relu(s)^2 / count }"),
    "sigmoid": Case("attention a(scalar bias: float = -0.5) { weight sigmoid(s + bias) }"),
    "cog": Case("attention a { mask k <= q weight sign(s) * exp(abs(s)) / sum(exp(abs(s))) }"),
    "centred": Case("attention a { mask k <= q weight relu(s - mean(s)) / sum(relu(s - mean(s))) }"),
    "linear": Case("fn elu1(x) = elu(x) + 1 attention a { mask k <= q weight dot(elu1(Q), elu1(K)) / sum }"),
    "retention": Case("attention a(input gamma: f32[H]) { mask k <= q weight dot(Q, K) * gamma[h]^(q - k) }",
                      inputs={"gamma": torch.sigmoid(normal(H))}),
    "simple_gla": Case("attention a(input g: f32[B, H, L] log_decay) { mask k <= q weight dot(Q, K) * decay(g) }",
                       inputs={"g": -normal(B, H, L).abs()}),
    "gla": Case("attention a(input g: f32[B, Hkv, L, D] log_decay) { mask k <= q weight dot(Q, K * decay(g)) }",
                inputs={"g": -normal(B, HKV, L, D).abs()}),
    "hedgehog": Case(
        "attention a(input W: f32[H, D, M]) { feature phi(x) = concat(softmax(x @ W[h]), softmax(-(x @ W[h])))"
        " mask k <= q weight dot(phi(Q), phi(K)) / sum }", inputs={"W": normal(H, D, 5)}),
    "joint": Case(
        "fn near(i, j, w) = abs(i - j) <= w // 2 attention a(const w: int[2] = (3, 3)) { grid text(m) ++ video(y, x)"
        " mask not (q in video and k in video) or all(near(q.video, k.video, w)) }",
        shape=(1, 2, 2, 34, 34, 8, 8), grid={"text": (4,), "video": (5, 6)}),
    "pooled": Case("attention a { grid q (y, x) grid k (v, u)"
                   " mask abs(q.y // 2 - k.v) <= 1 and abs(q.x // 2 - k.u) <= 1 }",
                   shape=(1, 2, 1, 48, 12, 8, 8), grid=[(6, 8), (3, 4)]),
    "pair_bias": Case("attention a(input p: f32[H, Lq, Lk]) { score s + p[h, q, k] mask k <= q }",
        inputs={"p": normal(H, L, L)}),
    "relative": Case("attention a(input t: f32[H, 9]) { score s + t[h, clamp(q - k, 0, 8)] mask k <= q }",
        inputs={"t": normal(H, 9)}),
    "no_structure": Case("attention a { mask (q * k) % 7 == 0 }"),
    "out_of_range": Case("attention a(input t: f32[L]) { score s + t[q - 3] * t[k + 5] mask k <= q }",
        inputs={"t": normal(L)}),
    "nowhere_derivable": Case(
        "attention a(input t: f32[H]) { score s + log(q - k) * t[h] + sqrt(q - k) mask k < q }",
        inputs={"t": normal(H)}),
    "branch": Case(
        "attention a(input t: f32[L]) { score if t[k] > 0 then s + log(t[k]) else s / 2 mask k <= q }",
        inputs={"t": normal(L)}),
    "score_inf": Case("attention a { score if (q + k) % 3 == 0 then -inf else s mask k <= q }"),
    "all_inf": Case("attention a(input t: f32[Lq]) { score s + t[q] mask k <= q }",
                    inputs={"t": torch.where(torch.arange(L) % 3 == 0, float("-inf"), 0.5)}),
    "output_count": Case("attention a { mask k <= q output o * h }"),
    "output_q": Case("attention a { mask k < q output o * sigmoid(dot(Q, Q)) }"),
    "plain_exp": Case("attention a { mask k <= q weight exp(s) / count }"),
    "scalar_mask": Case("attention a(scalar w: int = 4, scalar on: bool = true) { mask on and abs(q - k) < w }"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_matches_the_oracle(name: str) -> None:
    CASES[name].check()


SPECS = ("causal", "alibi", "softcap", "sink", "cog", "gla", "hedgehog", "duo", "relative", "all_inf", "retention")


def varied(name: str, **changes: object) -> Case:
    return replace(CASES[name], **changes)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", SPECS)
def test_matches_in_every_dtype(name: str, dtype: torch.dtype) -> None:
    varied(name, dtype=dtype).check()


@pytest.mark.parametrize("name", SPECS)
def test_a_plan_may_be_loose(name: str) -> None:
    varied(name, exact_plan=False).check()


@pytest.mark.parametrize("tile", [(64, 64), (5, 3), (1, 1)])
@pytest.mark.parametrize("name", ["causal", "sink", "documents", "window"])
def test_any_tile(name: str, tile: tuple[int, int]) -> None:
    varied(name, tile=tile).check()


@pytest.mark.parametrize("name", ["causal", "softcap", "sink", "linear", "relu2", "cog"])
@pytest.mark.parametrize("heads", [(4, 4), (6, 1), (6, 3)])
def test_grouped_heads_and_other_value_sizes(name: str, heads: tuple[int, int]) -> None:
    case = CASES[name]
    H, Hkv = heads
    inputs = {"z": normal(H), "g": normal(2, H, 33)} if name == "sink" else case.inputs
    varied(name, shape=(2, H, Hkv, 33, 33, 8, 5), inputs=inputs).check()
    varied(name, shape=(2, H, Hkv, 33, 33, 8, 8), inputs=inputs).check()


@pytest.mark.parametrize("name", ["causal", "window", "softcap", "relu2", "cog"])
@pytest.mark.parametrize("offset", [10, 1000000, torch.tensor([3, 20], dtype=torch.int64), -40])
def test_offsets(name: str, offset: int | torch.Tensor) -> None:
    varied(name, shape=(2, 4, 2, 7, 33, 8, 8), q_offset=offset).check()


@pytest.mark.parametrize("size", [1, 3, 64, 200])
def test_head_sizes(size: int) -> None:
    varied("causal", shape=(1, 2, 1, 20, 20, size, size)).check()
    varied("softcap", shape=(1, 2, 1, 20, 20, size, 2)).check()


@pytest.mark.parametrize("name", ["causal", "softcap", "sigmoid", "cog"])
@pytest.mark.parametrize("empty", ["B", "Lq", "Lk"])
def test_empty(name: str, empty: str) -> None:
    sizes = {"B": 2, "Lq": 9, "Lk": 9} | {empty: 0}
    varied(name, shape=(sizes["B"], 4, 2, sizes["Lq"], sizes["Lk"], 8, 8)).check()


@pytest.mark.parametrize("name", ["causal", "softcap", "sink", "gla"])
def test_strides(name: str) -> None:
    case = varied(name)
    case.q, case.k, case.v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (case.q, case.k, case.v))
    case.g = case.g.expand(case.g.shape)
    case.check()


@pytest.mark.parametrize("name", ["causal", "softcap"])
def test_large_scores(name: str) -> None:
    varied(name, magnitude=400.0, with_lse=False, scalars={"c": 1e4} if name == "softcap" else {}).check()


@pytest.mark.parametrize("name", ["sink", "softmax1", "cog"])
def test_exponentials_are_shifted(name: str) -> None:
    text = {
        "sink": "attention a(input z: f32[H]) { weight exp(s) / (exp(z[h]) + sum) }",
        "softmax1": "attention a { weight exp(s) / (1 + sum) }",
        "cog": "attention a { weight sign(s) * exp(abs(s)) / sum(exp(abs(s))) }",
    }[name]
    z = torch.tensor([500.0, -3.0, 2000.0, 0.0])
    case = Case(text, inputs={"z": z} if name == "sink" else {}, magnitude=400.0, shape=(2, 4, 4, 33, 33, 8, 8))
    live = [x.double().requires_grad_() for x in (case.q, case.k, case.v)]
    s = live[0] @ live[1].transpose(2, 3) * 8**-0.5
    assert s.detach().max() > 500
    if name == "cog":
        w = s.sign() * torch.softmax(s.abs(), -1)
    else:
        extra = (z.double() if name == "sink" else torch.zeros(4).double()).reshape(1, 4, 1, 1).expand(2, 4, 33, 1)
        w = torch.softmax(torch.cat([s, extra], -1), -1)[..., :-1]
    out = w @ live[2]
    grads = torch.autograd.grad(out, live, case.g.double())
    case.with_lse = False
    actual = case.actual()
    for a, e in zip((actual["out"], *(actual["grad " + n] for n in "qkv")), (out, *grads), strict=True):
        torch.testing.assert_close(a.double(), e, rtol=2e-3, atol=2e-3 * float(e.detach().abs().max()))


def test_rows_that_see_nothing() -> None:
    case = Case("attention a { mask k > q + 3 output o + 1 }", with_lse=False)
    out = case.actual()["out"]
    assert torch.equal(out[:, :, 29:], torch.ones_like(out[:, :, 29:]))
    case.check()
    lse = Case("attention a { mask k > q + 3 }").actual()["lse"]
    assert torch.equal(lse[:, :, 29:], torch.full_like(lse[:, :, 29:], float("-inf")))


def test_gradients_are_the_same_in_every_run() -> None:
    case = varied("relative")
    first, second = case.actual(), case.actual()
    assert all(torch.equal(first[n], second[n]) for n in first)


def test_without_lse_gradients_take_the_fast_path() -> None:
    for name in ("causal", "window", "alibi", "documents", "duo", "sink", "softmax1", "sink_q"):
        varied(name, with_lse=False).check()
        varied(name, with_lse=False, dtype=torch.bfloat16).check()


def test_a_kernel_serves_many_lengths() -> None:
    kernel = CpuKernel(CASES["window"].attention)
    for n in (1, 16, 40):
        case = varied("window", shape=(1, 4, 2, n, n, 8, 8))
        assert_close(case.actual(kernel)["out"], case.expected(torch.float64)["out"])


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tanh_is_as_accurate_as_that_of_torch(dtype: torch.dtype) -> None:
    tiny = torch.finfo(dtype).tiny
    sizes = torch.cat([torch.logspace(-30, 3, 4001, dtype=torch.float64), torch.tensor([tiny, 0.0, torch.inf])])
    y = torch.cat([sizes, -sizes]).to(dtype)
    exact = torch.tanh(y.double())
    error = (tanh(y).double() - exact).abs()
    assert bool((error <= 4 * torch.finfo(dtype).eps * exact.abs()).all())
    assert bool(tanh(torch.tensor([torch.nan], dtype=dtype)).isnan().all())


def test_rows_in_slabs_are_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attndsl.runtime.cpu.rows.SLAB_PAIRS", 100)
    monkeypatch.setattr("attndsl.runtime.cpu.kernel.SLAB_PAIRS", 100)
    for name in ("softcap", "scaled", "decay_score", "branch", "score_inf", "nowhere_derivable"):
        varied(name).check()


@pytest.mark.parametrize("length", [300, 517])
def test_trimmed_tiles(length: int) -> None:
    text = "attention a(const w: int = 70) { mask k <= q and (q - k < w or k < 5) }"
    for tile in ((64, 64), (128, 128), (48, 32)):
        Case(text, shape=(1, 2, 1, length, length, 8, 8), tile=tile, with_lse=False).check()
        Case(text, shape=(1, 2, 1, length, length, 8, 8), tile=tile, exact_plan=False).check()


def test_scores_that_are_no_number_on_hidden_pairs_have_no_gradient() -> None:
    f = attndsl.load("attention a { mask k <= q score s + sqrt(q - k) weight softplus(s) / sum }")
    q, k, v = (torch.randn(1, 1, 6, 8, requires_grad=True) for _ in range(3))
    for gradient in torch.autograd.grad(f(q, k, v, backend="cpu").sum(), (q, k, v)):
        assert gradient.isfinite().all()
