"""Code for the CPU: a module of small functions, one per clause, that a tile executor calls."""

from __future__ import annotations

from dataclasses import dataclass, replace

from attndsl.codegen.expr_torch import Body, is_host, pair_vectors
from attndsl.codegen.names import Function
from attndsl.codegen.templates import render
from attndsl.ir.attention import Attention
from attndsl.ir.expr import SCORE, TRUE, Expr, Literal, Load, Op, Value, mentions, number, op, rewrite
from attndsl.ir.free import column_only, depends, k_side, q_side, row_only

UNIT = number(1.0)
ZERO = number(0.0)


@dataclass(frozen=True)
class CpuModule:
    """The generated functions of an attention and what an executor must know about them.

    `mask`, `score`, `weight`, `output` are None where the clause is the default. `slope` and `bias` exist where the
    score is slope * s + bias with neither depending on s; `common` are the parts of the bias that all batches and heads
    share, its arguments `common0`, ... `logit` gives the exponent that lse sums.
    `may_be_infinite`: a visible score can be -inf. `wide`: a vector per pair must be written out.
    """

    source: str
    mask: Function | None
    score: Function | None
    slope: Function | None
    bias: Function | None
    common: tuple[Function, ...]
    weight: Function | None
    logit: Function | None
    output: Function | None
    may_be_infinite: bool
    wide: bool

    @property
    def functions(self) -> tuple[Function, ...]:
        every = (self.mask, self.score, self.slope, *self.common, self.bias, self.weight, self.logit, self.output)
        return tuple(f for f in every if f is not None)


def generate(attention: Attention) -> CpuModule:
    """The module of an attention whose consts are bound."""
    a = attention
    affine = affine_in_score(a.score) if a.weight is None else None
    slope = affine[0] if affine is not None and affine[0] != UNIT else None
    bias = affine[1] if affine is not None and affine[1] != ZERO else None
    shared: list[Expr] = [] if bias is None else shared_parts(bias)
    common = [_function(f"common{i}", "A part of the bias that all heads share.", e) for i, e in enumerate(shared)]
    if bias is not None:
        names = {e: Value(e.type, f"common{i}") for i, e in enumerate(shared)}  # pyright: ignore[reportArgumentType]
        bias = rewrite(bias, names.get)
    exponent = None if a.weight is None else logit_of(a.weight)
    made = {
        "mask": _function("mask", "Whether q sees k.", None if a.mask == TRUE else a.mask),
        "score": _function("score", "The score from the scaled dot product s.", None if a.score == SCORE else a.score),
        "slope": _function("slope", "What the score multiplies s by.", slope),
        "bias": _function("bias", "What the score adds to that.", bias),
        "weight": _function("weight", "The weight of a pair from its score s.", a.weight, scaled=True),
        "logit": _function("logit", "The exponent whose exponentials lse sums.", exponent),
        "output": _function("output", "The output from the weighted sum of values o.", a.output),
    }
    shares = tuple(f for f in common if f is not None)
    module = CpuModule(
        source="",
        common=shares,
        may_be_infinite=_may_be_infinite(a.score),
        wide=any(e is not None and pair_vectors(e) for e in (a.score, a.weight)),
        **made,
    )
    return replace(module, source=render("cpu/attention.py.j2", title=title(a), functions=module.functions))


def title(attention: Attention) -> list[str]:
    """The attention, printed, as the lines of a comment."""
    from attndsl.ir.printer import print_attention

    return print_attention(attention).splitlines()


def _function(name: str, doc: str, expr: Expr | None, scaled: bool = False) -> Function | None:
    if expr is None:
        return None
    body = Body("x", scaled=scaled).add(expr)
    return Function(name, doc, tuple(body.arguments.values()), tuple(body.lines), body.results[0])


def _may_be_infinite(score: Expr) -> bool:
    def test(node: Expr) -> bool:
        is_tensor = isinstance(node, Load) and node.type.kind == "float"
        is_inf = isinstance(node, Literal) and abs(float(node.value)) == float("inf")
        unbounded = isinstance(node, Op) and (
            node.op in ("log", "pow", "exp") or (node.op == "div" and not is_host(node.args[1]))
        )
        return is_tensor or is_inf or unbounded

    return mentions(score, test)


def _free_of_score(e: Expr) -> bool:
    return not mentions(e, lambda n: isinstance(n, Value) and n.name == "s")


def affine_in_score(e: Expr) -> tuple[Expr, Expr] | None:
    """(slope, bias) with e = slope * s + bias, neither depending on s; None where there are none."""
    if e == SCORE:
        return UNIT, ZERO
    if _free_of_score(e):
        return ZERO, e
    if not isinstance(e, Op):
        return None
    parts = [affine_in_score(a) for a in e.args]
    if e.op == "neg" and parts[0] is not None:
        return _negated(parts[0][0]), _negated(parts[0][1])
    if e.op in ("add", "sub") and parts[0] is not None and parts[1] is not None:
        (a, c), (b, d) = parts[0], parts[1]
        return _joined(e.op, a, b), _joined(e.op, c, d)
    if e.op == "mul":
        for x, other in ((0, 1), (1, 0)):
            part = parts[x]
            if part is not None and _free_of_score(e.args[other]):
                return _scaled(part[0], e.args[other]), _scaled(part[1], e.args[other])
    if e.op == "div" and parts[0] is not None and _free_of_score(e.args[1]):
        a, c = parts[0]
        return op("div", a, e.args[1]), ZERO if c == ZERO else op("div", c, e.args[1])
    return None


def _negated(e: Expr) -> Expr:
    """-e, with the sign on a factor that is not a property of the pair."""
    if e == ZERO:
        return e
    if isinstance(e, Op) and e.op == "mul":
        a, b = e.args
        if row_only(a) or column_only(a):
            return op("mul", _negated(a), b)
        if row_only(b) or column_only(b):
            return op("mul", a, _negated(b))
    return e.args[0] if isinstance(e, Op) and e.op == "neg" else op("neg", e)


def shared_parts(bias: Expr) -> list[Expr]:
    """The largest parts that vary with the pair and are the same for all batches and heads."""
    found: dict[Expr, None] = {}
    stack = [bias]
    while stack:
        e = stack.pop()
        own = {d for d in depends(e) if d in ("b", "h", "hkv", "s", "sum", "count", "decay") or d.startswith("@")}
        if q_side(e) and k_side(e) and not own and e.type.is_number and e.type.kind == "float":
            found[e] = None
        else:
            stack.extend(e.children)
    return list(found)


def _joined(name: str, a: Expr, b: Expr) -> Expr:
    if b == ZERO:
        return a
    if a == ZERO:
        return b if name == "add" else _negated(b)
    return op(name, a, b)


def _scaled(e: Expr, by: Expr) -> Expr:
    return ZERO if e == ZERO else by if e == UNIT else op("mul", e, by)


def logit_of(weight: Expr) -> Expr | None:
    """The sum of the exponents, depending on s, of the weight's exponential factors; None without one."""
    terms = _exponents(weight)
    if not terms:
        return None
    total = terms[0]
    for t in terms[1:]:
        total = op("add", total, t)
    return total


def _exponents(e: Expr) -> list[Expr]:
    match e:
        case Op(op="exp"):
            return [] if _free_of_score(e.args[0]) else [e.args[0]]
        case Op(op="mul"):
            return _exponents(e.args[0]) + _exponents(e.args[1])
        case Op(op="neg" | "div"):
            return _exponents(e.args[0])
        case _:
            return []
