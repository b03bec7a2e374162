"""Triton code that finds the boxes of a call on a grid whose mask reads what only the device knows.

What the host knows of the mask is a plan: the candidates, boxes that may hold a visible pair, each FULL or PARTIAL by
the conditions that the host knows. `sift` looks at these alone, by the conditions that are left; `pack` writes the
lists of those that hold a visible pair, in places that are known before; `rank` orders tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal as Lit

from attndsl.codegen.cpu import title
from attndsl.codegen.expr_triton import Level, Printer, Reads, Scope
from attndsl.codegen.templates import render
from attndsl.codegen.triton import TritonModule, input_ranks, tidy
from attndsl.codegen.triton_arguments import Argument, plain_arguments, read_arguments
from attndsl.codegen.triton_form import Form, PieceForm, SideForm
from attndsl.codegen.triton_intervals import Intervals
from attndsl.codegen.triton_sides import coordinate, extent_of, linear, local_meaning, locals_of
from attndsl.ir.attention import Attention
from attndsl.ir.expr import TRUE, Coord, Expr, Index, Literal, op
from attndsl.ir.types import INT, Kind
from attndsl.schedule.candidates import conditions

Side = Lit["q", "k"]


@dataclass(frozen=True)
class SiftForm:
    """Candidates between tiles of the segment `rows` and boxes of the segment `columns`; `turned`: rows are keys and
    columns queries. `wide` and `loaded` as in `Form`."""

    rows: SideForm
    columns: SideForm
    turned: bool = False
    wide: bool = False
    loaded: tuple[str, ...] = ()

    @property
    def sides(self) -> tuple[Side, Side]:
        """The side of rows and that of columns."""
        return ("k", "q") if self.turned else ("q", "k")

    @property
    def width(self) -> int:
        """Numbers of a box in a list."""
        return len(self.columns.axes) * (2 if self.columns.any_split else 1)


PACK = {
    "codes": "*i8", "candidates": "*i32", "bounds": "*i32", "boxes": "*i32", "found_bounds": "*i32",
    "found_boxes": "*i32", "cost": "*i32", "tiles": "i32", "kinds": "i32", "full_cost": "i32", "partial_cost": "i32",
    "CHUNK": "constexpr",
}  # fmt: skip
RANK = {"cost": "*i32", "base": "*i32", "order": "*i32", "tiles": "i32", "kinds": "i32", "CHUNK": "constexpr"}
"""The arguments of the kernels that are the same for all masks, in order."""


@lru_cache(maxsize=16)
def pack_modules(width: int) -> tuple[TritonModule, TritonModule]:
    """`pack` and `rank`, for boxes of so many numbers."""
    source = tidy(render("triton/pack.py.j2", width=width))
    return (
        TritonModule(source, plain_arguments(PACK), name="pack"),
        TritonModule(source, plain_arguments(RANK), name="rank"),
    )


def open_conditions(attention: Attention, known: Expr, form: SiftForm) -> tuple[Expr, ...]:
    """The conditions of the mask between two segments that candidates do not settle. `known` is the mask that
    candidates were planned by; where none is left, their plan is that of the mask itself."""
    local = _local(attention, form)
    settled = frozenset(conditions(local(known)))
    return tuple(c for c in conditions(local(attention.mask)) if c not in settled)


def generate_sift(attention: Attention, known: Expr, form: SiftForm) -> TritonModule:
    """The module for an attention (consts bound, simplified) with candidates planned by the mask `known`.
    UnsupportedError names a missing feature."""
    return _Generator(attention, known, form).module()


def _local(attention: Attention, form: SiftForm) -> Callable[[Expr], Expr]:
    piece = PieceForm(form.columns, True)
    whole = Form("fp32", 16, 16, form.rows, (piece,), on_grid=True, turned=form.turned)
    return local_meaning(attention, whole, 0)


class _Generator:
    def __init__(self, attention: Attention, known: Expr, form: SiftForm) -> None:
        self.attention, self.form = attention, form
        self.mask = _local(attention, form)(attention.mask)
        self.open: Expr = TRUE
        for c in open_conditions(attention, known, form):
            self.open = c if self.open == TRUE else op("and", self.open, c)
        self.reads = Reads(input_ranks(attention), form.wide, frozenset(form.loaded))
        self.own: Side
        self.other: Side
        self.own, self.other = form.sides
        self.row_extents = self._extents(self.own, form.rows)
        self.column_extents = self._extents(self.other, form.columns)
        self.rows, self.columns, self.ranges, self.pairs = (Scope(p) for p in "rvxy")
        uniform: dict[Expr, str] = {Index(INT, n): n for n in ("b", "h", "hkv")}
        own = self._leaves(self.own, form.rows, "")
        self.by_row = self._printer({**uniform, **own}, self.rows)
        each, one = (self._leaves(self.other, form.columns, end) for end in ("_each", ""))
        self.by_column = self._printer({**uniform, **each}, self.columns)
        self.by_pair = self._printer({**uniform, **own, **one}, self.pairs, self.rows)

    def _extents(self, side: Side, of: SideForm) -> list[str]:
        return [extent_of(side, of, a, True, self.reads) for a in of.axes]

    def _printer(self, leaves: Mapping[Expr, str], scope: Scope, outer: Scope | None = None) -> Printer:
        return Printer(self.reads, leaves, scope, outer, turned=self.form.turned)

    def _leaves(self, side: Side, of: SideForm, end: str) -> dict[Expr, str]:
        """What names the coordinates and positions of a side."""
        found: dict[Expr, str] = {Coord(INT, side, of.segment, a): coordinate(side, a) + end for a in of.axes}
        at = f"{side}_at{end}"
        if side == "k":
            return {**found, Index(INT, "k"): at}
        return {**found, Index(INT, "row"): at, Index(INT, "q"): f"({at} + q_offset)"}

    def module(self) -> TritonModule:
        truth = Intervals(self.reads, self.ranges, self._reduced).truth(self.open)
        visible = self.by_pair.print(self.mask)
        arguments = self._arguments()
        form = self.form
        text = render(
            "triton/sift.py.j2",
            title=title(self.attention),
            helpers=self.reads.helpers,
            assembly=False,
            fast_tanh=False,
            numbers=[a.name for a in arguments if a.role != "constexpr" and not a.type.startswith("*")],
            arguments=arguments,
            own=_side(self.own, form.rows, "BM", self.row_extents),
            other=_side(self.other, form.columns, "BN", self.column_extents),
            width=form.width,
            rows=self.rows.lines,
            columns=self.columns.lines,
            ranges=self.ranges.lines,
            pairs=self.pairs.lines,
            maybe=f"{truth.maybe} & (box >= 0)" if truth.maybe else "box >= 0",
            sure=f"{truth.sure} & (box >= 0)" if truth.sure else "box < 0",
            visible=visible,
        )
        return TritonModule(tidy(text), arguments, name="sift")

    def _reduced(self, node: Expr) -> tuple[str, str] | None:
        """The smallest and largest value of what depends on one side at most."""
        level = self.by_row.level(node)
        if level is Level.PAIR:
            return None
        if isinstance(node, Literal):
            text = str(int(node.value))
            return text, text
        scope, printer = (self.columns, self.by_column) if level is Level.COLUMN else (self.rows, self.by_row)
        text = printer.print(node)
        if node.type.kind is Kind.BOOL:
            text = scope.name(f"({text}).to(tl.int32)").code
        if level is Level.UNIFORM:
            end = scope.name(f"({text}).to(tl.int64)").code
            return end, end
        whole, axis = (text, 1) if level is Level.COLUMN else (f"tl.reshape({text}, [BM])", 0)
        low, high = (scope.name(f"tl.{end}({whole}, {axis}).to(tl.int64)").code for end in ("min", "max"))
        return low, high

    def _arguments(self) -> tuple[Argument, ...]:
        found = [Argument("codes", "*i8", "tensor", ("codes",))]
        found += [Argument(n, "*i32", "tensor", (n,)) for n in ("rows", "candidates", "bounds", "boxes")]
        names = ["H", "Hkv", "Lq", "Lk", "tiles", "kinds", "parts", "class_heads", "look"]
        names += ["q_start", "k_start", "q_offset"]
        for side, of in ((self.own, self.form.rows), (self.other, self.form.columns)):
            names += [f"split_{side}_{i}" for i, split in enumerate(of.split) if split]
        found += [Argument(n, "i32", "number", (n, -1)) for n in names]
        found += read_arguments(self.reads)
        constants = ["BM", "BN"]
        for name, of in (("BM", self.form.rows), ("BN", self.form.columns)):
            constants += [f"{name}_{i}" for i in range(len(of.axes)) if len(of.axes) > 1]
        return (*found, *(Argument(c, "constexpr", "constexpr", (c,)) for c in (*constants, "CHUNK", "PAIRS")))


@dataclass(frozen=True)
class _Axis:
    """An axis as the template takes it: `local` is the code of a coordinate within a tile or box."""

    number: int
    name: str
    box: str
    extent: str
    local: str
    split: str


@dataclass(frozen=True)
class _SideCode:
    side: str
    axes: tuple[_Axis, ...]
    any_split: bool
    count: int

    def position(self, end: str) -> str:
        """The code of the linear position."""
        return f"{self.side}_start + {linear([a.name + end for a in self.axes], [a.extent for a in self.axes])}"


def _side(side: Side, of: SideForm, size: str, extents: Sequence[str]) -> _SideCode:
    boxes = [size] if len(of.axes) == 1 else [f"{size}_{i}" for i in range(len(of.axes))]
    locals_ = locals_of("local", boxes)
    axes = tuple(
        _Axis(i, coordinate(side, a), boxes[i], extents[i], locals_[i], f"split_{side}_{i}" if of.split[i] else "")
        for i, a in enumerate(of.axes)
    )
    return _SideCode(side, axes, of.any_split, len(axes))
