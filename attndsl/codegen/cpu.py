"""Code for the CPU: a module of small functions, one per clause, that a tile executor calls."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from attndsl.codegen.cpu_scan import ScanFunctions, scan_functions
from attndsl.codegen.expr_torch import Body, is_host, pair_vectors
from attndsl.codegen.names import Function
from attndsl.codegen.native import NativeModule, native_module
from attndsl.codegen.templates import render, title
from attndsl.ir.attention import Attention
from attndsl.ir.build import ONE, ZERO
from attndsl.ir.expr import SCORE, TRUE, Expr, Literal, Load, Op, Value, mentions, number, op, rewrite
from attndsl.ir.forms import affine
from attndsl.ir.free import column_only, depends, k_side, q_side, row_only
from attndsl.ir.weights import Exponential, WeightForm, weight_form
from attndsl.schedule.legalise import scan_form


@dataclass(frozen=True)
class CpuModule:
    """The generated functions of an attention and what an executor must know about them.

    `mask`, `score`, `weight`, `output` are None where the clause is the default. `slope` and `bias` exist where the
    score is slope * s + bias with neither depending on s; `common` are the parts of the bias that all batches and heads
    share, its arguments `common0`, ... `logit` gives the exponent that lse sums. `sink` exists where the weight is
    exp(s) / (exp(sink) + sum).
    `may_be_infinite`: a visible score can be -inf. `wide`: a vector per pair must be written out. `scan` is there where
    the weight is one of features that a scan can follow. `native` is the C code of softmax (with or without a sink), or
    why there is none.
    """

    source: str
    mask: Function | None
    score: Function | None
    slope: Function | None
    bias: Function | None
    common: tuple[Function, ...]
    weight: Function | None
    logit: Function | None
    sink: Function | None
    output: Function | None
    may_be_infinite: bool
    wide: bool
    scan: ScanFunctions | None = None
    native: NativeModule | str = ""

    @property
    def functions(self) -> tuple[Function, ...]:
        every = (self.mask, self.score, self.slope, *self.common, self.bias, self.weight, self.logit, self.sink)
        every = (*every, self.output, *(() if self.scan is None else self.scan.functions))
        every = (*every, *(() if isinstance(self.native, str) else self.native.functions))
        return tuple(f for f in every if f is not None)

    @property
    def of_scan(self) -> CpuModule:
        """The part that a scan needs."""
        nothing = dict.fromkeys(("mask", "score", "slope", "bias", "weight", "logit", "sink", "output"))
        return replace(self, common=(), native="", **nothing)  # type: ignore[arg-type]


def generate(attention: Attention) -> CpuModule:
    """The module of an attention whose consts are bound."""
    a = attention
    form = weight_form(a)
    sink = _sink(form)
    parts = affine(a.score) if a.weight is None or sink is not None else None
    slope, bias = (None, None) if parts is None else parts
    slope = None if slope == ONE else ZERO if slope is None and parts is not None else slope
    bias = None if bias is None else _with_inner_signs(bias)
    shared: list[Expr] = [] if bias is None else shared_parts(bias)
    common = [_function(f"common{i}", "A part of the bias that all heads share.", e) for i, e in enumerate(shared)]
    if bias is not None:
        names = {e: Value(e.type, f"common{i}") for i, e in enumerate(shared)}  # pyright: ignore[reportArgumentType]
        bias = rewrite(bias, names.get)
    made = {
        "mask": _function("mask", "Whether q sees k.", None if a.mask == TRUE else a.mask),
        "score": _function("score", "The score from the scaled dot product s.", None if a.score == SCORE else a.score),
        "slope": _function("slope", "What the score multiplies s by.", slope),
        "bias": _function("bias", "What the score adds to that.", bias),
        "weight": _function("weight", "The weight of a pair from its score s.", a.weight, scaled=True),
        "logit": _function(
            "logit", "The exponent whose exponentials lse sums.", None if a.weight is None else form.logit
        ),
        "sink": _function("sink", "The logarithm of what the denominator adds to its sum.", sink),
        "output": _function("output", "The output from the weighted sum of values o.", a.output),
    }
    shares = tuple(f for f in common if f is not None)
    found = scan_form(a).form
    module = CpuModule(
        source="",
        scan=None if found is None else scan_functions(found),
        common=shares,
        may_be_infinite=_may_be_infinite(a.score),
        wide=any(e is not None and pair_vectors(e) for e in (a.score, a.weight)),
        native=_native(a, sink),
        **made,
    )
    return replace(module, source=render("cpu/attention.py.j2", title=title(a), functions=module.functions))


def cpu_way(attention: Attention) -> str:
    """What computes scores and weights of an attention on the CPU, in words."""
    if scan_form(attention).form is not None:
        return "a chunked scan of torch operations"
    form = weight_form(attention)
    sink = _sink(form)
    softmax = attention.weight is None or sink is not None
    if softmax and attention.score == SCORE:
        return "torch's flash kernel (compiled C where Dv != D)"
    native = _native(attention, sink)
    if isinstance(native, str):
        return f"torch operations: {native}"
    backward = f"; its backward in torch operations: {native.backward_gap}" if native.backward_gap else ""
    narrow = "; torch's flash kernel in fp16 and bf16" if affine(attention.score) is not None else ""
    return f"compiled C in large calls, torch operations in small ones{narrow}{backward}"


def _native(a: Attention, sink: Expr | None) -> NativeModule | str:
    if a.weight is not None and sink is None:
        return "its weight is not softmax"
    return native_module(a.score, a.mask, sink)


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


def _with_inner_signs(bias: Expr) -> Expr:
    """The same with the sign of a product on a factor that is not a property of the pair."""
    return rewrite(bias, lambda e: _inner_sign(e.args[0]) if isinstance(e, Op) and e.op == "neg" else None)


def _inner_sign(e: Expr) -> Expr | None:
    """-e for a product of which one factor is no property of the pair."""
    if isinstance(e, Op) and e.op == "mul":
        a, b = e.args
        if row_only(a) or column_only(a):
            return op("mul", op("neg", a), b)
        if row_only(b) or column_only(b):
            return op("mul", a, op("neg", b))
    return None


def _sink(form: WeightForm) -> Expr | None:
    """x where the weight is exp(s) / (exp(x) + sum)."""
    if not isinstance(form, Exponential) or form.kind != "sum and constant":
        return None
    if form.amplitude is not None or form.logit != SCORE:
        return None
    extra = form.extra
    if isinstance(extra, Op) and extra.op == "exp":
        return extra.args[0]
    if isinstance(extra, Literal) and 0.0 < float(extra.value) < math.inf:
        return number(math.log(float(extra.value)))
    return None


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
