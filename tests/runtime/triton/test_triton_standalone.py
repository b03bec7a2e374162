"""Built modules run where attndsl is not, and equal the dense definition."""
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import attndsl
from attndsl.ir.expr import Size
from attndsl.reference import reference
from attndsl.runtime.triton.config import Config
from attndsl.runtime.triton.lowering import compile_granted, compile_lowered, lower
from attndsl.runtime.triton.standalone import call_name, parts, standalone, tables_of
from attndsl.runtime.triton.standalone_boxes import box_launches
from attndsl.runtime.triton.standalone_lowering import Lowering, lower_module
from benchmarks.cases import COSINE_GATE, FORGET, GNA, JOINT, RELATIVE, TWO_MAPS, Case, decays, flags, ints, normal
from tests.accuracy import GRADIENT_FACTOR, assert_right
from tests.runtime.triton.interpreted import BRISK, run_alone

pytest.importorskip("triton")


def _pages(_: torch.Generator) -> torch.Tensor:
    """Images below one another, of other heights in each batch."""
    return torch.stack([torch.arange(15)[:, None].expand(15, 4) // n for n in (4, 6)]).int()


BUILT = (
    Case("dense", "attention dense {}", Lq=35, Lk=66, B=2, H=4, Hkv=2, D=40, Dv=24),
    Case("window", "attention window(const w: int = 20) { mask k <= q and q - k < w }", Lq=70, D=16, scale=0.0),
    Case("prefix", "attention prefix(scalar n: int) { mask k <= q or k < n }", Lq=70, D=16, scalars={"n": 40}),
    Case("no key", "attention none { mask k > q + 1000 output o + 1 }", Lq=33, D=16),
    Case("documents", "attention docs(input doc: i32[B, L] sorted) { mask doc[b, q] == doc[b, k] and k <= q }",
         B=2, Lq=70, D=16, inputs={"doc": ints(5, 2, 70, ordered=True)}),
    Case("duo", "attention duo(input full: bool[H]) { mask k <= q and (full[h] or k < 8 or q - k < 20) }", H=4, Lq=70,
         D=16, inputs={"full": flags(4)}),
    Case("documents of all", "attention docs(input doc: i32[L] sorted) { mask doc[q] == doc[k] and k <= q }", Lq=70,
         D=16, inputs={"doc": lambda g: torch.randint(0, 5, (70,), generator=g).sort().values.int()}),
    Case("lengths and an order", "attention odd(input n: i32[B], input order: i32[L] permutation) "
         "{ mask (k <= q or k < n[b]) and abs(order[q] - order[k]) < 30 }", B=2, Lq=70,
         D=16, inputs={"n": ints(40, 2), "order": lambda g: torch.randperm(70, generator=g).int()}),
    Case("by head", "attention heads { mask k <= q and q - k < 10 * (h + 1) + 20 * b }", B=2, Lq=70, D=16),
    Case("sink and gate", COSINE_GATE, Lq=70, D=16, inputs={"z": normal(2), "g": normal(1, 2, 70)}),
    Case("relu2", "attention relu2 { mask k <= q weight relu(s)^2 / count }", Lq=70, D=16, lse=False),
    Case("const array", "attention steps(const gap: int[3] = (1, 5, 9)) { mask q - k == gap[h % 3] or q == k }",
         H=3, Lq=40, D=16),
    Case("gna dilated", GNA, Lq=126, D=16, grid=(3, 6, 7), consts={"window": (3, 3, 3), "dilation": (1, 2, 2)}),
    Case("joint", JOINT, Lq=80, D=16, grid={"text": (20,), "video": (3, 4, 5)}, consts={"window": (3, 3, 3)}),
    Case("images of a page", "attention packed(input image: i32[B, Y, X], input keep: bool[B, Lk], "
         "const w: int[2] = 3) { grid page(y, x) mask image[b, q.y, q.x] == image[b, k.y, k.x] and keep[b, k] "
         "and abs(q.y - k.y) <= w[0] and (q.x - k.x) % w[1] == 0 }", B=2, Hkv=1, Lq=60, D=16,
         grid=(15, 4), consts={"w": (12, 2)}, inputs={"image": _pages, "keep": flags(2, 60)}),
    Case("frames and text", "attention parts(input n: i32[B], input g: f32[H]) { grid text(m) ++ video(t, y, x) "
         "score s * g[h] mask k in text or k.t < n[b] and k <= q }", Lq=41, D=16,
         grid={"text": (5,), "video": (3, 4, 3)}, inputs={"n": ints(3, 1), "g": normal(2)}),
    Case("taken names", "attention launch(scalar inputs: float, scalar torch: int = 3, input check: f32[H, M]) "
         "{ score inputs * s + check[h, torch] + M mask k <= q }", Lq=40, D=16, scalars={"inputs": 0.5, "torch": 3},
         inputs={"check": normal(2, 6)}),
    Case("alibi", "attention alibi(input slope: f32[H]) { score s - slope[h] * (q - k) mask k <= q }", Lq=40, D=16,
         inputs={"slope": normal(2)}),
    Case("row, key and pair", "attention ab(input a: f32[L, H], input c: f32[Hkv, L], input t: f32[H, M]) "
         "{ mask k <= q score s + a[q, h] * 2 + c[hkv, k] + t[h, clamp(q - k, 0, M - 1)] output o * (1 + a[q, h]) }",
         Lq=40, H=4, Hkv=2, D=16, inputs={"a": normal(40, 4), "c": normal(2, 40), "t": normal(4, 5)}),
    Case("pair, deterministic", "attention bias(input t: f32[H, M]) { score s + t[h, clamp(q - k, 0, M - 1)] }",
         Lq=33, Lk=40, D=16, inputs={"t": normal(2, 5)}),
    Case("vector gate", "attention gain(input g: f32[H, Dv]) { output o * g[h] }", Lq=33, D=16, Dv=24,
         inputs={"g": normal(2, 24)}),
    Case("rotated", "attention rotated(scalar t: float) { mask k <= q "
         "score dot(rope(rmsnorm(Q), q), rope(rmsnorm(K), k)) / (t * sqrt(D)) }", Lq=40, H=4, Hkv=2, D=24,
         scalars={"t": 0.7}),
    Case("content and temperature", "attention warm(input w: f32[H, D], input u: f32[H, D]) { mask k <= q "
         "score s * sigmoid(dot(Q, w[h])) + dot(u[h], K) / norm(K) output o * norm(Q) }", Lq=33, H=4, Hkv=2, D=16,
         inputs={"w": normal(4, 16, size=0.3), "u": normal(4, 16, size=0.3)}),
    Case("two maps", TWO_MAPS, Lq=33, H=4, Hkv=2, D=16, inputs={"w": normal(4, 16, 8, size=0.2), "c": normal(4)}),
    Case("two products", "attention gated(input a: f32[H, D, M], input t: f32[H]) { mask k <= q "
         "score s + t[h] * tanh(dot(Q @ a[h], K @ a[h])) }", Lq=33, H=4, Hkv=2, D=16,
         inputs={"a": normal(4, 16, 8, size=0.2), "t": normal(4)}),
    Case("relative vectors", RELATIVE, Lq=33, H=4, Hkv=2, D=16,
         inputs={"r": normal(9, 16), "c": normal(2, 9, 16, size=0.3)}),
    Case("forgetting", FORGET, Lq=70, B=2, D=16, inputs={"g": decays(2, 2, 70)}),
    Case("components", "attention sums(input g: f32[B, Hkv, L, D] log_decay, input w: f32[H, D]) { mask k <= q "
         "score dot(Q, K * decay(g)) / 2 + dot(w[h], tanh(Q + K)) }", Lq=19, H=4, Hkv=2, D=8,
         inputs={"g": lambda g: decays(1, 2, 19, 8)(g) * 0.1, "w": normal(4, 8)}),
    Case("moved components", "attention moved(input w: f32[D, M], input c: f32[H, M], input r: f32[N, D]) { "
         "mask k <= q score dot(c[h], tanh(Q + K) @ w) + "
         "norm(roll(rope(Q + r[clamp(q - k, 0, N - 1)], q - k), q - k) - K) / 2 }", Lq=7, H=4, Hkv=2, D=4,
         inputs={"w": normal(4, 3), "c": normal(4, 3), "r": normal(5, 4)}),
    Case("positions and cases", "attention odd(input f: f32[L, D], const c: float[2] = (0.5, 2.0)) { score s - "
         "dot(roll(Q, q % 3) * (if q // 4 == 1 or ispow2(q + 1) then c[q % 2] else 3 - norm(Q)), K + f[k]) / 4 }",
         Lq=20, D=16, inputs={"f": normal(20, 16)}),
    Case("finished", "attention finish(input a: f32[D, Dv], input r: f32[H, Dv]) { mask k <= q and (q - k)^5 < 2000000 "
         "score s - 0.2 * norm(V) output rope(rmsnorm(o), q) * sigmoid(Q @ a) + dot(o, r[h]) }", Lq=19, H=4, Hkv=2,
         D=16, Dv=8, inputs={"a": normal(16, 8), "r": normal(4, 8)}),
    Case("gated", "attention gated(input a: f32[H, D, Dv]) { output o * sigmoid(Q @ a[h]) }", Lq=19, H=4, Hkv=2, D=16,
         Dv=24, inputs={"a": normal(4, 16, 24, size=0.3)}),
    Case("above the mean", "attention centred(input c: f32[H]) { mask k <= q weight relu(s - c[h] * mean(s)) / sum }",
         Lq=35, H=4, Hkv=2, D=16, inputs={"c": normal(4)}, lse=False),
    Case("sums of sums", "attention spread(input g: f32[B, L], input a: f32[H]) { mask k <= q and q - k < 20 "
         "weight exp(-a[h]^2 * (s - mean(s))^2 / (sqrt(sum((s - mean(s))^2) / count + 0.1) + g[b, k]^2 + 1)) / sum }",
         Lq=35, B=2, D=16, inputs={"g": normal(2, 35), "a": normal(2)}, lse=False),
    Case("sums of documents", "attention parts(input doc: i32[B, L] sorted, input c: f32[H, L]) { "
         "mask doc[b, q] == doc[b, k] weight exp(s) * sigmoid(sum(c[h, k]^2) / 9) }", B=2, Lq=35, D=16,
         inputs={"doc": ints(5, 2, 35, ordered=True), "c": normal(2, 35)}, lse=False),
    Case("sums of distances", "attention apart { mask k <= q "
         "weight sigmoid(s + norm(Q - K) - mean(norm(Q - K))) / sum }",
         Lq=19, D=8, lse=False),
)  # fmt: skip
"""Small, for the interpreter is slow: every kind of argument that a kernel takes, and of what torch computes first."""

FORWARD = ("prefix", "duo", "const array", "taken names")
BACKWARD = tuple(case.name for case in BUILT if case.name not in FORWARD)
PLAIN = ("dense", "window", "no key", "sink and gate", "joint", "rotated", "forgetting")
SIFTED = {"images of a page": "find_forward_page"}
"""Functions that must find fewer boxes than the mask leaves without its tensors."""
DETERMINISTIC = ("pair, deterministic", "moved components")

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
    torch.use_deterministic_algorithms(call["deterministic"])
    spec = importlib.util.spec_from_file_location(call["module"], folder / f"{call['module']}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function = getattr(module, call["module"])
    if call["sifted"]:
        def counted(*arguments, find=getattr(module, call["sifted"])):
            t = find(*arguments)
            known = module.tables_on("cpu")[call["sifted"].replace("find", "boxes")]
            kinds, tiles = known["classes0"].numel(), known["order"].numel()
            first, _, end = t["bounds0"][: kinds * tiles * 3].view(-1, 3).unbind(1)
            candidates = known["bounds0"].view(-1, tiles, 3)[known["candidates0"][:kinds].long()]
            assert 0 < (end - first).sum() < (candidates[..., 2] - candidates[..., 0]).sum()
            return t
        setattr(module, call["sifted"], counted)
    if call["grad"] is None:
        torch.save((function(*call["qkv"], **call["arguments"]), {}, ()), folder / "found.pt")
        continue
    leaves = {**dict(zip("qkv", call["qkv"])), **{n: call["arguments"][n] for n in call["differentiated"]}}
    for t in leaves.values():
        t.requires_grad_()
    found = function(leaves["q"], leaves["k"], leaves["v"], **call["arguments"])
    outputs = found if isinstance(found, tuple) else (found,)
    gradients = torch.autograd.grad(outputs, list(leaves.values()), call["grad"][: len(outputs)], allow_unused=True)
    plain = ()
    if call["plain"]:
        # through the output alone, to q, k and v alone: other kernels
        again = function(leaves["q"], leaves["k"], leaves["v"], **call["arguments"])
        first = again[0] if isinstance(again, tuple) else again
        plain = torch.autograd.grad(first, [leaves[n] for n in "qkv"], call["grad"][0], allow_unused=True)
    found = torch.utils._pytree.tree_map(torch.Tensor.detach, found)
    torch.save((found, dict(zip(leaves, gradients)), plain), folder / "found.pt")
"""


def _write(folder: Path, lowering: Lowering, module: str, text: str) -> None:
    (folder / "kernels").mkdir(parents=True)
    for it in lowering.launches:
        (folder / "kernels" / f"{it.name}.py").write_text(it.module.source)
    for boxes in box_launches(lowering.launches):
        (folder / "kernels" / f"{boxes.home}.py").write_text(boxes.module.source)
    (folder / f"{module}.py").write_text(text)
    (folder / "tables.json").write_text(json.dumps(tables_of(lowering.launches)))


def write(folder: Path, case: Case, dtype: torch.dtype, backward: bool = False) -> attndsl.AttentionFunction:
    """A module with its kernels and tables, and the arguments of a call."""
    f = attndsl.load(case.text, **case.consts)
    q, k, v = case.tensors(dtype)
    sizes = {"B": case.B, "H": case.H, "Hkv": case.Hkv or case.H, "Lq": case.Lq, "Lk": case.Lk or case.Lq, "D": case.D}
    made = case.made()
    fresh = {
        e.name: n for p in f.attention.inputs for e, n in zip(p.shape, made[p.name].shape, strict=True)
        if isinstance(e, Size) and e.name not in ("B", "H", "Hkv", "L", "Lq", "Lk", "D", "Dv")
    }  # fmt: skip
    problem = f.problem(**sizes, Dv=case.Dv or case.D, grid=case.grid, **case.scalars, **fresh)
    element: Any = {torch.float32: "fp32", torch.float16: "fp16"}[dtype]
    small = Config(32, 32, 4, 2)
    lowering = lower_module(
        f.simplified, f.attention, problem, element, backward=backward, forward=small, dq=small, dkdv=small,
        deterministic=case.name in DETERMINISTIC,
    )  # fmt: skip
    module = call_name(f.__name__)
    _write(folder, lowering, module, standalone(lowering))
    for name, text in parts(lowering).items():
        _write(folder / "parts" / name, lowering.parts[name], name, text)
    arguments = {call_name(n): x for n, x in {**made, **case.scalars}.items()}
    if case.lse:
        arguments["return_lse"] = True
    if case.scale is not None:
        arguments["scale"] = case.scale
    # strides that no descriptor takes
    strided = torch.nn.functional.pad(q, (3, 5, 1, 2))[..., 1 : 1 + q.shape[2], 3 : 3 + q.shape[3]]
    g = torch.Generator().manual_seed(9)
    grad = torch.randn(*q.shape[:3], v.shape[-1], generator=g).to(dtype), torch.randn(q.shape[:3], generator=g)
    named = {call_name(n): n for n in made}
    torch.save({
        "module": module, "qkv": (strided, k, v), "arguments": arguments, "grad": grad if backward else None,
        "differentiated": [n for n in named if arguments[n].is_floating_point()],
        "deterministic": case.name in DETERMINISTIC, "plain": case.name in PLAIN,
        "sifted": SIFTED.get(case.name),
    }, folder / "call.pt")  # fmt: skip
    return f


def dense(f: attndsl.AttentionFunction, case: Case, precision: torch.dtype, call: Any) -> Any:
    """Output, lse, all gradients, and those of q, k and v through the output alone."""
    made = {n: t.to(precision) if t.is_floating_point() else t for n, t in case.made().items()}
    leaves = dict(zip("qkv", (t.to(precision) for t in case.tensors(torch.float32)), strict=True))
    leaves |= {n: t for n, t in made.items() if t.is_floating_point()}
    for t in leaves.values():
        t.requires_grad_()
    out, lse = reference(
        f.attention, leaves["q"], leaves["k"], leaves["v"], inputs=made, scalars=case.scalars, grid=case.grid,
        scale=case.scale, dtype=precision,
    )  # fmt: skip
    if call["grad"] is None:
        return out.detach(), lse, {}, ()

    def gradients(outputs: Any, wanted: list[torch.Tensor]) -> list[torch.Tensor]:
        pairs = [(t, g.to(t.dtype)) for t, g in zip(outputs, call["grad"], strict=False) if t.requires_grad]
        if not pairs:
            return [torch.zeros_like(t) for t in wanted]
        some, grads = zip(*pairs, strict=True)
        found = torch.autograd.grad(some, wanted, grads, allow_unused=True, retain_graph=True)
        return [torch.zeros_like(t) if g is None else g for g, t in zip(found, wanted, strict=True)]

    both = [out] if lse is None or not case.lse else [out, torch.where(lse.isfinite(), lse, 0.0)]
    whole = dict(zip(leaves, gradients(both, list(leaves.values())), strict=True))
    return out.detach(), lse, whole, gradients([out], [leaves[n] for n in "qkv"])


def test_modules_run_by_themselves(tmp_path: Path) -> None:
    dtype, cases = torch.float32, BUILT
    functions = [write(tmp_path / f"{i:02}", case, dtype, case.name in BACKWARD) for i, case in enumerate(cases)]
    ran = run_alone(BRISK + RUNNER, tmp_path)
    assert ran.returncode == 0, ran.stderr[-3000:]
    for i, (case, f) in enumerate(zip(cases, functions, strict=True)):
        found, gradients, plain = torch.load(tmp_path / f"{i:02}" / "found.pt")
        call = torch.load(tmp_path / f"{i:02}" / "call.pt")
        out, lse = found if case.lse else (found, None)
        exact, eager = dense(f, case, torch.float64, call), dense(f, case, dtype, call)
        assert_right(case.name, out, eager[0], exact[0], dtype)
        if lse is not None:
            assert_right(f"lse of {case.name}", lse, eager[1].detach(), exact[1].detach(), torch.float32, factor=8.0)
        assert (len(gradients) >= 3) == (case.name in BACKWARD), case.name
        assert len(plain) == (3 if case.name in PLAIN else 0), case.name
        for n, gradient in gradients.items():
            right = exact[2][n]
            assert gradient is not None or not right.any(), (case.name, n)
            if gradient is not None:
                assert_right(f"d{n} of {case.name}", gradient, eager[2][n], right, dtype, GRADIENT_FACTOR)
        for n, gradient, near, right in zip("qkv", plain, eager[3], exact[3], strict=False):
            assert gradient is not None or not right.any(), (case.name, n)
            if gradient is not None:
                assert_right(f"d{n} of the output of {case.name}", gradient, near, right, dtype, GRADIENT_FACTOR)


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
    ran = run_alone(BRISK + CHECKS, tmp_path / "spec", tmp_path / "half")
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


def test_specialised_warps_that_triton_does_not_compile() -> None:
    f = attndsl.load("attention relu2 { weight relu(s)^2 / count }")
    wished = Config(128, 128, 4, 2, specialize=True)
    _, (it,) = lower(f.simplified, f.problem(B=1, H=2, L=512, D=64), "bf16", config=wished)
    assert it.form.walk == "specialized"
    with pytest.raises(attndsl.KernelError):
        compile_lowered(it)
    # as a call does it
    found, built = compile_granted(it)
    assert (found.form.walk, found.config.specialize, found.tile) == ("two loops", False, (128, 128))
    assert "specialized" not in found.name
    assert "ttg.warp_specialize" not in built.ttgir
    assert built.spills == 0
