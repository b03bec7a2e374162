"""Specs of every kind at small odd sizes, for checks of a backend against the dense definition."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Make = Callable[[torch.Generator], Tensor]


def _none() -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Case:
    """A spec and one call of it. `inputs` make tensors on the CPU; `lse` where the weight has an exponential."""

    name: str
    text: str
    Lq: int = 197
    Lk: int | None = None
    B: int = 1
    H: int = 2
    Hkv: int | None = None
    D: int = 64
    Dv: int | None = None
    consts: Mapping[str, Any] = field(default_factory=_none)
    scalars: Mapping[str, Any] = field(default_factory=_none)
    inputs: Mapping[str, Make] = field(default_factory=_none)
    grid: Any = None
    q_offset: int | str | tuple[int, ...] = 0
    scale: float | None = None
    lse: bool = True

    def tensors(self, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v on the CPU."""
        g = torch.Generator().manual_seed(seed)
        Hkv, Lk, Dv = self.Hkv or self.H, self.Lk or self.Lq, self.Dv or self.D
        shapes = [(self.B, self.H, self.Lq, self.D), (self.B, Hkv, Lk, self.D), (self.B, Hkv, Lk, Dv)]
        q, k, v = (torch.randn(s, generator=g).to(dtype) for s in shapes)
        return q, k, v

    def made(self, seed: int = 1) -> dict[str, Tensor]:
        """The inputs, on the CPU."""
        g = torch.Generator().manual_seed(seed)
        return {n: f(g) for n, f in self.inputs.items()}

    def offset(self, device: str = "cpu") -> int | str | Tensor:
        """`q_offset` as a call takes it."""
        if isinstance(self.q_offset, tuple):
            return torch.tensor(self.q_offset, dtype=torch.int32, device=device)
        return self.q_offset


def normal(*shape: int, size: float = 1.0) -> Make:
    return lambda g: torch.randn(shape, generator=g) * size


def ints(top: int, *shape: int, ordered: bool = False) -> Make:
    def make(g: torch.Generator) -> Tensor:
        found = torch.randint(0, top, shape, generator=g, dtype=torch.int32)
        return found.sort(-1).values if ordered else found

    return make


def flags(*shape: int) -> Make:
    return lambda g: torch.rand(shape, generator=g) < 0.5


def decays(*shape: int) -> Make:
    return lambda g: -torch.rand(shape, generator=g).exp() * 2


GNA = """use masks (neighborhood)
attention gna(const window: int[3], const stride: int[3] = 1, const dilation: int[3] = 1,
              const causal: bool[3] = false) {
    grid video(t, y, x)
    mask all(neighborhood(q.video, k.video, size(video), window, stride, dilation, causal))
}"""
NA2D = """use masks (neighborhood)
attention na2d(const window: int[2]) { grid map(y, x)
    mask all(neighborhood(q.map, k.map, size(map), window, 1, 1, false)) }"""
JOINT = """fn near(i, j, w) = abs(i - j) <= w // 2
attention joint(const window: int[3]) { grid text(m) ++ video(t, y, x)
    mask not (q in video and k in video) or all(near(q.video, k.video, window)) }"""
COMPARED = "attention compared(input t: f32[H], input u: f32[H]) { score (if s + t[h] > 0.3 then s else u[h] * s) }"
"""A read that is only compared, which has no gradient."""
UNSEEN = """attention unseen(input t: f32[H], input u: f32[L]) {
    mask k <= q
    score tanh(s + t[h] * log(q - k + 1)) + sin(u[k] * sqrt(q - k))
}"""
"""A score without a value where nothing is seen."""
ALIBI = "attention alibi(input slope: f32[H]) { score s - slope[h] * (q - k) mask k <= q }"
SLOPE: dict[str, Make] = {"slope": lambda g: torch.tensor([0.5, 0.0625])}
WINDOW = "attention window(const w: int = 40) { mask k <= q and q - k < w }"
COSINE_GATE = """attention sink_gated(input z: f32[H], input g: f32[B, H, Lq]) {
    mask k <= q and (q - k < 40 or k < 4) weight exp(s) / (exp(z[h]) + sum) output o * sigmoid(g[b, h, q]) }"""

FORGET = "attention forget(input g: f32[B, H, L] log_decay) { mask k <= q score s + log(decay(g)) }"
FADE = "attention fade(input g: f32[B, Hkv, L] log_decay) { mask k <= q weight exp(s) * decay(g) / sum }"
ROTATED = "attention rotated { mask k <= q score dot(rope(rmsnorm(Q), q), rope(rmsnorm(K), k)) / sqrt(D) }"
HEDGEHOG = """attention hedgehog(input w: f32[H, D, M]) {
    mask abs(q - k) <= 20
    weight dot(softmax(Q @ w[h]), softmax(K @ w[h])) / sum
}"""
FOCUSED = """attention focused {
    feature phi(x) = (relu(x) + 0.1)^3 * norm(relu(x) + 0.1) / norm((relu(x) + 0.1)^3)
    mask abs(q - k) <= 20
    weight dot(phi(Q), phi(K)) / sum
}"""
RELATIVE = """attention relative(input r: f32[M, D], input c: f32[Hkv, M, D]) {
    mask k <= q
    score s + dot(Q, r[clamp(q - k, 0, M - 1)]) + dot(K, c[hkv, q - k])
}"""
TWO_MAPS = """attention two(input w: f32[H, D, M], input c: f32[H]) {
    score s - c[h] * dot(Q @ w[h], K @ w[h]) / sqrt(D)
    score 8 * tanh(s / 8)
}"""
TWO_SCORES = """attention two(input w: f32[H, D, M]) {
    mask k <= q and q - k < 60
    score s + 3 * tanh(dot(Q @ w[h], K @ w[h]))
}"""
LONE = """attention lone(input u: f32[H, D]) {
    mask k <= q
    score s - 0.3 * log(1 + q - k) + dot(u[h], tanh(Q))
    weight sigmoid(s) * exp(s - 0.3) / sum(exp(s))
}"""
"""An amplitude without a value where nothing is seen."""
GATE = "attention gate { mask k <= q score dot(Q, K) / sqrt(D) * sigmoid(dot(roll(Q, 1), K)) }"
NORMED = """attention normed(input w: f32[H, D, M]) {
    score s + tanh(dot(Q @ w[h], K @ w[h])) * norm(K) / 4
}"""
THREE = """attention three {
    mask k <= q
    score s * sigmoid(dot(roll(Q, 1), K)) - abs(0.3 * dot(rmsnorm(Q), rmsnorm(K)))
}"""
PAIR_FACTOR = "attention factor(input t: f32[M]) { score s + t[clamp(q - k, 0, M - 1)] * dot(roll(Q, 1), K) / sqrt(D) }"
GRID_SCORES = """attention local {
    grid map(y, x)
    mask abs(q.y - k.y) <= 2 and abs(q.x - k.x) <= 3
    score s + 0.5 * sin(dot(roll(Q, 1), K)) * (q.y - k.y)
}"""
PROJECTED = (
    Case("cosine similarity", "attention cosine { score 10 * dot(Q, K) / (norm(Q) * norm(K)) }", B=2, H=4, Hkv=2),
    Case("rotated", ROTATED, Lq=70, Lk=197, q_offset=127, H=4, Hkv=2, D=32),
    Case("rotated, offsets", ROTATED, Lq=70, Lk=197, B=2, q_offset=(3, 127), D=32),
    Case("content bias", "attention xl(input u: f32[H, D]) { score s + dot(u[h], K) mask k <= q }", H=4, Hkv=2,
         inputs={"u": normal(4, 64, size=0.3)}),
    Case("distance of vectors", "attention l2 { score -0.1 * (dot(Q, Q) + dot(K, K) - 2 * dot(Q, K)) }", D=24),
    Case("square", "attention square { mask k <= q weight dot(Q, K)^2 / sum }", D=16, lse=False),
    Case("temperature", "attention warm(input w: f32[H, D]) { score s * sigmoid(dot(Q, w[h])) output o * norm(Q) }",
         inputs={"w": normal(2, 64, size=0.3)}),
    Case("two maps", TWO_MAPS, H=4, Hkv=2, D=32, inputs={"w": normal(4, 32, 8, size=0.2), "c": normal(4)}),
    Case("hedgehog, band", HEDGEHOG, H=4, Hkv=2, inputs={"w": normal(4, 64, 16, size=0.2)}, lse=False),
    Case("focused, band", FOCUSED, H=4, Hkv=2, D=24, lse=False),
    Case("relative vectors", RELATIVE, H=4, Hkv=2, D=32, inputs={"r": normal(9, 32), "c": normal(2, 9, 32, size=0.3)}),
    Case("forgetting", FORGET, Lq=389, B=2, inputs={"g": decays(2, 2, 389)}),
    Case("forgetting, offsets", FORGET, Lq=70, Lk=197, B=2, q_offset=(3, 127), inputs={"g": decays(2, 2, 197)}),
    Case("fading", FADE, H=4, Hkv=2, inputs={"g": decays(1, 2, 197)}, lse=False),
    Case("fading, one key", FADE, Lq=1, H=4, Hkv=2, D=24, inputs={"g": decays(1, 2, 1)}, lse=False),
    Case("unseen keys that fade", "attention a(input g: f32[B, Hkv, L] log_decay) { mask k <= q "
         "score if k % 3 == 1 then -inf else s weight exp(s) * decay(g) / sum }",
         H=4, Hkv=2, D=24, Lq=37, inputs={"g": decays(1, 2, 37)}),
    Case("gated sum", "attention gated(scalar c: float) { mask k <= q weight sigmoid(s) * exp(s - c) / sum(exp(s)) }",
         scalars={"c": 0.7}),
    Case("two scores", TWO_SCORES, H=4, Hkv=2, D=32, Lq=97, Lk=97, inputs={"w": normal(4, 32, 8, size=0.2)}),
    Case("two scores and a norm", NORMED, H=4, Hkv=2, D=24, Lq=33, Lk=65, inputs={"w": normal(4, 24, 8, size=0.2)}),
    Case("gate of a second product", GATE, Lq=35, Lk=97, B=2, H=2, Hkv=1, D=24, q_offset=(3, 60)),
    Case("three products", THREE, D=16, Dv=40, scale=-0.2, q_offset="end", Lq=35, Lk=129),
    Case("products of differences", PAIR_FACTOR, inputs={"t": normal(9)}, D=40, Lq=65, Lk=97),
    Case("unseen amplitude", LONE, inputs={"u": normal(2, 32, size=0.3)}, D=32, Lq=70, Lk=70),
    Case("unseen factor", "attention far { mask k <= q weight log(1 + q - k) * exp(s) / sum(exp(s)) }", D=32, Lq=70,
         Lk=70),
    Case("gated weight", "attention gated { mask k <= q weight exp(s) * sigmoid(dot(softmax(Q), K)) / sum(exp(s)) }",
         H=2, Hkv=1, Lq=97, Lk=97),
    Case("product of scores", "attention both { mask k <= q weight sigmoid(s) * dot(rmsnorm(Q), K) / count }", D=32,
         Lq=97, Lk=97, lse=False),
    Case("two scores on a grid", GRID_SCORES, grid=(9, 13), D=16, Lq=117, Lk=117),
    Case("few, two scores", TWO_SCORES, Lq=3, Lk=197, H=4, Hkv=2, D=32, q_offset="end",
         inputs={"w": normal(4, 32, 8, size=0.2)}),
    Case("few, cosine similarity", "attention cosine { score 10 * dot(Q, K) / (norm(Q) * norm(K)) }", Lq=3, Lk=197,
         H=4, Hkv=2, q_offset="end"),
)  # fmt: skip
"""What torch computes for each position before the kernels run."""

FINISHED = (
    Case("gate of the query", "attention gated(input w: f32[H, D, Dv]) { mask k <= q output o * sigmoid(Q @ w[h]) }",
         Lq=97, H=4, Hkv=2, D=16, Dv=24, inputs={"w": normal(4, 16, 24, size=0.3)}),
    Case("turned back", "attention turned { mask k <= q score s - 0.1 * norm(V) output rope(o, -q) * dot(Q, Q) / D }",
         Lq=35, Lk=97, q_offset="end", H=4, Hkv=2, D=16),
    Case("mixed heads, mean of scores", "attention mixed(input w: f32[H, Dv, Dv], input g: f32[B, H, Lq, Dv]) { mask "
         "k < q - 3 weight relu(s - mean(s)) / count output (rmsnorm(o) @ w[h]) * silu(g[b, h, q]) }", Lq=65, D=16,
         inputs={"w": normal(2, 16, 16, size=0.3), "g": normal(1, 2, 65, 16)}, lse=False),
    Case("few, unit outputs", "attention unit(input u: f32[H, Dv]) "
         "{ score s + dot(V, u[h]) output o / (0.1 + norm(o)) }",
         Lq=3, Lk=131, H=4, Hkv=2, D=16, Dv=24, inputs={"u": normal(4, 24, size=0.3)}),
    Case("fifth power", "attention steep { mask k <= q and (q - k)^7 % 3 < 2 score s - (q - k)^5 / 1e9 }", Lq=97, D=8),
    Case("far products", "attention far { mask (q - k)^2 % 5 < 4 and q * q > 5 * k "
         "score s - (q - k)^2 / 1e9 - q * k / 1e8 }", Lq=17, Lk=33, D=16, q_offset=60000),
)  # fmt: skip
"""Output clauses of all components or of vectors of the row, numbers of values, and ints beyond 32 bits."""

ADDITIVE = """attention additive(input w: f32[H, D], input u: f32[D, M], input c: f32[H, M]) {
    mask k <= q
    score dot(w[h], tanh(Q + K)) / 4 + dot(c[h], sigmoid(Q @ u - K @ u))
}"""
"""Bahdanau's attention, twice."""
MANHATTAN = "attention l1(input t: f32[H]) { mask k <= q score -t[h] * total(abs(Q - K)) / D }"
DISTANCE = "attention l2 { score -norm(Q - K) / 2 }"
CHANNEL_BAND = """attention band(input g: f32[B, Hkv, L, D] log_decay) {
    mask k <= q and q - k < 20
    weight dot(Q, K * decay(g))
}"""
CHANNEL_SCORE = """attention fade(input g: f32[B, H, L, D] log_decay) {
    mask k <= q
    score dot(Q, K * decay(g)) / sqrt(D)
}"""
NESTED = """attention nested(input t: f32[H]) {
    mask q - k < 20
    score s + norm(tanh(t[h] * s) * Q - K) / 8 * norm(K) / norm(Q) - 0.2 * log(1 + abs(q - k))
}"""
CLOSEST = "attention closest { mask k <= q score dot(softmax(Q + roll(K, 1)), K) + 0.1 * total(max(Q, K)) }"
"""Softmax over the components of a pair."""
SHIFTED = "attention shifted { mask abs(q - k) <= 30 weight sigmoid(s) * exp(-norm(Q - K)) / sum }"
ADDED: dict[str, Make] = {"w": normal(2, 8), "u": normal(8, 5, size=0.3), "c": normal(2, 5)}
COMPONENTS = (
    Case("additive", ADDITIVE, Lq=17, Lk=45, Hkv=1, D=8, q_offset="end", inputs=ADDED),
    Case("Manhattan", MANHATTAN, Lq=35, H=4, Hkv=2, D=5, Dv=40, inputs={"t": lambda g: torch.rand(4, generator=g) * 9}),
    Case("distance of the pair", DISTANCE, Lq=35, Lk=47, D=7),
    Case("decays per channel, band", CHANNEL_BAND, Lq=45, Hkv=1, D=6, lse=False, inputs={"g": decays(1, 1, 45, 6)}),
    Case("decays per channel, score", CHANNEL_SCORE, Lq=17, Lk=35, B=2, D=8, q_offset=(3, 18),
         inputs={"g": lambda g: decays(2, 2, 35, 8)(g) * 0.1}),
    Case("norm of a scaled vector", NESTED, Lq=35, Lk=45, D=8, scale=-0.2, inputs={"t": normal(2)}),
    Case("closest component", CLOSEST, Lq=21, Hkv=1, D=6),
    Case("distances off the simplex", SHIFTED, Lq=45, D=8, lse=False),
    Case("distances on a grid", "attention g { grid m(y, x) mask abs(q.y - k.y) <= 2 and abs(q.x - k.x) <= 3 "
         "score s - total(abs(Q - K)) / 8 * (1 + abs(q.x - k.x)) }", Lq=54, grid=(6, 9), D=5),
    Case("distances above their mean",
         "attention a { mask k <= q let c = norm(Q - K) weight softplus(s + mean(c) - c) / sum }", Lq=21, D=8,
         lse=False),
    Case("angles", "attention angles { mask k <= q score 3 * acos(tanh(s)) - atan2(s, 0.5 + norm(Q - K)) }", Lq=35,
         D=8),
    Case("few, additive", ADDITIVE, Lq=2, Lk=45, Hkv=1, D=8, q_offset="end", inputs=ADDED),
)  # fmt: skip
"""Sums over the components of a vector of the pair."""
WIDE_COMPONENTS = (
    Case("additive, 64", ADDITIVE, Lq=197, Lk=389, B=2, H=4, Hkv=2, q_offset="end",
         inputs={"w": normal(4, 64), "u": normal(64, 48, size=0.2), "c": normal(4, 48)}),
    Case("Manhattan, 128", MANHATTAN, Lq=389, D=128, inputs={"t": lambda g: torch.rand(2, generator=g) * 9}),
    Case("distance of the pair, 40", DISTANCE, Lq=197, Lk=260, B=2, D=40, Dv=80),
    Case("decays per channel, band, 64", CHANNEL_BAND, Lq=389, H=4, Hkv=2, D=64, lse=False,
         inputs={"g": decays(1, 2, 389, 64)}),
    Case("decays per channel, score, 64", CHANNEL_SCORE, Lq=100, Lk=197, B=2, q_offset=(3, 97),
         inputs={"g": lambda g: decays(2, 2, 197, 64)(g) * 0.1}),
    Case("norm of a scaled vector, 64", NESTED, Lq=197, inputs={"t": normal(2)}),
    Case("scored by a network, 32", "attention a(input w: f32[D, M], input c: f32[H, M]) { mask k <= q "
         "score dot(c[h], tanh(tanh(Q + K) @ w)) }", Lq=133, H=4, Hkv=2, D=32,
         inputs={"w": normal(32, 16, size=0.3), "c": normal(4, 16)}),
    Case("placed and turned, 64", "attention a(input r: f32[N, D]) { mask k <= q "
         "score -norm(rope(Q + r[min(q - k, N - 1)], q - k) - K) / 4 }", Lq=133, Lk=197, q_offset="end",
         inputs={"r": normal(129, 64, size=0.5)}),
    Case("rolled by the pair, 40", "attention a { score norm(concat(roll(Q, abs(q - k)), K) - concat(K, Q)) / 4 }",
         Lq=133, D=40, Dv=64),
)  # fmt: skip
"""The same with heads and lengths that only a GPU computes in a moment."""

ZSCORE = """
attention zscore(input z: f32[H], scalar floor: float) {
    mask k <= q and q - k < 50
    let c = s - mean(s)
    weight exp(c / sqrt(mean(c^2) + floor * z[h])) / sum
}"""
GATED_MEAN = "attention gated(input c: f32[B, L]) { mask k <= q score s + c[b, k] weight softplus(s - mean(s)) / sum }"
LONGER = "attention longer { mask k <= q and q != 5 weight exp(s * log(1 + count)) / sum }"
DECAYED = "attention fade(input g: f32[B, H, L] log_decay) { mask k <= q weight exp(s) * decay(g) / sum }"
HIDDEN = "attention hidden { score if k % 3 == 1 then -inf else s weight silu(s) / count }"
STAGED = (
    Case("standard scores", ZSCORE, Lq=67, H=4, Hkv=2, D=32, scalars={"floor": 0.1},
         inputs={"z": lambda g: torch.rand(4, generator=g) + 0.5}),
    Case("normalised by a norm", "attention l2 { mask k <= q weight exp(s) / sqrt(sum(exp(2 * s))) }", Lq=67,
         D=40, Dv=24),
    Case("above the mean, offsets", GATED_MEAN, Lq=33, B=2, Lk=101, q_offset=(3, 67), D=32, lse=False,
         inputs={"c": normal(2, 101)}),
    Case("longer rows are sharper", LONGER, Lq=101, D=32, scale=0.07),
    Case("means of a grid", "attention g { grid m(y, x) mask abs(q.y - k.y) <= 2 and abs(q.x - k.x) <= 3 "
         "weight (s - mean(s)) / sum(1 + s^2) }", Lq=80, grid=(8, 10), D=32, lse=False),
    Case("means of rotated vectors", "attention r { mask k <= q score dot(rope(Q, q), rope(K, k)) / sqrt(D) "
         "weight tanh(s - mean(s)) / count }", Lq=67, H=4, Hkv=2, D=24, lse=False),
    Case("lse of what decays", DECAYED, Lq=67, inputs={"g": decays(1, 2, 67)}),
    Case("no weight where minus infinity", HIDDEN, Lq=67, D=32, lse=False),
)  # fmt: skip
"""Kernels that add up rows run before those that weigh pairs, or beside them."""

SUMMED = (
    Case("distance from a mean", "attention sm { mask k <= q weight relu(dot(Q, K) - dot(Q, mean(K)) + 1) / sum }",
         Lq=45, H=4, Hkv=2, D=16, Dv=16, lse=False),
    Case("norm of a weighted mean", "attention sn { weight relu(s - norm(mean(K * s))) }", Lq=17, Lk=51, D=24,
         lse=False),
    Case("keys near their mean", "attention sk { mask q < 30 and k < q weight exp(-norm(K - mean(K))) / sum }", Lq=45,
         D=16, lse=False),
    Case("softmax of a softmax", "attention sx { mask k <= q weight exp(s + dot(sum(exp(s) * K) / sum(exp(s)), K) / D) "
         "/ sum }", Lq=45, H=4, Hkv=2, D=16),
    Case("spread about a mean, offsets", "attention sv(input c: f32[H, D]) { mask k <= q "
         "weight silu(s) / sqrt(0.1 + total(mean((K - c[h] * mean(K))^2))) / count }", Lq=33, B=2, Lk=77,
         q_offset=(3, 44), D=16, lse=False, inputs={"c": normal(2, 16)}),
    Case("means of values and of maps", "attention so(input W: f32[D, M], input c: f32[H, D]) { mask k != q "
         "weight tanh(s) * (norm(mean(V)) + total(tanh(mean(tanh(K * c[h]) @ W) + mean(s)))) }", Lq=49, H=4, Hkv=2,
         D=16, Dv=40, lse=False, inputs={"W": normal(16, 5, size=0.3), "c": normal(4, 16)}),
    Case("roots of rows without keys", "attention sr { mask k < q - 1 weight s * sqrt(total(mean(Q * K)^2)) }", Lq=35,
         D=16, lse=False),
    Case("rotated sums that decay", "attention sd(input g: f32[B, Hkv, L] log_decay) { mask k <= q "
         "weight sigmoid(s - norm(sum(rope(K, q - k) * decay(g)))) / (1 + sum(sigmoid(s))) }", Lq=45, H=4, Hkv=2, D=16,
         lse=False, inputs={"g": decays(1, 2, 45)}),
    Case("vectors of rows and pairs", "attention sp { grid m(y, x) mask abs(q.y - k.y) <= 2 and abs(q.x - k.x) <= 3 "
         "weight s * norm(sum(if k.y <= q.y then concat(K, Q) * k.x else concat(Q - K, 0.5 * K))) }", Lq=48,
         grid=(6, 8), D=16, lse=False),
    Case("a mean in a vector", "attention sq { mask k <= q weight gelu(dot(Q * mean(s), K) + dot(V, mean(V)) / count) "
         "}", Lq=45, H=4, Hkv=2, D=16, lse=False),
)  # fmt: skip
"""Kernels that sum vectors over rows run before those that weigh pairs."""

FEW_SUMMED = (
    Case("few, a mean", "attention fm { mask k <= q weight exp(s - norm(mean(K))) / sum }", Lq=1, Lk=111, H=4, Hkv=2,
         q_offset="end", D=16),
    Case("few, offsets", "attention fo { mask k <= q and q - k < 70 weight relu(s - norm(sum(K * s) / sum(s^2))) }",
         Lq=3, Lk=111, B=2, q_offset=(80, 7), D=16, lse=False),
    Case("few, of heads", "attention fh(input c: f32[H, D]) { weight relu(s - norm(mean(tanh(K * c[h])))) }", Lq=2,
         Lk=77, H=4, Hkv=2, D=16, lse=False, inputs={"c": normal(4, 16)}),
    Case("few, products", "attention fp { mask k % 3 != q weight softplus(dot(K, mean(K)) / D + s) / count }", Lq=2,
         Lk=77, H=4, Hkv=2, D=16, lse=False),
)  # fmt: skip

CASES = (
    Case("dense", "attention dense {}", Lq=131, Lk=197, B=2, H=4, Hkv=2),
    Case("dense 40", "attention dense {}", D=40, Dv=24),
    Case("dense 96", "attention dense {}", D=96, Lq=129),
    Case("dense 80 112", "attention dense {}", D=80, Dv=112, Lq=129),
    Case("dense 256", "attention dense {}", D=256, Lq=129),
    Case("causal", "attention causal { mask k <= q }", B=2, H=4, Hkv=1),
    Case("causal 128", "attention causal { mask k <= q }", D=128, Lq=389),
    Case("window", WINDOW, Lq=389),
    Case("window end", WINDOW, Lq=70, Lk=197, q_offset="end"),
    Case("window offsets", WINDOW, Lq=70, Lk=197, B=2, q_offset=(3, 111)),
    Case("window 7, negative scale", WINDOW, consts={"w": 7}, scale=-0.2),
    Case("window 127", WINDOW, Lq=300, consts={"w": 127}),
    Case("scale zero", WINDOW, scale=0.0),
    Case("bidirectional", "attention local { mask abs(q - k) <= 20 }"),
    Case("prefixes of heads", "attention prefixes { mask if h == 0 then k <= q else k <= 2 * q }", Lq=70, D=16),
    Case("prefix", "attention prefix(scalar n: int) { mask k <= q or k < n }", scalars={"n": 50}),
    Case("dead rows", "attention dead { mask q < 40 and k > q }"),
    Case("no key", "attention none { mask k > q + 1000 output o + 1 }"),
    Case("alibi", ALIBI, inputs=SLOPE, Lq=389),
    Case("alibi far", ALIBI, inputs=SLOPE, Lq=70, q_offset=3_000),
    Case("softcap", "attention softcap { score 50 * tanh(s / 50) mask k <= q }"),
    Case("compared", COMPARED, inputs={"t": normal(2), "u": normal(2)}),
    Case("unseen", UNSEEN, inputs={"t": normal(2), "u": normal(70)}, Lq=70, Lk=70),
    Case("bias", "attention bias(input t: f32[H, Lq, Lk]) { score s + t[h, q, k] }", inputs={"t": normal(2, 197, 197)}),
    Case("row and key bias", "attention ab(input a: f32[H, L], input c: f32[H, L]) { score s + a[h, q] * 2 + c[h, k] }",
         inputs={"a": normal(2, 197), "c": normal(2, 197)}),
    Case("documents of all", "attention docs(input doc: i32[L] sorted) { mask doc[q] == doc[k] and k <= q }",
         inputs={"doc": lambda g: torch.randint(0, 5, (197,), generator=g).sort().values.int()}),
    Case("documents, both ways", "attention docs(input doc: i32[L] sorted) { mask doc[q] == doc[k] }",
         inputs={"doc": lambda g: torch.randint(0, 9, (197,), generator=g).sort().values.int()}),
    Case("documents", "attention docs(input doc: i32[B, L] sorted) { mask doc[b, q] == doc[b, k] and k <= q }",
         B=2, inputs={"doc": ints(5, 2, 197, ordered=True)}),
    Case("same label", "attention labels(input d: i32[L]) { mask d[q] == d[k] }", inputs={"d": ints(3, 197)}),
    Case("duo", "attention duo(input full: bool[H]) { mask k <= q and (full[h] or k < 8 or q - k < 40) }", H=4,
         inputs={"full": flags(4)}),
    Case("sink and gate", COSINE_GATE, inputs={"z": normal(2), "g": normal(1, 2, 197)}),
    Case("vector gate", "attention gain(input g: f32[H, Dv]) { output o * g[h] }", inputs={"g": normal(2, 64)}),
    Case("relu2", "attention relu2 { mask k <= q weight relu(s)^2 / count }", lse=False),
    Case("sigmoid", "attention sig(scalar c: float) { mask k <= q weight sigmoid(s + c) }", scalars={"c": -1.5},
         lse=False),
    Case("cog", "attention cog { mask k <= q weight sign(s) * exp(abs(s)) / sum(exp(abs(s))) }"),
    Case("exponential", "attention expo { mask k <= q weight exp(s - 4) }"),
    Case("normalised", "attention relu1 { mask k <= q weight relu(s) / (sum(relu(s)) + 1) }", lse=False),
    Case("polynomial", "attention poly { mask k <= q weight (1 + s + 0.5 * s^2) / sum }", lse=False),
    Case("dilated", "attention dilated { mask k <= q and (q - k) % 4 == 0 }", Lq=389),
    Case("blocks", "attention blocks { mask (q // 32 * 7 + k // 32 * 5) % 3 == 0 }", Lq=389),
    Case("powers of two", "attention power { mask k <= q and (ispow2(q - k) or q == k) score s - bitlen(q - k) }"),
    Case("gna", GNA, Lq=270, grid=(5, 6, 9), consts={"window": (3, 4, 5), "stride": (1, 2, 2)}),
    Case("gna, even lines", GNA, Lq=384, grid=(4, 6, 16), consts={"window": (3, 4, 8), "stride": (1, 2, 8)}),
    Case("gna dilated", GNA, Lq=270, grid=(5, 6, 9), consts={"window": (3, 3, 3), "dilation": (1, 2, 2)}),
    Case("gna causal", GNA, Lq=270, grid=(5, 6, 9), consts={"window": (3, 3, 3), "causal": (True, False, False)}),
    Case("na2d", NA2D, Lq=23 * 17, grid=(23, 17), consts={"window": (7, 7)}),
    Case("grid terms",
         "attention g { grid m(y, x) mask abs(q.y - k.y) <= 2 score s + 0.1 * (q.x - k.x) output o + q.y }",
         Lq=135, grid=(9, 15)),
    Case("joint", JOINT, Lq=140, grid={"text": (20,), "video": (4, 5, 6)}, consts={"window": (3, 3, 3)}),
    Case("joint, dilated", "use masks (neighborhood) attention dilated { grid text(m) ++ video(t, y, x) "
         "mask not (q in video and k in video) or "
         "all(neighborhood(q.video, k.video, size(video), 3, 1, (1, 2, 2), false)) }",
         Lq=20 + 3 * 6 * 7, grid={"text": (20,), "video": (3, 6, 7)}),
    Case("pooled keys", "attention pooled { grid q (y, x) grid k (v, u) "
         "mask abs(q.y // 2 - k.v) <= 1 and abs(q.x // 2 - k.u) <= 2 }",
         Lq=96, Lk=24, grid={"q": (8, 12), "k": (4, 6)}),
    Case("a grid of keys", "attention lone { grid k (v, u) mask abs(q // 4 - k.v) <= 1 and k.u < 9 }", Lq=33, Lk=77,
         grid=(7, 11)),
    Case("a grid of queries", "attention lone { grid q (v, u) mask abs(k // 4 - q.v) <= 1 }", Lq=77, Lk=33,
         grid=(7, 11)),
    Case("blind segment", "attention blind { grid aa(m) ++ bb(n) mask q in aa and k in aa output o + 1 }", Lq=53,
         grid={"aa": (33,), "bb": (20,)}),
    Case("grid with offset", "attention moved { grid m(y, x) mask abs(q.y - k.y) <= 1 }", Lq=30, Lk=80, grid=(8, 10),
         q_offset=25),
    Case("fewer rows than the grid", "attention moved { grid m(y, x) mask abs(q.y - k.y) <= 1 }", Lq=30, Lk=80,
         grid=(8, 10)),
    Case("fewer keys than the grid", JOINT, Lq=80, Lk=67, grid={"text": (20,), "video": (3, 4, 5)},
         consts={"window": (3, 3, 3)}),
    Case("nothing is seen on a grid", "attention apart { grid g(y, x) mask q.y - k.y >= 3 and k.x - q.x >= 5 }", Lq=20,
         grid=(4, 5)),
    Case("one row", WINDOW, Lq=1, Lk=197, q_offset="end"),
    *PROJECTED,
    *COMPONENTS,
    *FINISHED,
    *STAGED,
)  # fmt: skip

DUO = "attention duo(input full: bool[H]) { mask k <= q and (full[h] or k < 8 or q - k < 40) }"
RECENT = "attention recent(const w: int = 40, const first: int = 4) { mask k <= q and (q - k < w or k < first) }"
FEW_ROWS = (
    Case("few, causal, 4 heads to 1", "attention causal { mask k <= q }", Lq=1, Lk=331, B=2, H=8, Hkv=2,
         q_offset="end"),
    Case("few, causal, 5 rows", "attention causal { mask k <= q }", Lq=5, Lk=131, H=2, Hkv=1, D=40, Dv=24,
         q_offset="end"),
    Case("few, dense, 16 rows, 8 heads to 1", "attention dense {}", Lq=16, Lk=197, H=8, Hkv=1, D=32),
    Case("few, window and first keys", RECENT, Lq=3, Lk=389, H=4, Hkv=2, q_offset="end"),
    Case("few, window, offsets", WINDOW, Lq=4, Lk=197, B=3, H=2, q_offset=(3, 100, 193)),
    Case("few, alibi", ALIBI, Lq=2, Lk=197, inputs=SLOPE, q_offset="end"),
    Case("few, sink and gate", COSINE_GATE, Lq=3, Lk=150, H=4, Hkv=2, q_offset="end",
         inputs={"z": normal(4), "g": normal(1, 4, 3)}),
    Case("few, vector gate, negative scale", "attention gain(input g: f32[H, Dv]) { output o * g[h] }", Lq=1, Lk=131,
         H=4, Hkv=1, D=16, scale=-0.2, inputs={"g": normal(4, 16)}),
    Case("few, relu2", "attention relu2 { mask k <= q weight relu(s)^2 / count }", Lq=6, Lk=131, H=4, Hkv=2,
         q_offset="end", lse=False),
    Case("few, normalised", "attention relu1 { mask k <= q weight relu(s) / (sum(relu(s)) + 1) }", Lq=2, Lk=197,
         q_offset="end", lse=False),
    Case("few, cog", "attention cog { mask k <= q weight sign(s) * exp(abs(s)) / sum(exp(abs(s))) }", Lq=2, Lk=131,
         q_offset="end"),
    Case("few, exponential", "attention expo { mask k <= q weight exp(s - 4) }", Lq=2, Lk=131, q_offset="end"),
    Case("few, heads that differ", DUO, Lq=2, Lk=300, H=4, Hkv=2, q_offset="end",
         inputs={"full": lambda g: torch.tensor([True, True, False, True])}),
    Case("few, heads alike", DUO, Lq=2, Lk=300, H=4, Hkv=2, q_offset="end",
         inputs={"full": lambda g: torch.tensor([True, True, False, False])}),
    Case("few, documents", "attention docs(input doc: i32[B, L] sorted) { mask doc[b, q] == doc[b, k] and k <= q }",
         Lq=2, Lk=197, B=2, q_offset="end", inputs={"doc": ints(5, 2, 197, ordered=True)}),
    Case("few, key bias", "attention kb(input c: f32[H, L]) { score s + c[h, k] mask k <= q }", Lq=3, Lk=197,
         H=4, Hkv=2, q_offset="end", inputs={"c": normal(4, 197)}),
    Case("few, dilated", "attention dilated { mask k <= q and (q - k) % 4 == 0 }", Lq=5, Lk=300, q_offset="end"),
    Case("few, blocks", "attention blocks { mask (q // 32 * 7 + k // 32 * 5) % 3 == 0 }", Lq=9, Lk=389,
         q_offset=100),
    Case("few, dead rows", "attention dead { mask q < 100 and k > q }", Lq=5, Lk=150, q_offset=97),
    Case("few, no key", "attention none { mask k > q + 1000 output o + 1 }", Lq=5, Lk=150),
    Case("few, grid with offset", "attention moved { grid m(y, x) mask abs(q.y - k.y) <= 1 }", Lq=5, Lk=80,
         grid=(8, 10), q_offset=25),
    Case("few, standard scores", ZSCORE, Lq=2, Lk=331, B=2, H=4, Hkv=2, q_offset="end", scalars={"floor": 0.1},
         inputs={"z": lambda g: torch.rand(4, generator=g) + 0.5}),
    Case("few, above the mean, offsets", GATED_MEAN, Lq=4, Lk=197, B=3, q_offset=(3, 100, 193), lse=False,
         inputs={"c": normal(3, 197)}),
    Case("few, counted", LONGER, Lq=3, Lk=131, H=8, Hkv=2, q_offset="end"),
    Case("few, one key", "attention dense {}", Lq=1, Lk=1, H=4, Hkv=4),
    Case("few, lengths in the mask", "attention tail { mask k >= Lk - 70 and k <= q }", Lq=2, Lk=197, q_offset="end"),
)  # fmt: skip

DIFFERENTIATED = (*CASES, *WIDE_COMPONENTS, *SUMMED)
"""Those whose gradients a GPU is asked for."""
ALL_CASES = (*CASES, *FEW_ROWS, *WIDE_COMPONENTS, *SUMMED, *FEW_SUMMED)
