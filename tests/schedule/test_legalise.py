"""Which attentions are scans, and the parts that a scan is made of."""

from __future__ import annotations

import numpy as np
import pytest

import attndsl
from attndsl.ir.features import FeatureWeight, feature_weight
from attndsl.ir.free import tensors
from attndsl.ir.infix import infix
from attndsl.schedule.legalise import Legalised, legalise, scan_form
from attndsl.schedule.problem import Problem

SIZES = {"B": 2, "H": 4, "Hkv": 2, "Lq": 64, "Lk": 64, "L": 64, "D": 8, "Dv": 5, "M": 3}
DOC = "input doc: i32[B, L] sorted"
GATE = "input g: f32[B, H, L] log_decay"


def form(text: str) -> Legalised:
    return scan_form(attndsl.load(text).simplified)


def weight(clause: str, params: str = "") -> FeatureWeight | str:
    return feature_weight(attndsl.load(f"attention a({params}) {{ mask k <= q weight {clause} }}").simplified)


def parts(clause: str, params: str = "") -> FeatureWeight:
    found = weight(clause, params)
    assert not isinstance(found, str), found
    return found


@pytest.mark.parametrize(
    ("mask", "params", "kind", "segments"),
    [
        ("mask k <= q", "", "scan", 0),
        ("mask q >= k", "", "scan", 0),
        ("", "", "reduction", 0),
        ("mask doc[b, q] == doc[b, k] and k <= q", DOC, "scan", 1),
        ("mask doc[b, k] == doc[b, q] mask k <= q and q // 8 == k // 8", DOC, "scan", 2),
        ("mask doc[b, q] == doc[b, k]", DOC, "both", 1),
        ("mask k // 16 == q // 16", "", "both", 1),
        ("mask (k + 3) // 16 == (q + 3) // 16", "", "both", 1),
        ("mask k <= q and q - k < 16", "", "tiles", None),
        ("mask doc[b, q] == doc[b, k] and k <= q", "input doc: i32[B, L]", "tiles", None),
        ("mask k % 16 == q % 16", "", "tiles", None),
        ("mask doc[b, -q] == doc[b, -k] and k <= q", DOC, "tiles", None),
    ],
)
def test_masks(mask: str, params: str, kind: str, segments: int | None) -> None:
    found = form(f"attention a({params}) {{ {mask} weight dot(relu(Q), relu(K)) / sum }}")
    assert found.kind == kind
    assert (found.form is None) == (segments is None)
    if found.form is not None:
        assert len(found.form.segments) == segments
        assert not found.reasons
    else:
        assert found.reasons


def test_strict() -> None:
    for mask, strict in (("k < q", True), ("q > k", True), ("k <= q and k < q", True), ("k <= q", False)):
        found = form(f"attention a {{ mask {mask} weight dot(Q, K) }}")
        assert found.form is not None and found.form.strict is strict


@pytest.mark.parametrize(
    ("clause", "base", "log", "absolute"),
    [
        ("dot(Q, K) * gamma[h]^(q - k)", "gamma[h]", None, False),
        ("gamma[h]^(q - k) * dot(Q, K)", "gamma[h]", None, False),
        ("dot(Q, K) * 0.5^(q - k)", "0.5", None, False),
        ("dot(Q, K) * exp(-gamma[h] * (q - k))", None, "-gamma[h]", False),
        ("dot(Q, K) * exp((k - q) / 3)", None, None, False),
        ("dot(Q, K) * gamma[h]^abs(q - k)", "gamma[h]", None, True),
        ("dot(Q, K) * gamma[h]^(2 * (q - k))", "gamma[h]^2", None, False),
    ],
)
def test_decay_per_head(clause: str, base: str | None, log: str | None, absolute: bool) -> None:
    decay = parts(clause, "input gamma: f32[H]").decay
    assert decay.per_head and not decay.token and not decay.channel
    assert decay.absolute is absolute
    if base is not None:
        assert decay.base is not None and infix(decay.base) == base
    if log is not None:
        assert decay.log is not None and infix(decay.log) == log
    assert (decay.base is None) != (decay.log is None)


def test_other_decays() -> None:
    token = parts("dot(Q, K) * decay(g)", GATE).decay
    assert [d.tensor for d in token.token] == ["g"] and not token.per_head
    channel = parts("dot(Q, K * decay(g))", "input g: f32[B, Hkv, L, D] log_decay").decay
    assert [d.tensor for d in channel.channel] == ["g"] and not channel.token
    both = parts("dot(Q, K) * decay(g) * 0.9^(q - k)", GATE).decay
    assert both.token and both.per_head
    assert parts("dot(Q, K)").decay.empty


def test_one_sided_factors_are_folded() -> None:
    found = parts("dot(Q, K) * u[b, h, q] * w[b, hkv, k] / sqrt(D)", "input u: f32[B,H,L], input w: f32[B,Hkv,L]")
    assert tensors(found.query) == {"Q", "u"} and tensors(found.key) == {"K", "w"}
    assert found.decay.empty and found.normaliser is None


def test_normalisers() -> None:
    own = parts("dot(relu(Q), relu(K)) / sum").normaliser
    assert own is not None and own.own
    other = parts("dot(relu(Q), relu(K)) / sum(dot(exp(Q), exp(K)))").normaliser
    assert other is not None and not other.own and other.query is not None and infix(other.query) == "exp(Q[b, h, row])"
    vector = parts("dot(relu(Q), relu(K)) / dot(relu(Q), sum(relu(K)))").normaliser
    assert vector is not None and vector.query is None and vector.key is not None
    bounded = parts("dot(Q, K) / max(abs(sum), 1)").normaliser
    assert bounded is not None and not bounded.own and bounded.node is not None
    count = parts("dot(Q, K) / count").normaliser
    assert count is not None and count.node is None


@pytest.mark.parametrize(
    ("clause", "params", "words"),
    [
        ("softmax", "", "softmax is no dot product"),
        ("s", "", "one dot product"),
        ("s * dot(Q, K)", "", "score s"),
        ("dot(Q, K) * dot(Q, K)", "", ""),
        ("dot(Q, K) * relu(q - k)", "", "no function of q times one of k"),
        ("dot(Q, K / sum(exp(K)))", "", "numerator"),
        ("dot(Q, K) / (sum + sum(dot(exp(Q), exp(K))))", "", "several reductions"),
        ("dot(Q, K) * decay(g) / sum(dot(Q, K))", GATE, "decay differently"),
        ("dot(Q, K) * gamma[h]^abs(q - k) * 0.5^(q - k)", "input gamma: f32[H]", "absolute"),
    ],
)
def test_reasons(clause: str, params: str, words: str) -> None:
    found = weight(clause, params)
    assert isinstance(found, str) and words in found


def test_extents() -> None:
    found = form("attention a { mask k <= q weight dot(concat(Q, relu(Q)), concat(K, relu(K))) / sum }").form
    assert found is not None and found.features(SIZES) == 16 and found.z_features(SIZES) == 16
    text = "attention a(input W: f32[H, D, M]) { feature p(x) = outer(x @ W[h], x) weight dot(p(Q), p(K)) }"
    found = form(text).form
    assert found is not None and found.features(SIZES) == 24 and found.z_features(SIZES) == 0
    assert found.by_head


def test_heads_of_a_state() -> None:
    assert (f := form("attention a { mask k <= q weight dot(Q, K) }").form) is not None and not f.by_head
    text = "attention a(input gamma: f32[H]) { mask k <= q weight dot(Q, K) * gamma[h]^(q - k) }"
    assert (f := form(text).form) is not None and f.by_head


def test_states_need_own_rows() -> None:
    shifted = form("attention a(input u: f32[B, L]) { mask k <= q weight dot(Q, K) * u[b, k - 1] }").form
    assert shifted is not None and shifted.stateless is not None and "'u'" in shifted.stateless
    own = form("attention a(input u: f32[B, L]) { mask k <= q weight dot(Q, K) * u[b, k] }").form
    assert own is not None and own.stateless is None
    both = form("attention a { weight dot(Q, K) }").form
    assert both is not None and both.stateless is not None


def test_calls() -> None:
    causal = attndsl.load("attention a { mask k <= q weight dot(Q, K) }").simplified
    assert legalise(causal, Problem(SIZES)).kind == "scan"
    assert legalise(causal, Problem(SIZES, q_offset=np.array([1, 2]))).kind == "quadratic"
    assert "position 0" in legalise(causal, Problem(SIZES, q_offset=-1)).reasons[0]
    sided = attndsl.load("attention a { mask q // 4 == k // 4 weight dot(Q, K) }").simplified
    assert legalise(sided, Problem(SIZES)).kind == "both"
    assert legalise(sided, Problem({**SIZES, "Lk": 65})).kind == "quadratic"
    grows = attndsl.load("attention a { weight dot(Q, K) * 0.5^(q - k) }").simplified
    assert "after the query" in legalise(grows, Problem(SIZES)).reasons[0]


def test_explain_says_how_and_why() -> None:
    scan = attndsl.load("attention a { mask k <= q weight dot(relu(Q), relu(K)) / sum }")
    text = scan.explain(L=4096, H=4, D=64)
    assert "runs as: a scan over chunks: linear in L" in text
    assert "features: 64 of a key, decay: none, normaliser: its own sum" in text
    assert "state: 65.0 KiB a sequence" in text
    assert "work: 32,768 FLOP a row and head, 524,288 pair by pair (16x)" in text
    band = attndsl.load("attention a { mask k <= q and q - k < 64 weight dot(relu(Q), relu(K)) / sum }")
    assert "runs as: tiles of pairs\nbecause: the mask also asks q - k < 64" in band.explain(L=4096)
    assert "runs as" not in attndsl.load("attention a { mask k <= q }").explain(L=4096)
