"""Masks mean what a loop in Python over all pairs says."""

from collections.abc import Callable

import numpy as np
import pytest

from attndsl.frontend.compile import compile_text
from attndsl.ir.bind import bind
from attndsl.ir.evaluate import Env, evaluate
from attndsl.ir.expr import Coord, Extent, Index, Member, walk
from attndsl.ir.types import INT

Visible = Callable[[int, int], bool]
N = 24


def visible(text: str, **consts: object) -> np.ndarray:
    """Which of N x N pairs the mask of a text shows; grids are one segment of a square."""
    (made,) = compile_text(text)
    made = bind(made, consts)
    q, k = np.arange(N)[:, None], np.arange(N)[None, :]
    values = {Index(INT, "q"): q, Index(INT, "k"): k}
    for node in walk(made.mask):
        if isinstance(node, Coord):
            at = q if node.side == "q" else k
            values[node] = at // 6 if node.axis == "y" else at % 6
        elif isinstance(node, Extent):
            values[node] = 4 if node.axis == "y" else 6
        elif isinstance(node, Member):
            values[node] = q >= 0 if node.side == "q" else k >= 0
    tables = {c.name: np.asarray(c.default) for c in made.consts}
    return np.broadcast_to(evaluate(made.mask, Env(values, tables)), (N, N))


def window_of(i: int, n: int, w: int, s: int) -> range:
    leader = min(i // s * s + s // 2, n - 1)
    start = max(leader - w // 2, 0)
    start = min(start, n - w)
    return range(start, start + w)


CASES: dict[str, tuple[str, Visible]] = {
    "causal window": (
        "use masks (sliding_window)\nattention a { mask sliding_window(q, k, 5) }",
        lambda q, k: k <= q and q - k < 5,
    ),
    "chain": ("attention a { mask 0 <= q - k < 5 }", lambda q, k: 0 <= q - k < 5),
    "floor of negatives": ("attention a { mask (k - q) // 3 == -2 and (k - q) % 3 != 1 }",
                           lambda q, k: (k - q) // 3 == -2 and (k - q) % 3 != 1),
    "conditional": ("attention a { mask if q % 2 == 0 then k < 4 else k > 20 }",
                    lambda q, k: k < 4 if q % 2 == 0 else k > 20),
    "const table": ("attention a(const t: int[3] = (1, 5, 9)) { mask k <= t[q % 3] + t[1] }",
                    lambda q, k: k <= (1, 5, 9)[q % 3] + 5),
    "power of two": ("attention a { mask ispow2(q - k) or bitlen(k) == 3 }",
                     lambda q, k: q - k in (1, 2, 4, 8, 16) or 4 <= k < 8),
    "neighborhood": (
        "use masks (neighborhood)\nattention a { grid g(y, x)  "
        "mask all(neighborhood(q.g, k.g, size(g), (3, 4), (2, 3), 1, false)) }",
        lambda q, k: k // 6 in window_of(q // 6, 4, 3, 2) and k % 6 in window_of(q % 6, 6, 4, 3),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_mask(name: str):
    text, expected = CASES[name]
    loop = [[expected(q, k) for k in range(N)] for q in range(N)]
    assert (visible(text) == np.array(loop)).all()


def test_const_values():
    text = "attention a(const w: int[2] = 1) { grid g(y, x)  mask all(abs(q.g - k.g) < w) }"
    found = visible(text, w=(2, 3))
    loop = [[abs(q // 6 - k // 6) < 2 and abs(q % 6 - k % 6) < 3 for k in range(N)] for q in range(N)]
    assert (found == np.array(loop)).all()
