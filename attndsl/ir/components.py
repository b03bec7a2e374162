"""Vectors of the pair as functions of the number of a component.

Where operations move components (`concat(Q, K)`, `rope(Q + K, q - k)`, `tanh(Q + K) @ W`) or the pair says which vector
is read (`r[abs(q - k)]`), a component of a result is a number computed from some components of some vectors:

- concat(a, b)[c] is a[c] or b[c - |a|];
- outer(a, b)[c] is a[c // |b|] * b[c % |b|];
- roll(x, n)[c] is x[(c - n) % |x|];
- rope(x, p)[c] is x[c] cos(p t) - x[c + |x|/2] sin(p t) in the first half, t = 10000^(-2c/|x|), the other sum behind;
- (x @ M)[c] is the sum over j of x[j] * M[j, c], a loop within the loop.

`reduced` writes a reduction over such components as `sum_over` or `max_over` of a number that reads `Component`s.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce

from attndsl.ir import build
from attndsl.ir.build import ONE
from attndsl.ir.channels import by_side, of_pair
from attndsl.ir.expr import VECTOR_OPS, Component, Expr, Load, Op, integer, number, op
from attndsl.ir.features import vector_factors
from attndsl.ir.free import column_only, row_only
from attndsl.ir.one_product import KEYS, QUERIES, CannotProjectError
from attndsl.ir.types import FLOAT, INT, Kind, Type

_ZERO, _TWO = integer(0), integer(2)
_BASE = 10000.0


@dataclass
class Components:
    """`one_sided(vector, c)` is component c of a vector of one side, None for what is made of others; `size(vector)`
    how many components one has."""

    one_sided: Callable[[Expr, Expr], Expr | None]
    size: Callable[[Expr], Expr]
    names: dict[Expr, Component] = field(default_factory=dict[Expr, Component])

    def reduced(self, node: Op) -> Expr:
        """A `total` or `amax` of a vector."""
        vector = node.args[0]
        if node.op == "total":
            inner = self._exchanged(vector)
            if inner is not None:
                return inner
        c = self._name(node)
        name = {"total": "sum_over", "amax": "max_over"}[node.op]
        return Op(FLOAT, name, (self.of(vector, c), c, self.size(vector)))

    def _name(self, node: Expr) -> Component:
        return self.names.setdefault(node, Component(INT, f"c{len(self.names)}"))

    def _exchanged(self, vector: Expr) -> Expr | None:
        """The sum of a product of f, not of the pair, with `x @ M` as the sum of x with `M @ f`, which is the same for
        many pairs; None for other sums."""
        factors = [f for f in vector_factors(vector) if f.type.shape]
        numbers = [f for f in vector_factors(vector) if not f.type.shape]
        products = [f for f in factors if isinstance(f, Op) and f.op == "matmul" and of_pair(f.args[0])]
        others = [f for f in factors if f not in products]
        if len(products) != 1 or not others or len(others) + 1 != len(factors):
            return None
        other = reduce(lambda a, b: op("mul", a, b), others)
        (product,) = products
        if of_pair(other):
            return None
        x, matrix = product.args
        c, j = self._name(op("total", vector)), self._name(product)
        weight = Op(FLOAT, "sum_over", (op("mul", _read(matrix, j, c), self.of(other, c)), c, self.size(product)))
        found = Op(FLOAT, "sum_over", (op("mul", self.of(x, j), weight), j, self.size(x)))
        return reduce(lambda a, b: op("mul", a, b), numbers, found)

    def of(self, vector: Expr, c: Expr) -> Expr:
        """A component of a vector."""
        if not vector.type.shape:
            return vector
        known = self.one_sided(vector, c)
        if known is not None:
            return known
        if isinstance(vector, Load):
            return _read(vector, c)
        if not isinstance(vector, Op):
            raise CannotProjectError("a vector that reads coordinates, decays or reductions")
        if vector.op not in VECTOR_OPS:
            return op(vector.op, *(self.of(a, c) for a in vector.args))
        return self._moved(vector, c)

    def _moved(self, node: Op, c: Expr) -> Expr:
        x = node.args[0]
        match node.op:
            case "concat":
                return self._concat(node.args, c)
            case "outer":
                many = self.size(node.args[1])
                return op("mul", self.of(x, op("floordiv", c, many)), self.of(node.args[1], op("mod", c, many)))
            case "distinct":
                many = self.size(x)
                first = op("mod", c, many)
                other = op("mod", op("add", op("add", first, op("floordiv", c, many)), integer(1)), many)
                return op("mul", self.of(x, first), self.of(x, other))
            case "roll":
                return self.of(x, op("mod", op("sub", c, node.args[1]), self.size(x)))
            case "rope":
                return self._rope(x, node.args[1], c)
            case "matmul":
                j = self._name(node)
                term = op("mul", self.of(x, j), _read(node.args[1], j, c))
                return Op(FLOAT, "sum_over", (term, j, self.size(x)))
            case name:
                raise CannotProjectError(f"`{name}` of a vector of the pair")

    def _concat(self, parts: tuple[Expr, ...], c: Expr) -> Expr:
        first, *rest = parts
        if not rest:
            return self.of(first, c)
        size = self.size(first)
        return op("select", op("lt", c, size), self.of(first, c), self._concat(tuple(rest), op("sub", c, size)))

    def _rope(self, x: Expr, by: Expr, c: Expr) -> Expr:
        half = op("floordiv", self.size(x), _TWO)
        front = op("lt", c, half)
        partner = op("select", front, op("add", c, half), op("sub", c, half))
        cosine, sine = self._turn(x, by, op("mod", c, half), half)
        turned = op("mul", self.of(x, partner), sine)
        return op("add", op("mul", self.of(x, c), cosine), op("select", front, op("neg", turned), turned))

    def _turn(self, x: Expr, by: Expr, n: Expr, half: Expr) -> tuple[Expr, Expr]:
        """The cosine and sine of angle n: of the parts of each side where they add up, which no pair computes again."""
        sides = by_side(by)
        found = None if sides is None else [self._turned_ones(x, p, n, half) for p in sides if p is not None]
        if found and all(found):
            first, *rest = (f for f in found if f is not None)
            for cosine, sine in rest:
                a, b = first
                first = (
                    op("sub", op("mul", a, cosine), op("mul", b, sine)),
                    op("add", op("mul", b, cosine), op("mul", a, sine)),
                )
            return first
        rate = op("exp", op("div", op("mul", build.to_float(n), number(-math.log(_BASE))), build.to_float(half)))
        angle = op("mul", build.to_float(by), rate)
        return op("cos", angle), op("sin", angle)

    def _turned_ones(self, x: Expr, by: Expr, n: Expr, half: Expr) -> tuple[Expr, Expr] | None:
        """The same for a number of one side, from a vector of ones that is turned by it: cos - sin, and cos + sin."""
        rows = row_only(by)
        like = (KEYS, QUERIES)[rows] if x.type.shape == QUERIES.type.shape else _of_one_side(x, rows)
        if like is None:
            return None
        turned = op("rope", op("select", op("eq", like, like), ONE, ONE), by)
        low, high = self.one_sided(turned, n), self.one_sided(turned, op("add", n, half))
        if low is None or high is None:
            return None
        return (
            op("mul", op("add", low, high), number(0.5)),
            op("mul", op("sub", high, low), number(0.5)),
        )


def _of_one_side(vector: Expr, rows: bool) -> Expr | None:
    """A vector of the size of another that is one of the row, or one of the key; None where none is at hand."""
    if not vector.type.shape:
        return None
    if row_only(vector) if rows else column_only(vector):
        return vector
    if isinstance(vector, Op) and (vector.op not in VECTOR_OPS or vector.op in ("roll", "rope")):
        found = (_of_one_side(a, rows) for a in vector.args)
        return next((f for f in found if f is not None), None)
    return None


def _read(tensor: Expr, *at: Expr) -> Load:
    """A number of a vector or a matrix of an input."""
    if not isinstance(tensor, Load):
        raise CannotProjectError("`@` with a matrix that is no input")
    if tensor.tensor in ("Q", "K", "V"):
        raise CannotProjectError("q, k or v at another position than its own")
    return Load(Type(Kind.FLOAT), tensor.tensor, (*tensor.indices, *at))
