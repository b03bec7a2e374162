"""Sine, cosine and their inverses in generated kernels: their numbers, and that they take no branch."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from attndsl.codegen.templates import render
from tests.runtime.triton.compiling import compile_spec

F32 = np.float32


class Tile(np.ndarray[Any, Any]):
    """A tile of a kernel, in fp32, every operation rounded on its own."""

    def to(self, dtype: Any, bitcast: bool = False) -> Any:
        assert bitcast
        return self.view(dtype)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **more: Any) -> Any:
        kind = np.int32 if any(getattr(x, "dtype", None) == np.int32 for x in inputs) else F32
        plain = [np.asarray(x, kind) for x in inputs]
        return getattr(ufunc, method)(*plain, **{n: v for n, v in more.items() if n != "out"}).view(Tile)


@pytest.fixture(scope="module")
def functions() -> dict[str, Any]:
    names = "turns", "sine", "cosine", "arccosine", "angle"
    text = render("triton/helpers.py.j2", helpers=dict.fromkeys(names), fast_tanh=False)
    tl = SimpleNamespace(
        int32=np.int32, float32=F32, floor=np.floor, abs=np.abs, sqrt=np.sqrt, minimum=np.minimum, maximum=np.maximum,
        where=lambda c, a, b: np.where(c, a, b).view(Tile),
    )  # fmt: skip
    found: dict[str, Any] = {"triton": SimpleNamespace(jit=lambda f: f), "tl": tl}
    exec(text, found)
    return found


@pytest.mark.parametrize(
    ("largest", "most"), [(1e-3, 3e-7), (3.2, 3e-7), (1e3, 4e-7), (2.0**24, 6e-7), (2.0**30, 1e-5), (2.0**36, 1e-3)]
)
def test_numbers(functions: dict[str, Any], largest: float, most: float) -> None:
    x = (np.random.default_rng(0).uniform(-1, 1, 20_000) * largest).astype(F32)
    sine, cosine = (np.asarray(functions[n](x.view(Tile)), np.float64) for n in ("sine", "cosine"))
    # numpy reduces large angles in fp64 exactly
    assert np.abs(sine - np.sin(x.astype(np.float64))).max() < most
    assert np.abs(cosine - np.cos(x.astype(np.float64))).max() < most


def test_inverses(functions: dict[str, Any]) -> None:
    x = np.concatenate([np.linspace(-1, 1, 20_001), 1 - np.geomspace(1e-7, 0.5, 1000)]).astype(F32)
    found = np.asarray(functions["arccosine"](x.view(Tile)), np.float64)
    assert np.abs(found - np.arccos(x.astype(np.float64))).max() < 4e-7
    np.testing.assert_allclose(found[20_001:], np.arccos(x[20_001:].astype(np.float64)), rtol=4e-7)
    y, x = (np.random.default_rng(1).normal(size=20_000).astype(F32) ** 3 for _ in range(2))
    y[:4], x[:4] = (0, 0, 2, -2), (0, -1, 0, 0)
    found = np.asarray(functions["angle"](y.view(Tile), x.view(Tile)), np.float64)
    assert np.abs(found - np.arctan2(y.astype(np.float64), x.astype(np.float64))).max() < 4e-7
    nan = np.full(2, np.nan, F32).view(Tile)
    with np.errstate(invalid="ignore"):
        assert np.isnan(functions["angle"](nan, nan + 1)).all()
        assert np.isnan(functions["arccosine"](np.array([1.1, -2, np.nan], F32).view(Tile))).all()


def test_small_angles_keep_their_digits(functions: dict[str, Any]) -> None:
    x = np.geomspace(1e-30, 0.1, 1000).astype(F32)
    for one in (x, -x):
        found = np.asarray(functions["sine"](one.view(Tile)), np.float64)
        np.testing.assert_allclose(found, np.sin(one.astype(np.float64)), rtol=3e-7)


def test_any_number(functions: dict[str, Any]) -> None:
    """Nothing grows out of the polynomial, whatever the angle."""
    x = np.concatenate([s * np.geomspace(2.0**20, 3e38, 20_000) for s in (1, -1)]).astype(F32)
    for name in ("sine", "cosine"):
        assert np.abs(np.asarray(functions[name](x.view(Tile)))).max() <= 1.0001
        with np.errstate(invalid="ignore"):
            assert np.isnan(functions[name](np.array([np.inf, -np.inf, np.nan], F32).view(Tile))).all()
    assert float(functions["cosine"](np.zeros(1, F32).view(Tile))[0]) == 1.0


def test_no_branch_for_an_element() -> None:
    """The library's sine has one, for large angles: four of them in a score took the compiler a minute."""
    pytest.importorskip("triton")
    (plain,) = compile_spec("attention a { score s + 0.5 * (q - k) }", lse=False)
    (waves,) = compile_spec("attention a { score s + sin(0.5 * (q - k)) + cos(0.25 * (q - k)) }", lse=False)
    assert waves.ptx.count("bra") == plain.ptx.count("bra")
    assert "__local_depot" not in waves.ptx
