"""A weight as a dot product of features times a decay: the parts that a scan over the sequence needs.

`feature_weight` takes apart `dot(phi(Q), psi(K)) * decay / denominator`. What depends on the query alone is folded into
the query's features, what depends on the key alone into the key's, and what is left of a pair must be a decay: a number
to the power of `q - k`, `decay(g)`, or `decay(g)` per channel. Formulas: Katharopoulos et al., Transformers are RNNs,
2020; Sun et al., RetNet, 2023; Yang et al., Gated linear attention, 2024.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache, reduce

from attndsl.ir import build
from attndsl.ir.attention import Attention, Input
from attndsl.ir.build import ONE, Part
from attndsl.ir.distance import apart
from attndsl.ir.expr import (
    Count,
    Decay,
    Expr,
    Index,
    Load,
    Op,
    Reduce,
    Size,
    Value,
    integer,
    mentions,
    op,
    rewrite,
    walk,
)
from attndsl.ir.free import column_only, depends, k_side, q_side, row_only, uniform
from attndsl.ir.products import reduced
from attndsl.ir.separate import product
from attndsl.ir.types import INT
from attndsl.ir.weights import factors

_Q, _K = Index(INT, "q"), Index(INT, "k")


@dataclass(frozen=True)
class ScanDecay:
    """What a pair's weight loses from k to q; all parts multiply, and each may be absent.

    `base` and `log` are numbers of a head (they depend on `b`, `h`, `hkv` and scalars at most): the decay is
    base^(q - k) * exp(log * (q - k)). `absolute` says that it is |q - k| instead. A base of 0 or below means what the
    power means: 0^0 is 1. `token` are numbers per position, exp of the sum of g over k < j <= q; `channel` the same
    with one g for each feature.
    """

    base: Part = None
    log: Part = None
    absolute: bool = False
    token: tuple[Decay, ...] = ()
    channel: tuple[Decay, ...] = ()

    @property
    def per_head(self) -> bool:
        """Whether a number of the head decays by distance."""
        return self.base is not None or self.log is not None

    @property
    def empty(self) -> bool:
        """Whether nothing decays."""
        return not (self.per_head or self.token or self.channel)

    def __str__(self) -> str:
        kinds = [("per head", self.per_head), ("per token", self.token), ("per channel", self.channel)]
        return " and ".join(text for text, there in kinds if there) or "none"


@dataclass(frozen=True)
class Features:
    """dot(query, key) * decay: `query` is a vector of the row alone, `key` one of the key alone, of equal size."""

    query: Expr
    key: Expr
    decay: ScanDecay


@dataclass(frozen=True)
class Normaliser:
    """The denominator of a weight: `whole` as written, with the one reduction `node` in it (several equal ones count as
    one; `count` may stand beside it).

    The value of `node` is dot(query, z), z the sum over the row's visible keys of key * decay; z itself where `query`
    is None; divided by the count where `node` is a mean. `own`: `whole` is exactly the sum of the numerator, so that
    query and key are the numerator's. `node` is None for a denominator of `count` alone.
    """

    whole: Expr
    node: Reduce | None
    query: Part
    key: Part
    own: bool

    def __str__(self) -> str:
        if self.own:
            return "its own sum"
        if self.node is None:
            return "the count"
        return "a function of one sum"


@dataclass(frozen=True)
class FeatureWeight:
    """dot(query, key) * decay / normaliser: what `features` and `decay` of a weight mean to a scan."""

    query: Expr
    key: Expr
    decay: ScanDecay
    normaliser: Normaliser | None
    extent: Expr
    """How many features, an int expression of sizes."""
    z_extent: Expr | None
    """How many features of the normaliser's sum."""

    @property
    def by_head(self) -> bool:
        """Whether what is summed over the keys differs between the query heads of one key head."""
        parts = [self.key, self.decay.base, self.decay.log, *self.decay.token, *self.decay.channel]
        if self.normaliser is not None:
            parts.append(self.normaliser.key)
        return any(p is not None and "h" in depends(p) for p in parts)

    @property
    def expressions(self) -> tuple[Expr, ...]:
        """All that is evaluated."""
        d, n = self.decay, self.normaliser
        found = [self.query, self.key, d.base, d.log, *d.token, *d.channel]
        found += [] if n is None else [n.whole, n.query, n.key]
        return tuple(e for e in found if e is not None)


@lru_cache(maxsize=512)
def feature_weight(attention: Attention) -> FeatureWeight | str:
    """The weight of an attention as features, or in words why it has none."""
    weight = attention.weight
    if weight is None:
        return "softmax is no dot product of features"
    top, below = factors(weight)
    scale = [x for x in below if not _reduces(x)]
    bottom = [x for x in below if _reduces(x)]
    found = _features([*top, *(build.whole(build.div(ONE, x)) for x in scale)])
    if isinstance(found, str):
        return found
    normaliser: Normaliser | str | None = None
    if bottom:
        whole = reduce(lambda a, b: build.whole(build.mul(a, b)), bottom)
        numerator = reduce(lambda a, b: build.whole(build.mul(a, b)), top) if top and not scale else None
        normaliser = _normaliser(whole, found, numerator)
        if isinstance(normaliser, str):
            return normaliser
    if not found.decay.channel:
        found = Features(*reduced(found.query, found.key), found.decay)
        if normaliser is not None and normaliser.query is not None and normaliser.key is not None:
            query, key = reduced(normaliser.query, normaliser.key)
            normaliser = replace(normaliser, query=query, key=key)
    extent = extent_of(found.key, attention)
    z_extent = None
    if normaliser is not None and normaliser.key is not None:
        z_extent = extent_of(normaliser.key, attention)
    if extent is None or (normaliser is not None and normaliser.key is not None and z_extent is None):
        return "the number of its features is not known"
    return FeatureWeight(found.query, found.key, found.decay, normaliser, extent, z_extent)


def extent_of(vector: Expr, attention: Attention) -> Expr | None:
    """How many components a vector has, as an int expression of sizes; None if that cannot be said."""
    match vector:
        case Load(tensor="Q" | "K"):
            return Size(INT, "D")
        case Load(tensor="V"):
            return Size(INT, "Dv")
        case Load(tensor=name, indices=indices) | Decay(tensor=name, indices=indices):
            at = len(indices) + (1 if isinstance(vector, Decay) else 0)
            param = next((p for p in attention.params if p.name == name), None)
            return param.shape[at] if isinstance(param, Input) and len(param.shape) > at else None
        case Op(op="matmul", args=(_, matrix)) if isinstance(matrix, Load):
            param = next((p for p in attention.params if p.name == matrix.tensor), None)
            return param.shape[-1] if isinstance(param, Input) else None
        case Op(op="distinct", args=(x,)):
            many = extent_of(x, attention)
            if many is None:
                return None
            return op("floordiv", op("mul", many, op("sub", many, integer(1))), integer(2))
        case Op(op="concat" | "outer", args=args):
            parts = [extent_of(a, attention) for a in args]
            known = [p for p in parts if p is not None]
            join = "add" if vector.op == "concat" else "mul"
            return reduce(lambda a, b: op(join, a, b), known) if len(known) == len(parts) else None
        case _:
            dims = vector.type.shape
            if dims and isinstance(dims[0], int):
                return integer(dims[0])
            for child in vector.children:
                if child.type.shape:
                    return extent_of(child, attention)
            return None


def at_row(expr: Expr) -> Expr:
    """An expression of the key's position as one of the query's."""
    return rewrite(expr, lambda n: _Q if n == _K else None)


def read_elsewhere(roots: tuple[Expr, ...]) -> str | None:
    """A tensor that is read at other positions than the row's and the key's own; None if there is none."""
    for root in roots:
        for node in walk(root):
            if isinstance(node, Load) and not _reads_own(node):
                return node.tensor
    return None


def _reads_own(node: Load) -> bool:
    """Whether a tensor along the sequence is read where the row or the key stands (or does not lie along it)."""
    if node.tensor in ("Q", "K", "V"):
        names = tuple(i.name if isinstance(i, Index) else "" for i in node.indices)
        return names in ((("b", "h", "row"), ("b", "h", "q")) if node.tensor == "Q" else (("b", "hkv", "k"),))
    moving = [i for i in node.indices if depends(i) & {"q", "k", "row"}]
    return all(isinstance(i, Index) for i in moving)


def _features(parts: list[Expr]) -> Features | str:
    """A product of factors as features."""
    dots = [f for f in parts if isinstance(f, Op) and f.op == "dot"]
    if len(dots) != 1:
        return "it is no product with one dot product of features" if not dots else "it has several dot products"
    if any(mentions(f, lambda n: isinstance(n, Value)) for f in parts):
        return "it reads the score s: write dot(Q, K) where no exponential is meant"
    if any(_reduces(f) for f in parts):
        return "a reduction stands in its numerator"
    query: list[Expr] = []
    key: list[Expr] = []
    decays: list[Expr] = []
    for arg in dots[0].children:
        for factor in _vector_factors(arg):
            if row_only(factor):
                query.append(factor)
            elif column_only(factor):
                key.append(factor)
            else:
                decays.append(factor)
    rest: list[Expr] = []
    for factor in parts:
        if factor is dots[0]:
            continue
        (decays if _decays(factor) else rest).append(factor)
    scale = _product(rest)
    if scale is not None:
        pair = product(scale)
        if pair is None:
            return "a factor of it is no function of q times one of k"
        row, column = pair
        query += [] if row == ONE else [row]
        key += [] if column == ONE else [column]
    decay = _decay(decays)
    if isinstance(decay, str):
        return decay
    q, k = _product(query), _product(key)
    if q is None or k is None or not q.type.shape or not k.type.shape:
        return "its dot product is not one of a vector of the query and one of the key"
    return Features(q, k, decay)


def _decay(parts: list[Expr]) -> ScanDecay | str:
    base: Part = None
    log: Part = None
    ways: set[bool] = set()
    token: list[Decay] = []
    channel: list[Decay] = []
    for part in parts:
        if isinstance(part, Decay):
            (channel if part.type.shape else token).append(part)
            continue
        step = _step(part)
        if step is None:
            return "a factor of it depends on the pair and is no decay"
        b, e, absolute = step
        ways.add(absolute)
        base = b if base is None else base if b is None else build.whole(build.mul(base, b))
        log = build.add(log, e)
    if len(ways) > 1:
        return "one decay is by q - k and another by its absolute value"
    return ScanDecay(base, log, ways == {True}, tuple(token), tuple(channel))


def _decays(factor: Expr) -> bool:
    return isinstance(factor, Decay) or (q_side(factor) and k_side(factor) and _step(factor) is not None)


def _step(factor: Expr) -> tuple[Part, Part, bool] | None:
    """(base, log, absolute) of base^(q - k) or exp(log * (q - k))."""
    if not isinstance(factor, Op) or factor.op not in ("pow", "exp"):
        return None
    found = apart(factor.args[-1])
    if found is None:
        return None
    rate, absolute = found
    if factor.op == "exp":
        return None, rate, absolute
    base = factor.args[0]
    if not uniform(base):
        return None
    return base if rate == ONE else op("pow", base, rate), None, absolute


def _normaliser(whole: Expr, own: Features, numerator: Part) -> Normaliser | str:
    if k_side(whole):
        return "its denominator depends on the key"
    nodes = [n for n in dict.fromkeys(walk(whole)) if isinstance(n, Reduce)]
    if len(nodes) > 1:
        return "its denominator holds several reductions"
    if not nodes:
        return Normaliser(whole, None, None, None, False)
    node = nodes[0]
    if _reduces(node.body):
        return "its denominator holds a reduction of a reduction"
    if numerator is not None and whole == Reduce(numerator.type, "sum", numerator):
        return Normaliser(whole, node, own.query, own.key, True)
    if node.body.type.shape:
        parts = _vector_factors(node.body)
        decay = _decay([p for p in parts if not column_only(p)])
        key = _product([p for p in parts if column_only(p)])
        if isinstance(decay, str) or key is None or not key.type.shape:
            return "its denominator sums what is no feature of the key"
        found = (None, key, decay)
    else:
        top, below = factors(node.body)
        inner = _features([*top, *(build.whole(build.div(ONE, x)) for x in below)])
        if isinstance(inner, str):
            return f"of what its denominator sums: {inner}"
        found = (inner.query, inner.key, inner.decay)
    if found[0] is None and found[2].channel:
        return "its denominator sums a vector that decays by channel"
    if found[2] != own.decay:
        return "its numerator and its denominator decay differently"
    return Normaliser(whole, node, found[0], found[1], False)


def _vector_factors(expr: Expr) -> list[Expr]:
    if isinstance(expr, Op) and expr.op == "mul" and not (row_only(expr) or column_only(expr)):
        return [*_vector_factors(expr.args[0]), *_vector_factors(expr.args[1])]
    return [expr]


def _product(parts: list[Expr]) -> Part:
    if not parts:
        return None
    vectors = [p for p in parts if p.type.shape]
    numbers = [p for p in parts if not p.type.shape]
    return reduce(lambda a, b: op("mul", a, b), [*vectors, *numbers])


def _reduces(expr: Expr) -> bool:
    return mentions(expr, lambda n: isinstance(n, Reduce | Count))


def counts(expr: Expr) -> bool:
    """Whether the number of visible keys is read, by `count` or by a mean."""
    return mentions(expr, lambda n: isinstance(n, Count) or (isinstance(n, Reduce) and n.kind == "mean"))
