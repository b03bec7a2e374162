"""The elementary functions of compiled C, over their whole range."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch

from attndsl.codegen.templates import render
from attndsl.runtime.native.compiler import compiled, find

Floats = npt.NDArray[np.float32]
compiler = find()
pytestmark = pytest.mark.skipif(isinstance(compiler, str), reason="no C compiler")

ULP = {
    "exponential": 2, "exponential_below": 8, "logarithm": 2, "tangent": 2, "sigmoid": 3, "silu": 4, "elu": 3,
    "softplus": 3, "error_function": 3,
}  # fmt: skip
EXACT: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "exponential": torch.exp, "exponential_below": torch.exp, "logarithm": torch.log, "tangent": torch.tanh,
    "sigmoid": torch.sigmoid, "silu": torch.nn.functional.silu, "elu": torch.nn.functional.elu,
    "softplus": torch.nn.functional.softplus, "error_function": torch.erf,
}  # fmt: skip
TESTED = (*ULP, "gelu")
WHOLES = {"floor_divide": 2, "modulo": 2, "bit_length": 1, "is_power": 1, "sign_whole": 1, "absolute_whole": 1}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    assert not isinstance(compiler, str)
    lines = ["#include <math.h>", "#include <stdint.h>", "#include <string.h>", "typedef int32_t whole;"]
    lines.append(render("cpu/elementary.c.j2"))
    loop = "for (int64_t i = 0; i < n; i++)"
    lines += [f"void all_{f}(const float *x, float *y, int64_t n) {{ {loop} y[i] = {f}(x[i]); }}" for f in TESTED]
    lines += [f"float one_{f}(float a, float b) {{ return {f}(a, b); }}" for f in ("smaller", "larger")]
    for name, count in WHOLES.items():
        arguments, names = ("int a, int b", "a, b") if count == 2 else ("int a", "a")
        lines.append(f"int one_{name}({arguments}) {{ return {name}({names}); }}")
    path = tmp_path_factory.mktemp("native") / "functions.so"
    path.write_bytes(compiled(compiler, "\n".join(lines)))
    return ctypes.CDLL(str(path))


def every(name: str, library: ctypes.CDLL, x: Floats) -> Floats:
    y = np.empty_like(x)
    pointers = [ctypes.c_void_p(a.ctypes.data) for a in (x, y)]
    getattr(library, f"all_{name}")(*pointers, ctypes.c_int64(len(x)))
    return y


def numbers() -> Floats:
    """Floats of every size and sign, denormal ones among them."""
    bits = np.random.default_rng(5).integers(0, 2**32, 400_000, dtype=np.uint64).astype(np.uint32)
    near = np.random.default_rng(6).uniform(-30, 30, 400_000).astype(np.float32)
    steps = np.linspace(-2, 2, 100_001, dtype=np.float32)
    edges = np.float32(
        [0.0, -0.0, 88.72283, 88.72284, -87.33655, -103.97208, 1e-45, 1.17549435e-38, 0.625, 1.0, 4.0, 20.0]
    )
    x = np.concatenate([bits.view(np.float32), near, steps, edges, -edges])
    return x[np.isfinite(x)]


@pytest.mark.parametrize("name", ULP)
def test_is_within_a_few_units_in_the_last_place(name: str, library: ctypes.CDLL) -> None:
    x = numbers()
    if name == "exponential_below":
        x = x[x <= 0]
    y = every(name, library, x)
    exact = EXACT[name](torch.from_numpy(x).double()).numpy()
    if name == "softplus":
        exact = np.where(x > 20, x, exact)
    with np.errstate(over="ignore"):
        rounded = exact.astype(np.float32)
    tiny = np.finfo(np.float32).tiny
    # what is below the smallest normal number may be lost
    spacing = np.spacing(np.maximum(np.abs(rounded), tiny)).astype(np.float64)
    flushed = {"exponential_below": 2, "sigmoid": 2, "silu": 200, "softplus": 2}.get(name, 0) * tiny
    finite = np.isfinite(rounded)
    assert np.array_equal(np.isnan(y), np.isnan(rounded))
    assert np.array_equal(y[~finite & ~np.isnan(rounded)], rounded[~finite & ~np.isnan(rounded)])
    off = np.abs(y[finite].astype(np.float64) - exact[finite])
    limit = ULP[name] * spacing[finite] + flushed
    if name == "exponential_below":
        # the remainder in one part: an error that grows with x, as that of a difference of scores does
        limit += 2.5e-9 * np.abs(x[finite]) * exact[finite]
    worst = int(np.argmax(off / limit))
    assert off[worst] <= limit[worst], (
        f"{name}({x[finite][worst]!r}) = {y[finite][worst]!r}, not {exact[finite][worst]!r}"
    )


def test_gelu_is_as_exact_as_that_of_torch(library: ctypes.CDLL) -> None:
    x = numbers()
    exact = torch.nn.functional.gelu(torch.from_numpy(x).double()).numpy()
    off = np.abs(every("gelu", library, x).astype(np.float64) - exact)
    # 1 + erf cancels on the left: an error of erf's last place, times x
    assert bool((off <= 4 * np.spacing(np.maximum(np.abs(x), 1e-38)).astype(np.float64)).all())


@pytest.mark.parametrize("name", TESTED)
def test_nan_and_infinities(name: str, library: ctypes.CDLL) -> None:
    odd = np.array([0x7FC00000, 0xFFC00000, 0x7FC12345, 0x7F800001, 0x7FFFFFFF, 0xFFBFFFFF], np.uint32).view(np.float32)
    assert bool(np.isnan(every(name, library, odd)).all())
    ends = np.float32([-np.inf] if name == "exponential_below" else [-np.inf, np.inf])
    exact = {**EXACT, "gelu": torch.nn.functional.gelu}[name](torch.from_numpy(ends).double()).numpy()
    np.testing.assert_array_equal(every(name, library, ends), exact.astype(np.float32))


def test_zeros_keep_their_signs(library: ctypes.CDLL) -> None:
    for name in ("tangent", "error_function", "elu"):
        y = every(name, library, np.float32([0.0, -0.0]))
        assert np.array_equal(y, [0.0, 0.0])
        assert list(np.signbit(y)) == [False, name != "elu"]


def test_the_smaller_of_nan_is_nan(library: ctypes.CDLL) -> None:
    for name, better in (("smaller", min), ("larger", max)):
        function = getattr(library, f"one_{name}")
        function.restype, function.argtypes = ctypes.c_float, (ctypes.c_float, ctypes.c_float)
        assert np.isnan(function(float("nan"), 1.0))
        assert np.isnan(function(1.0, float("nan")))
        assert function(2.0, -1.0) == better(2.0, -1.0)
        assert function(-np.inf, 3.0) == better(-np.inf, 3.0)


def test_whole_numbers(library: ctypes.CDLL) -> None:
    values = [0, 1, -1, 2, 3, 7, -8, 255, 256, -2147483647, 2147483647]
    for a in values:
        for b in values:
            assert library.one_floor_divide(a, b) == (a // b if b else 0)
            assert library.one_modulo(a, b) == (a % b if b else 0)
        assert library.one_bit_length(a) == abs(a).bit_length()
        assert library.one_is_power(a) == (a > 0 and a & (a - 1) == 0)
        assert library.one_sign_whole(a) == (a > 0) - (a < 0)
    assert library.one_floor_divide(-2147483648, -1) == -2147483648
    assert library.one_modulo(-2147483648, -1) == 0
