"""What the CPU code of an attention looks like."""

from __future__ import annotations

import pytest

from attndsl.codegen.cpu import generate
from attndsl.codegen.expr_torch import Body, mangle
from attndsl.codegen.whitelist import check_generated
from attndsl.frontend.compile import compile_text
from attndsl.ir.attention import Attention
from attndsl.ir.expr import Index, Value, number, op
from attndsl.ir.types import FLOAT, INT

Q, K = Index(INT, "q"), Index(INT, "k")


def attention(text: str) -> Attention:
    return compile_text("attention a" + text)[0]


def test_the_module_is_readable() -> None:
    source = generate(attention("(scalar w: int = 4) { mask k <= q and q - k < w }")).source
    assert (
        'def mask(k, q, scalar_w):\n    """Whether q sees k."""\n    return (k <= q) & ((q - k) < scalar_w)\n' in source
    )
    assert source.startswith("# Generated for the CPU backend")
    assert "score" not in source.split("def mask", 1)[1]


def test_a_shared_part_is_computed_once() -> None:
    d = op("sub", Q, K)
    body = Body("x").add(op("and", op("ge", d, op("neg", d)), op("le", d, Q)))
    assert body.lines == ["x0 = q - k"]
    assert body.results == ["(x0 >= (-x0)) & (x0 <= q)"]


def test_exponentials_in_a_quotient_leave_no_shift() -> None:
    source = generate(attention("{ weight exp(s) / sum }")).source
    assert "exp_below(s, x0, alive)" in source
    assert "return quotient(x1, x2)" in source


def test_exponentials_are_aligned_with_a_sink() -> None:
    source = generate(attention("(input z: f32[H]) { weight exp(s) / (exp(z[h]) + sum) }")).source
    assert "maximum(" in source


def test_only_wild_operations_are_strict() -> None:
    tame = generate(attention("(scalar c: float = 2) { score tanh(s / c) * c + s * s }")).source
    assert "strict" not in tame
    wild = generate(attention("{ score s * log(q - k) mask k < q }")).source
    assert "strict_log(" in wild
    assert "strict_multiply(" in wild


def test_affine_scores_have_a_slope_and_a_bias() -> None:
    def parts(text: str) -> tuple[bool, bool]:
        module = generate(attention("(input t: f32[H]) { score " + text + " }"))
        return module.slope is not None, module.bias is not None

    assert parts("s") == (False, False)
    assert parts("s - (q - k)") == (False, True)
    assert parts("s * (q - k)") == (True, False)
    assert parts("t[h] - s") == (True, True)
    assert parts("t[h] * k") == (True, True)
    assert parts("tanh(s)") == (False, False)
    assert parts("s * s") == (False, False)


def test_heads_share_the_distance_of_alibi() -> None:
    module = generate(attention("(input slope: f32[H]) { score s - slope[h] * (q - k) }"))
    assert len(module.common) == 1
    assert "return gap(q, k)" in module.source
    assert "(-load(input_slope, h)) * common0" in module.source


@pytest.mark.parametrize("name", ["a\nimport os", "x; y", "é", "a.b"])
def test_names_are_mangled(name: str) -> None:
    assert ("x" + mangle(name)).isidentifier()
    assert ("x" + mangle(name)).isascii()


def test_generated_modules_pass_the_whitelist() -> None:
    from attndsl.runtime.cpu.support import FUNCTIONS

    texts = [
        "(input g: f32[B, Hkv, L, D] log_decay) { mask k <= q weight dot(Q, K * decay(g)) }",
        "(input t: f32[H, L]) { score if t[h, k] > 0 then s else -inf output o * t[h, q] }",
        "{ grid v(y, x) mask abs(q.y - k.y) < 3 and q in v weight relu(s - mean(s))^2 / count }",
    ]
    for text in texts:
        check_generated(generate(attention(text)).source, {*FUNCTIONS, "to_float", "gap"}, {"inf"})


def test_values_are_arguments() -> None:
    body = Body("x").add(op("mul", Value(FLOAT, "s"), number(2.0)))
    assert list(body.arguments) == ["s"]


def test_every_strict_operation_has_its_function() -> None:
    from attndsl.codegen.expr_torch import CALLS, STRICT
    from attndsl.runtime.cpu.support import FUNCTIONS

    assert {f"strict_{CALLS.get(name, 'multiply')}" for name in STRICT} <= FUNCTIONS.keys()


def test_atan2_in_a_score_runs_with_gradients() -> None:
    import torch

    import attndsl
    from attndsl.reference import reference

    f = attndsl.load("attention a { mask k <= q score atan2(s, q - k + 1) }")
    q, k, v = (torch.randn(1, 2, 9, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    out = f(q, k, v)
    exact, _ = reference(f.attention, q, k, v)
    torch.testing.assert_close(out, exact)
    found = torch.autograd.grad(out.sin().sum(), (q, k, v))
    for a, b in zip(found, torch.autograd.grad(exact.sin().sum(), (q, k, v)), strict=True):
        torch.testing.assert_close(a, b)
