"""What a projection of an attention is made of: see `attndsl.ir.projection`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attndsl.ir.attention import Attention
from attndsl.ir.evaluate import Env, evaluate
from attndsl.ir.expr import Expr, Index, Load, Size, integer, op
from attndsl.ir.types import FLOAT, INT, Kind, Type

GIVEN_SIZE = "D_given"
"""The size of q's vectors, where `D` is that of the projected ones."""
MULTIPLE = 16
"""Projected vectors have a multiple of so many components."""


@dataclass(frozen=True)
class Vectors:
    """The two vectors of the one dot product, of `extent` components. They may read `SCALE`. `by_head`: the key's
    differs between the query heads of one key head."""

    query: Expr
    key: Expr
    extent: Expr
    by_head: bool


@dataclass(frozen=True)
class Product:
    """A further dot product of a pair: the names of the inputs that hold its vectors, `[B, H, Lq, n]` and `[B, Hkv, Lk,
    n]` in q's type, and of their extent n."""

    query: str
    key: str
    size: str
    vectors: Vectors


@dataclass(frozen=True)
class Number:
    """A number of one side, given as an input: `[B, H, Lq]` of rows, `[B, H, Lk]` of keys where it varies with the
    query head, else `[B, Hkv, Lk]`."""

    name: str
    value: Expr
    of_row: bool
    by_head: bool


@dataclass(frozen=True)
class Table:
    """The dot products of a vector of one side with every vector `tensor[lead..., j]`, given as an input with j behind
    the dimensions of a `Number`."""

    name: str
    vector: Expr
    tensor: str
    lead: tuple[Expr, ...]
    of_row: bool
    by_head: bool


@dataclass(frozen=True)
class Channels:
    """A vector of one side whose components a kernel reads one by one, given as an input in fp32: `[B, H, Lq, size]` of
    rows, `[B, H, Lk, size]` of keys where it varies with the query head, else `[B, Hkv, Lk, size]`."""

    name: str
    value: Expr
    of_row: bool
    by_head: bool
    size: str


@dataclass(frozen=True)
class Gate:
    """A vector of the row that an output clause reads, given as an input `[B, H, Lq, Dv]`."""

    name: str
    value: Expr


@dataclass(frozen=True)
class Prefix:
    """The sums of a `log_decay` input up to each position: `keys` are two inputs of its shape whose sum they are, and
    `rows` two [B, H, Lq] with what `indices` read at the position of each query, at most the last. Of decays per
    channel (`size` names how many) all four are as those of `Channels`."""

    tensor: str
    indices: tuple[Expr, ...]
    rows: tuple[str, str]
    keys: tuple[str, str]
    size: str = ""
    by_head: bool = False

    @property
    def at_row(self) -> Expr:
        """The read of such a sum by a query."""
        last = op("sub", Size(INT, "L"), integer(1))
        return self._at(op("min", Index(INT, "q"), last))

    @property
    def at_key(self) -> Expr:
        """The read of such a sum by a key."""
        return self._at(Index(INT, "k"))

    def _at(self, position: Expr) -> Expr:
        type_ = Type(Kind.FLOAT, (self.size,)) if self.size else FLOAT
        return Load(type_, self.tensor, (*self.indices, position))


@dataclass(frozen=True)
class Projection:
    """`inner` is an attention whose `s` is the unscaled dot product of `vectors`, or the scaled one of q and k where
    there are none, whose further dot products are `products`, and that reads what is listed as further inputs.
    `moved_lse`: the logarithm of its sum of exponentials is not that of the attention's own."""

    inner: Attention
    vectors: Vectors | None
    numbers: tuple[Number, ...] = ()
    tables: tuple[Table, ...] = ()
    prefixes: tuple[Prefix, ...] = ()
    moved_lse: bool = False
    products: tuple[Product, ...] = ()
    channels: tuple[Channels, ...] = ()
    extents: tuple[tuple[str, Expr], ...] = ()
    """How many components the vectors of a size have."""
    gates: tuple[Gate, ...] = ()

    @property
    def by_head(self) -> bool:
        """Whether keys differ between the query heads of one key head."""
        return any(v.by_head for v in (*([self.vectors] if self.vectors else []), *(p.vectors for p in self.products)))

    def components(self, given: Mapping[str, int]) -> int:
        """Components of a query's vectors in all dot products of a call of these sizes, without zeros."""
        known = Env({Size(INT, n): v for n, v in given.items()})
        first = given["D"] if self.vectors is None else int(evaluate(self.vectors.extent, known))
        return first + sum(int(evaluate(p.vectors.extent, known)) for p in self.products)

    def sizes(self, given: Mapping[str, int]) -> dict[str, int]:
        """The sizes of a call of `inner`, from those of a call: `D`, and the extents of further products, are the
        components of the vectors and zeros behind them up to whole tiles of matrix units, which also keeps rows
        aligned."""
        found = {**given, GIVEN_SIZE: given["D"], "Hkv": given["H" if self.by_head else "Hkv"]}
        extents = {p.size: p.vectors.extent for p in self.products}
        if self.vectors is not None:
            extents["D"] = self.vectors.extent
        known = Env({Size(INT, n): v for n, v in given.items()})
        for name, extent in extents.items():
            found[name] = -(-int(evaluate(extent, known)) // MULTIPLE) * MULTIPLE
        return found | {name: int(evaluate(extent, known)) for name, extent in self.extents}
