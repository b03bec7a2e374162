"""Sums of vectors over a row that a weight needs: taken out of it, one vector a row.

A sum over the visible keys of a number of the pair times a vector of the key is what an attention computes: its weight
is the number, its values are the vectors. `vector_sums` rewrites a weight that holds such sums, as `relu(s -
norm(mean(K)))` or `relu(dot(K, sum(exp(s) * K) / sum(exp(s)))` do, as attentions over the same mask, each of which may
read what earlier ones left, and one that reads their outputs as inputs: `mean(K)` is the attention of the weight `1 /
count` over the values K, and a sum that is divided by a sum of exponentials is that of a softmax.

What is summed has to be a sum of products of numbers of the pair, vectors of the key and vectors of the row, which
multiply afterwards. Numbers that stand in a vector of the row and are sums themselves are summed in the same way, with
values of one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache, reduce

from attndsl.ir import build
from attndsl.ir.alive import unbounded
from attndsl.ir.attention import Attention, Input
from attndsl.ir.build import ONE, ZERO, Part, to_float
from attndsl.ir.expr import (
    FURTHER,
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
    Op,
    Reduce,
    Search,
    Size,
    Value,
    mentions,
    number,
    op,
    rewrite,
    walk,
)
from attndsl.ir.features import extent_of, read_elsewhere
from attndsl.ir.free import column_only, depends, row_only
from attndsl.ir.infix import infix
from attndsl.ir.passes.softmax import substitute
from attndsl.ir.projection import projection
from attndsl.ir.separate import additive
from attndsl.ir.statistics import reduces, written_out
from attndsl.ir.types import FLOAT, INT, Kind, Type
from attndsl.ir.weights import factors

GIVEN = {"D": "D_of_whole", "Dv": "Dv_of_whole"}
"""The sizes of q's and v's vectors in the attention of a sum, whose own may be others."""
VALUES = "given_values"
"""The input of the attention of a sum that holds v, whose place the summed vectors have."""
_ROW = tuple(Index(INT, n) for n in ("b", "h", "row"))
_SHAPE = tuple(Size(INT, n) for n in ("B", "H", "Lq"))
_NO_TORCH = (Coord, Member, Extent, Value, Reduce, Count, Decay, Search)
_COUNT = op("to_float", Count(INT))
_MOST = 64


@dataclass(frozen=True)
class VectorSum:
    """A sum over the visible keys of a row, given as an input `name`: vectors [B, H, Lq, extent], or numbers [B, H, Lq]
    where `extent` is None.

    `attention` weighs what is summed: `value`, a vector of the key, or one. `by_head`: the vectors differ between the
    query heads of one key head. `multiplies`: the weight reads q or k."""

    name: str
    attention: Attention
    value: Expr
    extent: Expr | None
    by_head: bool
    multiplies: bool


@dataclass(frozen=True)
class VectorSums:
    """The sums, in order, and `inner`, which reads them. `seen` counts the keys that a row sees, None where all rows
    see some. `moved_lse`: an exponent whose score only sums of vectors read is not one of the logarithm of a sum of
    exponentials there."""

    sums: tuple[VectorSum, ...]
    inner: Attention
    seen: VectorSum | None
    moved_lse: bool = False


class _NoSumError(Exception):
    """Why a sum is none that kernels have, in words."""


@lru_cache(maxsize=512)
def vector_sums(attention: Attention) -> VectorSums | str | None:
    """The sums of vectors in the weight of an attention; None where it has none, and in words why there are none
    although it needs them."""
    weight = attention.weight
    if weight is None or not mentions(weight, lambda n: isinstance(n, Reduce | Count)):
        return None
    if not mentions(weight, _sums_vectors) and not (_mixed(weight) and isinstance(projection(attention), str)):
        return None
    try:
        return _Splitting(attention).result()
    except _NoSumError as error:
        return str(error)


def _sums_vectors(node: Expr) -> bool:
    return isinstance(node, Reduce) and bool(node.type.shape)


def _innermost(e: Expr) -> list[Reduce]:
    """The sums of vectors that hold none."""
    holding = set[Expr]()
    found: list[Reduce] = []
    for node in walk(e):
        if any(c in holding for c in node.children):
            holding.add(node)
        elif isinstance(node, Reduce) and node.type.shape:
            holding.add(node)
            found.append(node)
    return found


def _mixed(e: Expr) -> list[Expr]:
    """The sums of numbers, and counts, that stand in a vector of the row and hold no others that do."""
    found: dict[Expr, None] = {}
    stack, seen = [(e, False)], set[tuple[Expr, bool]]()
    while stack:
        node, within = stack.pop()
        if (node, within) in seen:
            continue
        seen.add((node, within))
        if isinstance(node, Reduce | Count):
            if within and not node.type.shape:
                found[node] = None
            within = False
        elif node.type.shape and row_only(node):
            within = True
        stack.extend((c, within) for c in reversed(node.children))
    return [n for n in found if not any(other is not n and mentions(n, lambda m, o=other: m == o) for other in found)]


@dataclass
class _Splitting:
    attention: Attention
    sums: dict[tuple[Expr, Expr], VectorSum] = field(default_factory=dict[tuple[Expr, Expr], VectorSum])
    given: dict[str, Input] = field(default_factory=dict[str, Input])

    def result(self) -> VectorSums:
        whole = self.attention.weight
        assert whole is not None
        weight = rewrite(whole, _joined)
        while found := _innermost(weight):
            made = {node: self._sum(node) for node in found}
            weight = rewrite(weight, lambda n, made=made: made.get(n) if isinstance(n, Reduce) else None)
        weight = self._settled(weight)
        seen = None
        if self.attention.mask != TRUE or unbounded(self.attention.score):
            seen = self._made("", ONE, ONE)
        inner = self._reading(replace(self.attention, weight=weight, requires=()))
        read = {p.name for p in inner.inputs}
        read |= {p.name for s in self.sums.values() for p in s.attention.inputs}
        sums = tuple(s for s in self.sums.values() if s.name in read)
        return VectorSums(sums, inner, seen, any(map(_moves, factors(whole)[0])))

    def _settled(self, weight: Expr) -> Expr:
        """Without sums of numbers in vectors of the row, and with quotients by sums written out."""
        while found := _mixed(weight):
            made = {node: self._number(node) for node in found}
            weight = rewrite(weight, lambda n, made=made: made.get(n) if isinstance(n, Reduce | Count) else None)
        return written_out(weight, self.given)

    def _number(self, node: Expr) -> Expr:
        if isinstance(node, Count):
            return op("floor", op("add", self._read([], [], None), number(0.5)))
        assert isinstance(node, Reduce)
        return self._read([to_float(node.body)], _count(node), None)

    # Sums

    def _sum(self, node: Reduce) -> Expr:
        return self._of(node.body, [], _count(node), None)

    def _of(self, e: Expr, above: list[Expr], below: list[Expr], key: Part) -> Expr:
        """The sum over the keys of a row of a vector, times the numbers of pairs `above` over those `below`, times a
        vector of the key."""
        if _is_key_vector(e):
            return self._read(above, below, e if key is None else op("mul", key, e))
        if row_only(e):
            if key is None and not above and below == [_COUNT]:
                # the mean of what all keys share; rows that see none have no use for it
                return e
            return op("mul", e, self._read(above, below, key) if key is not None else self._scalar(above, below))
        if isinstance(e, Op):
            match e.op:
                case "add" | "sub":
                    return op(e.op, *(self._term(a, above, below, key) for a in e.args))
                case "neg":
                    return op("neg", self._of(e.args[0], above, below, key))
                case "mul":
                    return self._product(e, above, below, key)
                case "div":
                    return self._quotient(e, above, below, key)
                case "pow":
                    times = _small_power(e)
                    if times:
                        return self._of(reduce(lambda a, b: op("mul", a, b), times), above, below, key)
                case "select" if not e.args[0].type.shape:
                    condition, then, otherwise = e.args
                    yes, no = op("select", condition, ONE, ZERO), op("select", condition, ZERO, ONE)
                    cases = (then, [*above, yes]), (otherwise, [*above, no])
                    return op("add", *(self._term(term, numbers, below, key) for term, numbers in cases))
                case _:
                    found = None if key is not None else self._linear(e, above, below)
                    if found is not None:
                        return found
        raise _NoSumError(
            f"`{infix(e, 80)}` in a sum of vectors, which is no sum of numbers of the pair times vectors of the key"
        )

    def _term(self, e: Expr, above: list[Expr], below: list[Expr], key: Part) -> Expr:
        """The same of a term, which may be a number that is added to every component."""
        if e.type.shape:
            return self._of(e, above, below, key)
        return self._scalar([*above, e], below) if key is None else self._read([*above, e], below, key)

    def _scalar(self, above: list[Expr], below: list[Expr]) -> Expr:
        return Reduce(FLOAT, "sum", _weight(above, below))

    def _product(self, e: Expr, above: list[Expr], below: list[Expr], key: Part) -> Expr:
        parts = _factors(e)
        numbers = [p for p in parts if not p.type.shape]
        vectors = [p for p in parts if p.type.shape]
        keys = [p for p in vectors if _is_key_vector(p)]
        rows = [p for p in vectors if row_only(p) and not _is_key_vector(p)]
        mixed = [p for p in vectors if p not in keys and p not in rows]
        above = [*above, *numbers]
        if keys:
            key = reduce(lambda a, b: op("mul", a, b), keys if key is None else [key, *keys])
        if not mixed:
            found = self._scalar(above, below) if key is None else self._read(above, below, key)
        elif len(mixed) == 1:
            found = self._of(mixed[0], above, below, key)
        else:
            found = self._of(_distributed(mixed), above, below, key)
        return reduce(lambda a, b: op("mul", a, b), rows, found)

    def _quotient(self, e: Op, above: list[Expr], below: list[Expr], key: Part) -> Expr:
        top, bottom = e.args
        if not bottom.type.shape:
            return self._of(top, above, [*below, bottom], key)
        if row_only(bottom):
            return op("div", self._term(top, above, below, key), bottom)
        if _is_key_vector(bottom):
            return self._term(top, above, below, op("div", ONE if key is None else key, bottom))
        raise _NoSumError(f"a quotient by `{infix(bottom, 80)}` in a sum of vectors")

    def _linear(self, e: Op, above: list[Expr], below: list[Expr]) -> Expr | None:
        """The sum of the results of a linear operation as its result on the sum; None where it is no such."""

        def summed(vector: Expr) -> Expr:
            return self._of(vector, above, below, None)

        match e.op, e.args:
            case "matmul" | "roll", (vector, by) if row_only(by):
                return op(e.op, summed(vector), by)
            case "rope", (vector, by):
                parts = additive(by)
                if row_only(by):
                    return op("rope", summed(vector), by)
                if parts is not None and parts[0] is not None and parts[1] is not None:
                    # a rotation by a sum is one after the other
                    return op("rope", self._of(op("rope", vector, parts[1]), above, below, None), parts[0])
                return None
            case "concat", args:
                return op("concat", *map(summed, args))
            case "outer", (a, b) if row_only(a):
                return op("outer", a, summed(b))
            case "outer", (a, b) if row_only(b):
                return op("outer", summed(a), b)
            case _:
                return None

    def _read(self, above: list[Expr], below: list[Expr], value: Part) -> Expr:
        """The sum of a vector of the key (None: of one) times numbers of pairs, as an input."""
        weight = self._settled(_weight(above, below))
        vector = ONE if value is None else value
        known = self.sums.get((weight, vector))
        if known is None:
            known = self.sums[weight, vector] = self._made(self._name(), weight, vector)
            shape = _SHAPE if known.extent is None else (*_SHAPE, known.extent)
            self.given[known.name] = Input(known.name, "f32", shape)
        return Load(Type(Kind.FLOAT, vector.type.shape), known.name, _ROW)

    def _made(self, name: str, weight: Expr, value: Expr) -> VectorSum:
        score = self.attention.score
        by_head, extent = "h" in depends(value), None
        if value.type.shape:
            extent = extent_of(value, self.attention)
            if extent is None:
                raise _NoSumError("a sum of vectors of a size that is not known")
            if read_elsewhere((value,)) is not None:
                raise _NoSumError("a sum of vectors at another position than the key's own")
        if not mentions(weight, lambda n: n == SCORE) and not unbounded(score):
            # nothing reads it, and it may read vectors
            score = SCORE
        read = [substitute(weight, SCORE, score), *([score] if unbounded(score) else [])]
        multiplies = any(mentions(e, _multiplies) for e in read)
        plain = replace(self.attention, score=score, weight=weight, output=None, requires=())
        own = self._reading(plain.map(lambda e: _resized(e, multiplies)))
        if by_head and any(_of_key_head(e) for e in (own.mask, own.score, weight)):
            raise _NoSumError("a sum of vectors of every query head beside a number of the key head")
        return VectorSum(name, own, value, extent, by_head, multiplies)

    def _name(self) -> str:
        taken = {p.name for p in self.attention.params} | {s.name for s in self.sums.values()}
        n = len(self.sums)
        while f"summed{n}" in taken:
            n += 1
        return f"summed{n}"

    def _reading(self, attention: Attention) -> Attention:
        """With the inputs that it reads, and no others."""
        clauses = (attention.mask, attention.score, attention.weight, attention.output)
        read = {n.tensor for e in clauses if e is not None for n in walk(e) if isinstance(n, Load | Decay)}
        kept = [p for p in attention.params if not isinstance(p, Input) or p.name in read]
        more = [p for n, p in self.given.items() if n in read]
        if VALUES in read:
            shape = tuple(Size(INT, n) for n in ("B", "Hkv", "Lk", GIVEN["Dv"]))
            more.append(Input(VALUES, "f32", shape))
        return replace(attention, params=(*kept, *more))


def _joined(node: Expr) -> Expr | None:
    """A sum of vectors over a sum of numbers as a sum of quotients: of an exponential it is a softmax."""
    if not isinstance(node, Op) or node.op != "div" or node.args[1].type.shape:
        return None
    above, below = node.args
    if not _sums_vectors(above) or not reduces(below) or not row_only(below) or mentions(below, _sums_vectors):
        return None
    assert isinstance(above, Reduce)
    return replace(above, body=op("div", above.body, below))


def _moves(factor: Expr) -> bool:
    """Whether a factor of a weight is an exponential whose score sums of vectors alone read."""
    if not isinstance(factor, Op) or factor.op != "exp" or not mentions(factor, _is_score):
        return False
    stack, seen = [factor.args[0]], set[Expr]()
    while stack:
        node = stack.pop()
        if node in seen or _sums_vectors(node):
            continue
        seen.add(node)
        if _is_score(node):
            return False
        stack.extend(node.children)
    return True


def _is_score(node: Expr) -> bool:
    return node == SCORE or node in FURTHER


def _multiplies(node: Expr) -> bool:
    return isinstance(node, Value) or (isinstance(node, Load) and node.tensor in ("Q", "K"))


def _of_key_head(e: Expr) -> bool:
    loads = (n for n in walk(e) if isinstance(n, Load | Decay) and n.tensor not in ("Q", "K", VALUES))
    return any("hkv" in depends(i) for n in loads for i in n.indices)


def _count(node: Reduce) -> list[Expr]:
    return [_COUNT] if node.kind == "mean" else []


def _weight(above: list[Expr], below: list[Expr]) -> Expr:
    def product(parts: list[Expr]) -> Expr:
        return reduce(lambda a, b: build.whole(build.mul(a, b)), map(to_float, parts), ONE)

    return build.whole(build.div(product(above), product(below)))


def _is_key_vector(e: Expr) -> bool:
    """Whether torch computes a vector once a key."""
    return bool(e.type.shape) and "k" in depends(e) and column_only(e) and not mentions(e, _has_no_side)


def _has_no_side(node: Expr) -> bool:
    return isinstance(node, _NO_TORCH)


def _factors(e: Expr) -> list[Expr]:
    """The factors of a product, as far as they are not of one side."""
    found: list[Expr] = []
    stack = [e]
    while stack:
        node = stack.pop()
        splits = isinstance(node, Op) and node.op == "mul" and not (row_only(node) or _is_key_vector(node))
        if splits and len(found) < _MOST:
            stack.extend(reversed(node.children))
        else:
            found.append(node)
    return found


def _distributed(vectors: list[Expr]) -> Expr:
    """A product of vectors of pairs as a sum, of which it has fewer."""
    for i, vector in enumerate(vectors):
        if isinstance(vector, Op) and vector.op in ("add", "sub", "neg"):
            others = reduce(lambda a, b: op("mul", a, b), [*vectors[:i], *vectors[i + 1 :]])
            return op(vector.op, *(op("mul", others, a) for a in vector.args))
    raise _NoSumError(f"`{infix(vectors[0], 80)}` times another vector of the pair in a sum of vectors")


def _small_power(e: Op) -> list[Expr]:
    base, exponent = e.args
    whole = isinstance(exponent, Literal) and float(exponent.value).is_integer() and 2 <= exponent.value <= 4
    return [base] * int(exponent.value) if whole and isinstance(exponent, Literal) else []


def _resized(e: Expr, multiplies: bool) -> Expr:
    """Where sizes of vectors are read, those of the whole call, and its values."""
    names = GIVEN if not multiplies else {"Dv": GIVEN["Dv"]}

    def rule(node: Expr) -> Expr | None:
        if isinstance(node, Size) and node.name in names:
            return Size(node.type, names[node.name])
        return replace(node, tensor=VALUES) if isinstance(node, Load) and node.tensor == "V" else None

    return rewrite(e, rule)
