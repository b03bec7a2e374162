"""Sums over a row that a weight needs before its pairs: taken out of it, one number a row.

A kernel of tiles adds up a row's values, its exponentials, and the sums of a denominator, and divides at the end. Any
other reduction must be known before the pairs are weighed: `relu(s - mean(s))`, `exp(s / sqrt(mean(s^2))) / sum`,
`exp(s) / sqrt(sum(exp(2 * s)))`. `staged` rewrites such a weight as a short program: stages of sums over the same mask,
each of which may read numbers that earlier ones left, and an attention that reads those numbers as inputs.

A stage is an attention itself. Its weight is one over its sums, so that the kernel that runs it adds them up in fp32.
With `g[i]` the gradient of sum i, what the stage adds to the gradients of q, k and inputs is the backward pass of an
attention of the weight `g[0] * body[0] + g[1] * body[1] + ...` whose values and whose output's gradient are one.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache, reduce

from attndsl.ir.attention import Attention, Input
from attndsl.ir.build import ONE, ZERO, to_float
from attndsl.ir.expr import (
    SCORE,
    Coord,
    Count,
    Decay,
    Expr,
    Extent,
    Index,
    Load,
    Member,
    Op,
    Reduce,
    Search,
    Size,
    Value,
    mentions,
    op,
    rewrite,
    walk,
)
from attndsl.ir.forms import (
    Elementwise,
    Exponential,
    FeatureMap,
    Normalised,
    Softmax,
    above_own_sum,
    weight_form,
)
from attndsl.ir.free import k_side, row_only
from attndsl.ir.passes.softmax import substitute
from attndsl.ir.types import FLOAT, INT
from attndsl.ir.weights import factors

GIVEN = {"D": "D_of_call", "Dv": "Dv_of_call"}
"""The sizes of q's and v's vectors in the attention of a stage, whose own may be others."""
_ROW = tuple(Index(INT, n) for n in ("b", "h", "row"))
_SHAPE = tuple(Size(INT, n) for n in ("B", "H", "Lq"))
_NO_TORCH = (Coord, Member, Extent, Value, Reduce, Count, Decay, Search)


@dataclass(frozen=True)
class Number:
    """A number of the row, given as an input [B, H, Lq]: an expression of sums, counts, inputs and earlier numbers,
    each read by its name. `computed` is the same with quotients by such written out."""

    name: str
    value: Expr
    computed: Expr


@dataclass(frozen=True)
class Stage:
    """Sums over the visible keys of a row, and the `numbers` that are known once they are.

    `sums` are names and what is added up, `count` is the name of the number of visible keys, empty where nobody asks.
    `forward` is the attention whose denominator they are, in this order. `backward` (None where no sum has a gradient)
    has as inputs their gradients, named by `gradient_of`. `alone` are attentions of one over each of the sums, and of
    one for the count: where values are one, the output is the count over the sum. `of_score`: the sums depend on the
    dot product of q and k.
    """

    sums: tuple[tuple[str, Expr], ...]
    count: str
    numbers: tuple[Number, ...]
    forward: Attention
    backward: Attention | None
    alone: tuple[Attention, ...]
    of_score: bool


@dataclass(frozen=True)
class Staged:
    """The stages, in order, and `inner`, which reads numbers that they leave. `moved_lse`: an exponential of sums alone
    is a number of the row there, which the logarithm of its sum of exponentials leaves out."""

    stages: tuple[Stage, ...]
    inner: Attention
    moved_lse: bool = False


def gradient_of(sum_: str) -> str:
    """The input of `Stage.backward` that is the gradient of a sum."""
    return f"{sum_}_gradient"


@lru_cache(maxsize=512)
def staged(attention: Attention) -> Staged | str | None:
    """The stages of an attention (without vectors of one position); None where it needs none, and in words why it has
    none although it needs them."""
    if attention.weight is None or not _blocked(attention):
        return None
    return _Staging(attention).result()


def lse_alone(attention: Attention) -> Attention:
    """An attention whose lse is that of another, without values of its own: their number is not that of the call."""
    logit = weight_form(attention).logit
    assert logit is not None
    power = op("exp", logit)
    weight = op("div", power, Reduce(FLOAT, "sum", power))
    alone = replace(attention, weight=None if logit == SCORE else weight, output=None, requires=())
    return _with_inputs(_resized(alone, True), {})


def reduces(e: Expr) -> bool:
    """Whether an expression holds a sum or a count over the row."""
    return mentions(e, lambda n: isinstance(n, Reduce | Count))


def _blocked(attention: Attention) -> list[Expr]:
    """Expressions of the weight in which a reduction stands that the kernel of its form cannot add up along the way."""
    weight = attention.weight
    assert weight is not None
    match weight_form(attention):
        case Softmax() | Elementwise() | FeatureMap():
            return []
        case Exponential(kind="other") as form:
            inner = [form.amplitude, form.logit, *_bodies(form.denominator)]
            found = [e for e in inner if e is not None and reduces(e)]
            if found or form.denominator is None or not reduces(form.denominator):
                return found
            return [] if above_own_sum(form) is not None else [weight]
        case Exponential(kind="none"):
            return [weight] if reduces(weight) else []
        case Exponential(amplitude=amplitude, logit=logit, extra=extra):
            return [e for e in (amplitude, logit, extra) if e is not None and reduces(e)]
        case Normalised(denominator=denominator):
            return [e for e in _bodies(denominator) if reduces(e)]
        case _:
            top, bottom = factors(weight)
            below = reduce(lambda a, b: op("mul", a, b), bottom) if bottom else None
            if below is None or k_side(below) or not reduces(below):
                return [weight]
            return [e for e in (*top, *_bodies(below)) if reduces(e)]


def _bodies(e: Expr | None) -> list[Expr]:
    return [] if e is None else [n.body for n in walk(e) if isinstance(n, Reduce)]


@dataclass
class _Staging:
    attention: Attention
    sums: dict[Expr, str] = field(default_factory=dict[Expr, str])
    names: set[str] = field(default_factory=set[str])
    numbers: dict[Expr, Number] = field(default_factory=dict[Expr, Number])
    raw: set[str] = field(default_factory=set[str])
    known: set[str] = field(default_factory=set[str])
    count: str = ""

    def result(self) -> Staged | str:
        attention = self.attention
        self.names = {p.name for p in attention.params}
        stages: list[Stage] = []
        while blocked := _blocked(attention):
            bodies = {n.body for e in blocked for n in walk(e) if isinstance(n, Reduce) and not reduces(n.body)}
            assert attention.weight is not None
            leaves = [n for n in walk(attention.weight) if isinstance(n, Reduce) and n.body in bodies]
            if any(n.type.shape for n in leaves):
                return "a sum of vectors in a weight"
            counted = any(n.kind == "mean" for n in leaves) or any(
                mentions(e, lambda n: isinstance(n, Count)) for e in blocked
            )
            stage, attention = self._stage(attention, leaves, counted and not self.count)
            stages.append(stage)
        assert attention.weight is not None
        assert self.attention.weight is not None
        powers = [n for n in factors(self.attention.weight)[0] if isinstance(n, Op) and n.op == "exp"]
        moved = any(reduces(p) and row_only(p) for p in powers)
        return Staged(tuple(stages), replace(attention, weight=written_out(attention.weight, self.known)), moved)

    def _stage(self, attention: Attention, leaves: list[Reduce], counted: bool) -> tuple[Stage, Attention]:
        bodies = [b for b in dict.fromkeys(n.body for n in leaves) if b not in self.sums]
        sums = tuple((self._name("row_sum"), b) for b in bodies)
        self.sums |= {b: name for name, b in sums}
        if counted:
            self.count = self._name("row_count")
        self.raw |= {name for name, _ in sums} | ({self.count} if counted else set())
        self.known |= self.raw

        def value(node: Expr) -> Expr | None:
            if isinstance(node, Count):
                return Load(INT, self.count, _ROW) if self.count else None
            if node not in leaves or not isinstance(node, Reduce):
                return None
            total = Load(FLOAT, self.sums[node.body], _ROW)
            return total if node.kind == "sum" else op("div", total, to_float(Load(INT, self.count, _ROW)))

        assert attention.weight is not None
        before = len(self.numbers)
        weight = self._folded(_replaced(attention.weight, value))
        numbers = tuple(self.numbers.values())[before:]
        inner = self._reading(replace(attention, weight=weight))
        return self._made(sums, self.count if counted else "", numbers), inner

    def _name(self, stem: str) -> str:
        n = 0
        while f"{stem}{n}" in self.names:
            n += 1
        self.names.add(f"{stem}{n}")
        return f"{stem}{n}"

    # What torch computes of a row

    def _folded(self, e: Expr) -> Expr:
        """With the largest expressions of the row that hold sums as inputs."""
        holding = set[Expr]()
        beyond = set[Expr]()
        for node in walk(e):
            if (isinstance(node, Load) and node.tensor in self.raw) or any(c in holding for c in node.children):
                holding.add(node)
            if isinstance(node, _NO_TORCH) or node.type.shape or any(c in beyond for c in node.children):
                beyond.add(node)
        made: dict[Expr, Expr] = {}
        for node in _outermost(e, lambda n: n in holding and n not in beyond and n.type == FLOAT and row_only(n)):
            known = self.numbers.get(node)
            if known is None:
                known = self.numbers[node] = Number(self._name("row_stat"), node, written_out(node, self.known))
                self.known.add(known.name)
            made[node] = Load(FLOAT, known.name, _ROW)
        return _with(e, made)

    def _reading(self, attention: Attention) -> Attention:
        """With the inputs that it reads, and no others."""
        return _with_inputs(attention, self._given())

    def _given(self) -> dict[str, Input]:
        found = {n.name: Input(n.name, "f32", _SHAPE) for n in self.numbers.values()}
        return found if not self.count else {**found, self.count: Input(self.count, "i32", _SHAPE)}

    # The attentions of a stage

    def _made(self, sums: tuple[tuple[str, Expr], ...], count: str, numbers: tuple[Number, ...]) -> Stage:
        score = self.attention.score
        bodies = [written_out(body, self.known) for _, body in sums]
        of_score = any(mentions(substitute(b, SCORE, score), lambda n: isinstance(n, Value)) for b in bodies)
        below: list[Expr] = [Reduce(FLOAT, "sum", body) for body in bodies]
        gradients = [gradient_of(name) for name, _ in sums]
        given = self._given()

        def weighted(weight: Expr, more: Iterable[str] = ()) -> Attention:
            plain = replace(self.attention, weight=weight, output=None, requires=())
            rows = {**given, **{n: Input(n, "f32", _SHAPE) for n in more}}
            return _with_inputs(_resized(plain, of_score), rows, multiplied=of_score)

        def added(parts: Iterable[Expr]) -> Expr:
            return reduce(lambda a, b: op("add", a, b), parts)

        backward = None
        if bodies:
            slopes = [Load(FLOAT, n, _ROW) for n in gradients]
            backward = weighted(added(op("mul", g, b) for g, b in zip(slopes, bodies, strict=True)), gradients)
        whole = [*below, *([op("to_float", Count(INT))] if count else [])]
        alone = [weighted(op("div", ONE, each)) for each in below]
        return Stage(
            sums, count, numbers, weighted(op("div", ONE, added(whole))), backward, (*alone, weighted(ONE)), of_score
        )  # fmt: skip


def _outermost(e: Expr, test: Callable[[Expr], bool]) -> list[Expr]:
    """The largest expressions under a root that satisfy a test, in a fixed order."""
    found: dict[Expr, None] = {}
    stack, seen = [e], set[Expr]()
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if test(node):
            found[node] = None
        else:
            stack.extend(reversed(node.children))
    return list(found)


def _with(e: Expr, made: dict[Expr, Expr]) -> Expr:
    """With expressions replaced as a whole."""
    done = dict(made)
    for node in walk(e):
        if node not in done:
            done[node] = node.with_children(tuple(done[c] for c in node.children))
    return done[e]


def _replaced(e: Expr, value: Callable[[Expr], Expr | None]) -> Expr:
    """With reductions replaced by reads. A quotient by such is 0 where what is below is 0."""
    done: dict[Expr, Expr] = {}
    for node in walk(e):
        found = value(node)
        if found is None:
            found = node.with_children(tuple(done[c] for c in node.children)) if node.children else node
            if isinstance(node, Op) and node.op == "div" and reduces(node.args[1]) and not reduces(done[node.args[1]]):
                above, below = (done[a] for a in node.args)
                if not row_only(above) or not row_only(below):
                    # a factor of the weight, and one number a row where it can be
                    found = op("mul", above, op("div", ONE, below))
        done[node] = found
    return done[e]


def written_out(e: Expr, names: Container[str]) -> Expr:
    """With quotients by what reads a sum of the row as they are meant: 0, without a gradient, where that is 0."""

    def rule(node: Expr) -> Expr | None:
        if not isinstance(node, Op) or node.op != "div":
            return None
        above, below = node.args
        if reduces(below) or not mentions(below, lambda n: isinstance(n, Load) and n.tensor in names):
            return None
        # of a vector, where a component is
        least = op("amax", op("neg", op("abs", below))) if below.type.shape else below
        nothing = op("eq", least, ZERO)
        share = op("select", nothing, ZERO, op("div", ONE, op("select", nothing, ONE, below)))
        return share if above == ONE else op("mul", above, share)

    return rewrite(e, rule)


def _resized(attention: Attention, of_score: bool) -> Attention:
    """Where sizes of vectors are read, those that the call has."""
    names = GIVEN if not of_score else {"Dv": GIVEN["Dv"]}

    def rule(node: Expr) -> Expr | None:
        return Size(node.type, names[node.name]) if isinstance(node, Size) and node.name in names else None

    def sized(e: Expr) -> Expr:
        return rewrite(e, rule)

    weight = None if attention.weight is None else sized(attention.weight)
    return replace(attention, mask=sized(attention.mask), score=sized(attention.score), weight=weight)


def _with_inputs(attention: Attention, more: dict[str, Input], multiplied: bool = True) -> Attention:
    """With the inputs that it reads, some more among them, and where it is `multiplied` all vectors of dot products."""
    read = {n.tensor for e in _expressions(attention) for n in walk(e) if isinstance(n, Load)}
    if multiplied:
        read |= {p.name for pair in attention.products for p in pair}
    own = [p for p in attention.params if p.name not in more]
    kept = [p for p in own if not isinstance(p, Input) or p.name in read]
    return replace(attention, params=(*kept, *(p for n, p in more.items() if n in read)))


def _expressions(attention: Attention) -> Iterable[Expr]:
    return (e for e in (attention.mask, attention.score, attention.weight, attention.output) if e is not None)
