"""From the arguments of a call to a `Call`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import attndsl
from attndsl.frontend.compile import compile_text
from attndsl.ir.attention import Attention
from attndsl.ir.bind import bind
from attndsl.runtime.binding import bind_call
from attndsl.runtime.call import Call


def spec(text: str) -> Attention:
    (written,) = compile_text(text)
    return bind(written, {})


PLAIN = spec("attention plain { mask k <= q }")
SCALARS = spec("attention scalars(scalar f: float = 2, scalar i: int = 3, scalar w: bool = true) "
               "{ score s * f mask w or k < i }")  # fmt: skip
HEDGEHOG = spec("attention hedgehog(input W: f32[H, D, M]) { feature phi(x) = x @ W[h] weight dot(phi(Q), phi(K)) }")
DOCUMENTS = spec("attention documents(input doc: i32[B, L] sorted) { mask doc[b, q] == doc[b, k] }")


def call(a: Attention, Lq: int = 5, Lk: int = 5, **arguments: Any) -> Call:
    options = {n: arguments.pop(n) for n in ("layout", "scale", "q_offset", "grid") if n in arguments}
    q, k, v = torch.randn(2, 4, Lq, 6), torch.randn(2, 2, Lk, 6), torch.randn(2, 2, Lk, 3)
    return bind_call(a, a, q, k, v, arguments, **options)


def test_sizes() -> None:
    c = call(PLAIN, 5, 7)
    assert c.sizes == {"B": 2, "H": 4, "Hkv": 2, "Lq": 5, "Lk": 7, "L": 7, "D": 6, "Dv": 3}
    assert c.scale == pytest.approx(6**-0.5)
    assert call(PLAIN, scale=np.float32(0.5)).scale == 0.5
    assert call(PLAIN, scale=torch.tensor(2)).scale == 2.0


@pytest.mark.parametrize(
    ("Lq", "Lk", "offset", "L"), [(5, 7, 0, 7), (7, 5, 0, 7), (7, 5, 1, 5), (7, 5, "end", 5), (5, 7, -3, 7)]
)
def test_length_is_of_keys_once_rows_have_an_offset(Lq: int, Lk: int, offset: Any, L: int) -> None:
    assert call(PLAIN, Lq, Lk, q_offset=offset).sizes["L"] == L


def test_offsets() -> None:
    assert call(PLAIN, 2, 7, q_offset="end").q_offset == 5
    for one in (3, np.int32(3), torch.tensor(3)):
        got = call(PLAIN, q_offset=one).q_offset
        assert got == 3 and type(got) is int
    each = call(PLAIN, 2, 7, q_offset=torch.tensor([1, 5], dtype=torch.int32)).q_offset
    assert isinstance(each, torch.Tensor) and each.dtype == torch.int64 and each.tolist() == [1, 5]


@pytest.mark.parametrize(
    ("given", "held"),
    [
        ({}, {"f": 2.0, "i": 3, "w": True}),
        ({"f": 1}, {"f": 1.0, "i": 3, "w": True}),
        ({"f": np.float32(0.5), "i": np.int8(4), "w": np.bool_(False)}, {"f": 0.5, "i": 4, "w": False}),
        ({"f": torch.tensor(0.5, dtype=torch.bfloat16), "i": torch.tensor(4), "w": torch.tensor(False)},
         {"f": 0.5, "i": 4, "w": False}),
        ({"f": np.array(0.5), "i": np.array(4)}, {"f": 0.5, "i": 4, "w": True}),
        ({"f": float("inf")}, {"f": float("inf"), "i": 3, "w": True}),
    ],
)  # fmt: skip
def test_scalars(given: dict[str, Any], held: dict[str, Any]) -> None:
    got = call(SCALARS, **given).scalars
    assert got == held
    assert {n: type(v) for n, v in got.items()} == {"f": float, "i": int, "w": bool}


def test_nan_is_a_float() -> None:
    assert call(SCALARS, f=float("nan")).scalars["f"] != call(SCALARS).scalars["f"]


def test_a_fresh_size_is_bound() -> None:
    assert call(HEDGEHOG, W=torch.randn(4, 6, 9)).sizes["M"] == 9


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_float_input_takes_any_float(dtype: torch.dtype) -> None:
    assert call(HEDGEHOG, W=torch.randn(4, 6, 9).to(dtype)).inputs["W"].dtype == dtype


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32])
def test_an_int_input_takes_what_fits(dtype: torch.dtype) -> None:
    c = call(DOCUMENTS, doc=torch.zeros(2, 5, dtype=dtype))
    assert c.tables["doc"].shape == (2, 5)
    assert c.problem.tables["doc"].dtype == c.tables["doc"].dtype


def test_only_inputs_of_the_mask_are_tables() -> None:
    assert set(call(DOCUMENTS, doc=torch.zeros(2, 5, dtype=torch.int32)).tables) == {"doc"}
    assert call(HEDGEHOG, W=torch.randn(4, 6, 9)).tables == {}


def test_layouts_and_strides() -> None:
    q, k, v = torch.randn(2, 5, 4, 6), torch.randn(2, 5, 2, 6), torch.randn(2, 5, 2, 3)
    c = bind_call(PLAIN, PLAIN, q, k, v, {}, layout="bshd")
    assert c.q.shape == (2, 4, 5, 6) and c.q.data_ptr() == q.data_ptr()
    turned = torch.randn(2, 4, 6, 5).transpose(-1, -2)
    c = bind_call(PLAIN, PLAIN, turned, turned, turned, {})
    assert c.q.stride(-1) == 1 and torch.equal(c.q, turned)


def test_positions_on_a_shared_grid() -> None:
    a = spec("attention a { grid row(x) mask k.x <= q.x }")
    assert call(a, 2, 6, q_offset="end").q_extents == {"row": (6,)}
    assert call(a, 2, 6).q_extents == {"row": (6,)}
    with pytest.raises(ValueError, match=r"rows stand at positions 5 to 6, but grid row\(6\) has 6"):
        call(a, 2, 6, q_offset=5)
    with pytest.raises(ValueError, match="rows stand at positions -1 to 1"):
        call(a, 2, 6, q_offset=torch.tensor([0, -1]))


def test_an_offset_that_is_no_whole_number_is_refused_in_words() -> None:
    q = torch.randn(1, 2, 8, 16)
    for offset in (torch.tensor(0.0, dtype=torch.float16), torch.tensor(True), 1.5):
        with pytest.raises(TypeError, match="q_offset must be an int, an int tensor"):
            attndsl.load("attention plain { mask k <= q }")(q, q, q, q_offset=offset)
