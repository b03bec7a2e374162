"""What the functions of the standard library refuse, and what they must not refuse."""

from pathlib import Path
from typing import Any

import pytest

import attndsl
from attndsl.diagnostics.report import SpecError
from attndsl.frontend.compile import compile_text
from attndsl.frontend.library import library_functions

EXAMPLES = Path(__file__).parents[2] / "examples"

REFUSED = [
    ("block_diagonal(q, k, 0)", "a block has at least one position"),
    ("block_diagonal(q, k, -4)", "a block has at least one position"),
    ("chunked(q, k, 0)", "a chunk has at least one position"),
    ("block_causal(q, k, -1)", "a block has at least one position"),
    ("dilated(q, k, 0, 2)", "a window has at least one key"),
    ("dilated(q, k, 4, 0)", "a step is at least 1"),
    ("strided(q, k, -3)", "a stride is at least 1"),
    ("fixed(q, k, 0, 0)", "a block has at least one position"),
    ("fixed(q, k, 8, 9)", "the summary lies in its block"),
    ("fixed(q, k, 8, -1)", "the summary lies in its block"),
    ("power(q, k, 0, 1, 0)", "a block has at least one position"),
    ("power(q, k, 4, 0, 0)", "a window has at least one block"),
    ("power(q, k, 4, 1, -1)", "the number of sink blocks is not negative"),
    ("heterogeneous_strided(q, k, 0, 1, 1, h)", "a block has at least one position"),
    ("heterogeneous_strided(q, k, 4, 0, 1, h)", "a window has at least one block"),
    ("heterogeneous_strided(q, k, 4, 1, 0, h)", "a stride is at least 1"),
    ("neighborhood(q, k, 9, 0, 1, 1, false)", "a window has at least one key"),
    ("neighborhood(q, k, 9, 3, 0, 1, false)", "a stride is at least 1"),
    ("neighborhood(q, k, 9, 3, 1, -2, false)", "a dilation is at least 1"),
    ("neighborhood(q, k, 9, 3, 4, 1, false)", "the stride exceeds the window"),
    ("neighborhood(q, k, 9, 10, 1, 1, false)", "the window exceeds the axis"),
    ("neighborhood(q, k, 9, 5, 1, 2, true)", "the window exceeds the axis"),
    ("swin(q, k, 0, 0)", "a window has at least one key"),
    ("swin_wrapped(q, k, 8, -2, 0)", "a window has at least one key"),
    ("halo(q, k, 0, 1)", "a block has at least one position"),
    ("halo(q, k, 4, -1)", "a margin is not negative"),
    ("convolution(q, k, 0, 1)", "a window has at least one key"),
    ("convolution(q, k, 3, 0)", "a dilation is at least 1"),
    ("spread(q, k, 8, 0)", "at least one key is spread"),
    ("spread(q, k, 8, 9)", "more keys are spread than the axis has"),
    ("radial(q, q, k, k, 8, 0.0, 4)", "the factor is positive"),
    ("radial(q, q, k, k, 8, 1.0, 12)", "block is a power of two"),
    ("t5_bucket(q - k, 1, 8)", "at least two buckets are needed"),
    ("t5_bucket(q - k, 32, 16)", "the furthest distance lies beyond the exact buckets"),
    ("t5_bucket_both(q - k, 3, 128)", "at least two buckets are needed"),
]

ALLOWED = [
    "sliding_window(q, k, 1000000)", "sliding_window(q, k, span[h])", "local(q, k, span[h])", "prefix(q, k, span[b])",
    "sink_window(q, k, 4, span[h])", "dilated(q, k, 1000000, 3)", "chunked(q, k, 1000000)", "fixed(q, k, 8, 0)",
    "neighborhood(q, k, Lk, 9, 9, 1, false)", "neighborhood(q, k, 9, 3, 1, 3, true)", "halo(q, k, 4, 100)",
    "heterogeneous_strided(q, k, 4, 1, 2, h)", "swin(q, k, 8, if h % 2 == 0 then 0 else 4)", "spread(q, k, 8, 8)",
    "swin_wrapped(q, k, L, 8, h % 2 * 4)", "block_diagonal(q, k, w)", "block_diagonal(q, k, z)",
]  # fmt: skip


def spec(call: str) -> str:
    name = call[: call.index("(")]
    clause = "score s + " if name.startswith("t5") else "mask"
    params = "const w: int = 4, scalar z: int = 4, input span: i32[64]"
    return f"use {library_functions()[name]} ({name})\nattention a({params}) {{ {clause} {call} }}"


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[r[0] for r in REFUSED])
def test_refused(call: str, message: str):
    with pytest.raises(SpecError) as caught:
        compile_text(spec(call))
    (one,) = caught.value.diagnostics
    assert one.code == "E0721"
    assert one.span.text == call
    assert one.message == f"in `{call[: call.index('(')].removesuffix('_both')}`: {message}"
    assert one.notes == ()


@pytest.mark.parametrize("call", ALLOWED)
def test_allowed(call: str):
    attndsl.load(spec(call)).plan(L=9 if "neighborhood" in call else 16, H=4, z=4)


@pytest.mark.parametrize(
    "call", ["dilated(q, k, w, 2)", "block_diagonal(q, k, w)", "halo(q, k, w, 1)", "swin(q, k, w, 0)"]
)
def test_consts_are_named(call: str):
    with pytest.raises(SpecError, match=r"= 0 \(w\)|w = 0"):
        attndsl.load(spec(call), w=0)


@pytest.mark.parametrize(
    ("consts", "grid", "shown"),
    [
        ({"window": (3, 9, 41)}, (8, 24, 40), r"w = 41 \(window\[2\]\), d = 1 \(dilation\[2\]\), n = 40 \(size of x\)"),
        ({"window": (9, 9, 9)}, (8, 24, 40), r"w = 9 \(window\[0\]\), d = 1 \(dilation\[0\]\), n = 8 \(size of t\)"),
        ({"window": (3, 9, 9), "dilation": (1, 3, 1)}, (8, 24, 40), r"w = 9 .*d = 3 .*n = 24 \(size of y\)"),
    ],
)
def test_a_window_larger_than_its_axis(consts: dict[str, Any], grid: tuple[int, ...], shown: str):
    gna = attndsl.load(EXAMPLES / "gna.attn", **consts)
    message = rf"gna: in `neighborhood` \(.*gna\.attn:14:14\): the window exceeds the axis .*w \* d <= n.*where {shown}"
    with pytest.raises(ValueError, match=message):
        gna.plan(grid=grid)
    torch = pytest.importorskip("torch")
    q = torch.zeros(1, 1, grid[0] * grid[1] * grid[2], 8)
    with pytest.raises(ValueError, match=message):
        gna(q, q, q, grid=grid)


def test_a_window_as_large_as_its_axis():
    gna = attndsl.load(EXAMPLES / "gna.attn", window=(8, 24, 10), dilation=(1, 1, 4))
    assert gna.plan(grid=(8, 24, 40)).visited
