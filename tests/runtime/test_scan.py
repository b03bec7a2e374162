"""Feature maps in linear time on the CPU, against the oracle; states; what a call with states refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import attndsl
from attndsl.reference import reference
from attndsl.runtime.state import State
from tests.runtime.scan_cases import ScanCase

ELU = "dot(elu(Q) + 1, elu(K) + 1)"
GAMMA = "input gamma: f32[H]"
DOC = "input doc: i32[B, L] sorted"
DECAYS = {
    "none": ("", ELU + " / sum", "scan"),
    "plain": ("", "dot(Q, K)", "scan"),
    "base": (GAMMA, "dot(Q, K) * gamma[h]^(q - k)", "scan"),
    "log": (GAMMA, "dot(Q, K) * exp(-gamma[h] * (q - k))", "scan"),
    "token": ("input g: f32[B, H, L] log_decay", "dot(Q, K) * decay(g) / max(abs(sum), 1)", "scan"),
    "channel": ("input g: f32[B, Hkv, L, D] log_decay", "dot(Q, K * decay(g))", "scan"),
    "channel of a head": ("input g: f32[B, H, L, D] log_decay", "dot(exp(Q), exp(K) * decay(g)) / sum", "scan"),
    "all": (
        f"{GAMMA}, input g: f32[L] log_decay, input c: f32[L, D] log_decay",
        "dot(relu(Q), relu(K) * decay(c)) * decay(g) * gamma[h]^(q - k) / (sum + 0.5)",
        "scan",
    ),
    "other sum": ("", "dot(relu(Q), relu(K)) / sum(dot(elu(Q) + 1, elu(K) + 1))", "scan"),
    "sum of vectors": ("", "dot(relu(Q), relu(K)) / (dot(relu(Q), sum(relu(K))) + 1)", "scan"),
    "mean": ("", "dot(relu(Q), relu(K)) / (mean(dot(exp(Q), exp(K))))", "scan"),
    "count": ("", "dot(Q, K) / count", "scan"),
    "map": (
        "input W: f32[H, D, M]",
        "dot(concat(softmax(Q @ W[h]), softmax(-(Q @ W[h]))), concat(softmax(K @ W[h]), softmax(-(K @ W[h])))) / sum",
        "scan",
    ),
    "positions": ("input u: f32[B, L]", "dot(Q * cos(0.1 * q), K * u[b, k] * sin(0.1 * k))", "scan"),
}  # fmt: skip


def spec(name: str, mask: str = "mask k <= q", more: str = "", output: str = "") -> str:
    params, weight, _ = DECAYS[name]
    params = ", ".join(p for p in (params, more) if p)
    return f"attention a({params}) {{ {mask} weight {weight} {output} }}"


@pytest.mark.parametrize("name", DECAYS)
def test_causal(name: str) -> None:
    for length in (1, 65, 130):
        ScanCase(spec(name), Lq=length).check("scan")


@pytest.mark.parametrize("name", ["none", "token", "channel"])
def test_a_query_that_does_not_see_itself(name: str) -> None:
    ScanCase(spec(name, "mask k < q"), Lq=70).check("scan")


@pytest.mark.parametrize("name", ["none", "base", "token", "channel", "other sum"])
def test_documents(name: str) -> None:
    mask = "mask doc[b, q] == doc[b, k] and k <= q"
    for length in (17, 200):
        ScanCase(spec(name, mask, DOC), Lq=length, documents=5).check("scan")
    ScanCase(spec(name, "mask q // 7 == k // 7 and k <= q"), Lq=80).check("scan")


def test_both_directions() -> None:
    for mask, more in (("mask doc[b, q] == doc[b, k]", DOC), ("mask k // 40 == q // 40", "")):
        ScanCase(spec("none", mask, more), Lq=150).check("both")
    text = f"attention a({GAMMA}) {{ weight dot(Q, K) * gamma[h]^abs(q - k) / (1 + abs(sum)) }}"
    ScanCase(text, Lq=150).check("both")


@pytest.mark.parametrize("name", ["none", "other sum", "sum of vectors", "mean", "count", "map", "positions"])
def test_reductions(name: str) -> None:
    for lengths in ((65, 130), (130, 3), (5, 0), (0, 5)):
        ScanCase(spec(name, ""), Lq=lengths[0], Lk=lengths[1]).check("reduction")


@pytest.mark.parametrize("name", ["none", "base", "token", "channel", "count"])
def test_offsets(name: str) -> None:
    for lq, lk, offset in ((20, 50, 30), (50, 20, 0), (7, 90, 70), (30, 20, 60), (5, 0, 2)):
        ScanCase(spec(name), Lq=lq, Lk=lk, q_offset=offset).check("scan")


def test_output_clause() -> None:
    clause = "output o * sigmoid(u[b, h, q]) + 0.1 * dot(Q, Q)"
    for mask, kind in (("mask k <= q", "scan"), ("", "reduction")):
        ScanCase(spec("none", mask, "input u: f32[B, H, Lq]", clause), Lq=80).check(kind)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    for name in ("none", "base", "channel"):
        ScanCase(spec(name), Lq=100, dtype=dtype).check("scan")


def test_heads_without_groups_and_one_key_head() -> None:
    for H, Hkv in ((1, 1), (3, 3), (6, 1)):
        ScanCase(spec("none"), H=H, Hkv=Hkv, Lq=70, D=5, Dv=9).check("scan")


def test_bases_that_are_no_decay() -> None:
    """0^0 is 1, and a power of a negative number alternates."""
    case = ScanCase(spec("base"), Lq=70)
    case.inputs["gamma"] = torch.tensor([0.0, -0.9, 1.0, 0.5])
    actual = case.run()
    exact, eager = case.expected(torch.float64), case.expected(torch.float32)
    for name in ("out", "grad q", "grad k", "grad v", "grad gamma"):
        torch.testing.assert_close(actual[name].double(), exact[name], rtol=1e-4, atol=1e-4)
    assert eager["out"].isfinite().all()


def test_strong_gates() -> None:
    """Where a product of the decay and its inverse would leave the range of floats."""
    for name in ("token", "channel"):
        case = ScanCase(spec(name), Lq=130)
        case.inputs["g"] = case.inputs["g"] * 60
        case.compare(case.run())


def test_other_layouts() -> None:
    case = ScanCase(spec("token"), Lq=70)
    want = case.run()["out"]
    q, k, v = (x.transpose(1, 2).contiguous() for x in (case.q, case.k, case.v))
    assert torch.equal(case.function(q, k, v, layout="bshd", **case.inputs).transpose(1, 2), want)
    wide = torch.stack([case.q, case.q], 2).flatten(1, 2)[:, ::2]
    assert torch.equal(case.function(wide, case.k, case.v, **case.inputs), want)


EXAMPLES = {
    "linear": "scan", "retention": "scan", "simple_gla": "scan", "gla": "scan", "hedgehog": "scan", "taylor": "scan",
    "focused": "reduction", "softmax_features": "reduction", "exp_features": "scan", "relu2_features": "both",
    "norm_aware": "reduction", "t2r": "scan", "performer": "scan", "dpfp": "scan", "cosformer": "scan",
    "polynomial": "scan", "two_maps": "scan", "shifted": "scan", "lightning": "scan", "both_ways": "both",
}  # fmt: skip
FOLDER = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples(name: str) -> None:
    """The feature maps of the examples, against the oracle, and row by row."""
    case = ScanCase(str(FOLDER / f"{name}.attn"), Lq=40, D=4)
    case.check(EXAMPLES[name])
    if EXAMPLES[name] == "scan":
        case.compare(case.pieces([1, 20]))


# States.


@pytest.mark.parametrize("name", DECAYS)
def test_pieces_are_the_whole(name: str) -> None:
    case = ScanCase(spec(name), Lq=100)
    case.compare(case.pieces([1, 2, 66]))


@pytest.mark.parametrize("name", ["none", "channel", "other sum"])
def test_pieces_of_documents(name: str) -> None:
    mask = "mask doc[b, q] == doc[b, k] and k <= q"
    case = ScanCase(spec(name, mask, DOC), Lq=40, documents=8)
    case.compare(case.pieces([1, 2, 3, 20, 21]))


def test_pieces_with_an_output_clause() -> None:
    text = spec("none", "mask k <= q", "input u: f32[B, L]", "output o * u[b, q]")
    case = ScanCase(text, Lq=20)
    case.compare(case.pieces([7, 8]))


def test_shapes_of_a_state() -> None:
    case = ScanCase(spec("none"), Lq=9)
    out, state = case.function(case.q, case.k, case.v, return_state=True)
    assert out.shape == (2, 4, 9, 5)
    assert state.S.shape == (2, 2, 8, 5) and state.z is not None and state.z.shape == (2, 2, 8)
    assert state.position == 9 and state.segment is None and state.bytes == 2 * 2 * 8 * 6 * 4
    feature = torch.nn.functional.elu(case.k) + 1
    torch.testing.assert_close(state.S, feature.transpose(-1, -2) @ case.v)
    by_head = ScanCase(spec("base"), Lq=9)
    _, state = by_head.function(by_head.q, by_head.k, by_head.v, return_state=True, **by_head.inputs)
    assert state.S.shape == (2, 4, 8, 5) and state.z is None


def test_no_rows_leave_a_state_as_it_is() -> None:
    case = ScanCase(spec("base"), Lq=9)
    _, state = case.function(case.q, case.k, case.v, return_state=True, **case.inputs)
    none = [x[:, :, :0] for x in (case.q, case.k, case.v)]
    _, after = case.function(*none, initial_state=state, return_state=True, **case.inputs)
    assert torch.equal(after.S, state.S) and after.position == 9


def test_gradients_of_a_state() -> None:
    """Those of the state given and of the one returned, by themselves."""
    case = ScanCase(spec("none"), Lq=20)
    made = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=made)

    S, z = normal(2, 2, 8, 5).requires_grad_(), normal(2, 2, 8).abs().requires_grad_()
    k, v = case.k.clone().requires_grad_(), case.v.clone().requires_grad_()
    gS, gz = normal(2, 2, 8, 5), normal(2, 2, 8)
    out, after = case.function(case.q, k, v, initial_state=State(S, z, 3), return_state=True)
    assert after.position == 23
    found = torch.autograd.grad([out, after.S, after.z], [S, z, k, v], [case.g, gS, gz])

    def plain() -> tuple[Tensor, Tensor, Tensor]:
        fq, fk = (torch.nn.functional.elu(x.double()) + 1 for x in (case.q, k))
        key, value = (x.repeat_interleave(2, 1) for x in (fk, v.double()))
        state, sums = (x.double().repeat_interleave(2, 1) for x in (S, z))
        pairs = (fq @ key.transpose(-1, -2)).tril()
        top = pairs @ value + fq @ state
        below = pairs.sum(-1) + (fq * sums.unsqueeze(-2)).sum(-1)
        return top / below.unsqueeze(-1), S + fk.transpose(-1, -2) @ v.double(), z + fk.sum(-2)

    wanted = torch.autograd.grad(plain(), [S, z, k, v], [case.g.double(), gS.double(), gz.double()])
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    only = torch.autograd.grad(case.function(case.q, k, v, initial_state=State(S, z, 3)), [S], case.g)
    assert only[0].shape == S.shape


def _call(**changes: Any) -> Any:
    case = ScanCase(spec("none"), Lq=4)
    given: dict[str, Any] = {"q": case.q, "k": case.k, "v": case.v, "return_state": True} | changes
    return case.function(given.pop("q"), given.pop("k"), given.pop("v"), **given)


def test_refused_states() -> None:
    _, good = _call()
    for wrong, error, words in (
        (3, TypeError, "must be a State"),
        (replace(good, S=good.S[:1]), ValueError, r"initial_state.S is \[1, 2, 8, 5\], expected \[2, 2, 8, 5\]"),
        (replace(good, z=None), TypeError, "initial_state.z must be a tensor"),
        (replace(good, S=good.S.double()), TypeError, "float64, expected torch.float32"),
        (replace(good, position=-1), ValueError, "position is -1"),
    ):
        with pytest.raises(error, match=words):
            _call(initial_state=wrong)
    with pytest.raises(ValueError, match="'q_offset' must be 0"):
        _call(q_offset=2)
    with pytest.raises(ValueError, match="a key for each query"):
        _call(q=torch.zeros(2, 4, 3, 8))
    with pytest.raises(ValueError, match="step takes one row"):
        case = ScanCase(spec("none"), Lq=4)
        case.function.step(None, case.q, case.k, case.v)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("attention a { mask k <= q }", "softmax is no dot product"),
        ("attention a { weight dot(Q, K) }", "keys on both sides"),
        ("attention a { mask k <= q and q - k < 8 weight dot(Q, K) }", "the mask also asks q - k < 8"),
        ("attention a(input u: f32[B, L]) { mask k <= q weight dot(Q, K) * u[b, k - 1] }", "'u' at other positions"),
        ("attention a { mask k <= q weight dot(Q * cos(q / Lk), K * cos(k / Lk)) }", "reads the length"),
        ("attention a { grid video(y, x) mask k <= q weight dot(Q, K) }", "lie on a grid"),
        (
            f"attention a({DOC}) {{ mask k <= q and doc[b, q] == doc[b, k] weight dot(Q, K) / count }}",
            "counts the keys",
        ),
    ],
)
def test_attentions_without_states(text: str, words: str) -> None:
    case = ScanCase(text, Lq=4)
    more = {"grid": (2, 2)} if "grid" in text else {}
    with pytest.raises(ValueError, match=words):
        case.function(case.q, case.k, case.v, return_state=True, **more, **case.inputs)


def test_second_derivatives_are_refused() -> None:
    case = ScanCase(spec("none"), Lq=4)
    q = case.q.clone().requires_grad_()
    (grad,) = torch.autograd.grad(case.function(q, case.k, case.v).sum(), [q], create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives"):
        torch.autograd.grad(grad.sum(), [q])


def test_memory_is_linear() -> None:
    """Twice the length saves at most twice the numbers for backward."""
    totals: list[int] = []
    for length in (512, 1024):
        held: list[int] = []

        def count(t: Tensor, held: list[int] = held) -> Tensor:
            held.append(t.numel())
            return t

        case = ScanCase(spec("none"), B=1, Lq=length)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
            case.function(case.q.clone().requires_grad_(), case.k, case.v)
        totals.append(sum(held))
    assert totals[1] <= 2 * totals[0]


def test_source_has_the_functions_of_a_scan() -> None:
    assert "def scan_query(" in attndsl.load(spec("none")).source()


def test_documents_seen_from_both_sides_with_offsets_of_their_own() -> None:
    """Pair by pair: every sequence stands elsewhere."""
    text = "attention a(input doc: i32[B, L] sorted) { mask doc[b, q] == doc[b, k] weight dot(exp(Q), exp(K)) / sum }"
    f = attndsl.load(text)
    q, k, v = torch.randn(2, 1, 2, 4), torch.randn(2, 1, 5, 4), torch.randn(2, 1, 5, 4)
    doc, offset = torch.tensor([[0, 0, 1, 1, 2], [0, 1, 1, 1, 1]], dtype=torch.int32), torch.tensor([1, 3])
    out = f(q, k, v, doc=doc, q_offset=offset)
    exact, _ = reference(f.attention, q, k, v, inputs={"doc": doc}, q_offset=offset, dtype=torch.float64)
    assert torch.allclose(out.double(), exact, atol=1e-5)
