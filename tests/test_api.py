"""`load`, the decorator, and calls against the oracle."""

from __future__ import annotations

import copy
import importlib.util
import inspect
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import attndsl
from attndsl.lang import const, scalar, softmax, tensor
from attndsl.reference import reference

EXAMPLES = Path(__file__).parent.parent / "examples"
WINDOW = """
use masks (causal)
attention swa(const window: int = 4, scalar strength: float = 1.0, input slope: f32[H]) {
    score s - strength * slope[h] * (q - k)
    mask causal(q, k) and q - k < window
}
"""
TWO = "attention near { mask abs(q - k) <= 1 }\nattention past { mask k <= q }"


def tensors(B: int = 2, H: int = 4, Hkv: int = 2, L: int = 33, D: int = 8, **options: Any) -> list[torch.Tensor]:
    torch.manual_seed(0)
    shapes = [(B, H, L, D), (B, Hkv, L, D), (B, Hkv, L, D)]
    return [torch.randn(*s, **options) for s in shapes]


# Loading


def test_text_and_path(tmp_path: Path) -> None:
    file = tmp_path / "swa.attn"
    file.write_text(WINDOW)
    loaded = [attndsl.load(WINDOW), attndsl.load(file), attndsl.load(str(file))]
    assert len({f.attention for f in loaded}) == 1
    assert attndsl.load("attention all { mask k <= q }").__name__ == "all"


def test_a_missing_file_names_what_is_near(tmp_path: Path) -> None:
    (tmp_path / "window.attn").write_text(WINDOW)
    for error in (ValueError, FileNotFoundError, attndsl.MissingSpecError):
        with pytest.raises(error, match=r"there is no file '.*windw.attn'; did you mean 'window.attn'\?"):
            attndsl.load(tmp_path / "windw.attn")
    with pytest.raises(ValueError, match=r"did you mean 'window\.attn'"):
        attndsl.load(str(tmp_path / "window"))
    with pytest.raises(ValueError, match="there is no folder"):
        attndsl.load("nowhere/at/all.attn")
    with pytest.raises(ValueError, match="is a folder"):
        attndsl.load(tmp_path)
    with pytest.raises(ValueError, match=r"has window\.attn"):
        attndsl.load(tmp_path / "zzz.attn")
    with pytest.raises(TypeError, match="takes a path or the text of a spec, got int"):
        attndsl.load(3)  # pyright: ignore
    with pytest.raises(ValueError):
        attndsl.load("x" * 5000)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions bind nobody here")
def test_an_unreadable_file(tmp_path: Path) -> None:
    file = tmp_path / "secret.attn"
    file.write_text(WINDOW)
    file.chmod(0)
    with pytest.raises(ValueError, match="cannot be read"):
        attndsl.load(file)


def test_one_of_several() -> None:
    assert attndsl.load(TWO, name="past").__name__ == "past"
    with pytest.raises(ValueError, match="declares 2 attentions, pick one with name=: near, past"):
        attndsl.load(TWO)
    with pytest.raises(ValueError, match=r"has no attention 'pats'; did you mean 'past'\? \(it has near, past\)"):
        attndsl.load(TWO, name="pats")
    with pytest.raises(ValueError, match="declares no attention"):
        attndsl.load("fn f(x) = x\n")


def test_a_wrong_spec_reports_every_finding() -> None:
    with pytest.raises(attndsl.SpecError) as caught:
        attndsl.load("attention a { mask k <= x  score s + y }")
    assert len(caught.value.diagnostics) == 2


# Consts


def test_consts_make_copies() -> None:
    base = attndsl.load(WINDOW)
    narrow = base.with_consts(window=2)
    assert base.plan(L=64).visited == attndsl.load(base).plan(L=64).visited
    assert attndsl.load(narrow, window=4).attention == base.attention
    assert narrow.attention != base.attention
    assert "window=2" in repr(narrow) and "window=4" in repr(base)


@pytest.mark.parametrize(
    ("consts", "error", "words"),
    [
        ({"windw": 2}, TypeError, "windw.*window"),
        ({"window": "2"}, TypeError, "window"),
        ({"window": 2.5}, TypeError, "window"),
        ({"window": (1, 2)}, TypeError, "window"),
        ({"slope": 2}, TypeError, "slope.*input"),
        ({"strength": 2.0}, TypeError, "strength.*scalar"),
    ],
)
def test_bad_consts(consts: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        attndsl.load(WINDOW, **consts)
    with pytest.raises(error, match=words):
        attndsl.load(WINDOW).with_consts(**consts)


def test_a_failed_requirement_on_consts() -> None:
    with pytest.raises(attndsl.SpecError, match="stride exceeds window"):
        attndsl.load(EXAMPLES / "gna.attn", window=(3, 9, 9), stride=(4, 1, 1))
    with pytest.raises(TypeError, match="window"):
        attndsl.load(EXAMPLES / "gna.attn")


def test_a_bound_attention_takes_no_other_consts() -> None:
    made = attndsl.AttentionFunction(attndsl.load(WINDOW).attention)
    with pytest.raises(TypeError, match="'window' decides nothing"):
        made.with_consts(window=2)


# The object


def test_it_describes_itself() -> None:
    f = attndsl.load(WINDOW, window=2)
    assert repr(f) == "<attention swa(window=2) takes scalar strength: float, input slope: f32[H]>"
    shown = inspect.signature(f)
    assert list(shown.parameters)[:5] == ["q", "k", "v", "strength", "slope"]
    assert shown.parameters["strength"].default == 1.0
    assert shown.parameters["slope"].default is inspect.Parameter.empty
    assert {"layout", "return_lse", "scale", "q_offset", "grid", "backend", "checked"} < set(shown.parameters)
    assert f.__doc__ is not None and "input slope: f32[H]" in f.__doc__


def test_copies_and_pickles() -> None:
    f = attndsl.load(WINDOW, window=2)
    q, k, v = tensors()
    want = f(q, k, v, slope=torch.ones(4))
    for again in (copy.deepcopy(f), copy.copy(f), pickle.loads(pickle.dumps(f))):
        assert torch.equal(again(q, k, v, slope=torch.ones(4)), want)
        assert again.with_consts(window=4).attention == attndsl.load(WINDOW).attention


def test_importing_costs_nothing() -> None:
    program = (
        "import sys, attndsl; attndsl.__version__; heavy = {'torch', 'numpy', 'sympy', 'jinja2'} & set(sys.modules); "
        "assert not heavy, heavy; "
        "f = attndsl.load('attention a(const w: int = 4) { mask k <= q and q - k < w }', w=8); "
        "f.plan(L=4096, H=2); f.explain(L=64); f.source(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("cuda", [True, False])
def test_who_has_torch_imports_what_calls_need(cuda: bool) -> None:
    """Not at the first call, whose result would wait for it; nothing that only writes code."""
    code = (
        f"import sys, torch; torch.version.cuda = {'13.0' if cuda else None!r}; before = set(sys.modules); "
        "import attndsl; new = set(sys.modules) - before; print(sorted(new & {'sympy', 'jinja2', 'lark'})); "
        "print('attndsl.runtime.operator' in new, 'attndsl.runtime.triton.kernel' in new); "
        "attndsl.load('attention a { mask k <= q }').plan(L=64); "
        "print([m for m in sorted(set(sys.modules) - before - new) if 'frontend' in m or 'schedule' in m])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    has_triton = importlib.util.find_spec("triton") is not None
    assert ran.stdout.splitlines() == ["[]", f"True {cuda and has_triton}", "[]"]


def test_unknown_names_of_the_module() -> None:
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = attndsl.lod  # pyright: ignore
    assert {"load", "attention", "__version__"} <= set(dir(attndsl))


def test_source() -> None:
    f = attndsl.load(WINDOW)
    assert "def " in f.source() and f.source() == f.source(backend="cpu")
    compile(f.source(), "generated", "exec")
    assert "@triton.jit" in f.source(backend="triton")
    compile(f.source(backend="triton"), "generated", "exec")
    with pytest.raises(ValueError, match="backend 'cutlass' has no kernels in this version; backend 'cpu'"):
        f.source(backend="cutlass")
    with pytest.raises(ValueError, match="backend must be 'cpu', 'triton' or 'cutlass'"):
        f.source(backend="cuda")


# Plans


def test_the_plan_of_a_neighborhood() -> None:
    gna = attndsl.load(EXAMPLES / "gna.attn", window=(18, 24, 24), stride=(2, 8, 8))
    p = gna.plan(Lq=115200, Lk=115200, H=24, D=128, grid=(30, 48, 80), tile=((2, 8, 8), (2, 8, 8)))
    assert (p.visited, p.full, p.partial, p.total) == (72900, 72900, 0, 810000)
    assert gna.plan(grid=(30, 48, 80), tile=((2, 8, 8), (2, 8, 8))).visited == p.visited


def test_a_plan_takes_tables_and_scalars() -> None:
    documents = attndsl.load("attention documents(input doc: i32[B, L] sorted) { mask doc[b, q] == doc[b, k] }")
    table = np.repeat(np.arange(8), 64)[None]
    known = documents.plan(L=512, doc=table)
    assert known.visited == documents.plan(L=512, doc=torch.from_numpy(table)).visited
    assert known.visited < documents.plan(L=512).visited
    reach = attndsl.load("attention reach(scalar r: int) { mask abs(q - k) < r }")
    assert reach.plan(L=1024, r=10).visited < reach.plan(L=1024, r=np.int64(800)).visited


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({}, TypeError, "a plan needs Lq and Lk"),
        ({"Lq": 8}, TypeError, r"a plan needs Lk \(L= gives both\)"),
        ({"L": 8, "Lq": 9}, ValueError, "L = 8 stands for both lengths, but Lq = 9"),
        ({"L": 8.0}, TypeError, "must be an int, got float 8.0"),
        ({"L": -1}, ValueError, "must be from 0"),
        ({"L": 8, "H": 3, "Hkv": 2}, ValueError, "H = 3 must be a multiple of Hkv = 2"),
        ({"L": 8, "D": 0}, ValueError, "D must be from 1"),
        ({"L": 8, "window": 2}, TypeError, "'window' is const"),
        ({"L": 8, "Hk": 2}, TypeError, "unknown argument 'Hk'; did you mean 'Hkv'"),
        ({"L": 8, "grid": (2, 4)}, ValueError, "declares no grid"),
        ({"L": 8, "q_offset": [1, 2]}, ValueError, r"shape \[B\] = \[1\], got \[2\]"),
        ({"L": 8, "q_offset": "last"}, ValueError, "q_offset must be"),
        ({"L": 8, "slope": "x"}, TypeError, "must be an array or a tensor, got str 'x'"),
        ({"L": 8, "slope": np.ones(3)}, ValueError, r"shape \[H\] = \[1\], got \[3\]; H = 1 from H"),
        ({"L": 8, "slope": np.ones(1, int)}, TypeError, "must hold f32, got int64"),
        ({"L": 8, "tile": 64}, TypeError, r"tile must be \(q box, k box\), got int 64"),
        ({"L": 8, "tile": (64, 0)}, ValueError, "tile's k box must be from 1"),
    ],
)
def test_bad_plans(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        attndsl.load(WINDOW).plan(**arguments)
    assert str(caught.value).startswith("swa: ")


def test_a_plan_names_the_scalars_that_its_mask_needs() -> None:
    with pytest.raises(TypeError, match="reach: the mask reads scalar r: int"):
        attndsl.load("attention reach(scalar r: int) { mask abs(q - k) < r }").plan(L=8)


def test_a_plan_checks_fresh_sizes() -> None:
    pools = attndsl.load("attention pools(input pool: i32[M]) { mask pool[q % M] == pool[k % M] }")
    assert pools.plan(L=64, M=4).total
    with pytest.raises(ValueError, match=r"M = 4 from M="):
        pools.plan(L=64, M=4, pool=np.zeros(3, int))
    with pytest.raises(ValueError, match=r"modulo by zero in '.*M', where M = 0"):
        pools.plan(L=64, M=0)


def test_explain_is_text() -> None:
    assert "swa" in attndsl.load(WINDOW).explain(L=256, H=2)


# Calls

CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "window": (WINDOW, {"slope": torch.rand(4)}, {}),
    "offset": (WINDOW, {"slope": torch.rand(4), "strength": 0.5}, {"q_offset": 5}),
    "offsets": (WINDOW, {"slope": torch.rand(4)}, {"q_offset": torch.tensor([3, 0], dtype=torch.int32)}),
    "scale": (WINDOW, {"slope": torch.rand(4)}, {"scale": 0.7}),
    "grid": ("attention g { grid v(y, x) mask abs(q.y - k.y) <= 1 and abs(q.x - k.x) <= 2 }", {}, {"grid": (3, None)}),
    "documents": ("attention d(input doc: i32[B, L] sorted) { mask doc[b, q] == doc[b, k] and k <= q }",
                  {"doc": (torch.arange(33) // 7).to(torch.int32).expand(2, 33)}, {}),
    "heads": ("attention d(input full: bool[H], const w: int = 5) { mask full[h] or abs(q - k) < w }",
              {"full": torch.tensor([True, False, False, True])}, {}),
    "sink": ("attention t(input z: f32[H], input g: f32[B, H, Lq]) { mask k <= q weight exp(s) / (exp(z[h]) + sum) "
             "output o * sigmoid(g[b, h, q]) }", {"z": torch.randn(4), "g": torch.randn(2, 4, 33)}, {}),
    "fresh": ("attention f(input t: f32[H, M]) { score s + t[h, clamp(q - k, 0, M - 1)] mask k <= q }",
              {"t": torch.randn(4, 7)}, {}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("layout", ["bhsd", "bshd"])
def test_calls_match_the_oracle(case: str, layout: str) -> None:
    text, arguments, options = CASES[case]
    function = attndsl.load(text)
    q, k, v = tensors(dtype=torch.float64)
    given = [t.transpose(1, 2) for t in (q, k, v)] if layout == "bshd" else [q, k, v]
    out, lse = function(*given, layout=layout, return_lse=True, **arguments, **options)
    inputs = {n: a for n, a in arguments.items() if isinstance(a, torch.Tensor)}
    scalars = {"strength": 1.0} | {n: a for n, a in arguments.items() if n not in inputs}
    want, want_lse = reference(function.attention, q, k, v, inputs=inputs, scalars=scalars, **options)
    torch.testing.assert_close(out.transpose(1, 2) if layout == "bshd" else out, want)
    torch.testing.assert_close(lse, want_lse, check_dtype=False)


@pytest.mark.parametrize("case", ["window", "documents", "sink", "fresh", "grid"])
def test_gradients_by_finite_differences(case: str) -> None:
    text, arguments, options = CASES[case]
    function = attndsl.load(text)
    L, B = 6, 1
    q, k, v = tensors(B=B, L=L, D=3, dtype=torch.float64, requires_grad=True)
    fixed = {"doc": torch.tensor([[0, 0, 0, 1, 1, 2]], dtype=torch.int32)}
    floats: dict[str, torch.Tensor] = {}
    for name, a in arguments.items():
        if isinstance(a, torch.Tensor) and a.is_floating_point():
            cut = a[:B, :, :L] if a.ndim == 3 else a
            floats[name] = cut.double().clone().requires_grad_()
    rest = {n: fixed.get(n, a) for n, a in arguments.items() if n not in floats}

    def run(q: Any, k: Any, v: Any, *given: Any) -> Any:
        named = dict(zip(floats, given, strict=True))
        return function(q, k, v, **rest, **named, **options, return_lse=True)

    assert torch.autograd.gradcheck(run, (q, k, v, *floats.values()))


def test_expanded_and_strided_arguments() -> None:
    function = attndsl.load(WINDOW)
    q, k, v = tensors(dtype=torch.float64)
    want = function(q, k[:, :1].repeat(1, 2, 1, 1), v, slope=torch.full((4,), 0.5, dtype=torch.float64))
    one = k[:, :1].expand(2, 2, 33, 8)
    turned = q.transpose(-1, -2).contiguous().transpose(-1, -2)
    sliced = torch.stack([v, v], 3)[:, :, :, 1]
    got = function(turned, one, sliced, slope=torch.tensor(0.5, dtype=torch.float64).expand(4))
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_element_types(dtype: torch.dtype) -> None:
    q, k, v = (t.to(dtype) for t in tensors())
    out, lse = attndsl.load(WINDOW)(q, k, v, slope=torch.rand(4), return_lse=True)
    assert out.dtype == dtype and lse.dtype == torch.float32


@pytest.mark.parametrize(("B", "Lq", "Lk"), [(0, 9, 9), (2, 0, 9), (2, 9, 0), (0, 0, 0)])
def test_empty_calls(B: int, Lq: int, Lk: int) -> None:
    q, k, v = (torch.randn(B, 4, n, 8, requires_grad=True) for n in (Lq, Lk, Lk))
    slope = torch.rand(4, requires_grad=True)
    out, lse = attndsl.load(WINDOW)(q, k, v, slope=slope, return_lse=True)
    assert out.shape == (B, 4, Lq, 8) and not out.any()
    assert lse.shape == (B, 4, Lq) and bool((lse == -torch.inf).all())
    out.sum().backward()
    for t in (q, k, v, slope):
        assert t.grad is not None and not t.grad.any()


def test_a_table_changed_between_calls_is_seen() -> None:
    documents = attndsl.load(CASES["documents"][0])
    q, k, v = tensors(dtype=torch.float64)
    doc = torch.zeros(2, 33, dtype=torch.int32)
    before = documents(q, k, v, doc=doc)
    doc[:, 10:] = 1
    after = documents(q, k, v, doc=doc)
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, reference(documents.attention, q, k, v, inputs={"doc": doc})[0])


def test_a_checked_call_that_keeps_its_promises() -> None:
    documents = attndsl.load(CASES["documents"][0])
    q, k, v = tensors()
    doc = CASES["documents"][1]["doc"]
    assert torch.equal(documents(q, k, v, doc=doc, checked=True), documents(q, k, v, doc=doc))


def test_results_repeat_bit_by_bit() -> None:
    function = attndsl.load(WINDOW)

    def gradients() -> list[torch.Tensor]:
        operands = [*tensors(requires_grad=True), torch.ones(4, requires_grad=True)]
        function(*operands[:3], slope=operands[3]).square().sum().backward()
        return [t.grad for t in operands if t.grad is not None]

    for a, b in zip(gradients(), gradients(), strict=True):
        assert torch.equal(a, b)


# The decorator


def test_decorator_needs_a_function() -> None:
    with pytest.raises(TypeError, match="decorates a Python function, got int"):
        attndsl.attention(3)  # pyright: ignore


def test_decorated_function_is_the_text() -> None:
    want = attndsl.load(WINDOW).attention

    @attndsl.attention
    def swa(q, k, h, s, *, window=const(4), strength=scalar(1.0), slope=tensor("f32[H]")):
        """Words for help()."""
        return softmax(s - strength * slope[h] * (q - k), where=(k <= q) and (q - k < window))

    @attndsl.attention(window=2)
    def narrow(q, k, h, s, *, window=const(4), strength=scalar(1.0), slope=tensor("f32[H]")):
        return softmax(s - strength * slope[h] * (q - k), where=(k <= q) and (q - k < window))

    assert swa.attention == want
    assert swa.__doc__ == "Words for help()." and swa.__module__ == __name__
    assert attndsl.load(swa, window=2).attention.mask == narrow.attention.mask
    q, k, v = tensors()
    slope = torch.rand(4)
    assert torch.equal(swa(q, k, v, slope=slope), attndsl.load(WINDOW)(q, k, v, slope=slope))


def test_a_decorated_function_may_get_its_consts_later() -> None:
    @attndsl.attention
    def near(q, k, s, *, window=const("int")):
        return softmax(s, where=abs(q - k) < window)

    assert repr(near) == "<attention near(window=?)>"
    with pytest.raises(TypeError, match="window"):
        near.plan(L=8)
    assert near.with_consts(window=3).plan(L=8).total


def test_a_wrong_decorated_function_points_into_this_file() -> None:
    with pytest.raises(attndsl.SpecError, match=r"test_api\.py:\d+"):

        @attndsl.attention
        def wrong(q, k, s):
            return softmax(s, where=k <= nothing)  # noqa: F821
