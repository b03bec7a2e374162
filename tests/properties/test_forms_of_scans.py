"""A random feature map, decay and normaliser: the dense definition, chunks and single steps agree."""

from __future__ import annotations

import torch
from hypothesis import given, seed
from hypothesis import strategies as st

from attndsl.schedule.legalise import scan_form
from tests.drawing import SEED, drawn
from tests.runtime.scan_cases import ScanCase

MAPS = (
    "elu1({x})", "relu2({x}) + 0.01", "exp(0.5 * {x})", "exp_shifted({x})", "softmax({x})", "positive({x})",
    "focused({x})", "{x}",
    "hedgehog({x}, W[h])", "t2r({x}, W[h], c[h]) + 0.01", "performer({x}, W[h], D, M)", "taylor({x}, D)",
    "square({x})", "dpfp({x}, 1) + 0.01", "cosformer({x}, {p}, 512) + 0.01", "norm_aware({x}, 2.0)",
)  # fmt: skip
DECAYS = (
    "", "* gamma[h]^(q - k)", "* exp(-0.1 * (q - k))", "* decay(g)", "* decay(g) * gamma[h]^(q - k)", "* u[b, h, k]",
)  # fmt: skip
BELOW = ("", " / sum", " / (abs(sum) + 1)", " / max(abs(sum), 1)", " / count", " / sum(dot(exp(Q), exp(K)) {decay})")
MASKS = {
    "mask k <= q": "scan",
    "mask k < q": "scan",
    "mask k <= q and doc[b, q] == doc[b, k]": "scan",
    "mask q // 48 == k // 48 and k <= q": "scan",
    "": "reduction",
    "mask doc[b, q] == doc[b, k]": "both",
}
PARAMS = {
    "W": "input W: f32[H, D, M]", "c": "input c: f32[H, M]", "gamma": "input gamma: f32[H]",
    "g": "input g: f32[B, H, L] log_decay", "u": "input u: f32[B, H, L]", "doc": "input doc: i32[B, L] sorted",
}  # fmt: skip
LIBRARY = (
    "elu1, relu2, exp_shifted, positive, focused, hedgehog, t2r, performer, taylor, square, dpfp, cosformer, norm_aware"
)


@st.composite
def specs(draw: st.DrawFn) -> tuple[str, str]:
    """A text and the form that it has."""
    mask = draw(st.sampled_from(list(MASKS)))
    kind = MASKS[mask]
    decay = draw(st.sampled_from(DECAYS)) if kind == "scan" else draw(st.sampled_from(("", "* u[b, h, k]")))
    below = draw(st.sampled_from(BELOW)).format(decay=decay)
    if "count" in below and ("doc" in mask or "//" in mask):
        below = " / (abs(sum) + 1)"
    if "sum(dot" in below and "u[" in decay:
        below = " / (abs(sum) + 1)"
    name = draw(st.sampled_from(MAPS))
    if below == " / sum" and (name in ("{x}", "square({x})", "norm_aware({x}, 2.0)") or "u[" in decay):
        # a sum near 0 has no accurate quotient in any order
        below = " / (abs(sum) + 1)"
    if "cosformer" in name and below == " / sum":
        below = " / (abs(sum) + 1)"
    weight = f"dot({name.format(x='Q', p='q')}, {name.format(x='K', p='k')}) {decay}{below}"
    output = draw(st.sampled_from(("", "output o * sigmoid(u[b, h, q])")))
    text = f"{mask} weight {weight} {output}"
    used = [p for n, p in PARAMS.items() if (f"{n}[" in text or f"decay({n})" in text)]
    return f"use features ({LIBRARY})\nattention a({', '.join(used)}) {{ {text} }}", kind


@seed(SEED)
@drawn(20)
@given(
    spec=specs(),
    length=st.sampled_from((1, 2, 17, 63, 64, 65, 127, 129)),
    heads=st.sampled_from(((1, 1), (4, 2), (3, 1))),
    sizes=st.sampled_from(((4, 4), (3, 5), (6, 2))),
    dtype=st.sampled_from((torch.float32, torch.float32, torch.bfloat16)),
    number=st.integers(0, 1000),
    data=st.data(),
)
def test_three_forms_agree(
    spec: tuple[str, str],
    length: int,
    heads: tuple[int, int],
    sizes: tuple[int, int],
    dtype: torch.dtype,
    number: int,
    data: st.DataObject,
) -> None:
    text, kind = spec
    made = ScanCase(text, B=1, H=heads[0], Hkv=heads[1], Lq=length, D=sizes[0], Dv=sizes[1], dtype=dtype, seed=number)
    made.check(kind)
    form = scan_form(made.function.simplified).form
    assert form is not None
    if form.stateless is None:
        cuts = sorted(data.draw(st.sets(st.integers(1, max(1, length - 1)), max_size=4))) if length > 1 else []
        made.compare(made.pieces(cuts))
        if length <= 17:
            made.compare(made.pieces(list(range(1, length))))
