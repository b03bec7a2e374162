"""Gradients of what sums over numbered components read: of vectors of one side that pairs read at moved components, of
vectors and matrices that they choose, and of those that are the same for all.

A number a pair, the gradient of a sum, goes down the loops that the sum is made of: within each it is multiplied by the
derivative of the summand with respect to what that reads, which is added to its element, and to the sums in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from attndsl.codegen.expr_triton import Level, Printer, level
from attndsl.codegen.triton_channels import gradient_name, loop, loop_printer
from attndsl.codegen.triton_gradient import Term, certain, slope
from attndsl.codegen.triton_score import gathered, of_raw
from attndsl.codegen.triton_slots import Slots, element_of, index_level
from attndsl.ir.build import ONE, ZERO
from attndsl.ir.channels import bound, components_in, numbered, split, within
from attndsl.ir.derivative import count_of_largest, derivative
from attndsl.ir.expr import Expr, Load, Op, op, walk
from attndsl.ir.simplify import simplify_expr


@dataclass(frozen=True)
class Wanted:
    """Whose gradients a sweep adds up: of `vectors`, those of the tile's rows (`own`), in which each row has its place;
    of `inputs` in any."""

    vectors: frozenset[str]
    inputs: frozenset[str]
    own: Level

    def holds(self, load: Expr) -> bool:
        """Whether a read is one of them."""
        if not isinstance(load, Load) or not components_in(load):
            return False
        return load.tensor in self.inputs or (load.tensor in self.vectors and index_level(load) is self.own)


def numbered_reads(e: Expr) -> list[Load]:
    """What is read at numbers of components."""
    return [n for n in walk(e) if isinstance(n, Load) and components_in(n)]


def numbered_gradients(
    terms: tuple[Term, ...], wanted: Wanted, printer: Printer, slots: Slots, *, masked: bool, deterministic: bool
) -> None:
    """Print the statements that add those gradients up, for the pairs of a box."""
    writer = _Writer(wanted, slots, masked, deterministic)
    roots = dict.fromkeys(n for t in terms for n in walk(t.value) if numbered(n) and not components_in(n))
    for root in roots:
        parts = [(t.part, e) for t in terms if (e := slope(t.value, root)) is not None]
        if not parts or not writer.reads(root):
            continue
        assert isinstance(root, Op)
        total = " + ".join(part if e == ONE else f"{part} * ({printer.print(e)})" for part, e in parts)
        finite = all(part in ("dl", "da") and certain(e) for part, e in parts)
        guarded = masked and not finite
        name = printer.inner.name(f"tl.where(visible, {total}, 0.0)" if guarded else total).code
        writer.down(printer, root, name, Level.PAIR)


@dataclass
class _Writer:
    wanted: Wanted
    slots: Slots
    masked: bool
    deterministic: bool

    def reads(self, node: Expr) -> bool:
        """Whether something that is wanted is read in the components of a sum, or of one in it."""
        return any(self.wanted.holds(n) or (numbered(n) and self.reads(n)) for n in within(node)[0])

    def down(self, printer: Printer, node: Op, gradient: str, shape: Level) -> None:
        """The loop of a sum whose gradient is known, a number of every pair or (`shape`) of what it varies with."""
        varying, _ = within(node)
        targets = [n for n in varying if self.wanted.holds(n) or (numbered(n) and self.reads(n))]
        found = [(n, e) for n in targets if (e := _inner_slope(node, n)) is not None]
        if not found:
            return
        by = bound(node)
        numbers = dict.fromkeys(n for _, e in found for n in split(e, by)[1])
        name = f"{printer.inner.prefix}{len(printer.inner.lines)}d"
        inner = loop_printer(printer, name, {n: printer.value_of(n) for n in numbers}, by)
        inner.expect(*(e for _, e in found))
        for target, e in found:
            text = gradient if e == ONE else f"{gradient} * ({inner.print(e)})"
            if not certain(e):
                if shape is not Level.PAIR:
                    text = f"tl.where({gradient} == 0.0, 0.0, {text})"
                elif self.masked:
                    text = f"tl.where(visible, {text}, 0.0)"
            if isinstance(target, Load):
                self._add(inner, target, text, shape)
                continue
            assert isinstance(target, Op)
            whole = inner.inner.name(text).code
            self.down(inner, target, *_narrowed(inner, target, whole, shape))
        printer.inner.lines += loop(inner, printer.value_of(node.args[2]).operand, [])

    def _add(self, inner: Printer, load: Load, text: str, shape: Level) -> None:
        scope = inner.inner
        inner.print(load)
        own = inner.level(load) if load.tensor in self.wanted.vectors else level(load)
        text = _summed(text, shape, own)
        rows = ["row_inside"] if own in (Level.ROW, Level.PAIR) else []
        if load.tensor in self.wanted.vectors:
            place, inside = inner.element(load, gradient_name(load.tensor))
            mask = " & ".join([*rows, *([inside] if inside else [])])
            scope.lines.append(f'tl.atomic_add({place}, {text}, mask={mask}, sem="relaxed")')
            return
        target = self.slots.component(load).target
        at, inside = element_of(load, inner, inner.reads)
        seen = ["visible"] if self.masked and own is Level.PAIR else []
        mask = " & ".join([*seen, *rows, *([inside] if inside else [])])
        if not self.deterministic:
            scope.lines.append(f'tl.atomic_add({target} + {at}, {text}, mask={mask}, sem="relaxed")')
            return
        scope.lines += _fixed_point(scope.name(at).code, scope.name(text).code, mask, target, scope.prefix)


def _fixed_point(at: str, value: str, mask: str, target: str, prefix: str) -> list[str]:
    """Statements that add in fixed point, so that the order of additions plays no part."""
    finite, high, low = (f"{prefix}{n}" for n in ("finite", "high", "low"))
    safe = f"tl.where({finite}, {value}, 0.0)"
    return [
        f"{finite} = tl.abs({value}) < 1e12",
        f"{high} = tl.floor({safe} * 1048576.0 + 0.5).to(tl.int64)",
        f"{low} = {safe} - {high}.to(tl.float32) * 9.5367431640625e-07",
        f"{low} = tl.floor({low} * 1152921504606846976.0 + 0.5).to(tl.int64)",
        f'tl.atomic_add({target} + {at}, {high}, mask={mask} & {finite}, sem="relaxed")',
        f'tl.atomic_add({target} + {target}_size + {at}, {low}, mask={mask} & {finite}, sem="relaxed")',
        f'tl.atomic_add({target}_rest + {at}, {value}, mask={mask} & ({finite} == 0), sem="relaxed")',
    ]


def _inner_slope(node: Op, wrt: Expr) -> Expr | None:
    """The derivative of a reduction with respect to something in one of its components; None for zero."""
    body = node.args[0]
    found = simplify_expr(derivative(body, wrt))
    if found == ZERO:
        return None
    if node.op == "max_over":
        largest = op("select", op("eq", body, node), ONE, ZERO)
        found = op("mul", op("div", largest, count_of_largest(node)), found)
    return gathered(of_raw(found))


def _narrowed(printer: Printer, node: Expr, name: str, shape: Level) -> tuple[str, Level]:
    """The gradient of what varies with less than pairs, summed over the others."""
    own = printer.level(node)
    if own not in (Level.UNIFORM, Level.ROW) or own is shape:
        return name, shape
    return printer.inner.name(_summed(name, shape, own)).code, own


def _summed(text: str, shape: Level, own: Level) -> str:
    """The sum of numbers that vary with `shape` over all that is not `own`; rows outside do not count."""
    lost = int(shape) & ~int(own)
    if lost & int(Level.ROW):
        text = f"tl.where(row_inside, {text}, 0.0)"
    if lost & int(Level.COLUMN):
        text = f"tl.sum({text}, 1, keep_dims=True)"
    return f"tl.sum({text}, 0, keep_dims=True)" if lost & int(Level.ROW) else text


def read_by_rows(terms: tuple[Term, ...], wanted: Wanted) -> Iterable[Load]:
    """The wanted vectors that are read at numbers of components."""
    loads = dict.fromkeys(n for t in terms for n in numbered_reads(t.value))
    return [n for n in loads if n.tensor in wanted.vectors and wanted.holds(n)]
