"""Wrong calls: each gets a TypeError or a ValueError that names the argument, what was given and what was expected."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import attndsl
from attndsl.runtime.names import PLAN_OPTIONS

T = torch.randn
WINDOW = """
use masks (causal)
attention swa(const window: int = 4, scalar strength: float, scalar stride: int = 2, input slope: f32[H]) {
    require stride >= 1 and stride <= Lk, "stride must lie within the keys"
    score s - strength * slope[h] * (q - k)
    mask causal(q, k) and q - k < window and (q // stride) % (stride - 1) >= 0
}
"""
TABLES = """
attention tables(input doc: i32[B, L] sorted, input full: bool[H], input W: f32[H, D, M], input z: f32[M + 1]) {
    feature phi(x) = x @ W[h]
    score s + z[0] * dot(phi(Q), phi(K))
    mask doc[b, q] == doc[b, k] or full[h]
}
"""
GRID = "attention tiny(scalar reach: int = 1) { grid video(t, y) mask abs(q.t - k.t) <= reach and q.y == k.y }"


def base() -> dict[str, Any]:
    return {"q": T(2, 4, 8, 6), "k": T(2, 2, 8, 6), "v": T(2, 2, 8, 6)}


def swa(**changed: Any) -> dict[str, Any]:
    return {**base(), "strength": 1.0, "stride": 2, "slope": T(4), **changed}


def tables(**changed: Any) -> dict[str, Any]:
    given = {"doc": torch.zeros(2, 8, dtype=torch.int32), "full": torch.ones(4) > 0, "W": T(4, 6, 5), "z": T(6)}
    return {**base(), **given, **changed}


def without(arguments: dict[str, Any], name: str) -> dict[str, Any]:
    return {n: a for n, a in arguments.items() if n != name}


@pytest.mark.parametrize(
    ("text", "arguments", "error", "words"),
    [
        # names
        (WINDOW, swa(slop=T(4)), TypeError, r"unknown argument 'slop'; did you mean 'slope'\?"),
        (WINDOW, swa(Scale=1.0), TypeError, r"unknown argument 'Scale'; did you mean 'scale'\?"),
        (WINDOW, swa(zzz=1), TypeError,
         r"unknown argument 'zzz' \(takes scalar strength: float, .*input slope: f32\[H\]"),
        (WINDOW, swa(window=8), TypeError, r"'window' is const.*with_consts\(window=...\)"),
        (WINDOW, without(swa(), "slope"), TypeError, r"missing argument: input slope: f32\[H\]"),
        (WINDOW, swa(slope=None), TypeError, r"missing argument: input slope: f32\[H\]"),
        (WINDOW, without(without(swa(), "slope"), "strength"), TypeError,
         r"missing arguments: scalar strength: float, input slope: f32\[H\]"),
        # scalars
        (WINDOW, swa(strength="1"), TypeError, "scalar 'strength' must be a float, got str '1'"),
        (WINDOW, swa(strength=True), TypeError, "scalar 'strength' must be a float, got bool True"),
        (WINDOW, swa(strength=T(3)), TypeError, r"scalar 'strength' must be a float, got Tensor of float32\[3\]"),
        (WINDOW, swa(strength=1j), TypeError, "must be a float, got complex 1j"),
        (WINDOW, swa(strength=10**400), ValueError, "too large"),
        (WINDOW, swa(strength=torch.tensor(1.0, requires_grad=True)), TypeError, "gets no gradient"),
        (WINDOW, swa(stride=2.0), TypeError, "scalar 'stride' must be an int, got float 2.0"),
        (WINDOW, swa(stride=True), TypeError, "scalar 'stride' must be an int, got bool True"),
        (WINDOW, swa(stride=2**31), ValueError, "scalar 'stride' must fit in 32 bits, got 2147483648"),
        (WINDOW, swa(stride=None), TypeError, "scalar 'stride' must be an int, got NoneType None"),
        # conditions
        (WINDOW, swa(stride=9), ValueError, r"stride must lie within the keys \(required: .*where stride = 9, Lk = 8"),
        (WINDOW, swa(stride=0), ValueError, "stride must lie within the keys"),
        (WINDOW, swa(stride=1), ValueError, r"modulo by zero in '.*%.*', where stride = 1"),
        # q, k, v
        (WINDOW, swa(q=[1, 2]), TypeError, r"'q' must be a torch.Tensor, got list \[1, 2\]"),
        (WINDOW, swa(k=np.zeros((2, 2, 8, 6))), TypeError, "'k' must be a torch.Tensor, got ndarray.*torch.from_numpy"),
        (WINDOW, swa(v=None), TypeError, "'v' must be a torch.Tensor, got NoneType None"),
        (WINDOW, swa(q=T(4, 8, 6)), ValueError, r"'q' must have 4 dimensions.*got shape \[4, 8, 6\]"),
        (WINDOW, swa(q=torch.ones(2, 4, 8, 6, dtype=torch.int32)), TypeError, "'q' must hold f16.*got torch.int32"),
        (WINDOW, swa(k=T(2, 2, 8, 6).double()), TypeError, "'k' must hold torch.float32 like 'q', got torch.float64"),
        (WINDOW, swa(v=T(2, 2, 8, 6, device="meta")), ValueError, "'v' must be on cpu like 'q', got meta"),
        (WINDOW, swa(k=T(2, 3, 8, 6), v=T(2, 3, 8, 6)), ValueError, "4 heads of 'q' must be a multiple of the 3 heads"),
        (WINDOW, swa(k=T(2, 2, 8, 5)), ValueError, "'k' has D = 5, but 'q' has D = 6"),
        (WINDOW, swa(k=T(1, 2, 8, 6)), ValueError, "'k' has B = 1, but 'q' has B = 2"),
        (WINDOW, swa(v=T(2, 2, 9, 6)), ValueError, "'v' has Lk = 9, but 'k' has Lk = 8"),
        (WINDOW, swa(v=T(2, 1, 8, 6)), ValueError, "'v' has Hkv = 1, but 'k' has Hkv = 2"),
        (WINDOW, swa(v=T(2, 2, 8, 0)), ValueError, "Dv must be at least 1"),
        (WINDOW, swa(q=T(2, 4, 8, 6).to_sparse()), TypeError, "'q' must be a dense strided tensor"),
        (WINDOW, swa(**{n: t.to("meta") for n, t in base().items()}, slope=T(4, device="meta")), ValueError,
         "tensors are on meta, which no backend"),
        # options
        (WINDOW, swa(layout="bhds"), ValueError, "layout must be 'bhsd' or 'bshd', got 'bhds'"),
        (WINDOW, swa(scale="1"), TypeError, "scale must be a number or None"),
        (WINDOW, swa(scale=float("nan")), ValueError, "scale must be finite, got nan"),
        (WINDOW, swa(q_offset="start"), ValueError, "q_offset must be an int, ints .B. or 'end', got 'start'"),
        (WINDOW, swa(q_offset=1.0), TypeError, "q_offset must be an int, an int tensor .B. or 'end', got float 1.0"),
        (WINDOW, swa(q_offset=True), TypeError, "q_offset must be an int"),
        (WINDOW, swa(q_offset=torch.tensor([1, 2, 3])), ValueError, r"shape \[B\] = \[2\], got \[3\]"),
        (WINDOW, swa(q_offset=torch.tensor([1.0, 2.0])), TypeError, "q_offset must be an int"),
        (WINDOW, swa(q_offset=2**31), ValueError, "within 32 bits"),
        (WINDOW, swa(grid=(2, 4)), ValueError, "declares no grid"),
        (WINDOW, swa(backend="cuda"), ValueError, "backend must be 'cpu', 'triton' or 'cutlass', got 'cuda'"),
        (WINDOW, swa(backend="tritn"), ValueError, "did you mean 'triton'"),
        (WINDOW, swa(backend="cutlass"), ValueError, "backend 'cutlass' has no kernels in this version; backend 'cpu'"),
        (WINDOW, swa(backend="triton"), ValueError, "backend 'triton' runs cuda tensors, but 'q' is on cpu"),
        (WINDOW, swa(backend="cutlass"), ValueError, "backend 'cutlass' has no kernels"),
        # inputs
        (WINDOW, swa(slope=1.0), TypeError, r"input 'slope' must be a tensor \(input slope: f32\[H\]\), got float 1.0"),
        (WINDOW, swa(slope=np.ones(4)), TypeError, "input 'slope' must be a tensor.*torch.from_numpy"),
        (WINDOW, swa(slope=torch.ones(4, dtype=torch.int32)), TypeError, "must hold floats, got torch.int32"),
        (WINDOW, swa(slope=T(4, device="meta")), ValueError, r"slope: f32\[H\] must be on cpu like 'q', got meta"),
        (WINDOW, swa(slope=T(2)), ValueError,
         r"input 'slope' must have shape \[H\] = \[4\], got \[2\]; H = 4 from 'q'"),
        (WINDOW, swa(slope=T(1, 4)), ValueError, r"shape \[H\] \(1 dimensions\), got \[1, 4\]"),
        (TABLES, tables(doc=torch.zeros(2, 8, dtype=torch.int64)), TypeError,
         r"must hold i32 or a narrower int, got torch.int64; pass doc.to\(torch.int32\)"),
        (TABLES, tables(doc=torch.zeros(2, 8)), TypeError, "must hold ints, got torch.float32"),
        (TABLES, tables(full=torch.ones(4, dtype=torch.uint8)), TypeError, "must hold bools, got torch.uint8"),
        (TABLES, tables(doc=torch.zeros(2, 9, dtype=torch.int32)), ValueError,
         r"shape \[B, L\] = \[2, 8\], got \[2, 9\]; L = 8 from the lengths"),
        (TABLES, tables(z=T(7)), ValueError, r"input 'z' must have shape \[M \+ 1\] = \[6\], got \[7\]; "
         r"M = 5 from input 'W' \(dimension 2\)"),
        (TABLES, tables(W=T(4, 6)), ValueError, r"shape \[H, D, M\] \(3 dimensions\), got \[4, 6\]"),
        # grids
        (GRID, base(), ValueError, r"grid needs the extents of 't', 'y' in video\(t, y\)"),
        (GRID, {**base(), "grid": (2, 5)}, ValueError, r"grid video\(2, 5\) has 10 positions, but the length is 8"),
        (GRID, {**base(), "grid": (2, 4), "q_offset": 1}, ValueError, "rows stand at positions 1 to 8"),
    ],
)  # fmt: skip
def test_bad_call(text: str, arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    function = attndsl.load(text)
    with pytest.raises(error, match=words) as caught:
        function(**arguments)
    assert type(caught.value) is error
    assert str(caught.value).startswith(f"{function.__name__}: ")


def test_lse_where_the_weight_has_no_exponential() -> None:
    relu2 = attndsl.load("attention relu2 { weight relu(s)^2 / count }")
    with pytest.raises(ValueError, match="relu2: return_lse needs a weight with an exponential"):
        relu2(**base(), return_lse=True)


def test_offsets_need_one_grid() -> None:
    pooled = attndsl.load("attention pooled { grid q (y, x) grid k (v, u) mask q.y == k.v }")
    with pytest.raises(ValueError, match="q_offset works only where q and k share one grid"):
        pooled(**base(), grid=((2, 4), (4, 2)), q_offset=1)


CHECKED = """
attention checked(input doc: i32[B, L] sorted, input order: i32[L] permutation, input g: f32[B, H, L] log_decay,
                  input ahead: f32[Lk], scalar reach: int = 0) {
    score s + g[b, h, k] + (if k + reach < Lk then ahead[k + reach] else ahead[k])
    mask k <= q and doc[b, k] == doc[b, q] and order[k] >= 0
}
"""


def checked(**changed: Any) -> dict[str, Any]:
    given = {"doc": torch.zeros(2, 8, dtype=torch.int32), "order": torch.arange(8, dtype=torch.int32),
             "g": -torch.ones(2, 4, 8), "ahead": torch.zeros(8)}  # fmt: skip
    return {**base(), **given, **changed}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (checked(doc=torch.tensor([[0, 0, 1, 1, 2, 2, 2, 2], [0, 0, 1, 1, 0, 2, 2, 2]], dtype=torch.int32)),
         r"doc: i32\[B, L\] sorted is not sorted: doc\[1, 4\] = 0 comes after 1"),
        (checked(order=torch.zeros(8, dtype=torch.int32)), "not a permutation of 0 to 7"),
        (checked(order=torch.arange(1, 9, dtype=torch.int32)), "not a permutation of 0 to 7"),
        (checked(g=torch.full((2, 4, 8), 0.5)), r"must be at most 0 everywhere, got g\[0, 0, 0\] = 0.5"),
        (checked(g=torch.full((2, 4, 8), float("nan"))), "must be at most 0 everywhere, got .* = nan"),
        (checked(reach=-1), r"ahead\[k \+ reach\] reads index -1 of dimension 0, which has 8, on the visible pair "
                            r"b = 0, h = 0, q = 0, k = 0"),
    ],
)  # fmt: skip
def test_broken_promises_are_found_when_asked(arguments: dict[str, Any], words: str) -> None:
    function = attndsl.load(CHECKED)
    with pytest.raises(ValueError, match=words):
        function(**arguments, checked=True)


EXAMPLES = 100


class Strange:
    """Has what looks like a tensor from afar."""

    shape = (2, 2)
    dtype = "f32"


def _arrays() -> st.SearchStrategy[Any]:
    shapes = st.lists(st.sampled_from([0, 1, 2, 4, 8, 6]), max_size=5).map(tuple)
    dtypes = st.sampled_from([torch.bool, torch.uint8, torch.int32, torch.int64, torch.float16, torch.float32,
                              torch.float64, torch.complex64])  # fmt: skip
    made = st.builds(lambda s, d: torch.zeros(s, dtype=d), shapes, dtypes)
    return st.one_of(made, made.map(lambda t: t.numpy()), made.map(lambda t: t.to("meta")))


JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-2, 9), st.floats(), st.text(max_size=5),
    st.binary(max_size=3), st.complex_numbers(),
    st.lists(st.one_of(st.integers(-2, 9), st.none(), st.floats()), max_size=4),
    st.lists(st.integers(0, 9), max_size=4).map(tuple), st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.dictionaries(st.sampled_from(["t", "y", "video", "q", "k", 3]), st.integers(-1, 9), max_size=3),
    st.sampled_from([Strange(), object(), int, lambda: 0, "end", "bshd", "cpu", Fraction(1, 2), Decimal(1), range(2)]),
    _arrays(),
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "make"), [(WINDOW, swa), (TABLES, tables), (GRID, lambda: {**base(), "grid": (2, 4)})]
)
@settings(deadline=None, max_examples=EXAMPLES)
@given(data=st.data())
def test_whatever_is_given_a_call_answers_in_words(text: str, make: Any, data: st.DataObject) -> None:
    function = attndsl.load(text)
    arguments = make()
    options = ("layout", "scale", "q_offset", "grid", "backend")
    for name in data.draw(st.lists(st.sampled_from([*arguments, *options]), min_size=1, max_size=2)):
        arguments[name] = data.draw(JUNK, label=name)
    try:
        function(**arguments)
    except (TypeError, ValueError) as error:
        assert str(error).startswith(f"{function.__name__}: "), repr(error)


@pytest.mark.parametrize("text", [WINDOW, TABLES, GRID])
@settings(deadline=None, max_examples=EXAMPLES)
@given(data=st.data())
def test_whatever_is_given_a_plan_answers_in_words(text: str, data: st.DataObject) -> None:
    function = attndsl.load(text)
    arguments: dict[str, Any] = {"L": 8, "B": 2, "H": 4}
    names = (*PLAN_OPTIONS, *(p.name for p in (*function.attention.scalars, *function.attention.inputs)))
    for name in data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=3)):
        arguments[name] = data.draw(JUNK, label=name)
    if any(isinstance(n, int) and n > 4096 for n in arguments.values()):
        arguments.pop("tile", None)
    try:
        function.plan(**arguments)
    except (TypeError, ValueError) as error:
        assert str(error).startswith((f"{function.__name__}: ", "tile: ")), repr(error)


def test_an_odd_size_is_not_rotated() -> None:
    f = attndsl.load("attention a { score dot(rope(Q, q), K) }")
    q = torch.randn(1, 1, 4, 3)
    with pytest.raises(ValueError, match=r"^a: `rope` turns pairs of components: an even size .*, where D = 3$"):
        f(q, q, q)
    assert f(*[torch.randn(1, 1, 4, 4)] * 3).shape == (1, 1, 4, 4)
    with pytest.raises(attndsl.SpecError, match="E0302"):
        attndsl.load("attention a(input w: f32[H, 3]) { score s + dot(rope(w[h], q), w[h]) }")
