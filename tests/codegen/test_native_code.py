"""What is written in C, what torch computes for it, and what has no C code."""

from __future__ import annotations

import re

import pytest

from attndsl.codegen.cpu import cpu_way, generate
from attndsl.codegen.expr_c import literal
from attndsl.codegen.native import NativeModule
from attndsl.frontend.compile import compile_text
from attndsl.ir.attention import Attention
from attndsl.ir.expr import Literal, integer, number
from attndsl.ir.simplify import simplify
from attndsl.ir.types import FLOAT


def attention(text: str) -> Attention:
    return simplify(compile_text("attention a" + text)[0])


def native(text: str) -> NativeModule:
    found = generate(attention(text)).native
    assert isinstance(found, NativeModule), found
    return found


def test_torch_computes_what_a_row_or_a_key_decides() -> None:
    module = native("(input slope: f32[H], input c: f32[H, L]) { score s - slope[h] * (q - k) + log(c[h, k] + 1) }")
    assert [(x.span, str(x.kind)) for x in module.leaves] == [
        ("row", "float"), ("row", "int"), ("column", "int"), ("column", "float"),
    ]  # fmt: skip
    assert [x.span for x in module.differentiated] == ["row", "column"]
    assert not module.backward_gap
    source = module.source(wide=False)
    assert "typedef int32_t whole;" in source
    assert "typedef int64_t whole;" in module.source(wide=True)
    assert "logf" not in source.split("forward_row", 1)[1].split("backward_row", 1)[0]


def test_what_has_no_vector_code_is_a_number_of_the_pair() -> None:
    module = native("(input t: f32[H, 9]) { score s + t[h, clamp(q - k, 0, 8)] * cos(q - k) }")
    assert {x.span for x in module.leaves} == {"pair"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{ score sin(s) }", "torch operations: sin of a score is not in C"),
        ("{ weight relu(s)^2 / count }", "torch operations: its weight is not softmax"),
        ("{ mask k <= q }", "torch's flash kernel (compiled C where Dv != D)"),
        ("{ score 3 * tanh(s) }", "compiled C in large calls, torch operations in small ones"),
        (
            "(input z: f32[H]) { score s - (q - k) weight exp(s) / (exp(z[h]) + sum) }",
            "compiled C in large calls, torch operations in small ones; torch's flash kernel in fp16 and bf16",
        ),
        (
            "{ score log(1 + s^2) }",
            "compiled C in large calls, torch operations in small ones; its backward in torch operations: "
            "a derivative of its score can be infinite",
        ),
        ("{ mask k <= q weight dot(Q, K) }", "a chunked scan of torch operations"),
    ],
)
def test_it_says_what_runs(text: str, words: str) -> None:
    assert cpu_way(attention(text)) == words


def test_nothing_that_a_user_wrote_is_in_it() -> None:
    text = (
        "(const w: int = 4, scalar float_: float = 2, input int32_t: f32[H], input memcpy: i32[L]) {"
        ' require w > 0, "*/ #include </etc/passwd> /*"'
        " score tanh(s / float_) + int32_t[h] mask memcpy[q] == memcpy[k] and q - k < w }"
    )
    source = native(text).source(wide=False)
    for word in ("passwd", "float_ ", "int32_t[h", "memcpy[", "*/ #"):
        assert word not in source
    plain = native("{ score tanh(s) }").source(wide=False)
    elementary = plain[: plain.index("static void forward_row")]
    assert source.startswith(elementary[: elementary.index("typedef struct")])
    names = set(re.findall(r"[A-Za-z_]\w*", source)) - set(re.findall(r"[A-Za-z_]\w*", plain))
    assert all(re.fullmatch(r"[rcpt]\d+|g_[rcp]\d+|range|visible|f|whole", n) for n in names), names


def test_numbers() -> None:
    assert literal(number(0.1)) == "0.10000000149011612f"
    assert literal(number(-2.0)) == "(-2.0f)"
    assert literal(number(1e300)) == "INFINITY"
    assert literal(Literal(FLOAT, float("-inf"))) == "(-INFINITY)"
    assert literal(integer(-7)) == "((whole)-7)"
