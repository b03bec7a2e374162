"""Sums over the components of vectors of the pair, as loops within a tile, and the gradients of those vectors.

A component of the rows' vectors is a column [BM, 1], one of the columns' vectors a row [1, BN]: what is computed of
both for a pair is arithmetic of [BM, BN] like any other, once for every component.
"""

from __future__ import annotations

from collections.abc import Iterable

from attndsl.codegen.expr_triton import Level, Printer, Scope, Text, input_name, size_name
from attndsl.codegen.triton_arguments import Argument
from attndsl.codegen.triton_gradient import Term, certain, slope
from attndsl.codegen.triton_score import of_raw
from attndsl.codegen.triton_slots import index_level
from attndsl.ir.build import ONE
from attndsl.ir.channels import bound, numbered, reductions_of, slope_of, vectors_read, within
from attndsl.ir.expr import Component, Expr, Load, Op


def reduction(printer: Printer, node: Op) -> Text:
    """The value of a sum over components, or of the largest one, after the loop that computes it."""
    scope, own = printer.scope_of(node), printer.level(node)
    rows = "BM" if own in (Level.ROW, Level.PAIR) else "1"
    shape = f"[{rows}, {printer.columns if own >= Level.COLUMN else '1'}]"
    known = {n: printer.value_of(n) for n in within(node)[1]}
    adds = node.op in ("total", "sum_over")
    start = f"tl.zeros({shape}, tl.float32)" if adds else f'tl.full({shape}, -float("inf"), tl.float32)'
    if printer.like and own is Level.PAIR:
        start = f"{printer.reads.helper('nothing_like')}({printer.like})" + ("" if adds else ' - float("inf")')
    name = scope.name(start).code
    inner = loop_printer(printer, name, known, bound(node) if numbered(node) else None)
    text = inner.print(node.args[0])
    added = f"{name} += {text}" if adds else f"{name} = tl.maximum({name}, {text})"
    size = printer.value_of(node.args[2]).operand if numbered(node) else _size_of(printer, within(node)[0])
    scope.lines += loop(inner, size, [added])
    return Text(name)


def _size_of(printer: Printer, vectors: Iterable[Expr]) -> str:
    """How many components vectors have."""
    name = next(str(n.type.shape[0]) for n in vectors if isinstance(n, Load))
    printer.reads.sizes[name] = None
    return size_name(name)


def loop_printer(printer: Printer, name: str, known: dict[Expr, Text], by: Component | None = None) -> Printer:
    """A printer of the statements for one component, in which numbers are known; `by`: what they call its number."""
    return Printer(
        printer.reads, printer.leaves if by is None else {**printer.leaves, by: f"{name}_at"},
        Scope(f"{name}_", known=known), turned=printer.turned, columns=printer.columns, seen=printer.seen,
        channel=f"{name}_c", bound=by, like=printer.like if by is not None else "", places=printer.places,
        used=printer.used,
    )  # fmt: skip


def loop(inner: Printer, size: str, last: list[str]) -> list[str]:
    """The loop over so many components around the statements for one, `last` behind them."""
    at = (
        [] if inner.bound is None else [f"{inner.leaves[inner.bound]} = tl.full([1, 1], 0, tl.int32) + {inner.channel}"]
    )
    return [
        f"for {inner.channel} in tl.range(0, {size}):",
        *(f"    {line}" for line in (*at, *inner.inner.lines, *last)),
    ]


def gradient_name(name: str) -> str:
    """The argument that the gradient of a vector is added to."""
    return f"grad_{input_name(name)}"


def gradient_arguments(loads: Iterable[Load]) -> list[Argument]:
    """The gradients of vectors, which lie in memory as those do."""
    names = dict.fromkeys(n.tensor for n in loads)
    return [Argument(gradient_name(n), "*fp32", "tensor", ("d " + n,)) for n in names]


def moving(terms: tuple[Term, ...], wanted: frozenset[str], own: Level) -> list[Load]:
    """The vectors of one side, those of rows or of columns, that are `wanted` and move a term."""
    listed = dict.fromkeys(v for t in terms for v in vectors_read(t.value))
    return [v for v in listed if v.tensor in wanted and index_level(v) is own and _Slopes(terms, v).found]


class _Slopes:
    """The sums over components that read a vector: with each what a component of the vector does to one of the sum,
    and the factors of parts of a pair's gradient that make the gradient of the sum."""

    def __init__(self, terms: tuple[Term, ...], load: Load) -> None:
        self.load = load
        self.found: dict[Op, tuple[Expr, list[tuple[str, Expr]]]] = {}
        for node in dict.fromkeys(r for t in terms for r in reductions_of(t.value, load)):
            inner = slope_of(node, load)
            parts = [(t.part, e) for t in terms if (e := slope(t.value, node)) is not None]
            if inner is not None and parts:
                self.found[node] = of_raw(inner), parts


def channel_gradients(terms: tuple[Term, ...], loads: list[Load], printer: Printer, *, masked: bool) -> list[str]:
    """The statements that add the gradients of the rows' vectors `loads`, for the pairs of a box, to their sums in
    memory: the rows of a tile belong to one program, so that they come in order."""
    scope = printer.inner
    slopes = [_Slopes(terms, load) for load in loads]
    sums: dict[Op, str] = {}
    for node, (_, parts) in ((n, f) for s in slopes for n, f in s.found.items()):
        if node not in sums:
            total = " + ".join(part if e == ONE else f"{part} * ({printer.print(e)})" for part, e in parts)
            finite = all(part in ("dl", "da") and certain(e) for part, e in parts)
            sums[node] = scope.name(f"tl.where(visible, {total}, 0.0)" if masked and not finite else total).code
    for size in dict.fromkeys(_size_of(printer, [load]) for load in loads):
        here = [s for s in slopes if _size_of(printer, [s.load]) == size]
        every = [e for s in here for e, _ in s.found.values()]
        numbers = dict.fromkeys(n for e in every for n in _numbers(e))
        name = f"{scope.prefix}{len(scope.lines)}"
        inner = loop_printer(printer, name, {n: printer.value_of(n) for n in numbers})
        inner.expect(*every)
        last: list[str] = []
        for s in here:
            texts = [sums[n] if e == ONE else f"{sums[n]} * ({inner.print(e)})" for n, (e, _) in s.found.items()]
            text = " + ".join(texts)
            if masked and not all(certain(e) for e, _ in s.found.values()):
                text = f"tl.where(visible, {text}, 0.0)"
            place, _ = inner.place_of(s.load)
            target = f"{gradient_name(s.load.tensor)} + {place}"
            last.append(f'tl.atomic_add({target}, tl.sum({text}, 1, keep_dims=True), mask=row_inside, sem="relaxed")')
        scope.lines += loop(inner, size, last)
    return scope.lines


def _numbers(e: Expr) -> tuple[Expr, ...]:
    return within(Op(e.type, "total", (e,)))[1]
