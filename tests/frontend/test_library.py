"""The functions of the standard library against the definitions of their papers, written out one pair at a time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest

from attndsl.frontend.compile import compile_text
from attndsl.frontend.modules import program_from_text, std_modules
from attndsl.ir.evaluate import Env, evaluate
from attndsl.ir.expr import SCORE, Index
from attndsl.ir.types import INT

L = 24
POSITIONS = np.arange(L)
ENV = Env({Index(INT, "q"): POSITIONS[:, None], Index(INT, "k"): POSITIONS[None, :]})


def seen(name: str, call: str, env: Env = ENV) -> np.ndarray:
    """What a call of a mask function says for all pairs."""
    (attention,) = compile_text(f"use masks ({name})\nattention a {{ mask {name}({call}) }}")
    return np.broadcast_to(np.asarray(evaluate(attention.mask, env)), (L, L))


def pairs(rule: Callable[[int, int], bool]) -> np.ndarray:
    return np.array([[bool(rule(i, j)) for j in range(L)] for i in range(L)])


def is_power(n: int) -> bool:
    return n > 0 and n & (n - 1) == 0


SEQUENCES: list[tuple[str, str, Callable[[int, int], bool]]] = [
    ("causal", "q, k", lambda i, j: j <= i),
    ("sliding_window", "q, k, 5", lambda i, j: 0 <= i - j < 5),
    ("local", "q, k, 3", lambda i, j: -3 <= i - j <= 3),
    ("prefix", "q, k, 7", lambda i, j: j <= i or j < 7),
    ("document", "q // 5, k // 5", lambda i, j: i // 5 == j // 5),
    ("block_diagonal", "q, k, 6", lambda i, j: i // 6 == j // 6),
    ("chunked", "q, k, 6", lambda i, j: i // 6 == j // 6 and j <= i),
    ("block_causal", "q, k, 6", lambda i, j: j // 6 <= i // 6),
    ("dilated", "q, k, 4, 3", lambda i, j: i - j in (0, 3, 6, 9)),
    ("strided", "q, k, 5", lambda i, j: 0 <= i - j < 5 or (j <= i and (i - j) % 5 == 0)),
    ("fixed", "q, k, 6, 2", lambda i, j: j <= i and (i // 6 == j // 6 or j % 6 in (4, 5))),
    ("sink_window", "q, k, 2, 4", lambda i, j: j <= i and (j < 2 or i - j < 4)),
    (
        "power",
        "q, k, 2, 2, 1",
        lambda i, j: j <= i and (i // 2 - j // 2 < 2 or is_power(i // 2 - j // 2) or j // 2 < 1),
    ),
    (
        "heterogeneous_strided",
        "q, k, 2, 3, 4, 1",
        lambda i, j: j <= i and (i // 2 - j // 2 < 3 or (j // 2 + 1) % 4 == 0),
    ),
    ("halo", "q, k, 5, 2", lambda i, j: i // 5 * 5 - 2 <= j < i // 5 * 5 + 7),
    ("axial", "q // 6, q % 6, k // 6, k % 6", lambda i, j: i // 6 == j // 6 or i % 6 == j % 6),
    ("convolution", "q, k, 5, 3", lambda i, j: i - j in (-6, -3, 0, 3, 6)),
    ("spread", "q, k, 24, 4", lambda i, j: i % 6 == j % 6),
]


@pytest.mark.parametrize(("name", "call", "rule"), SEQUENCES, ids=[s[0] for s in SEQUENCES])
def test_masks(name: str, call: str, rule: Callable[[int, int], bool]):
    assert np.array_equal(seen(name, call), pairs(rule))


def neighborhood(i: int, j: int, n: int, w: int, s: int, d: int, causal: bool) -> bool:
    """The start and end of the window in the residue group, after Hassani et al., 2025."""
    if i % d != j % d:
        return False
    length = len(range(i % d, n, d))
    p, r = i // d, j // d
    if causal:
        leader = min(p // s * s + s - 1, length - 1)
        return max(leader - w + 1, 0) <= r <= p
    leader = min(p // s * s + s // 2, length - 1)
    start = max(leader - w // 2, 0)
    right = w // 2 + w % 2 - 1
    if leader + right >= length:
        start += length - right - leader - 1
    return start <= r < start + w


@pytest.mark.parametrize(
    ("w", "s", "d", "causal"),
    [c for c in itertools.product((3, 4, 7), (1, 2, 3), (1, 2, 3), (False, True)) if L // c[2] >= c[0]],
)
def test_neighborhood(w: int, s: int, d: int, causal: bool):
    expected = pairs(lambda i, j: neighborhood(i, j, L, w, s, d, causal))
    assert np.array_equal(seen("neighborhood", f"q, k, {L}, {w}, {s}, {d}, {str(causal).lower()}"), expected)
    if not causal:
        assert (expected.sum(1) == w).all()


@pytest.mark.parametrize(("w", "r"), [(6, 0), (6, 3), (8, 4), (4, 1)])
def test_swin_is_roll_window_and_mask(w: int, r: int):
    rolled = np.roll(POSITIONS, -r)
    place = np.empty(L, int)
    place[rolled] = POSITIONS
    region = np.where(place < L - w, 0, np.where(place < L - r, 1, 2))
    window = place // w
    same = window[:, None] == window[None, :]
    assert np.array_equal(seen("swin_wrapped", f"q, k, {L}, {w}, {r}"), same)
    assert np.array_equal(seen("swin", f"q, k, {w}, {r}"), same & (region[:, None] == region[None, :]))


def radial(t: int, p: int, u: int, r: int, n: int, factor: float, block: int) -> bool:
    """The rule of Li et al., 2025, in whole and broken powers of two."""
    d = abs(t - u)
    shrunk = 2.0 ** n.bit_length() / 2.0 ** d.bit_length()
    width = n if d <= 1 else max(shrunk * factor, block)
    split = 1 if shrunk >= block else int(block // shrunk)
    return abs(p - r) <= width and d % split == 0


@pytest.mark.parametrize(("n", "factor", "block"), [(2, 1.0, 2), (2, 0.5, 4), (3, 1.0, 1), (4, 0.75, 2), (1, 1.0, 8)])
def test_radial(n: int, factor: float, block: int):
    expected = pairs(lambda i, j: radial(i // n, i % n, j // n, j % n, n, factor, block))
    assert np.array_equal(seen("radial", f"q // {n}, q % {n}, k // {n}, k % {n}, {n}, {factor}, {block}"), expected)


def t5_bucket(relative: int, both: bool, buckets: int, furthest: int) -> int:
    """`relative` is key minus query, as in the released code; logarithms of exact powers are exact here."""
    out = 0
    if both:
        buckets //= 2
        out += (relative > 0) * buckets
        n = abs(relative)
    else:
        n = max(-relative, 0)
    exact = buckets // 2
    if n < exact:
        return out + n
    far = math.log2(n / exact) / math.log2(furthest / exact) * (buckets - exact)
    return out + min(exact + math.floor(far), buckets - 1)


@pytest.mark.parametrize(("buckets", "furthest"), [(32, 128), (8, 16)])
@pytest.mark.parametrize("both", [False, True])
def test_t5_bucket(both: bool, buckets: int, furthest: int):
    name = "t5_bucket_both" if both else "t5_bucket"
    (attention,) = compile_text(f"use scores ({name})\nattention a {{ score {name}(q - k, {buckets}, {furthest}) }}")
    far = np.arange(0, 600)
    env = Env({Index(INT, "q"): far[:, None], Index(INT, "k"): far[None, :40]})
    got = evaluate(attention.score, env)
    expected = [[t5_bucket(j - i, both, buckets, furthest) for j in range(40)] for i in far]
    assert np.array_equal(got, expected)


@pytest.mark.parametrize(
    ("call", "rule"),
    [
        ("alibi(q - k, 0.5)", lambda i, j, s: -0.5 * (i - j)),
        ("alibi_slope(q, 8)", lambda i, j, s: 2.0 ** -(i + 1)),
        ("softcap(s, 3)", lambda i, j, s: 3 * math.tanh(s / 3)),
        ("kerple(q - k, 0.5, 2)", lambda i, j, s: -0.5 * math.log(1 + 2 * abs(i - j))),
        ("scalable(s, q, 0.3)", lambda i, j, s: s * 0.3 * math.log(max(i, 1))),
    ],
)
def test_scores(call: str, rule: Callable[[int, int, float], float]):
    name = call[: call.index("(")]
    (attention,) = compile_text(f"use scores ({name})\nattention a {{ score {call} }}")
    values = np.linspace(-4, 4, L * L).reshape(L, L)
    got = np.broadcast_to(evaluate(attention.score, ENV.bind({SCORE: values})), (L, L))
    expected = [[rule(i, j, values[i, j]) for j in range(L)] for i in range(L)]
    np.testing.assert_allclose(got, expected, rtol=1e-12)


@pytest.mark.parametrize("module", std_modules())
def test_every_function_can_be_used(module: str):
    """Each function of the library compiles in an attention of its own."""
    features = ["elu1(Q)", "relu2(s)", "exp_shifted(Q)", "positive(Q)", "focused(Q)", "turned(Q, 2)",
                "norm_aware(Q, 2)",
                "t2r(Q, W[h], c[h])", "hedgehog(Q, W[h])", "performer(Q, W[h], D, M)", "dpfp(Q, 1)",
                "cosformer(Q, 3, 8)", "square(Q)", "cube(Q)", "taylor(Q, D)", "laplace(s)"]  # fmt: skip
    names = {"masks": None, "scores": None, "features": features}[module]
    own = library(module)
    if names is not None:
        assert {n[: n.index("(")] for n in names} == own
        for call in names:
            name = call[: call.index("(")]
            value = call if "(s)" in call else f"dot({call}, {call.replace('Q', 'K')})"
            inputs = "input W: f32[H, D, M], input c: f32[H, M]" if "W" in call else ""
            compile_text(f"use {module} ({name})\nattention a({inputs}) {{ weight {value} }}")
    else:
        tested = {s[0] for s in SEQUENCES} | {"neighborhood", "swin", "swin_wrapped", "radial", "t5_bucket"}
        tested |= {"t5_bucket_both", "alibi", "alibi_slope", "softcap", "kerple", "scalable"}
        assert own <= tested


def library(module: str) -> set[str]:
    from attndsl.frontend.modules import STD

    return {f.name for f in program_from_text((STD / f"{module}.attn").read_text()).file.functions}
