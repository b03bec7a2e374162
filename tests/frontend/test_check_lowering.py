"""What programs lower to, compared with IR that is built by hand."""

import pytest

from attndsl.frontend.compile import compile_text
from attndsl.ir.attention import Attention, Const, Input, Scalar
from attndsl.ir.expr import (
    SCORE,
    TRUE,
    Coord,
    Count,
    Decay,
    Expr,
    Extent,
    Index,
    Literal,
    Load,
    Member,
    ParamRef,
    Reduce,
    Size,
    Value,
    integer,
    number,
    op,
)  # fmt: skip
from attndsl.ir.types import BOOL, FLOAT, INT, Kind, Type
from attndsl.ir.verify import verify

q, k, h, b, hkv, row = (Index(INT, n) for n in ("q", "k", "h", "b", "hkv", "row"))
Q = Load(Type(Kind.FLOAT, ("D",)), "Q", (b, h, row))
K = Load(Type(Kind.FLOAT, ("D",)), "K", (b, hkv, k))


def one(text: str) -> Attention:
    (made,) = compile_text(text)
    verify(made)
    return made


def mask(text: str, head: str = "") -> Expr:
    return one(f"attention a{head} {{ {text} }}").mask


def weight(text: str, head: str = "") -> Expr:
    found = one(f"attention a{head} {{ weight {text} }}").weight
    assert found is not None
    return found


def score(text: str, head: str = "") -> Expr:
    return one(f"attention a{head} {{ {text} }}").score


def test_alibi_window():
    made = one("""
        attention alibi_window(const window: int = 8, scalar strength: float = 1.0, input slope: f32[H]) {
            let d = q - k
            score s - strength * slope[h] * d
            mask k <= q and d < window
            weight softmax
        }""")
    d = op("sub", q, k)
    penalty = op("mul", op("mul", ParamRef(FLOAT, "strength"), Load(FLOAT, "slope", (h,))), op("to_float", d))
    assert made == Attention(
        "alibi_window",
        (
            Const("window", Kind.INT, None, 8),
            Scalar("strength", Kind.FLOAT, 1.0),
            Input("slope", "f32", (Size(INT, "H"),)),
        ),
        mask=op("and", op("le", k, q), op("lt", d, ParamRef(INT, "window"))),
        score=op("sub", SCORE, penalty),
    )


def test_defaults():
    made = one("attention a {}")
    assert (made.mask, made.score, made.weight, made.output) == (TRUE, SCORE, None, None)


def test_masks_are_joined_and_scores_compose():
    made = one("attention a { score s + 1   mask k <= q   score s * s   mask k > 3 }")
    raised = op("add", SCORE, number(1))
    assert made.score == op("mul", raised, raised)
    assert made.mask == op("and", op("le", k, q), op("gt", k, integer(3)))


def test_let_binds_the_score_so_far():
    assert score("let x = s  score s + 1  score s * x") == op("mul", op("add", SCORE, number(1)), SCORE)


def test_weight_over_an_earlier_score_takes_the_dot_product_as_s():
    made = one("attention a { let raw = s  score tanh(s)  weight exp(s) * raw }")
    assert made.score == SCORE
    assert made.weight == op("mul", op("exp", op("tanh", SCORE)), SCORE)


def test_weight_over_the_final_score():
    made = one("attention a { score tanh(s)  let e = exp(s)  weight e / sum }")
    assert made.score == op("tanh", SCORE)
    assert made.weight == op("div", op("exp", SCORE), Reduce(FLOAT, "sum", op("exp", SCORE)))


def test_bare_sum_takes_the_nearest_quotient():
    e = op("exp", SCORE)
    assert weight("exp(s) / (2 / sum)").args[1] == op("div", number(2), op("to_float", Reduce(INT, "sum", integer(2))))
    assert weight("exp(s) * 3 / (1 + sum)") == op(
        "div", op("mul", e, number(3)), op("add", number(1), Reduce(FLOAT, "sum", op("mul", e, number(3))))
    )


def test_count_is_an_int_and_a_quotient_a_float():
    assert weight("relu(s)^2 / count") == op("div", op("pow", op("relu", SCORE), number(2)), op("to_float", Count(INT)))


def test_reductions_of_bools_count():
    assert weight("1 / sum(s > 0)").args[1] == op(
        "to_float", Reduce(INT, "sum", op("to_int", op("gt", SCORE, number(0))))
    )
    assert weight("mean(k)") == Reduce(FLOAT, "mean", op("to_float", k))


def test_vectors_and_gates():
    made = one("attention a(input g: f32[B, H, Lq]) { output o * sigmoid(g[b, h, q]) }")
    o = Value(Type(Kind.FLOAT, ("Dv",)), "o")
    assert made.output == op("mul", o, op("sigmoid", Load(FLOAT, "g", (b, h, row))))
    assert weight("dot(Q, K)") == op("dot", Q, K)
    assert weight("dot(Q[b, h, q], K[b, hkv, k - 1])") == op(
        "dot", Q, Load(Type(Kind.FLOAT, ("D",)), "K", (b, hkv, op("sub", k, integer(1))))
    )


def test_decay():
    g = "(input g: f32[B, Hkv, L, D] log_decay)"
    assert weight("dot(Q, K * decay(g))", g) == op(
        "dot", Q, op("mul", K, Decay(Type(Kind.FLOAT, ("D",)), "g", (b, hkv)))
    )
    assert weight("decay(u)", "(input u: f32[B, H, L] log_decay)") == Decay(FLOAT, "u", (b, h))


def test_feature_sees_parameters():
    made = one("""attention a(input W: f32[H, D, M]) {
        feature phi(x) { let y = x @ W[h]  return concat(softmax(y), softmax(-y)) }
        weight dot(phi(Q), phi(K)) / sum }""")
    W = Load(Type(Kind.FLOAT, ("D", "M")), "W", (h,))
    sides = [op("matmul", x, W) for x in (Q, K)]
    both = [op("concat", op("vsoftmax", y), op("vsoftmax", op("neg", y))) for y in sides]
    assert both[0].type == Type(Kind.FLOAT, ("(M+M)",))
    product = op("dot", *both)
    assert made.weight == op("div", product, Reduce(FLOAT, "sum", product))


def test_tuples_map_and_broadcast():
    head = "(const w: int[2] = 3)"
    found = mask("grid video(y, x)  mask all(abs(q.video - k.video) < w)", head)
    parts = [
        op("lt", op("abs", op("sub", Coord(INT, "q", "video", a), Coord(INT, "k", "video", a))), ParamRef(INT, "w", i))
        for i, a in enumerate("yx")
    ]
    assert found == op("and", *parts)
    assert one(f"attention a{head} {{}}").consts[0].default == (3, 3)
    assert mask("grid video(y, x)  mask any(q.video == 0)") == op(
        "or", *(op("eq", Coord(INT, "q", "video", a), integer(0)) for a in "yx")
    )


def test_functions_map_over_tuples():
    text = "fn near(i, j, n) = if j then i < n else i == n\n"
    (made,) = compile_text(text + "attention a { grid g(y, x)  mask all(near(q.g, (true, false), size(g))) }")
    y, x = (Coord(INT, "q", "g", a) for a in "yx")
    ny, nx = (Extent(INT, "q", "g", a) for a in "yx")
    parts = [
        op("select", Literal(BOOL, v), op("lt", c, n), op("eq", c, n)) for v, c, n in ((True, y, ny), (False, x, nx))
    ]
    assert made.mask == op("and", *parts)


def test_grids():
    assert mask("grid text(m) ++ video(t, x)  mask q in text and k not in video or q.t < size(t)") == op(
        "or",
        op("and", Member(BOOL, "q", "text"), op("not", Member(BOOL, "k", "video"))),
        op("lt", Coord(INT, "q", "video", "t"), Extent(INT, "q", "video", "t")),
    )
    assert mask("grid q (y, x)  grid k (v, u)  mask q.y < size(v)") == op(
        "lt", Coord(INT, "q", "", "y"), Extent(INT, "k", "", "v")
    )
    assert mask("grid text(m)  mask q.text < size(text)") == op(
        "lt", Coord(INT, "q", "text", "m"), Extent(INT, "q", "text", "m")
    )
    assert mask("grid (y, x)  mask all(size(q) == (4, 5))").args[1] == op("eq", Extent(INT, "q", "", "x"), integer(5))


def test_spaces():
    shared = one("attention a { grid text(m) ++ video(t, x) }")
    assert shared.shared and shared.q_space == shared.k_space and shared.q_space is not None
    assert [s.name for s in shared.q_space.segments] == ["text", "video"]
    split = one("attention a { grid q (y)  grid k (v) }")
    assert not split.shared and split.q_space != split.k_space
    half = one("attention a { grid k (v)  mask k.v > 0 }")
    assert half.q_space is None and half.k_space is not None


def test_sizes_of_inputs():
    made = one("attention a(const w: int = 4, input t: f32[H, 2 * w - 1], input u: f32[M, D]) { score s + M + H }")
    w, M = ParamRef(INT, "w"), Size(INT, "M")
    assert made.inputs[0].shape == (Size(INT, "H"), op("sub", op("mul", integer(2), w), integer(1)))
    assert made.inputs[1].shape == (M, Size(INT, "D"))
    assert made.score == op("add", op("add", SCORE, op("to_float", M)), op("to_float", Size(INT, "H")))


def test_tables():
    head = "(const t: float[4] = (1, 2, 3, 4))"
    assert score("score s * t[h] + t[2]", head) == op(
        "add", op("mul", SCORE, Load(FLOAT, "t", (h,))), ParamRef(FLOAT, "t", 2)
    )


def test_whole_tensors():
    head = "(input W: f32[D, M], input u: f32[M])"
    found = score("score s + dot(Q @ W, u)", head)
    assert found == op("add", SCORE, op("dot", op("matmul", Q, Load(Type(Kind.FLOAT, ("D", "M")), "W", ())),
                                        Load(Type(Kind.FLOAT, ("M",)), "u", ())))  # fmt: skip
    assert score("score s * c", "(input c: f32)") == op("mul", SCORE, Load(FLOAT, "c", ()))


def test_kinds():
    assert mask("mask q ^ 2 < 3 ^ 2") == op("lt", op("pow", q, integer(2)), integer(9))
    assert score("score s + 2 ^ q") == op("add", SCORE, op("pow", number(2), op("to_float", q)))
    assert score("score -3 + s") == op("add", number(-3), SCORE)
    assert mask("mask floor(q / 2) == k") == op("eq", op("floor", op("div", op("to_float", q), number(2))), k)
    assert mask("mask floor(q) == k") == op("eq", q, k)
    assert mask("mask clamp(q, 1, 5) == k") == op("eq", op("min", op("max", q, integer(1)), integer(5)), k)
    assert mask("mask min(q, 1, 5) == k") == op("eq", op("min", op("min", q, integer(1)), integer(5)), k)
    assert score("score s + abs(q - k) + relu(1) + sign(q)").type == FLOAT
    assert mask("mask (q < k) == (k < 3)") == op("eq", op("lt", q, k), op("lt", k, integer(3)))
    assert score("score k") == op("to_float", k)
    assert mask("mask 0 <= q - k < 8") == op(
        "and", op("le", integer(0), op("sub", q, k)), op("lt", op("sub", q, k), integer(8))
    )


def test_requires():
    made = one('attention a(const w: int = 4) { grid g(y)  require w <= size(y) and w < H, "w fits" }')
    (need,) = made.requires
    assert need.message == "w fits"
    assert need.condition == op(
        "and", op("le", ParamRef(INT, "w"), Extent(INT, "q", "g", "y")), op("lt", ParamRef(INT, "w"), Size(INT, "H"))
    )


@pytest.mark.parametrize("fact", ["sorted", "permutation", "log_decay"])
def test_facts(fact: str):
    dtype = "f32" if fact == "log_decay" else "i32"
    assert one(f"attention a(input x: {dtype}[B, L] {fact}) {{}}").inputs[0].facts == {fact}


def test_shared_parts_are_one_object():
    made = one("fn f(x) = x * x + x\nattention a { mask f(f(f(f(q)))) < f(f(f(f(q)))) }")
    assert isinstance(made.mask.children[0], Expr) and made.mask.children[0] is made.mask.children[1]


def test_spans_point_at_the_users_text():
    text = "use masks (causal)\nattention a { mask causal(q, k) }"
    (made,) = compile_text(text)
    assert made.mask.span.text == "causal(q, k)"
