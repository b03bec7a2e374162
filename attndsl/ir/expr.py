"""Typed expressions: what a mask, a score, a weight and an output are made of.

Nodes are frozen and compare by structure; the span says where the user wrote it and takes no part
in comparison. The hash of a node is computed once, so that shared subtrees cost nothing.

Meaning shared by all consumers (oracle, schedule, code generators):

- `/` is float; `//` and `%` floor, and x // 0 = x % 0 = 0.
- `Load` outside the tensor is 0.
- `Op` lifts elementwise over vectors unless its name is in `VECTOR_OPS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Literal as Lit
from typing import TypeVar, cast

from attndsl.diagnostics.source import NOWHERE, Span
from attndsl.ir.types import BOOL, FLOAT, INT, Kind, Type

Side = Lit["q", "k"]
T = TypeVar("T")

ARITHMETIC = ("add", "sub", "mul", "div", "floordiv", "mod", "pow", "neg", "min", "max")
COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")
LOGIC = ("and", "or", "not")
FUNCTIONS = (
    "abs", "sign", "floor", "ceil", "exp", "log", "sqrt", "tanh", "sigmoid", "relu", "elu", "silu", "gelu",
    "softplus", "erf", "sin", "cos", "acos", "atan2", "bitlen", "ispow2",
)  # fmt: skip
VECTOR_OPS = (
    "dot", "norm", "total", "amax", "vsoftmax", "rmsnorm", "concat", "outer", "distinct", "matmul", "roll", "rope",
)  # fmt: skip
OVER = ("sum_over", "max_over")
OPS = frozenset((*ARITHMETIC, *COMPARISONS, *LOGIC, *FUNCTIONS, *VECTOR_OPS, *OVER, "select", "to_float", "to_int"))
"""Every operation name. `select(c, a, b)` is `if c then a else b`; `vsoftmax`, `norm` (2-norm), `total` and `amax`
(the largest) run over components; `matmul` is vector @ matrix; `gelu` is the erf form; `bitlen(n)` the bits of |n|;
`to_float` converts an int or bool, `to_int` a bool. `floor` and `ceil` give ints. `min` and `max` take two arguments.
`rmsnorm(x)` is x / sqrt(mean(x^2) + 1e-6); `roll(x, n)` moves component i to (i + n) % size; `rope(x, p)` turns
components i and i + size/2 by the angle p * 10000^(-2i/size). `distinct(x)`, which passes add and no user writes,
holds the product of every two different components once: number n is x_i x_j for i = n % size and
j = (i + n // size + 1) % size. `sum_over(x, c, n)` and `max_over(x, c, n)`, which passes add too, are the sum and the
largest of a number x for the `Component` c from 0 to n - 1."""


def _node(cls: type[T]) -> type[T]:
    """Give a frozen node class a hash that is computed once, and an equality that looks at a shared subtree once."""
    compared = [f for f in fields(cls) if f.compare]  # type: ignore[arg-type]
    names = tuple(f.name for f in compared)
    own = tuple(f.name for f in compared if "Expr" not in str(f.type))

    def structural_hash(self: Expr) -> int:
        known: int | None = self.__dict__.get("_hash")
        if known is None:
            values = tuple(getattr(self, n) for n in names)
            known = hash((cls.__name__, values))
            object.__setattr__(self, "_hash", known)
        return known

    def equal(self: Expr, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, cls) or hash(self) != hash(other):
            return False
        mine, theirs = _key(self), _key(cast(Expr, other))
        return mine == theirs if mine is not None and theirs is not None else _same(self, cast(Expr, other))

    cls.__hash__ = structural_hash  # type: ignore[assignment,method-assign]
    cls.__eq__ = equal  # type: ignore[assignment,method-assign]
    _OWN[cls] = own
    return cls


_OWN: dict[type, tuple[str, ...]] = {}
"""The fields of a class that are no children."""


_SMALL = 64
_Key = tuple[object, ...]


def _key(node: Expr) -> _Key | None:
    """Nested tuples that are equal where nodes are, kept with the node; None for a tree too large to spell out."""
    known: tuple[int, _Key | None] | None = node.__dict__.get("_key")
    if known is None:
        known = _spelled(node)
        object.__setattr__(node, "_key", known)
    return known[1]


def _spelled(node: Expr) -> tuple[int, _Key | None]:
    cls = type(node)
    size = 1
    inner: list[_Key] = []
    for child in node.children:
        key = _key(child)
        if key is None:
            return _SMALL + 1, None
        size += child.__dict__["_key"][0]
        inner.append(key)
    if size > _SMALL:
        return size, None
    own = tuple(getattr(node, n) for n in _OWN[cls] if n != "type")
    return size, (cls, node.type.kind, node.type.shape, own, *inner)


def _same(a: Expr, b: Expr) -> bool:
    """Equality without recursion, linear in the number of distinct nodes."""
    seen: set[tuple[int, int]] = set()
    stack = [(a, b)]
    while stack:
        x, y = stack.pop()
        if x is y or (id(x), id(y)) in seen:
            continue
        if type(x) is not type(y) or any(getattr(x, n) != getattr(y, n) for n in _OWN[type(x)]):
            return False
        if len(x.children) != len(y.children):
            return False
        seen.add((id(x), id(y)))
        stack.extend(zip(x.children, y.children, strict=True))
    return True


@dataclass(frozen=True, eq=True)
class Expr:
    """Base of all nodes. Construct the subclasses below."""

    type: Type
    span: Span = field(default=NOWHERE, compare=False, repr=False, kw_only=True)

    def __post_init__(self) -> None:
        hash(self)  # children have theirs, so that no deep tree is hashed at once

    def __getstate__(self) -> dict[str, object]:
        # hashes of strings differ between processes
        return {k: v for k, v in self.__dict__.items() if k not in ("_hash", "_key")}

    @property
    def children(self) -> tuple[Expr, ...]:
        return ()

    def with_children(self, children: tuple[Expr, ...]) -> Expr:
        """The same node over other children."""
        assert not children
        return self


@_node
@dataclass(frozen=True)
class Literal(Expr):
    """A number known at compile time: bool, int or float as `type` says."""

    value: bool | int | float


@_node
@dataclass(frozen=True)
class Index(Expr):
    """An index of the pair: `q` and `k` (linear positions), `row` (q without `q_offset`), `h`, `b`, `hkv`."""

    name: Lit["q", "k", "row", "h", "b", "hkv"]


@_node
@dataclass(frozen=True)
class Coord(Expr):
    """A grid coordinate of q or k; -1 outside its segment."""

    side: Side
    segment: str
    axis: str


@_node
@dataclass(frozen=True)
class Member(Expr):
    """Whether the position of q or k lies in a segment."""

    side: Side
    segment: str


@_node
@dataclass(frozen=True)
class Extent(Expr):
    """The extent of a grid axis of q's or k's space."""

    side: Side
    segment: str
    axis: str


@_node
@dataclass(frozen=True)
class Component(Expr):
    """The number of a component of a vector, bound by a `sum_over` or `max_over` around it."""

    name: str


@_node
@dataclass(frozen=True)
class Size(Expr):
    """A size of the call: `B H Hkv Lq Lk L D Dv` or a fresh name bound by an input's shape."""

    name: str


@_node
@dataclass(frozen=True)
class ParamRef(Expr):
    """A scalar parameter, or a const one that has no value yet (`component` selects one of a tuple const)."""

    name: str
    component: int | None = None


@_node
@dataclass(frozen=True)
class Load(Expr):
    """A read of a run-time tensor (an input, or `Q`, `K`, `V`) or of a const array. Fewer indices than
    dimensions give a vector or a matrix. `Q`, `K`, `V` are [B, H|Hkv, L, D|Dv]."""

    tensor: str
    indices: tuple[Expr, ...]

    @property
    def children(self) -> tuple[Expr, ...]:
        return self.indices

    def with_children(self, children: tuple[Expr, ...]) -> Expr:
        return replace(self, indices=children)


@_node
@dataclass(frozen=True)
class Value(Expr):
    """The value a clause rewrites: `s` (in a score the scaled dot product, in a weight the final score) or `o`; and,
    where vectors were taken out of an attention, `sa`, `sb`, ...: further dot products, of its `Attention.products`."""

    name: str


@_node
@dataclass(frozen=True)
class Op(Expr):
    """An operation of `OPS` on its arguments."""

    op: str
    args: tuple[Expr, ...]

    @property
    def children(self) -> tuple[Expr, ...]:
        return self.args

    def with_children(self, children: tuple[Expr, ...]) -> Expr:
        return replace(self, args=children)


@_node
@dataclass(frozen=True)
class Reduce(Expr):
    """`sum` or `mean` of the body over the row's visible keys (componentwise for vectors)."""

    kind: Lit["sum", "mean"]
    body: Expr

    @property
    def children(self) -> tuple[Expr, ...]:
        return (self.body,)

    def with_children(self, children: tuple[Expr, ...]) -> Expr:
        return replace(self, body=children[0])


@_node
@dataclass(frozen=True)
class Count(Expr):
    """The number of visible keys of the row (an int)."""


@_node
@dataclass(frozen=True)
class Decay(Expr):
    """exp of the sum of `tensor[indices..., j]` for k < j <= q; `indices` are those before the L dimension.
    A tensor with a dimension after L decays per channel and gives a vector."""

    tensor: str
    indices: tuple[Expr, ...]

    @property
    def children(self) -> tuple[Expr, ...]:
        return self.indices

    def with_children(self, children: tuple[Expr, ...]) -> Expr:
        return replace(self, indices=children)


@_node
@dataclass(frozen=True)
class Search(Expr):
    """How many elements of a sorted one-dimensional tensor are below `value` (`side` left) or not above it (right):
    the inverse of a `Load`, which passes add and no user writes."""

    tensor: str
    value: Expr
    side: Lit["left", "right"]

    @property
    def children(self) -> tuple[Expr, ...]:
        return (self.value,)

    def with_children(self, children: tuple[Expr, ...]) -> Expr:
        return replace(self, value=children[0])


TRUE = Literal(BOOL, True)
FALSE = Literal(BOOL, False)
SCORE = Value(FLOAT, "s")
FURTHER = tuple(Value(FLOAT, f"s{letter}") for letter in "abcdefg")
"""The dot products of a pair beside the one of q and k."""


def integer(value: int, span: Span = NOWHERE) -> Literal:
    return Literal(INT, value, span=span)


def number(value: float, span: Span = NOWHERE) -> Literal:
    return Literal(FLOAT, float(value), span=span)


def op(name: str, *args: Expr, span: Span | None = None) -> Op:
    """An operation with its type derived from its arguments' (which must agree already)."""
    assert name in OPS, name
    at = span or (args[0].span if args else NOWHERE)
    return Op(result_type(name, tuple(a.type for a in args)), name, args, span=at)


def result_type(name: str, types: tuple[Type, ...]) -> Type:
    """The type of an operation on arguments of these types.

    Numbers lift over vectors; mixed kinds are an error of the caller (insert `to_float` first).
    """
    shape = max((t.shape for t in types), key=len)
    if name in COMPARISONS or name in LOGIC or name == "ispow2":
        return Type(Kind.BOOL, shape)
    if name in ("floor", "ceil", "bitlen", "to_int"):
        return Type(Kind.INT, shape)
    if name in ("dot", "norm", "total", "amax"):
        return FLOAT
    if name == "select":
        return Type(types[1].kind, shape)
    if name == "to_float":
        return Type(Kind.FLOAT, shape)
    if name == "matmul":
        return Type(Kind.FLOAT, types[1].shape[1:])
    if name == "outer":
        return Type(Kind.FLOAT, (product_dim(types[0].shape[0], types[1].shape[0]),))
    if name == "distinct":
        return Type(Kind.FLOAT, (distinct_dim(types[0].shape[0]),))
    if name == "concat":
        total = types[0].shape[0]
        for t in types[1:]:
            total = sum_dim(total, t.shape[0])
        return Type(Kind.FLOAT, (total,))
    if name in ("vsoftmax", "rmsnorm", "roll", "rope"):
        return types[0]
    if name in ARITHMETIC or name in ("abs", "sign", "relu"):
        return Type(types[0].kind if name != "div" else Kind.FLOAT, shape)
    return Type(Kind.FLOAT, shape)


def sum_dim(a: int | str, b: int | str) -> int | str:
    """The extent of a concatenation; symbolic extents are written out."""
    return a + b if isinstance(a, int) and isinstance(b, int) else f"({a}+{b})"


def product_dim(a: int | str, b: int | str) -> int | str:
    """The extent of an outer product, flattened."""
    return a * b if isinstance(a, int) and isinstance(b, int) else f"({a}*{b})"


def distinct_dim(a: int | str) -> int | str:
    """How many unordered pairs of different components there are."""
    return a * (a - 1) // 2 if isinstance(a, int) else f"distinct({a})"


def walk(root: Expr) -> Iterator[Expr]:
    """Every distinct node under `root`, children first, each once."""
    seen: set[Expr] = set()
    stack: list[tuple[Expr, bool]] = [(root, False)]
    while stack:
        node, ready = stack.pop()
        if node in seen:
            continue
        if ready:
            seen.add(node)
            yield node
        else:
            stack.append((node, True))
            stack.extend((c, False) for c in reversed(node.children) if c not in seen)


def rewrite(root: Expr, rule: Callable[[Expr], Expr | None]) -> Expr:
    """Rebuild bottom-up; `rule` sees each node over rewritten children and returns its replacement or None."""
    done: dict[Expr, Expr] = {}
    for node in walk(root):
        new = tuple(done[c] for c in node.children)
        built = node if new == node.children else node.with_children(new)
        replaced = rule(built)
        done[node] = built if replaced is None else replaced
    return done[root]


def mentions(root: Expr, test: Callable[[Expr], bool]) -> bool:
    """Whether any node under `root` satisfies the test."""
    return any(test(n) for n in walk(root))
