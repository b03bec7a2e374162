"""Every example of the language's definition compiles from text, and the IR verifies and prints."""

from dataclasses import replace

import pytest

from attndsl.frontend.compile import compile_text
from attndsl.ir.printer import print_attention
from attndsl.ir.reader import read_attention
from attndsl.ir.verify import verify

NEIGHBORHOOD = """
fn causal(q, k) = k <= q
fn neighborhood(i, j, n, w, s, d, is_causal) {
    let g  = i % d                          # dilation splits an axis into d independent groups
    let p  = i // d
    let r  = j // d
    let m  = (n - g + d - 1) // d           # length of this group
    let wl = w // 2                         # an even window has its extra key on the left
    let wr = w - 1 - wl
    let c  = clamp(min(p // s * s + s // 2, m - 1), wl, m - 1 - wr)   # stride-group leader, shifted inside
    let e  = min(p // s * s + s - 1, m - 1)
    return j % d == g and (if is_causal then r >= max(e - w + 1, 0) and r <= p
                           else r >= c - wl and r <= c + wr)
}
"""

GNA = """
attention gna(const window: int[3], const stride: int[3] = 1,
              const dilation: int[3] = 1, const causal: bool[3] = false) {
    require all(stride <= window), "stride exceeds window"
    grid video(t, y, x)
    mask all(neighborhood(q.video, k.video, size(video), window, stride, dilation, causal))
}
"""

EXAMPLES = {
    "alibi_window": """
use masks (causal)

attention alibi_window(
    const  window: int = 1024,      # const: baked into the kernel, part of the cache key
    scalar strength: float = 1.0,   # scalar: a run-time number, never a recompile
    input  slope: f32[H],           # input: a run-time tensor
) {
    let d = q - k
    score s - strength * slope[h] * d       # s is scale * dot(Q, K); scale defaults to 1/sqrt(D)
    mask  causal(q, k) and d < window       # default: everything is visible
    weight softmax                          # the default; sugar for: exp(s) / sum
}
""",
    "gna": "use masks (neighborhood)" + GNA,
    "gna with its own function": NEIGHBORHOOD + GNA,
    "documents": "attention documents(input doc: i32[B, L] sorted) { mask doc[b, q] == doc[b, k] and k <= q }",
    "duo": """
attention duo(input full: bool[H], const sink: int = 64, const recent: int = 256) {
    mask k <= q and (full[h] or k < sink or q - k < recent)
}
""",
    "sink_gated": """
attention sink_gated(input z: f32[H], input g: f32[B, H, Lq]) {
    mask   k <= q
    weight exp(s) / (exp(z[h]) + sum)
    output o * sigmoid(g[b, h, q])
}
""",
    "weights": """
attention relu2   { weight relu(s)^2 / count }
attention sigmoid_attention(scalar bias: float) { weight sigmoid(s + bias) }
attention cog     { mask k <= q   weight sign(s) * exp(abs(s)) / sum(exp(abs(s))) }
""",
    "features": """
fn elu1(x) = elu(x) + 1
attention linear    { mask k <= q   weight dot(elu1(Q), elu1(K)) / sum }
attention retention(input gamma: f32[H]) { mask k <= q   weight dot(Q, K) * gamma[h]^(q - k) }
attention simple_gla(input g: f32[B, H, L] log_decay)  { mask k <= q   weight dot(Q, K) * decay(g) }
attention gla(input g: f32[B, Hkv, L, D] log_decay) { mask k <= q   weight dot(Q, K * decay(g)) }
attention hedgehog(input W: f32[H, D, M]) {
    feature phi(x) = concat(softmax(x @ W[h]), softmax(-(x @ W[h])))
    mask k <= q
    weight dot(phi(Q), phi(K)) / sum
}
""",
    "grids": """
fn near(i, j, w) = abs(i - j) <= w // 2
attention joint(const window: int[3]) {
    grid text(m) ++ video(t, y, x)
    mask not (q in video and k in video) or all(near(q.video, k.video, window))
}
attention pooled_keys { grid q (y, x)   grid k (v, u)   mask abs(q.y // 2 - k.v) <= 4 and abs(q.x // 2 - k.u) <= 4 }
""",
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name: str):
    made = compile_text(EXAMPLES[name])
    assert len(made) == EXAMPLES[name].count("attention ")
    for attention in made:
        verify(attention)
        assert read_attention(print_attention(attention)) == attention


def test_own_function_and_library_give_the_same():
    (library,), (own,) = (compile_text(EXAMPLES[n]) for n in ("gna", "gna with its own function"))
    assert replace(own, requires=()) == replace(library, requires=())
    # the library's function adds what it requires of its arguments
    assert library.requires[0] == own.requires[0]
    assert own.requires[1:] == () and len(library.requires) == 1 + 3 * 5
