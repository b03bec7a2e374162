"""Specs as Python functions; the functions are read, never called."""

from attndsl import lang
from attndsl.lang import (
    Term,
    abs,
    all,
    any,
    concat,
    const,
    count,
    decay,
    dot,
    elu1,
    exp,
    grid,
    mask,
    min,
    neighborhood,
    output,
    relu,
    scalar,
    score,
    sigmoid,
    size,
    softmax,
    sum,
    tensor,
    weight,
)


def alibi_window(
    q: Term, k: Term, h: Term, s: Term, *, window=const(1024), strength=scalar(1.0), slope=tensor("f32[H]")
):
    return softmax(s - strength * slope[h] * (q - k), where=(k <= q) and (q - k < window))


def gna(
    q: Term,
    k: Term,
    *,
    window=const("int[3]"),
    stride=const("int[3]", 1),
    dilation=const("int[3]", 1),
    causal=const("bool[3]", False),
):
    """A docstring says nothing about the meaning."""
    assert all(stride <= window), "stride exceeds window"
    video = grid("video(t, y, x)")
    mask(all(neighborhood(q.video, k.video, size(video), window, stride, dilation, causal)))


def documents(q: Term, k: Term, b: Term, s: Term, *, doc=tensor("i32[B, L] sorted")):
    return softmax(s, where=doc[b, q] == doc[b, k] and k <= q)


def duo(q: Term, k: Term, h: Term, *, full=tensor("bool[H]"), sink=const(64), recent=const(256)):
    mask(k <= q and (full[h] or k < sink or q - k < recent))


def sink_gated(q: Term, k: Term, h: Term, b: Term, s: Term, o: Term, *, z=tensor("f32[H]"), g=tensor("f32[B, H, Lq]")):
    mask(k <= q)
    weight(exp(s) / (exp(z[h]) + sum))
    output(o * sigmoid(g[b, h, q]))


def relu2(s: Term):
    return relu(s) ** 2 / count


def sigmoid_attention(s: Term, *, bias=scalar("float")):
    return sigmoid(s + bias)


def linear(q: Term, k: Term, Q: Term, K: Term):
    return weight(dot(elu1(Q), elu1(K)) / sum, where=k <= q)


def gla(q: Term, k: Term, Q: Term, K: Term, *, g=tensor("f32[B, Hkv, L, D] log_decay")):
    return weight(dot(Q, K * decay(g)), where=k <= q)


def hedgehog(q: Term, k: Term, h: Term, Q: Term, K: Term, *, W=tensor("f32[H, D, M]")):
    def phi(x: Term):
        y = x @ W[h]
        return concat(softmax(y), softmax(-y))

    return weight(dot(phi(Q), phi(K)) / sum, where=k <= q)


def bounded(q: Term, k: Term, Lk: Term, *, window=const(4)):
    def near(d: Term):
        most = window - 1
        assert most >= 0, "no window"
        assert window <= Lk
        return d >= 0 and d <= most

    mask(near(q - k))


def joint(q: Term, k: Term, s: Term, *, window=const((3, 9, 9))):
    text, video = grid("text(m) ++ video(t, y, x)")
    far = not (q in video and k in video)
    score(s * (2 if q not in text else 1))
    mask(far or all(abs(q.video - k.video) <= window // 2))


def pooled_keys(q: Term, k: Term):
    grid("q (y, x)")
    grid("k (v, u)")
    mask(abs(q.y // 2 - k.v) <= 4 and abs(q.x // 2 - k.u) <= 4)


def dotted(q: Term, k: Term, s: Term, *, far=lang.const(-1.5), flags=lang.const((True, False))):
    near = 0 <= q - k < 9
    return lang.softmax(lang.tanh(s) * lang.pi + min(far, 0.5), where=near or any(flags))
