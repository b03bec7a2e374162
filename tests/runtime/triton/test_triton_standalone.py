"""Built modules run where attndsl is not, and equal the dense definition."""
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import attndsl
from attndsl.reference import reference
from attndsl.runtime.triton.config import Config
from attndsl.runtime.triton.lowering import lower, lower_backward
from attndsl.runtime.triton.standalone import call_name, standalone, tables_of
from benchmarks.cases import COSINE_GATE, GNA, JOINT, Case, flags, ints, normal
from tests.accuracy import GRADIENT_FACTOR, assert_right

pytest.importorskip("triton")

BUILT = (
    Case("dense", "attention dense {}", Lq=35, Lk=66, B=2, H=4, Hkv=2, D=40, Dv=24),
    Case("window", "attention window(const w: int = 20) { mask k <= q and q - k < w }", Lq=70, D=16, scale=0.0),
    Case("prefix", "attention prefix(scalar n: int) { mask k <= q or k < n }", Lq=70, D=16, scalars={"n": 40}),
    Case("no key", "attention none { mask k > q + 1000 output o + 1 }", Lq=33, D=16),
    Case("documents", "attention docs(input doc: i32[B, L] sorted) { mask doc[b, q] == doc[b, k] and k <= q }",
         B=2, Lq=70, D=16, inputs={"doc": ints(5, 2, 70, ordered=True)}),
    Case("duo", "attention duo(input full: bool[H]) { mask k <= q and (full[h] or k < 8 or q - k < 20) }", H=4, Lq=70,
         D=16, inputs={"full": flags(4)}),
    Case("by head", "attention heads { mask k <= q and q - k < 10 * (h + 1) + 20 * b }", B=2, Lq=70, D=16),
    Case("sink and gate", COSINE_GATE, Lq=70, D=16, inputs={"z": normal(2), "g": normal(1, 2, 70)}),
    Case("relu2", "attention relu2 { mask k <= q weight relu(s)^2 / count }", Lq=70, D=16, lse=False),
    Case("const array", "attention steps(const gap: int[3] = (1, 5, 9)) { mask q - k == gap[h % 3] or q == k }",
         H=3, Lq=40, D=16),
    Case("gna dilated", GNA, Lq=126, D=16, grid=(3, 6, 7), consts={"window": (3, 3, 3), "dilation": (1, 2, 2)}),
    Case("joint", JOINT, Lq=80, D=16, grid={"text": (20,), "video": (3, 4, 5)}, consts={"window": (3, 3, 3)}),
    Case("taken names", "attention launch(scalar inputs: float, scalar torch: int = 3, input check: f32[H, M]) "
         "{ score inputs * s + check[h, torch] + M mask k <= q }", Lq=40, D=16, scalars={"inputs": 0.5, "torch": 3},
         inputs={"check": normal(2, 6)}),
)  # fmt: skip
"""Small, for the interpreter is slow: every kind of argument that a kernel takes."""

BACKWARD = ("dense", "window", "no key", "documents", "by head", "sink and gate", "relu2", "gna dilated", "joint")

RUNNER = """
import importlib.util, json, sys
from pathlib import Path

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "attndsl":
            raise ImportError(f"{name} is not needed")

sys.meta_path.insert(0, Refused())
import torch
for folder in sorted(Path(sys.argv[1]).iterdir()):
    call = torch.load(folder / "call.pt")
    spec = importlib.util.spec_from_file_location(call["module"], folder / f"{call['module']}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function = getattr(module, call["module"])
    if call["grad"] is None:
        torch.save((function(*call["qkv"], **call["arguments"]), ()), folder / "found.pt")
        continue
    leaves = [t.requires_grad_() for t in call["qkv"]]
    found = function(*leaves, **call["arguments"])
    out = found[0] if isinstance(found, tuple) else found
    gradients = torch.autograd.grad(out, leaves, call["grad"], allow_unused=True)
    torch.save((torch.utils._pytree.tree_map(torch.Tensor.detach, found), gradients), folder / "found.pt")
"""


def write(folder: Path, case: Case, dtype: torch.dtype, backward: bool = False) -> attndsl.AttentionFunction:
    """A module with its kernels and tables, and the arguments of a call."""
    f = attndsl.load(case.text, **case.consts)
    q, k, v = case.tensors(dtype)
    sizes = {"B": case.B, "H": case.H, "Hkv": case.Hkv or case.H, "Lq": case.Lq, "Lk": case.Lk or case.Lq, "D": case.D}
    made = case.made()
    fresh = {"M": 6} if case.name == "taken names" else {}
    problem = f.problem(**sizes, Dv=case.Dv or case.D, grid=case.grid, **case.scalars, **fresh)
    element: Any = {torch.float32: "fp32", torch.float16: "fp16"}[dtype]
    small = Config(32, 32, 4, 2)
    plan, forward = lower(f.simplified, problem, element, config=small, save=backward)
    back = lower_backward(f.simplified, problem, element, plan, dq=small, dkdv=small) if backward else ()
    found = (*forward, *back)
    (folder / "kernels").mkdir(parents=True)
    for it in found:
        (folder / "kernels" / f"{it.name}.py").write_text(it.module.source)
    module = call_name(f.__name__)
    (folder / f"{module}.py").write_text(standalone(f.simplified, f.attention, problem, forward, back))
    (folder / "tables.json").write_text(json.dumps(tables_of(found)))
    arguments = {call_name(n): x for n, x in {**made, **case.scalars}.items()}
    if case.lse:
        arguments["return_lse"] = True
    if case.scale is not None:
        arguments["scale"] = case.scale
    # strides that no descriptor takes
    strided = torch.nn.functional.pad(q, (3, 5, 1, 2))[..., 1 : 1 + q.shape[2], 3 : 3 + q.shape[3]]
    grad = torch.randn(*q.shape[:3], v.shape[-1], generator=torch.Generator().manual_seed(9)).to(dtype)
    kept = grad if backward else None
    torch.save({"module": module, "qkv": (strided, k, v), "arguments": arguments, "grad": kept}, folder / "call.pt")
    return f


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {n: v for n, v in os.environ.items() if n != "PYTHONPATH"} | {"TRITON_INTERPRET": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd="/", env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_modules_run_by_themselves(tmp_path: Path) -> None:
    dtype, cases = torch.float32, BUILT
    functions = [write(tmp_path / f"{i:02}", case, dtype, case.name in BACKWARD) for i, case in enumerate(cases)]
    ran = run(RUNNER, tmp_path)
    assert ran.returncode == 0, ran.stderr[-3000:]
    for i, (case, f) in enumerate(zip(cases, functions, strict=True)):
        found, gradients = torch.load(tmp_path / f"{i:02}" / "found.pt")
        out, lse = found if case.lse else (found, None)

        def dense(precision: torch.dtype, case: Case = case, f: attndsl.AttentionFunction = f, i: int = i) -> Any:
            leaves = [t.to(precision).requires_grad_() for t in case.tensors(dtype)]
            out, lse = reference(
                f.attention, *leaves, inputs=case.made(), scalars=case.scalars, grid=case.grid, scale=case.scale,
                dtype=precision,
            )  # fmt: skip
            if case.name not in BACKWARD or not out.requires_grad:
                return out.detach(), lse, [torch.zeros_like(t) for t in leaves]
            grad = torch.load(tmp_path / f"{i:02}" / "call.pt")["grad"].to(precision)
            found = torch.autograd.grad(out, leaves, grad, allow_unused=True)
            return (
                out.detach(),
                lse,
                [torch.zeros_like(t) if g is None else g for g, t in zip(found, leaves, strict=True)],
            )

        exact, eager = dense(torch.float64), dense(dtype)
        assert_right(case.name, out, eager[0], exact[0], dtype)
        if lse is not None:
            assert_right(f"lse of {case.name}", lse, eager[1].detach(), exact[1].detach(), torch.float32, factor=8.0)
        assert len(gradients) == (3 if case.name in BACKWARD else 0)
        for n, gradient, plain, right in zip("qkv", gradients, eager[2], exact[2], strict=False):
            assert_right(f"d{n} of {case.name}", gradient, plain, right, dtype, GRADIENT_FACTOR)


CHECKS = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
from spec import spec
q = torch.randn(1, 2, 40, 16)
good = dict(slope=torch.ones(2), w=9)
assert spec(q, q, q, **good).shape == (1, 2, 40, 16)
other = torch.randn(2, 4, 40, 16)
assert spec(other, other, other, slope=torch.ones(4, dtype=torch.float64), c=2, w=9).shape == (2, 4, 40, 16)
assert spec(*[torch.randn(0, 4, 40, 16)] * 3, slope=torch.ones(4), w=9).shape == (0, 4, 40, 16)
for change in (
    dict(q=q[:, :, :39]), dict(q=q.half()), dict(k=q[:, :1].expand(1, 3, 40, 16)), dict(v=q[0]),
    dict(q=q[:, :1]), dict(slope=torch.ones(3)), dict(slope=torch.ones(2, dtype=torch.int32)), dict(slope=0.5),
    dict(w=8), dict(scale=-1.0), dict(scale=float("nan")), dict(q=q.clone().requires_grad_()),
):
    given = dict(q=q, k=q, v=q, **good) | change
    try:
        spec(**given)
    except (TypeError, ValueError, RuntimeError) as error:
        print(type(error).__name__, error)
    else:
        print("NOTHING", list(change))
sys.path.insert(0, sys.argv[2])
from half import half
try:
    half(q.half(), q.half(), q.half(), **good)
except RuntimeError as error:
    print(error)
"""


def test_what_it_was_not_built_for(tmp_path: Path) -> None:
    text = """attention spec(input slope: f32[H], scalar c: float = 1.0, scalar w: int) {
        score s - c * slope[h] * (q - k) mask k <= q and q - k < w }"""
    case = Case("spec", text, Lq=40, D=16, scalars={"w": 9, "c": 1.0}, inputs={"slope": lambda _: torch.ones(2)})
    write(tmp_path / "spec", case, torch.float32)
    half = replace(case, text=text.replace("spec", "half"))
    write(tmp_path / "half", half, torch.float16)
    ran = run(CHECKS, tmp_path / "spec", tmp_path / "half")
    assert ran.returncode == 0, ran.stderr
    said = ran.stdout.splitlines()
    for line, words in zip(
        said,
        (
            "ValueError spec: q has Lq = 39, but this was built for Lq = 40",
            "TypeError spec: q must hold torch.float32, which this was built for, got torch.float16",
            "ValueError spec: v has Hkv = 2, but another argument has Hkv = 3",
            "TypeError spec: v must be a tensor [B, Hkv, Lk, Dv]",
            "ValueError spec: the 1 heads of q must be a multiple of the 2 heads of k and v",
            "ValueError spec: slope has H = 3, but another argument has H = 2",
            "TypeError spec: slope must be a tensor of floats ['H']",
            "TypeError spec: slope must be a tensor of floats ['H']",
            "ValueError spec: w is 8, but this was built for w = 9",
            "ValueError spec: scale must be finite and not negative, got -1.0",
            "ValueError spec: scale must be finite and not negative, got nan",
            "RuntimeError spec: built without a backward pass; call it under torch.no_grad(), or on t.detach()",
            "half: Triton's interpreter runs kernels of fp32 only; build with --dtype fp32",
        ),
        strict=True,
    ):
        assert line == words
