"""Random programs, forward and backward, through the public API against the oracle."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, note, seed
from torch import Tensor

import attndsl
import attndsl.schedule.build
from attndsl.codegen.cpu import generate
from attndsl.ir.simplify import simplify
from attndsl.reference import reference
from attndsl.runtime.native.choice import forced
from attndsl.runtime.native.compiler import find
from attndsl.runtime.native.store import forget
from attndsl.schedule.build import build
from tests.accuracy import GRADIENT_FACTOR, OUTPUT_FACTOR, assert_right
from tests.drawing import SEED, drawn
from tests.random_specs import specs
from tests.spec import DTYPES, Spec

PARTS, EXAMPLES = 4, 100
NEEDS = ("q", "k", "v")
Results = dict[str, Tensor]


def _tensors(spec: Spec, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """q, k, v and the inputs as leaves; floats in `dtype` (None: as declared)."""
    made = dict(zip(NEEDS, spec.make_qkv(), strict=True)) | spec.make_inputs()
    floats = {n: t.to(dtype or t.dtype).requires_grad_() for n, t in made.items() if t.is_floating_point()}
    return made | floats


def _results(spec: Spec, out: Tensor, lse: Tensor | None, tensors: dict[str, Tensor]) -> Results:
    """out, lse, and the gradients of a random functional of out and, where finite, lse, the same for every dtype."""
    generator = torch.Generator().manual_seed(spec.seed)
    g = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(DTYPES[spec.dtype])
    total = (out * g.to(out.dtype)).sum()
    if lse is not None:
        h = torch.randn(lse.shape, generator=generator, dtype=torch.float64).to(DTYPES[spec.dtype])
        total = total + torch.where(lse.isfinite(), lse, 0).mul(h.to(lse.dtype)).sum()
    wanted = {n: t for n, t in tensors.items() if t.requires_grad}
    found = torch.autograd.grad(total, list(wanted.values()), allow_unused=True)
    results = {"out": out.detach()} | ({} if lse is None else {"lse": lse.detach()})
    for (name, t), f in zip(wanted.items(), found, strict=True):
        results[f"gradient of {name}"] = torch.zeros_like(t) if f is None else f
    return results


def dense(spec: Spec, dtype: torch.dtype) -> Results:
    """Output, lse and gradients of the dense evaluation in `dtype`."""
    t = _tensors(spec, dtype)
    inputs = {n: x for n, x in t.items() if n not in NEEDS}
    out, lse = reference(
        spec.attention, t["q"], t["k"], t["v"], inputs=inputs, scalars=spec.scalars, grid=spec.grid,
        scale=spec.scale, q_offset=spec.offset(), dtype=dtype,
    )  # fmt: skip
    return _results(spec, out, lse, t)


def _laid_out(x: Tensor, layout: str) -> Tensor:
    """The same numbers, as a call takes them: positions before heads, or inside a larger tensor."""
    if layout == "bshd":
        return x.transpose(1, 2)
    if layout == "strided":
        return torch.nn.functional.pad(x, (3, 5, 1, 2))[..., 1 : 1 + x.shape[2], 3 : 3 + x.shape[3]]
    return x


def compiled(spec: Spec, with_lse: bool) -> Results:
    """Output, lse and gradients of the compiled attention."""
    t = _tensors(spec, None)
    function = attndsl.load(spec.text, **spec.consts)
    arguments: dict[str, Any] = {n: x for n, x in t.items() if n not in NEEDS} | spec.scalars
    if spec.grid is not None:
        arguments["grid"] = spec.grid
    if spec.q_offset != 0:
        arguments["q_offset"] = spec.offset()
    q, k, v = (_laid_out(t[n], spec.layout) for n in NEEDS)
    arguments["layout"] = "bshd" if spec.layout == "bshd" else "bhsd"
    with patch.object(attndsl.schedule.build, "build", lambda a, p, _tile=None: build(a, p, spec.tile)):
        found = function(q, k, v, scale=spec.scale, return_lse=with_lse, **arguments)
    out, lse = found if with_lse else (found, None)
    out = out.transpose(1, 2) if spec.layout == "bshd" else out
    assert out.dtype == DTYPES[spec.dtype]
    return _results(spec, out, lse, t)


def check(spec: Spec) -> None:
    """One program, judged by the rule."""
    dtype = DTYPES[spec.dtype]
    exact, plain = dense(spec, torch.float64), dense(spec, dtype)
    with forced("never"):
        ways = {"": compiled(spec, with_lse="lse" in exact)}
    if has_native(spec):
        with forced("always"):
            ways[" of compiled C"] = compiled(spec, with_lse="lse" in exact)

    @cache
    def on_other_numbers() -> list[tuple[Results, Results]]:
        others = [replace(spec, seed=spec.seed + 1000 * i) for i in range(1, 41)]
        return [(dense(other, dtype), dense(other, torch.float64)) for other in others]

    for way, found in ways.items():
        assert found.keys() == exact.keys()
        if "lse" in found:
            assert found["lse"].dtype == torch.float32
        for name, actual in found.items():
            factor = OUTPUT_FACTOR if name in ("out", "lse") else GRADIENT_FACTOR
            others = lambda name=name: [(p[name], e[name]) for p, e in on_other_numbers()]  # noqa: E731
            assert_right(name + way, actual, plain[name], exact[name], dtype, factor, others)


def has_native(spec: Spec) -> bool:
    """Whether there is C code for a spec."""
    return not isinstance(find(), str) and not isinstance(generate(simplify(spec.attention)).native, str)


@pytest.mark.parametrize("part", range(PARTS))
def test_random_specs(part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: Counter[str] = Counter()

    @seed(SEED + part)
    @drawn(EXAMPLES)
    @given(specs())
    def run(spec: Spec) -> None:
        note(f"{spec.text}\n{spec}")
        check(spec)
        found.update(["specs", spec.dtype, "compiled C" if has_native(spec) else "torch alone"])

    monkeypatch.setenv("ATTNDSL_CACHE_DIR", str(tmp_path))
    forget()
    run()
    print(dict(found))
    assert found["specs"] >= EXAMPLES


UNDEFINED = (
    "tanh({})", "sigmoid({})", "silu({})", "gelu({})", "softplus({})", "erf({})", "sin({})", "cos({})", "abs({})",
    "relu({})", "elu({})", "exp(min({}, 1.0))", "max({}, 0.5)", "sqrt(abs({}) + 1.0)", "atan2({}, 1.0 + s * s)",
    "(if {} > 0.3 then s else 2.0 * s)", "{} * {}",
)  # fmt: skip
UNDEFINED_VECTORS = (
    "dot({}, K)", "norm({})", "amax({})", "dot(softmax({}), K)", "dot(rmsnorm({}), K)", "dot(rope({}, 3), K)",
    "dot(outer({}, K), outer(Q, K))",
)  # fmt: skip


@pytest.mark.parametrize("weight", ["softmax", "sigmoid(s)"])
@pytest.mark.parametrize("score", UNDEFINED + UNDEFINED_VECTORS)
def test_scores_without_a_value_where_nothing_is_seen(score: str, weight: str) -> None:
    what = "(s + 0.5 * log(q - k + 1))" if score in UNDEFINED else "(Q * log(q - k + 1))"
    clause = "" if weight == "softmax" else f" weight {weight}"
    text = f"attention drawn {{ mask k <= q score 0.2 * {score.replace('{}', what)}{clause} }}"
    sizes = dict.fromkeys(("B", "H", "Hkv"), 1) | dict.fromkeys(("Lq", "Lk", "L"), 7) | {"D": 8, "Dv": 8}
    check(Spec(text, sizes, {}, {}, (), dtype="f32"))
