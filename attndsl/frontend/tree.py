"""The syntax tree that both front ends build: what the user wrote, names not yet resolved.

Text (`parser.py`) and decorated Python (`python.py`) give equal trees for equal programs; spans take
no part in comparison.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal as Lit

from attndsl.diagnostics.source import NOWHERE, Span


@dataclass(frozen=True)
class Node:
    span: Span = field(default=NOWHERE, compare=False, repr=False, kw_only=True)


# Expressions


@dataclass(frozen=True)
class Name(Node):
    """A bare word, `q` and `k` included."""

    id: str


@dataclass(frozen=True)
class Number(Node):
    """A literal; an int stays an int."""

    value: int | float


@dataclass(frozen=True)
class Boolean(Node):
    value: bool


@dataclass(frozen=True)
class Attribute(Node):
    """`q.video`, `k.t`."""

    base: TreeExpr
    name: str


@dataclass(frozen=True)
class Subscript(Node):
    """`slope[h]`, `g[b, h, q]`."""

    base: TreeExpr
    indices: tuple[TreeExpr, ...]


@dataclass(frozen=True)
class Call(Node):
    """`causal(q, k)`; also `sum(e)`. A bare `sum` is a Name."""

    function: str
    arguments: tuple[TreeExpr, ...]


@dataclass(frozen=True)
class Unary(Node):
    operator: Lit["-", "not"]
    operand: TreeExpr


@dataclass(frozen=True)
class Binary(Node):
    operator: Lit["+", "-", "*", "/", "//", "%", "@", "^", "and", "or"]
    left: TreeExpr
    right: TreeExpr


@dataclass(frozen=True)
class Comparison(Node):
    """A chain: `0 <= d < w` has three operands and two operators."""

    operators: tuple[Lit["<", "<=", ">", ">=", "==", "!=", "in"], ...]
    operands: tuple[TreeExpr, ...]


@dataclass(frozen=True)
class Conditional(Node):
    condition: TreeExpr
    then: TreeExpr
    otherwise: TreeExpr


@dataclass(frozen=True)
class TupleLiteral(Node):
    """`(3, 9, 9)`, at least two items."""

    items: tuple[TreeExpr, ...]


TreeExpr = (
    Name | Number | Boolean | Attribute | Subscript | Call | Unary | Binary | Comparison | Conditional | TupleLiteral
)


# Declarations


@dataclass(frozen=True)
class Let(Node):
    name: str
    value: TreeExpr
    name_span: Span = field(default=NOWHERE, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True)
class Parameter(Node):
    """`const window: int[3] = 1`, `scalar bias: float`, `input doc: i32[B, L] sorted`.

    `base` is the type's word; `shape` its bracketed sizes or None; `facts` the trailing promises.
    """

    role: Lit["const", "scalar", "input"]
    name: str
    base: str
    shape: tuple[TreeExpr, ...] | None = None
    facts: tuple[str, ...] = ()
    default: TreeExpr | None = None
    name_span: Span = field(default=NOWHERE, compare=False, repr=False, kw_only=True)
    base_span: Span = field(default=NOWHERE, compare=False, repr=False, kw_only=True)
    fact_spans: tuple[Span, ...] = field(default=(), compare=False, repr=False, kw_only=True)


@dataclass(frozen=True)
class RequireClause(Node):
    """`require stride <= window, "stride exceeds window"`; the message may be empty."""

    condition: TreeExpr
    message: str


Statement = Let | RequireClause


@dataclass(frozen=True)
class Function(Node):
    """`fn` (closed) or `feature` (sees the attention's parameters): lets and preconditions, then the value."""

    kind: Lit["fn", "feature"]
    name: str
    parameters: tuple[str, ...]
    statements: tuple[Statement, ...]
    value: TreeExpr
    name_span: Span = field(default=NOWHERE, compare=False, repr=False, kw_only=True)
    parameter_spans: tuple[Span, ...] = field(default=(), compare=False, repr=False, kw_only=True)

    @property
    def lets(self) -> tuple[Let, ...]:
        return tuple(s for s in self.statements if isinstance(s, Let))

    @property
    def requires(self) -> tuple[RequireClause, ...]:
        return tuple(s for s in self.statements if isinstance(s, RequireClause))


@dataclass(frozen=True)
class GridSegment(Node):
    """`video(t, y, x)`; the name is empty for `grid q (y, x)`."""

    name: str
    axes: tuple[str, ...]
    axis_spans: tuple[Span, ...] = field(default=(), compare=False, repr=False, kw_only=True)


@dataclass(frozen=True)
class Grid(Node):
    side: Lit["both", "q", "k"]
    segments: tuple[GridSegment, ...]


@dataclass(frozen=True)
class Rewrite(Node):
    """A clause that rewrites one value: `score e`, `mask e`, `weight e`, `output e`."""

    target: Lit["score", "mask", "weight", "output"]
    value: TreeExpr


Clause = Grid | Let | RequireClause | Rewrite | Function


@dataclass(frozen=True)
class AttentionBlock(Node):
    name: str
    parameters: tuple[Parameter, ...]
    clauses: tuple[Clause, ...]
    name_span: Span = field(default=NOWHERE, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True)
class Use(Node):
    """`use masks (causal)` or `use "./mine.attn" (near)`."""

    module: str
    is_path: bool
    names: tuple[str, ...]
    module_span: Span = field(default=NOWHERE, compare=False, repr=False, kw_only=True)
    name_spans: tuple[Span, ...] = field(default=(), compare=False, repr=False, kw_only=True)


@dataclass(frozen=True)
class File(Node):
    uses: tuple[Use, ...]
    functions: tuple[Function, ...]
    attentions: tuple[AttentionBlock, ...]
