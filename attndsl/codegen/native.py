"""Code for the CPU that is compiled: softmax attention over any score, as C.

Products of queries and keys become weights in place, row by row; for the backward also the gradients of the products.
What a row or a key alone decides, and what C code is not written for, is computed by the torch functions of the module
(`Leaf`); what is left of score and mask, for each pair, is one loop over the keys of a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal as Lit

from attndsl.codegen.expr_c import C_TYPES, CBody, by_sum, has_c
from attndsl.codegen.expr_torch import WILD, Body, is_host
from attndsl.codegen.names import Function
from attndsl.codegen.templates import render
from attndsl.ir.derivative import derivative
from attndsl.ir.expr import SCORE, TRUE, Decay, Expr, Literal, Load, Op, Reduce, Value, mentions, walk
from attndsl.ir.free import column_only, depends, row_only
from attndsl.ir.types import Kind

Span = Lit["row", "column", "pair"]


@dataclass(frozen=True)
class Leaf:
    """What the C code reads, computed by torch: a number of the row, of the key, or of the pair."""

    name: str
    span: Span
    kind: Kind
    function: Function
    value: Expr
    """What stands for it in expressions."""
    source: Expr

    @property
    def shared(self) -> bool:
        """Whether positions alone decide it, so that all batches and heads have the same."""
        return all(
            a.source in ("coord", "member", "extent", "size", "scalar") or a.name in ("q", "k", "row")
            for a in self.function.arguments
        )

    @property
    def c_type(self) -> str:
        """Of an element in memory."""
        return "uint8_t" if self.kind is Kind.BOOL else C_TYPES[self.kind]


@dataclass(frozen=True)
class NativeModule:
    """The leaves and expressions of a C kernel; `source` is its text.

    `differentiated` are leaves that may get gradients; `backward_gap` says why there is no backward, if there is none.
    """

    leaves: tuple[Leaf, ...]
    score: Expr
    mask: Expr | None
    sink: Leaf | None
    differentiated: tuple[Leaf, ...]
    backward_gap: str
    _sources: dict[bool, str] = field(default_factory=dict[bool, str], compare=False, repr=False)

    @property
    def functions(self) -> tuple[Function, ...]:
        """The torch functions of the leaves."""
        return tuple(leaf.function for leaf in self.leaves)

    def source(self, wide: bool) -> str:
        """The C text; with ints of 64 bits if `wide`, else of 32."""
        if wide not in self._sources:
            self._sources[wide] = self._rendered(wide)
        return self._sources[wide]

    def _rendered(self, wide: bool) -> str:
        score, seen, slopes = self._body(), self._body(), self._body()
        score_text = score.add(self.score)[0]
        seen_text = "1" if self.mask is None else seen.add(self.mask)[0]
        wanted = [] if self.backward_gap else [x for x in self.differentiated if x is not self.sink]
        rules = [] if self.backward_gap else [derivative(self.score, w) for w in (SCORE, *(x.value for x in wanted))]
        slope_texts = slopes.add(*rules)
        return render(
            "cpu/native.c.j2",
            whole="int64_t" if wide else "int32_t",
            leaves=[x for x in self.leaves if x is not self.sink],
            sink=self.sink,
            score=(score.lines, score_text),
            mask=None if self.mask is None else (seen.lines, seen_text),
            backward=not self.backward_gap,
            slopes=(slopes.lines, slope_texts[:1]),
            wanted=list(zip(wanted, slope_texts[1:], strict=True)),
            number={x.name: i for i, x in enumerate(self.leaves)},
            grad_number={x.name: i for i, x in enumerate(self.differentiated)},
        )

    def _body(self) -> CBody:
        names: dict[Expr, str] = {SCORE: "x"}
        for leaf in self.leaves:
            names[leaf.value] = leaf.name if leaf.span == "row" else f"{leaf.name}[j]"
        hoisted = frozenset(x.value for x in self.leaves if x.span == "row")
        return CBody("t", names, hoisted)


def native_module(score: Expr, mask: Expr, sink: Expr | None) -> NativeModule | str:
    """The C kernel of softmax over `score` where `mask` holds, with exp(sink) in the denominator; or why there is
    none."""
    leaves = _Leaves()
    try:
        pair_score = leaves.split(score)
        pair_mask = None if mask == TRUE else leaves.split(mask)
    except _NoCodeError as error:
        return str(error)
    first = len(leaves.made)
    sink_leaf = None if sink is None else leaves.leaf(sink, "row")
    if sink_leaf is not None and len(leaves.made) == first:
        # a number that the score reads too gets its gradients apart
        sink_leaf = replace(sink_leaf, name=f"r{first}", function=replace(sink_leaf.function, name=f"leaf{first}"))
        leaves.made.append(sink_leaf)
    found = tuple(leaves.made)
    scored = {n for n in walk(pair_score) if isinstance(n, Value)}
    differentiated = tuple(x for x in found if _has_gradient(x) and (x is sink_leaf or x.value in scored))
    gap = "" if _tame(pair_score, found) else "a derivative of its score can be infinite"
    return NativeModule(found, pair_score, pair_mask, sink_leaf, differentiated, gap)


class _NoCodeError(Exception):
    """An expression that C code is not written for."""


class _Leaves:
    """Splits expressions into what torch computes and what is left."""

    def __init__(self) -> None:
        self.made: list[Leaf] = []
        self._by_source: dict[Expr, Leaf] = {}

    def split(self, root: Expr) -> Expr:
        """The expression over leaves."""
        if mentions(root, lambda n: isinstance(n, Reduce) and mentions(n.body, lambda m: m == SCORE)):
            raise _NoCodeError("a sum over the scores of a row is not in C")
        plan: dict[Expr, Span | None] = {}
        for node in walk(root):
            plan[node] = _span(node, plan)
        needed: set[Expr] = set()
        stack = [root]
        while stack:
            node = stack.pop()
            if node not in needed:
                needed.add(node)
                if plan[node] is None:
                    stack.extend(node.children)
        done: dict[Expr, Expr] = {}
        for node in walk(root):
            if node not in needed:
                continue
            span = plan[node]
            if isinstance(node, Literal) or node == SCORE:
                done[node] = node
            elif span is not None:
                done[node] = self.leaf(node, span).value
            else:
                done[node] = node.with_children(tuple(done[c] for c in node.children))
        return done[root]

    def leaf(self, source: Expr, span: Span) -> Leaf:
        """The leaf of an expression, the same for equal ones."""
        found = self._by_source.get(source)
        if found is None:
            n = len(self.made)
            body = Body("x").add(source)
            doc = f"What C code reads of a {span}."
            function = Function(f"leaf{n}", doc, tuple(body.arguments.values()), tuple(body.lines), body.results[0])
            value = Value(source.type, f"leaf{n}")  # pyright: ignore[reportArgumentType]
            found = Leaf(f"{span[0]}{n}", span, source.type.kind, function, value, source)
            self._by_source[source] = found
            self.made.append(found)
        return found


def _span(node: Expr, known: Mapping[Expr, Span | None]) -> Span | None:
    """What a node's value is a property of where torch computes it; None where C does."""
    if isinstance(node, Literal) or node == SCORE:
        return None
    alone = "s" not in depends(node) and node.type.is_number
    if alone and row_only(node):
        return "row"
    if alone and column_only(node):
        return "column"
    if has_c(node) and not by_sum(node):
        return None
    if alone:
        return "pair"
    name = node.op if isinstance(node, Op) else type(node).__name__
    if node.type.is_number:
        raise _NoCodeError(f"{name} of a score is not in C")
    # a vector: its parent is computed by torch, or has no code either
    return None


def _has_gradient(leaf: Leaf) -> bool:
    return leaf.kind is Kind.FLOAT and mentions(leaf.source, _is_float_read)


def _is_float_read(node: Expr) -> bool:
    return isinstance(node, Load | Decay) and node.type.kind is Kind.FLOAT


def _tame(score: Expr, leaves: tuple[Leaf, ...]) -> bool:
    """Whether finite operands give finite values and derivatives in all that C computes of a score."""
    numbers = {x.value for x in leaves if is_host(x.source)}

    def tame(node: Expr) -> bool:
        if not isinstance(node, Op) or node.op not in WILD or node.op == "pow":
            return True
        # a number of the call: it is an error of the call where that is 0
        return node.op == "div" and (isinstance(node.args[1], Literal) or node.args[1] in numbers)

    return all(tame(n) for n in walk(score))
