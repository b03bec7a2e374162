"""`Attention`: the typed meaning of one `attention` block, before any decision on how to run it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any
from typing import Literal as Lit

from attndsl.diagnostics.source import NOWHERE, Span
from attndsl.ir.expr import SCORE, TRUE, Expr
from attndsl.ir.types import Kind

ConstValue = bool | int | float | tuple[bool | int | float, ...]
Fact = Lit["sorted", "permutation", "log_decay", "operand", "channels"]
"""What is promised of an input. Of those that a projection adds: `operand`, vectors of q's type for a dot product;
`channels`, vectors in fp32 whose components are read one by one, each side by side for all positions in memory."""


@dataclass(frozen=True)
class Const:
    """A compile-time parameter: a number, or a tuple of `length` of them."""

    name: str
    kind: Kind
    length: int | None = None
    default: ConstValue | None = None
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class Scalar:
    """A run-time number; a new value never recompiles."""

    name: str
    kind: Kind
    default: bool | int | float | None = None
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class Input:
    """A run-time tensor. `shape` holds integer expressions over sizes and consts; a bare `Size` of a fresh
    name binds that name at the call."""

    name: str
    dtype: str
    shape: tuple[Expr, ...]
    facts: frozenset[Fact] = frozenset()
    span: Span = field(default=NOWHERE, compare=False, repr=False)


Param = Const | Scalar | Input


@dataclass(frozen=True)
class Segment:
    """A part of a sequence that is a grid of named axes, row-major. `name` may be empty for an unnamed one."""

    name: str
    axes: tuple[str, ...]


@dataclass(frozen=True)
class Space:
    """Where positions live: segments one after another."""

    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class Named:
    """A number that a message shows: its name in a function, and what it is outside (`window[1]`, `size of y`).
    A tuple has several parts."""

    name: str
    parts: tuple[Expr, ...]
    origin: str = ""


@dataclass(frozen=True)
class Precondition:
    """A `require` of a function as written, and what its names stood for in the call.

    `place` is where it was written, NOWHERE inside the standard library; `body` is the whole function.
    """

    function: str
    text: str
    values: tuple[Named, ...] = ()
    place: Span = NOWHERE
    body: Span = NOWHERE


@dataclass(frozen=True)
class Require:
    """A condition on consts, scalars, sizes and extents that a call must satisfy. `span` is the condition, or the call
    of the function that requires it (`of`)."""

    condition: Expr
    message: str
    span: Span = field(default=NOWHERE, compare=False, repr=False)
    of: Precondition | None = field(default=None, compare=False, repr=False)

    def map(self, rule: Callable[[Expr], Expr]) -> Require:
        """The same condition with its expressions passed through `rule`."""
        of = self.of
        if of is not None:
            of = replace(of, values=tuple(replace(v, parts=tuple(map(rule, v.parts))) for v in of.values))
        return replace(self, condition=rule(self.condition), of=of)


@dataclass(frozen=True)
class Attention:
    """One attention: who sees whom (`mask`), the score from the scaled dot product `s`, the weight from the
    score `s`, the output from the weighted sum `o`.

    `q_space` and `k_space` are None without grids; a shared grid is the same Space in both with `shared`.
    """

    name: str
    params: tuple[Param, ...]
    mask: Expr = TRUE
    score: Expr = SCORE
    weight: Expr | None = None
    """None is softmax: exp(s) / sum(exp(s))."""
    output: Expr | None = None
    """None is o."""
    q_space: Space | None = None
    k_space: Space | None = None
    shared: bool = True
    requires: tuple[Require, ...] = ()
    span: Span = field(default=NOWHERE, compare=False, repr=False)
    consts: tuple[Const, ...] = field(init=False, compare=False, repr=False)
    scalars: tuple[Scalar, ...] = field(init=False, compare=False, repr=False)
    inputs: tuple[Input, ...] = field(init=False, compare=False, repr=False)
    products: tuple[tuple[Input, Input], ...] = field(init=False, compare=False, repr=False)
    """The vectors of queries, [B, H, Lq, n], and of keys, [B, Hkv, Lk, n], whose dot products `FURTHER` are, in
    order."""
    channels: tuple[Input, ...] = field(init=False, compare=False, repr=False)
    """The vectors whose components are read one by one."""

    def __post_init__(self) -> None:
        inputs = tuple(p for p in self.params if isinstance(p, Input))
        pairs = [p for p in inputs if "operand" in p.facts]
        found = {
            "consts": tuple(p for p in self.params if isinstance(p, Const)),
            "scalars": tuple(p for p in self.params if isinstance(p, Scalar)),
            "inputs": inputs,
            "products": tuple(zip(pairs[::2], pairs[1::2], strict=True)),
            "channels": tuple(p for p in inputs if "channels" in p.facts),
        }
        for name, value in found.items():
            object.__setattr__(self, name, value)

    def __hash__(self) -> int:
        # what was found out about an attention is looked for by it, many times a call
        known: int | None = self.__dict__.get("_hash")
        if known is None:
            known = hash(tuple(getattr(self, f.name) for f in fields(self) if f.compare))
            object.__setattr__(self, "_hash", known)
        return known

    def __getstate__(self) -> dict[str, Any]:
        # hashes of texts differ from process to process
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def param(self, name: str) -> Param:
        """The parameter of this name; KeyError without one."""
        for p in self.params:
            if p.name == name:
                return p
        raise KeyError(name)

    @property
    def gridded(self) -> bool:
        """Whether positions of queries, or of keys, have coordinates."""
        return self.q_space is not None or self.k_space is not None

    def map(self, rule: Callable[[Expr], Expr]) -> Attention:
        """The same attention with every expression passed through `rule`."""
        return replace(
            self,
            mask=rule(self.mask),
            score=rule(self.score),
            weight=None if self.weight is None else rule(self.weight),
            output=None if self.output is None else rule(self.output),
            requires=tuple(r.map(rule) for r in self.requires),
            params=tuple(
                replace(p, shape=tuple(rule(e) for e in p.shape)) if isinstance(p, Input) else p for p in self.params
            ),
        )
