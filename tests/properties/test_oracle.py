"""The oracle against mechanisms written by hand in torch, from their papers' definitions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from attndsl.frontend.compile import compile_text
from attndsl.ir.bind import bind
from attndsl.reference import reference, visible

F64 = torch.float64
B, H, L, D = 2, 4, 23, 8


def tensors(*shapes: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=generator, dtype=F64, requires_grad=True) for s in shapes]


def qkv(Lq: int = L, Lk: int = L, Hkv: int = H, Dv: int = D) -> list[Tensor]:
    return tensors((B, H, Lq, D), (B, Hkv, Lk, D), (B, Hkv, Lk, Dv))


def run(text: str, *args: Tensor, consts: dict[str, Any] | None = None, **options: Any) -> tuple[Tensor, Tensor | None]:
    (attention,) = compile_text(text)
    return reference(bind(attention, consts or {}), *args, **options)


def same(found: Tensor, expected: Tensor, *leaves: Tensor) -> None:
    """Equal values and equal gradients of a fixed functional."""
    torch.testing.assert_close(found, expected, atol=1e-11, rtol=1e-9)
    weights = torch.linspace(-1, 1, found.numel(), dtype=F64).reshape(found.shape)
    pairs = [torch.autograd.grad((x * weights).sum(), leaves, retain_graph=True) for x in (found, expected)]
    for a, b in zip(*pairs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-8)


def softmax_under(mask: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    s = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + bias
    return torch.softmax(s.masked_fill(~mask, -math.inf), -1) @ v


def positions(n: int = L) -> tuple[Tensor, Tensor]:
    return torch.arange(n)[:, None], torch.arange(n)[None, :]


ROW, COLUMN = positions()
CAUSAL = COLUMN <= ROW


def test_default_is_sdpa() -> None:
    q, k, v = qkv(Lk=31, Dv=5)
    out, lse = run("attention plain {}", q, k, v)
    same(out, torch.nn.functional.scaled_dot_product_attention(q, k, v), q, k, v)
    assert lse is not None
    same(lse, torch.logsumexp(q @ k.transpose(-1, -2) / math.sqrt(D), -1), q, k)


def test_causal_with_shared_keys() -> None:
    q, k, v = qkv(Hkv=2, Dv=16)
    out, _ = run("attention causal { mask k <= q }", q, k, v)
    expected = torch.nn.functional.scaled_dot_product_attention(
        q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1), is_causal=True
    )
    same(out, expected, q, k, v)


@pytest.mark.parametrize("offset", [0, 8, "end"])
def test_position_of_the_first_row(offset: int | str) -> None:
    q, k, v = qkv(Lq=5, Lk=13)
    out, _ = run("attention causal { mask k <= q }", q, k, v, q_offset=offset)
    mask = torch.arange(13)[None] <= torch.arange(5)[:, None] + (8 if offset == "end" else offset)  # type: ignore[operator]
    same(out, softmax_under(mask, q, k, v), q, k, v)


def test_position_of_the_first_row_by_batch() -> None:
    q, k, v = qkv(Lq=5, Lk=13)
    out, _ = run("attention causal { mask k <= q }", q, k, v, q_offset=torch.tensor([3, 7]))
    rows = torch.arange(5)[None, :, None] + torch.tensor([3, 7])[:, None, None]
    same(out, softmax_under((torch.arange(13) <= rows)[:, None], q, k, v), q, k, v)


def test_sliding_window() -> None:
    q, k, v = qkv()
    out, _ = run("attention a(const w: int) { mask abs(q - k) < w }", q, k, v, consts={"w": 4})
    same(out, softmax_under((ROW - COLUMN).abs() < 4, q, k, v), q, k, v)


def test_alibi() -> None:
    q, k, v = qkv()
    slope = (2.0 ** -torch.arange(1, H + 1, dtype=F64)).requires_grad_()
    text = """attention a(scalar strength: float = 1.0, input slope: f32[H]) {
        score s - strength * slope[h] * (q - k)  mask k <= q }"""
    out, _ = run(text, q, k, v, inputs={"slope": slope}, scalars={"strength": 0.5})
    bias = -0.5 * slope[:, None, None] * (ROW - COLUMN)
    same(out, softmax_under(CAUSAL, q, k, v, bias), q, k, v, slope)


def test_softcap_and_scale() -> None:
    q, k, v = qkv()
    out, _ = run("attention a { score 5 * tanh(s / 5)  mask k <= q }", q, k, v, scale=0.7)
    s = 5 * torch.tanh(q @ k.transpose(-1, -2) * 0.7 / 5)
    same(out, torch.softmax(s.masked_fill(~CAUSAL, -math.inf), -1) @ v, q, k, v)


def test_whole_tensors_as_vectors_and_matrices() -> None:
    q, k, v = qkv()
    gain, mix = tensors((D,), (D, D), seed=1)
    o, _ = run(
        "attention a(input gain: f32[D], input mix: f32[D, D]) { score dot(Q * gain, K @ mix) / sqrt(D) }",
        q, k, v, inputs={"gain": gain, "mix": mix},
    )  # fmt: skip
    same(o, torch.softmax((q * gain) @ (k @ mix).transpose(-1, -2) / math.sqrt(D), -1) @ v, q, k, v, gain, mix)


def test_relative_position_table() -> None:
    q, k, v = qkv()
    (table,) = tensors((H, 9), seed=3)
    out, _ = run("attention a(input rel: f32[H, 9]) { score s + rel[h, clamp(k - q, -4, 4) + 4] }", q, k, v,
                 inputs={"rel": table})  # fmt: skip
    same(out, softmax_under(COLUMN >= 0, q, k, v, table[:, (COLUMN - ROW).clamp(-4, 4) + 4]), q, k, v, table)


def test_sink_logit_and_gate() -> None:
    q, k, v = qkv()
    z, g = tensors((H,), (B, H, L), seed=3)
    text = """attention a(input z: f32[H], input g: f32[B, H, Lq]) {
        mask k <= q  weight exp(s) / (exp(z[h]) + sum)  output o * sigmoid(g[b, h, q]) }"""
    out, lse = run(text, q, k, v, inputs={"z": z, "g": g})
    s = (q @ k.transpose(-1, -2) / math.sqrt(D)).masked_fill(~CAUSAL, -math.inf)
    joined = torch.softmax(torch.cat([s, z[:, None, None].expand(B, H, L, 1)], -1), -1)[..., :-1]
    same(out, (joined @ v) * torch.sigmoid(g)[..., None], q, k, v, z, g)
    assert lse is not None
    same(lse, torch.logsumexp(s, -1), q, k)


def test_sigmoid() -> None:
    q, k, v = qkv()
    out, lse = run("attention a(scalar shift: float) { mask k <= q  weight sigmoid(s + shift) }", q, k, v,
                   scalars={"shift": -1.5})  # fmt: skip
    assert lse is None
    s = q @ k.transpose(-1, -2) / math.sqrt(D)
    same(out, (torch.sigmoid(s - 1.5) * CAUSAL) @ v, q, k, v)


def test_relu_squared_over_count() -> None:
    q, k, v = qkv()
    out, _ = run("attention a { mask k <= q  weight relu(s)^2 / count }", q, k, v)
    s = q @ k.transpose(-1, -2) / math.sqrt(D)
    same(out, (torch.relu(s) ** 2 * CAUSAL / torch.arange(1, L + 1)[:, None]) @ v, q, k, v)


def test_cog() -> None:
    q, k, v = qkv()
    out, lse = run("attention a { mask k <= q  weight sign(s) * exp(abs(s)) / sum(exp(abs(s))) }", q, k, v)
    s = q @ k.transpose(-1, -2) / math.sqrt(D)
    masked = s.abs().masked_fill(~CAUSAL, -math.inf)
    same(out, (torch.sign(s) * torch.softmax(masked, -1)) @ v, q, k, v)
    assert lse is not None
    same(lse, torch.logsumexp(masked, -1), q, k)


def test_standardised_scores() -> None:
    q, k, v = qkv()
    out, _ = run("attention a { weight (s - mean(s)) / sqrt(mean((s - mean(s))^2)) }", q, k, v)
    s = q @ k.transpose(-1, -2) / math.sqrt(D)
    same(out, ((s - s.mean(-1, keepdim=True)) / s.std(-1, correction=0, keepdim=True)) @ v, q, k, v)


def test_linear_attention_as_a_recurrence() -> None:
    q, k, v = qkv(Dv=5)
    out, _ = run("fn elu1(x) = elu(x) + 1 attention a { mask k <= q  weight dot(elu1(Q), elu1(K)) / sum }", q, k, v)
    f, g = torch.nn.functional.elu(q) + 1, torch.nn.functional.elu(k) + 1
    state, norm, rows = torch.zeros(B, H, D, 5, dtype=F64), torch.zeros(B, H, D, dtype=F64), []
    for t in range(L):
        state = state + g[:, :, t, :, None] * v[:, :, t, None]
        norm = norm + g[:, :, t]
        rows.append((f[:, :, t, None] @ state)[:, :, 0] / (f[:, :, t] * norm).sum(-1, keepdim=True))
    same(out, torch.stack(rows, 2), q, k, v)


def test_retention_as_a_recurrence() -> None:
    q, k, v = qkv()
    gamma = torch.linspace(0.5, 0.95, H, dtype=F64).requires_grad_()
    out, _ = run("attention a(input gamma: f32[H]) { mask k <= q  weight dot(Q, K) * gamma[h]^(q - k) }", q, k, v,
                 inputs={"gamma": gamma})  # fmt: skip
    state, rows = torch.zeros(B, H, D, D, dtype=F64), []
    for t in range(L):
        state = gamma[:, None, None] * state + k[:, :, t, :, None] * v[:, :, t, None]
        rows.append((q[:, :, t, None] @ state)[:, :, 0])
    same(out, torch.stack(rows, 2), q, k, v, gamma)


def test_decay_as_a_recurrence() -> None:
    q, k, v = qkv()
    g = (-torch.rand(B, H, L, generator=torch.Generator().manual_seed(1), dtype=F64)).requires_grad_()
    out, _ = run("attention a(input g: f32[B, H, L] log_decay) { mask k <= q  weight dot(Q, K) * decay(g) }", q, k, v,
                 inputs={"g": g})  # fmt: skip
    state, rows = torch.zeros(B, H, D, D, dtype=F64), []
    for t in range(L):
        state = torch.exp(g[:, :, t, None, None]) * state + k[:, :, t, :, None] * v[:, :, t, None]
        rows.append((q[:, :, t, None] @ state)[:, :, 0])
    same(out, torch.stack(rows, 2), q, k, v, g)


def test_gated_linear_attention_as_a_recurrence() -> None:
    q, k, v = qkv(Hkv=2)
    g = (-torch.rand(B, 2, L, D, generator=torch.Generator().manual_seed(1), dtype=F64)).requires_grad_()
    out, _ = run("attention a(input g: f32[B, Hkv, L, D] log_decay) { mask k <= q  weight dot(Q, K * decay(g)) }",
                 q, k, v, inputs={"g": g})  # fmt: skip
    state, rows = torch.zeros(B, 2, D, D, dtype=F64), []
    for t in range(L):
        state = torch.exp(g[:, :, t, :, None]) * state + k[:, :, t, :, None] * v[:, :, t, None]
        rows.append((q[:, :, t, None] @ state.repeat_interleave(2, 1))[:, :, 0])
    same(out, torch.stack(rows, 2), q, k, v, g)


def test_hedgehog() -> None:
    q, k, v = qkv(Dv=5)
    (W,) = tensors((H, D, 3), seed=4)
    text = """attention a(input W: f32[H, D, M]) {
        feature phi(x) = concat(softmax(x @ W[h]), softmax(-(x @ W[h])))
        mask k <= q  weight dot(phi(Q), phi(K)) / sum }"""
    out, _ = run(text, q, k, v, inputs={"W": W})

    def phi(x: Tensor) -> Tensor:
        return torch.cat([torch.softmax(x @ W, -1), torch.softmax(-(x @ W), -1)], -1)

    w = (phi(q) @ phi(k).transpose(-1, -2)) * CAUSAL
    same(out, w / w.sum(-1, keepdim=True) @ v, q, k, v, W)


def test_documents_are_separate_calls() -> None:
    q, k, v = qkv()
    doc = torch.zeros(B, L, dtype=torch.int32)
    doc[:, 9:], doc[:, 15:] = 1, 2
    out, _ = run("attention a(input doc: i32[B, L] sorted) { mask doc[b, q] == doc[b, k] and k <= q }", q, k, v,
                 inputs={"doc": doc})  # fmt: skip
    parts = [[x[:, :, a:b] for x in (q, k, v)] for a, b in ((0, 9), (9, 15), (15, L))]
    expected = [torch.nn.functional.scaled_dot_product_attention(*p, is_causal=True) for p in parts]
    same(out, torch.cat(expected, 2), q, k, v)


def test_retrieval_and_streaming_heads() -> None:
    q, k, v = qkv()
    full = torch.tensor([True, False, False, True])
    text = """attention duo(input full: bool[H], const sink: int = 64, const recent: int = 256) {
        mask k <= q and (full[h] or k < sink or q - k < recent) }"""
    out, _ = run(text, q, k, v, inputs={"full": full}, consts={"sink": 2, "recent": 5})
    streaming = CAUSAL & ((COLUMN < 2) | (ROW - COLUMN < 5))
    same(out, softmax_under(torch.stack([CAUSAL if f else streaming for f in full]), q, k, v), q, k, v)


def _mask(text: str, sizes: dict[str, int], consts: dict[str, Any] | None = None, **options: Any) -> Tensor:
    (attention,) = compile_text(text)
    return visible(bind(attention, consts or {}), {"B": 1, "H": 1, "Hkv": 1, "D": 8, "Dv": 8, **sizes}, **options)


@pytest.mark.parametrize("shift", [0, 2])
def test_shifted_windows_are_a_roll(shift: int) -> None:
    """Swin: roll by -shift, attend inside windows of 4 where regions agree, roll back."""
    h, w, n = 8, 12, 4
    q, k, v = tensors((1, 2, h * w, D), (1, 2, h * w, D), (1, 2, h * w, D))
    text = """use masks (swin)
        attention a(const r: int) { grid (y, x)  mask swin(q.y, k.y, 4, r) and swin(q.x, k.x, 4, r) }"""
    text = text.replace("grid (y, x)", "grid picture(y, x)")
    out, _ = run(text, q, k, v, consts={"r": shift}, grid=(h, w))

    def windows(x: Tensor) -> Tensor:
        x = torch.roll(x.reshape(*x.shape[:2], h, w, -1), (-shift, -shift), (2, 3))
        x = x.reshape(*x.shape[:2], h // n, n, w // n, n, -1).transpose(3, 4)
        return x.reshape(*x.shape[:2], -1, n * n, x.shape[-1])

    region = torch.zeros(1, 1, h, w)
    cuts = [slice(0, -n), slice(-n, -shift), slice(-shift, None)] if shift else [slice(None)]
    for i, a in enumerate(cuts):
        for j, c in enumerate(cuts):
            region[:, :, a, c] = 3 * i + j
    ids = region.reshape(1, 1, h // n, n, w // n, n).transpose(3, 4).reshape(1, 1, -1, n * n)
    o = softmax_under(ids[..., :, None] == ids[..., None, :], windows(q), windows(k), windows(v))
    o = o.reshape(1, 2, h // n, w // n, n, n, D).transpose(3, 4).reshape(1, 2, h, w, D)
    same(out, torch.roll(o, (shift, shift), (2, 3)).reshape(1, 2, h * w, D), q, k, v)


def natten(n: int, window: int, stride: int, dilation: int, is_causal: bool) -> list[list[bool]]:
    """Who sees whom on one axis of generalized neighborhood attention, query by query, as NATTEN defines it."""
    seen = [[False] * n for _ in range(n)]
    for i in range(n):
        group, p = i % dilation, i // dilation
        length = len(range(group, n, dilation))
        if is_causal:
            leader = min(p // stride * stride + stride - 1, length - 1)
            start, end = max(leader - window + 1, 0), p + 1
        else:
            leader = min(p // stride * stride + stride // 2, length - 1)
            right = window // 2 + window % 2 - 1
            start = max(leader - window // 2, 0)
            if leader + right >= length:
                start += length - right - leader - 1
            end = start + window
        for r in range(start, end):
            seen[i][group + r * dilation] = True
    return seen


@pytest.mark.parametrize("is_causal", [False, True])
def test_neighborhood_on_one_axis(is_causal: bool) -> None:
    text = """use masks (neighborhood)
        attention a(const w: int, const st: int, const di: int, const ca: bool) {
            mask neighborhood(q, k, Lk, w, st, di, ca) }"""
    cases = [(n, d, w) for n in (7, 12, 17) for d in (1, 2, 3) for w in sorted({1, 2, 3, n // d}) if w <= n // d]
    for n, dilation, window, stride in [(*c, s) for c in cases for s in range(1, c[2] + 1)]:
        consts = {"w": window, "st": stride, "di": dilation, "ca": is_causal}
        found = _mask(text, {"Lq": n, "Lk": n}, consts)
        assert found[0, 0].tolist() == natten(n, window, stride, dilation, is_causal), consts


def test_neighborhood_on_a_grid() -> None:
    text = """use masks (neighborhood)
        attention gna(const window: int[3], const stride: int[3] = 1, const dilation: int[3] = 1,
                      const causal: bool[3] = false) {
            require all(stride <= window), "stride exceeds window"
            grid video(t, y, x)
            mask all(neighborhood(q.video, k.video, size(video), window, stride, dilation, causal)) }"""
    shape, window, stride, dilation, causal = (4, 7, 9), (2, 3, 4), (1, 2, 4), (1, 2, 2), (True, False, False)
    consts = {"window": window, "stride": stride, "dilation": dilation, "causal": causal}
    found = _mask(text, {"Lq": 252, "Lk": 252}, consts, grid=shape)[0, 0]
    axes = [torch.tensor(natten(*a)) for a in zip(shape, window, stride, dilation, causal, strict=True)]
    assert torch.equal(found, torch.kron(torch.kron(axes[0], axes[1]), axes[2]).bool())


def test_text_and_video() -> None:
    text = """fn near(i, j, w) = abs(i - j) <= w // 2
        attention joint(const window: int[3]) {
            grid text(m) ++ video(t, y, x)
            mask not (q in video and k in video) or all(near(q.video, k.video, window)) }"""
    found = _mask(text, {"Lq": 29, "Lk": 29}, {"window": (1, 3, 3)}, grid={"text": (5,), "video": (2, 3, 4)})[0, 0]
    for i in range(29):
        for j in range(29):
            (a, y, x), (c, u, v) = ((p // 12, p // 4 % 3, p % 4) for p in (i - 5, j - 5))
            is_near = a == c and abs(y - u) <= 1 and abs(x - v) <= 1
            assert bool(found[i, j]) == (i < 5 or j < 5 or is_near)


def test_pooled_keys_and_coordinates_outside() -> None:
    text = """attention pooled { grid q (y, x)  grid k (v, u)
        mask abs(q.y // 2 - k.v) <= 1 and abs(q.x // 2 - k.u) <= 0 }"""
    found = _mask(text, {"Lq": 24, "Lk": 6}, grid={"q": (4, 6), "k": (2, 3)})[0, 0]
    i, j = torch.arange(24)[:, None], torch.arange(6)[None]
    expected = ((i // 6 // 2 - j // 3).abs() <= 1) & (i % 6 // 2 == j % 3)
    assert torch.equal(found, expected)
    outside = _mask("attention a { grid text(m) ++ video(x)  mask q.x == -1 and k.m == -1 }", {"Lq": 5, "Lk": 5},
                    grid={"text": (2,), "video": (3,)})  # fmt: skip
    assert outside[0, 0].tolist() == [[i < 2 and j >= 2 for j in range(5)] for i in range(5)]


# What a definition says where others would give nan

WEIGHTS = ["softmax", "exp(s) / sum", "sigmoid(s)", "relu(s)^2 / count", "softplus(s) / sum", "s / mean(abs(s))"]


@pytest.mark.parametrize("weight", WEIGHTS)
def test_rows_without_keys(weight: str) -> None:
    q, k, v = qkv()
    out, lse = run(f"attention a {{ mask k < q - 3  weight {weight} }}", q, k, v)
    assert out[:, :, :4].eq(0).all() and out[:, :, 4:].ne(0).any()
    total = out.sum()
    if lse is not None:
        assert lse[:, :, :4].eq(-math.inf).all() and lse[:, :, 4:].isfinite().all()
        total = total + lse.masked_fill(lse == -math.inf, 0).sum()
    gradients = torch.autograd.grad(total, (q, k, v))
    assert all(g.isfinite().all() for g in gradients)
    assert gradients[0][:, :, :4].eq(0).all() and gradients[1][:, :, L - 4 :].eq(0).all()


def test_invisible_pairs_give_no_gradient() -> None:
    """log and powers of a negative distance, infinite decays and reads outside, all on invisible pairs."""
    q, k, v = qkv()
    z, t = tensors((H,), (5,), seed=3)
    text = """attention a(input z: f32[H], input t: f32[M]) {
        mask 0 <= q - k < 5
        score s - z[h] * log(1 + q - k)
        score s + t[q - k] * (q - k + 1)^0.5 + exp(abs(z[h]) * (k - q) * 1000) * 0 }"""
    out, _ = run(text, q, k, v, inputs={"z": z, "t": t})
    d = (ROW - COLUMN).clamp(0, 4)
    bias = -z[:, None, None] * torch.log(1 + d.double()) + t[d] * (d + 1).double().sqrt()
    expected = softmax_under((ROW - COLUMN >= 0) & (ROW - COLUMN < 5), q, k, v, bias)
    same(out, expected, q, k, v, z, t)


def test_branches_not_taken_give_no_gradient() -> None:
    q, k, v = qkv()
    text = "attention a { score if s > 0 then sqrt(s) else s  mask k <= q }"
    out, _ = run(text, q, k, v)
    s = q @ k.transpose(-1, -2) / math.sqrt(D)
    s = torch.where(s > 0, torch.where(s > 0, s, 1.0).sqrt(), s)
    same(out, torch.softmax(s.masked_fill(~CAUSAL, -math.inf), -1) @ v, q, k, v)


def test_score_of_minus_infinity_is_weight_zero() -> None:
    q, k, v = qkv()
    out, lse = run("attention a { score if q - k > 4 then -inf else s  mask k <= q }", q, k, v)
    same(out, softmax_under(CAUSAL & (ROW - COLUMN <= 4), q, k, v), q, k, v)
    out, lse = run("attention a { score if k >= 0 then -inf else s }", q, k, v)
    assert out.eq(0).all() and lse is not None and lse.eq(-math.inf).all()


def test_integer_division_by_zero_and_reads_outside() -> None:
    per = torch.tensor([0, 2, 0, 3], dtype=torch.int32)
    text = "attention a(input per: i32[H]) { mask q // per[h] + k % per[h] + per[h + 0 * q] >= per[h] }"
    with pytest.raises(Exception, match="own index"):
        compile_text(text)
    text = "attention a(input per: i32[H], input t: i32[M]) { mask (q - 9) // per[h] == t[k] + k % per[h] }"
    table = torch.tensor([5, 0, -4], dtype=torch.int32)
    found = _mask(text, {"Lq": 15, "Lk": 8, "H": 4, "Hkv": 4}, inputs={"per": per, "t": table})
    for h, n in enumerate(per.tolist()):
        for i in range(15):
            for j in range(8):
                read = table[j].item() if j < 3 else 0
                expected = ((i - 9) // n if n else 0) == read + (j % n if n else 0)
                assert bool(found[0, h, i, j]) == expected


@pytest.mark.parametrize("sizes", [(0, 4, 3, 5), (2, 4, 0, 5), (2, 4, 3, 0)])
def test_empty_calls(sizes: tuple[int, int, int, int]) -> None:
    b, h, m, n = sizes
    q, k, v = tensors((b, h, m, D), (b, h, n, D), (b, h, n, 6))
    for weight in WEIGHTS:
        out, lse = run(f"attention a {{ mask k <= q  weight {weight} }}", q, k, v)
        assert out.shape == (b, h, m, 6) and out.eq(0).all()
        assert lse is None or (lse.shape == (b, h, m) and lse.eq(-math.inf).all())


def test_gradients_by_finite_differences() -> None:
    q, k, v = tensors((1, 2, 4, 3), (1, 1, 5, 3), (1, 1, 5, 2))
    z, g, W = tensors((2,), (1, 2, 5), (2, 3, 2), seed=5)
    text = """attention a(input z: f32[H], input g: f32[B, H, L], input W: f32[H, D, 2]) {
        mask k <= q + 1
        score s * softplus(z[h]) + sin(g[b, h, q] - g[b, h, k]) + dot(Q @ W[h], roll(K @ W[h], 1))
        weight sigmoid(s) * exp(s) / (1 + sum(exp(s) + norm(K)))
        output rmsnorm(o) * z[h] }"""

    def f(*x: Tensor) -> tuple[Tensor, Tensor]:
        out, lse = run(text, *x[:3], inputs={"z": x[3], "g": x[4], "W": x[5]})
        assert lse is not None
        return out, lse

    check: Callable[..., bool] = torch.autograd.gradcheck
    assert check(f, (q, k, v, z, g, W))
