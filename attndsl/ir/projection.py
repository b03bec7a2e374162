"""What an attention computes from vectors of one position, taken out of the pairs.

A kernel of tiles has dot products of a vector of the query with one of the key, and numbers of the row, of the key and
of the pair beside them. `projection` rewrites an attention until that is all it needs:

- dot products of vectors, with the scaled one of q and k among them, become one where they can: sums of `c * dot(a, b)`
  with `c` a product of a row's and a key's number are the dot product of concatenations; those that are no such sum are
  products of their own, of vectors that become inputs;
- a number of one side that reads vectors (`norm(Q)`, `dot(K, w[h])`) becomes an input with one element a position;
- a dot product with a vector that the pair chooses, `dot(Q, r[q - k])`, becomes an input with one element for each
  position and each such vector;
- a decay becomes a difference of prefix sums, each given as two floats whose sum it is;
- what is summed over the components of a vector of the pair (`norm(Q - K)`, a dot product with decays per channel)
  reads vectors of one side component by component: these become inputs too (`attndsl.ir.channels`);
- a vector of the row in the output clause (`o * sigmoid(Q @ W)`) becomes an input with one vector a row.

Whoever runs the attention computes these vectors, numbers and prefix sums first, once a position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache, reduce
from typing import Any

from attndsl.ir import build
from attndsl.ir.attention import Attention, Fact, Input
from attndsl.ir.build import ONE
from attndsl.ir.channels import REDUCTIONS, elementwise, lowered, of_pair, reduces_components, retyped, within
from attndsl.ir.components import Components
from attndsl.ir.expr import (
    SCORE,
    VECTOR_OPS,
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
    Size,
    Value,
    integer,
    mentions,
    op,
    rewrite,
    walk,
)
from attndsl.ir.features import extent_of, read_elsewhere
from attndsl.ir.finished import is_made, is_o
from attndsl.ir.free import column_only, depends, row_only, uniform
from attndsl.ir.many_products import divided
from attndsl.ir.one_product import CannotProjectError, dots, unified
from attndsl.ir.projected import GIVEN_SIZE, Channels, Gate, Number, Prefix, Product, Projection, Table, Vectors
from attndsl.ir.separate import product
from attndsl.ir.simplify import simplify_expr
from attndsl.ir.types import FLOAT, INT, Kind, Type
from attndsl.ir.weights import Exponential, factors, weight_form

_B, _H, _HKV, _Q, _K, _ROW = (Index(INT, n) for n in ("b", "h", "hkv", "q", "k", "row"))
_NO_SIDE = (Coord, Member, Extent, Value, Reduce, Count, Decay)


@lru_cache(maxsize=512)
def projection(attention: Attention) -> Projection | str | None:
    """The projection of an attention; None where it needs none, and in words why there is none."""
    pairs = [e for e in (attention.mask, attention.score, attention.weight) if e is not None]
    parts = pairs if attention.output is None else [*pairs, attention.output]
    channels = {p.name for p in attention.channels}
    given = any(
        mentions(e, lambda n: isinstance(n, Load) and bool(n.type.shape) and n.tensor not in channels) for e in pairs
    )
    given = given or (attention.output is not None and is_made(attention.output))
    if not given and not any(_reads_vectors(e) or mentions(e, lambda n: isinstance(n, Decay)) for e in parts):
        return None
    try:
        return _Rewriting(attention).result()
    except CannotProjectError as error:
        return str(error)


def _holding(root: Expr, test: Callable[[Expr], bool]) -> set[Expr]:
    """The expressions under a root, and it, that hold a node which satisfies a test."""
    found = set[Expr]()
    for node in walk(root):
        if test(node) or any(c in found for c in node.children):
            found.add(node)
    return found


def _has_no_side(node: Expr) -> bool:
    return isinstance(node, _NO_SIDE)


def _is_value(node: Expr) -> bool:
    return isinstance(node, Value)


def _is_vector(node: Expr) -> bool:
    return bool(node.type.shape) and not (isinstance(node, Value) and node.name == "o")


def _reads_vectors(e: Expr) -> bool:
    """Whether a vector of q, k or v, or of an input beside one, stands in an expression; `o` and gates of the output
    clause do not count."""
    return mentions(e, _is_given) or mentions(e, lambda n: isinstance(n, Op) and n.op == "dot")


@dataclass
class _Rewriting:
    attention: Attention
    numbers: dict[Expr, Number] = field(default_factory=dict[Expr, Number])
    tables: dict[tuple[Expr, str, tuple[Expr, ...]], Table] = field(default_factory=dict[Any, Table])
    prefixes: dict[Decay, Prefix] = field(default_factory=dict[Decay, Prefix])
    inputs: list[Input] = field(default_factory=list[Input])
    channels: dict[tuple[Expr, bool], Channels] = field(default_factory=dict[tuple[Expr, bool], Channels])
    extents: dict[Expr, str] = field(default_factory=dict[Expr, str])
    gates: dict[Expr, Gate] = field(default_factory=dict[Expr, Gate])
    numbered: Components = field(init=False)

    def __post_init__(self) -> None:
        self.numbered = Components(self._component, self._count)

    def result(self) -> Projection:
        a = self.attention
        weight, moved = _joined(a)
        score, weight = self._components(a.score), None if weight is None else self._components(weight)
        score, weight = self._one_sided(score), None if weight is None else self._one_sided(weight)
        output = None if a.output is None else self._gated(self._one_sided(a.output))
        score, weight, vectors, further = self._products(score, weight)
        products = tuple(self._product(number, of) for number, of in enumerate(further))
        kept = [e for e in (score, weight) if e is not None]
        if any(map(self._strays, kept)) or (output is not None and _reads_vectors(output)):
            raise CannotProjectError("a vector of the pair, which no dot product of one side each is")
        if mentions(a.mask, lambda n: isinstance(n, Decay)):
            raise CannotProjectError("a decay in a mask")
        expressions = (a.mask, score, weight, output)
        by_head = any(v.by_head for v in (*([vectors] if vectors else []), *further))
        if by_head:
            expressions = tuple(None if e is None else self._repeated(e) for e in expressions)
        if by_head and any("hkv" in depends(e) for e in expressions if e is not None):
            raise CannotProjectError("a key vector of every query head beside a number of the key head")
        mask, score, weight, output = (None if e is None else self._sized(e, vectors) for e in expressions)
        assert mask is not None
        assert score is not None
        read = {
            n.tensor for e in (mask, score, weight, output) if e is not None for n in walk(e) if isinstance(n, Load)
        }
        params = tuple(p for p in a.params if not isinstance(p, Input) or p.name in read)
        inner = replace(
            a, params=(*params, *self.inputs), mask=mask, score=simplify_expr(score), output=output, requires=(),
            weight=None if weight is None else simplify_expr(weight),
        )  # fmt: skip
        numbers, tables = tuple(self.numbers.values()), tuple(self.tables.values())
        return Projection(
            inner, vectors, numbers, tables, tuple(self.prefixes.values()), moved, products,
            tuple(self.channels.values()), tuple((name, extent) for extent, name in self.extents.items()),
            tuple(self.gates.values()),
        )  # fmt: skip

    def _repeated(self, e: Expr) -> Expr:
        """With the numbers of every key, which has a copy for every query head, by query head too."""
        for node, number in self.numbers.items():
            if not number.of_row and not number.by_head:
                self.numbers[node] = replace(number, by_head=True)
                own = next(p for p in self.inputs if p.name == number.name)
                self.inputs[self.inputs.index(own)] = replace(own, shape=_shape(False, True))
        for key, vector in self.channels.items():
            if not vector.of_row and not vector.by_head:
                self.channels[key] = replace(vector, by_head=True)
                own = next(p for p in self.inputs if p.name == vector.name)
                self.inputs[self.inputs.index(own)] = replace(own, shape=(*_shape(False, True), own.shape[-1]))
        names = {n.name for n in (*self.numbers.values(), *self.channels.values()) if not n.of_row}

        def rule(node: Expr) -> Expr | None:
            return (
                replace(node, indices=(*_place(False, True), *node.indices[3:]))
                if isinstance(node, Load) and node.tensor in names
                else None
            )

        return rewrite(e, rule)

    def _input(self, name: str, *shape: Expr, fact: Fact | None = None) -> str:
        taken = {p.name for p in (*self.attention.params, *self.inputs)}
        while name in taken:
            name += "_"
        self.inputs.append(Input(name, "f32", shape, frozenset(() if fact is None else (fact,))))
        return name

    def _size(self, stem: str) -> str:
        """The name of a size that nothing else has."""
        taken = {e.name for p in self.attention.inputs for e in p.shape if isinstance(e, Size)}
        while stem in taken:
            stem += "_"
        return stem

    def _sized(self, e: Expr, vectors: Vectors | None) -> Expr:
        if vectors is None:
            return e
        return rewrite(e, lambda n: Size(INT, GIVEN_SIZE) if n == Size(INT, "D") else None)

    # Decays

    def _decays(self, node: Expr) -> Expr | None:
        if isinstance(node, Op) and node.op == "log" and isinstance(node.args[0], Op) and node.args[0].op == "exp":
            return node.args[0].args[0]
        if not isinstance(node, Decay):
            return None
        known = self.prefixes.get(node)
        if known is None:
            known = self.prefixes[node] = self._channel_sums(node) if node.type.shape else self._sums(node)
        type_ = Type(Kind.FLOAT, (known.size,)) if known.size else FLOAT
        place = _place(False, known.by_head) if known.size else (*node.indices, _K)
        gaps = [
            op("sub", Load(type_, row, (_B, _H, _ROW)), Load(type_, key, place))
            for row, key in zip(known.rows, known.keys, strict=True)
        ]
        return op("exp", op("add", *gaps))

    def _sums(self, node: Decay) -> Prefix:
        param = self.attention.param(node.tensor)
        assert isinstance(param, Input)
        shape = (Size(INT, "B"), Size(INT, "H"), Size(INT, "Lq"))
        rows = [self._input(f"{node.tensor}_at_row{n}", *shape) for n in ("", "_rest")]
        keys = [self._input(f"{node.tensor}_at_key{n}", *param.shape) for n in ("", "_rest")]
        return Prefix(node.tensor, node.indices, (rows[0], rows[1]), (keys[0], keys[1]))

    def _channel_sums(self, node: Decay) -> Prefix:
        size, by_head = self._extent(node), "h" in depends(node)
        sides = (("row", _shape(True, True)), ("key", _shape(False, by_head)))
        names = [
            [self._vector_input(f"{node.tensor}_at_{side}{n}", shape, size) for n in ("", "_rest")]
            for side, shape in sides
        ]
        rows, keys = ((n[0], n[1]) for n in names)
        return Prefix(node.tensor, node.indices, rows, keys, size, by_head)

    # Components of vectors of the pair

    def _components(self, e: Expr) -> Expr:
        """Without decays, and with what is reduced over the components of vectors of the pair over inputs."""
        e = lowered(rewrite(e, self._decays))

        def rule(node: Expr) -> Expr | None:
            if not isinstance(node, Op) or not of_pair(node):
                return None
            if node.op == "dot" and any(map(of_pair, node.args)) and self._chosen(node) is None:
                node = op("total", op("mul", *node.args))
            if node.op not in REDUCTIONS:
                return None
            if elementwise(node.args[0], self._is_channel):
                return op(node.op, retyped(node.args[0], self._channel, lambda n: n))
            return self.numbered.reduced(node)

        return rewrite(e, rule)

    def _is_channel(self, node: Expr) -> bool:
        """Whether a vector of one side is an input as a whole."""
        if self._given(node):
            return True
        return not of_pair(node) and not mentions(node, lambda n: isinstance(n, _NO_SIDE))

    def _given(self, node: Expr) -> bool:
        return isinstance(node, Load) and any(node.tensor == p.name for p in self.inputs)

    def _channel(self, node: Expr, gathered: bool = False) -> Load | None:
        """A vector of one side as an input; None for one that is made of several. `gathered`: pairs choose which
        components they read."""
        if not self._is_channel(node):
            return None
        if isinstance(node, Load) and self._given(node):
            if gathered:
                raise CannotProjectError("`roll` by a number of the pair of a decay per channel")
            return node
        if read_elsewhere(tuple(n for n in walk(node) if _is_given(n))) is not None:
            raise CannotProjectError("q, k or v at another position than its own")
        known = self.channels.get((node, gathered))
        if known is None:
            of_row, size = row_only(node), self._extent(node)
            by_head = of_row or "h" in depends(node)
            name = f"{_side(of_row)}_vector{len(self.channels)}"
            shape = (*_shape(of_row, by_head), Size(INT, size))
            name = self._input(name, *shape, fact=None if gathered else "channels")
            known = self.channels[node, gathered] = Channels(name, node, of_row, by_head, size)
        return Load(Type(Kind.FLOAT, (known.size,)), known.name, _place(known.of_row, known.by_head))

    def _component(self, vector: Expr, c: Expr) -> Expr | None:
        """A component of a vector of one side; None for one that is made of several."""
        found = self._channel(vector, not uniform(c))
        return None if found is None else replace(found, type=FLOAT, indices=(*found.indices, c))

    def _count(self, vector: Expr) -> Expr:
        """How many components a vector has."""
        if self._given(vector):
            return Size(INT, str(vector.type.shape[0]))
        if self._is_channel(vector):
            return Size(INT, self._extent(vector))
        match vector:
            case Op(op="concat" | "outer", args=args):
                join = "add" if vector.op == "concat" else "mul"
                return reduce(lambda a, b: op(join, a, b), map(self._count, args))
            case Op(op="distinct", args=(x,)):
                many = self._count(x)
                return op("floordiv", op("mul", many, op("sub", many, integer(1))), integer(2))
            case Op(op="matmul", args=(_, Load() as read)) | (Load() as read):
                param = self.attention.param(read.tensor)
                if isinstance(param, Input):
                    return param.shape[-1]
            case Op(args=args) if vector.op not in VECTOR_OPS or vector.op in ("roll", "rope"):
                return self._count(next(a for a in args if a.type.shape))
            case _:
                pass
        raise CannotProjectError("a vector of a size that is not known")

    def _extent(self, vector: Expr) -> str:
        """The size of a vector."""
        extent = extent_of(vector, self.attention)
        if extent is None:
            of_input = next((n for n in walk(vector) if self._given(n)), None)
            if of_input is None or (isinstance(vector, Op) and vector.op in VECTOR_OPS):
                raise CannotProjectError("a vector of a size that is not known")
            return str(of_input.type.shape[0])
        if extent not in self.extents:
            self.extents[extent] = self._size(f"C_{len(self.extents)}")
        return self.extents[extent]

    def _vector_input(self, name: str, shape: tuple[Expr, ...], size: str) -> str:
        return self._input(name, *shape, Size(INT, size), fact="channels")

    def _strays(self, e: Expr) -> bool:
        """Whether an expression has vectors that no reduction over components reads."""
        read = {v for n in walk(e) if reduces_components(n) for v in within(n)[0]}
        return mentions(e, lambda n: _is_vector(n) and n not in read)

    # Vectors of the row in an output clause

    def _gated(self, e: Expr) -> Expr:
        """With its largest vectors that are made without `o` as inputs."""
        outputs = _holding(e, is_o)
        made: dict[Expr, Expr] = {}
        stack, seen = [e], set[Expr]()
        while stack:
            node = stack.pop()
            if node in seen:
                continue
            seen.add(node)
            if len(node.type.shape) == 1 and node.type.kind is Kind.FLOAT and node not in outputs and is_made(node):
                made[node] = self._gate(node)
            else:
                stack.extend(reversed(node.children))
        for node in walk(e):
            if node not in made:
                made[node] = node.with_children(tuple(made[c] for c in node.children)) if node in seen else node
        return made[e]

    def _gate(self, node: Expr) -> Expr:
        known = self.gates.get(node)
        if known is None:
            shape = *_shape(True, True), Size(INT, "Dv")
            known = self.gates[node] = Gate(self._input(f"gate{len(self.gates)}", *shape), node)
        return Load(Type(Kind.FLOAT, ("Dv",)), known.name, _place(True, True))

    # Numbers of one side

    def _one_sided(self, e: Expr) -> Expr:
        """With its largest numbers of one side that read vectors as inputs; vectors stay whole."""
        vectors, paired, outputs = (_holding(e, test) for test in (_is_vector, _has_no_side, _is_value))
        components = _holding(e, lambda n: isinstance(n, Load) and any(n.tensor == p.name for p in self.inputs))

        def is_whole(node: Expr) -> bool:
            return bool(node.type.shape) and node not in outputs and node not in components

        made: dict[Expr, Expr] = {}
        stack, seen = [e], set[Expr]()
        while stack:
            node = stack.pop()
            if node in seen:
                continue
            seen.add(node)
            found = self._number(node) if node in vectors and node not in paired else None
            found = found or self._table(node)
            if found is not None:
                made[node] = found
            elif not is_whole(node):
                stack.extend(reversed(node.children))
        for node in walk(e):
            if node not in made:
                made[node] = node if is_whole(node) else node.with_children(tuple(made[c] for c in node.children))
        return made[e]

    def _number(self, node: Expr) -> Expr | None:
        if node.type != FLOAT:
            return None
        of_row = row_only(node)
        if not of_row and not column_only(node):
            return None
        known = self.numbers.get(node)
        if known is None:
            by_head = of_row or "h" in depends(node)
            name = self._input(f"{_side(of_row)}_number{len(self.numbers)}", *_shape(of_row, by_head))
            known = self.numbers[node] = Number(name, node, of_row, by_head)
        return Load(FLOAT, known.name, _place(known.of_row, known.by_head))

    def _table(self, node: Expr) -> Expr | None:
        chosen = self._chosen(node)
        if chosen is None:
            return None
        vector, tensor, lead, last = chosen
        known = self.tables.get((vector, tensor, lead))
        if known is None:
            of_row = row_only(vector)
            by_head = of_row or _H in lead or "h" in depends(vector)
            param = self.attention.param(tensor)
            assert isinstance(param, Input)
            shape = *_shape(of_row, by_head), param.shape[len(lead)]
            name = self._input(f"{_side(of_row)}_table{len(self.tables)}", *shape)
            known = self.tables[vector, tensor, lead] = Table(name, vector, tensor, lead, of_row, by_head)
        return Load(FLOAT, known.name, (*_place(known.of_row, known.by_head), last))

    def _chosen(self, node: Expr) -> tuple[Expr, str, tuple[Expr, ...], Expr] | None:
        """(vector, tensor, lead, last) of a dot product of a vector of one side with `tensor[lead..., last]`, of which
        the pair chooses the last; None for others."""
        if not isinstance(node, Op) or node.op != "dot":
            return None
        for vector, chosen in (node.args, node.args[::-1]):
            if (
                not isinstance(chosen, Load)
                or not chosen.indices
                or mentions(vector, lambda n: isinstance(n, _NO_SIDE))
            ):
                continue
            *lead, last = chosen.indices
            one_sided = row_only(vector) or column_only(vector)
            if not of_pair(last) or not one_sided or lead != [i for i in (_B, _H, _HKV) if i in lead]:
                continue
            if isinstance(self.attention.param(chosen.tensor), Input) and not {_H, _HKV} <= set(lead):
                return vector, chosen.tensor, tuple(lead), last
        return None

    # Dot products

    def _products(self, score: Expr, weight: Expr | None) -> tuple[Expr, Expr | None, Vectors | None, list[Vectors]]:
        """Score and weight of the dot products of tiles, the vectors of the first (None: those of q and k, scaled) and
        of further ones."""
        in_score, in_weight = dots(score), [] if weight is None else dots(weight)
        if not in_score and not in_weight:
            return score, weight, None, []
        if weight is not None and not mentions(weight, lambda n: n == SCORE):
            # the score plays no part
            weight, _, first, further = self._shared(weight, None, in_weight)
            return SCORE, weight, first, further
        if mentions(score, lambda n: n == SCORE):
            in_score.append(SCORE)
        return self._shared(score, weight, list(dict.fromkeys((*in_score, *in_weight))), alone=not in_weight)

    def _shared(
        self, score: Expr, weight: Expr | None, atoms: list[Expr], alone: bool = True
    ) -> tuple[Expr, Expr | None, Vectors | None, list[Vectors]]:
        """The same for these dot products; `alone`: the weight has none."""
        if alone:
            try:
                found, (score_,) = unified((score,), atoms)
                return score_, weight, self._vectors(found), []
            except CannotProjectError:
                # no single one; if they cannot be several either, that says why
                pass
        several = divided(score, weight, atoms)
        first = None if several.first is None else self._vectors(several.first)
        return several.score, several.weight, first, [self._vectors(found) for found in several.further]

    def _product(self, number: int, vectors: Vectors) -> Product:
        size = self._size(f"D_{number}")
        shape = Size(INT, "B"), Size(INT, "H"), Size(INT, "Lq"), Size(INT, size)
        names = [
            self._input(f"{side}{number}", *own, fact="operand")
            for side, own in (("queries", shape), ("keys", (shape[0], Size(INT, "Hkv"), Size(INT, "Lk"), shape[3])))
        ]
        return Product(names[0], names[1], size, vectors)

    def _vectors(self, terms: Iterable[tuple[Expr, Expr, Expr]]) -> Vectors:
        """The vectors whose dot product a sum of dot products is."""
        queries: dict[Expr, list[Expr]] = {}
        for query, key, factor in terms:
            pair = product(factor)
            if pair is None:
                raise CannotProjectError("dot products with a factor that is no product of a row's and a key's number")
            query, key = (v if f == ONE else op("mul", v, f) for v, f in zip((query, key), pair, strict=True))
            queries.setdefault(key, []).append(query)
        sums = [(reduce(lambda a, b: op("add", a, b), many), key) for key, many in queries.items()]
        query, key = (side[0] if len(side) == 1 else op("concat", *side) for side in zip(*sums, strict=True))
        for side in (query, key):
            if mentions(side, lambda n: isinstance(n, _NO_SIDE)):
                raise CannotProjectError("a vector that reads coordinates, decays or reductions")
        if read_elsewhere(tuple(n for n in walk(op("dot", query, key)) if _is_given(n))) is not None:
            raise CannotProjectError("q, k or v at another position than its own")
        extent = extent_of(key, self.attention) or extent_of(query, self.attention)
        if extent is None:
            raise CannotProjectError("a vector of a size that is not known")
        return Vectors(query, key, extent, "h" in depends(key))


def _side(of_row: bool) -> str:
    return "row" if of_row else "key"


def _shape(of_row: bool, by_head: bool) -> tuple[Expr, ...]:
    return Size(INT, "B"), Size(INT, "H" if by_head else "Hkv"), Size(INT, "Lq" if of_row else "Lk")


def _place(of_row: bool, by_head: bool) -> tuple[Expr, ...]:
    return _B, _H if by_head else _HKV, _ROW if of_row else _K


def _is_given(node: Expr) -> bool:
    return isinstance(node, Load) and node.tensor in ("Q", "K", "V")


def _joined(attention: Attention) -> tuple[Expr | None, bool]:
    """The weight with decays among the exponents where it is an exponential over its own sum, and whether they are."""
    weight = attention.weight
    form = weight_form(attention)
    if weight is None or not isinstance(form, Exponential) or form.amplitude is None or form.kind != "other":
        return weight, False
    top, bottom = factors(weight)
    inner = [f for f in top if not (isinstance(f, Op) and f.op == "exp")]
    if len(bottom) != 1 or not inner or not all(isinstance(f, Decay) for f in inner):
        return weight, False
    numerator = reduce(lambda a, b: build.whole(build.mul(a, b)), top)
    if bottom[0] != Reduce(numerator.type, "sum", numerator):
        return weight, False
    logs = [op("log", f) if isinstance(f, Decay) else f.args[0] for f in top if isinstance(f, Op | Decay)]
    value = op("exp", reduce(lambda a, b: op("add", a, b), logs))
    return op("div", value, Reduce(value.type, "sum", value)), True
