"""Triton code that finds the boxes of a call on the device, where its mask reads tensors or its offset is one.

Nothing of a mask's values is known on the host then: `classify` looks at every box of a raster, `gather` writes the
tables that the other kernels read, in places that are known before, and `rank` orders tiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attndsl.codegen.cpu import title
from attndsl.codegen.expr_triton import Level, Printer, Reads, Scope, input_name
from attndsl.codegen.templates import render
from attndsl.codegen.triton import TritonModule, input_ranks, tidy
from attndsl.codegen.triton_arguments import Argument, plain_arguments, read_arguments
from attndsl.codegen.triton_bands import few_runs, searches_of
from attndsl.codegen.triton_form import FULL_SPANS, PARTIAL_SPANS, PieceForm, SideForm
from attndsl.codegen.triton_intervals import Intervals
from attndsl.ir.attention import Attention, Input
from attndsl.ir.expr import Expr, Index, Literal, Load, mentions, rewrite
from attndsl.ir.types import INT, Kind

LINE = SideForm("", ("0",), (False,))
BATCH, HEAD, KEY_HEAD = (Index(INT, n) for n in ("b", "h", "hkv"))


@dataclass(frozen=True)
class ClassifyForm:
    """`turned`: rows are keys and columns queries. `decode`: rows are positions of all heads that share keys. `spans`:
    the tables hold spans, otherwise lists of boxes. `searched`: they also hold the places of rows in sorted tensors, as
    `searches_of` names them. The rest as in `Form`."""

    turned: bool = False
    decode: bool = False
    spans: bool = False
    searched: bool = False
    batch_offset: bool = False
    wide: bool = False
    loaded: tuple[str, ...] = ()

    @property
    def piece(self) -> PieceForm:
        """How the boxes are told."""
        return PieceForm(LINE, not self.spans, self.spans)

    @property
    def numbers(self) -> int:
        """Numbers of a tile in the table of bounds."""
        return 4 if self.decode else self.piece.numbers


@dataclass(frozen=True)
class ClassifyModule:
    """A generated module: its text, and the arguments of its kernels `classify` and `lookup` in order."""

    source: str
    arguments: tuple[Argument, ...]
    lookup: tuple[Argument, ...] = ()
    name: str = "classify"

    @property
    def kernels(self) -> tuple[TritonModule, ...]:
        """Its kernels, each as a module of its own."""
        return (
            TritonModule(self.source, self.arguments, name="classify"),
            TritonModule(self.source, plain_arguments(GATHER), name="gather"),
            TritonModule(self.source, plain_arguments(RANK), name="rank"),
            *([TritonModule(self.source, self.lookup, name="lookup")] if self.lookup else []),
        )


GATHER = {
    "codes": "*i8", "rows": "*i32", "bounds": "*i32", "boxes": "*i32", "classes": "*i32", "cost": "*i32",
    "tiles": "i32", "lists": "i32", "length": "i32", "height": "i32", "BN": "constexpr", "CHUNK": "constexpr",
}  # fmt: skip
RANK = {"cost": "*i32", "order": "*i32", "tiles": "i32", "kinds": "i32", "CHUNK": "constexpr"}
"""The arguments of the other two kernels, in order."""


def by_batch(attention: Attention, batch_offset: bool) -> bool:
    """Whether batches may see different pairs."""
    moved = batch_offset and mentions(attention.mask, lambda n: n == Index(INT, "q"))
    return moved or mentions(attention.mask, lambda n: n == BATCH)


def by_head(attention: Attention) -> bool:
    """Whether heads may see different pairs."""
    return mentions(attention.mask, lambda n: n in (HEAD, KEY_HEAD))


def told_by_spans(attention: Attention) -> bool:
    """Whether the visible keys of a row are likely one or two intervals: sorted tensors are taken at their word."""
    names: dict[Load, str] = {}

    def narrow(node: Expr) -> Expr | None:
        if not isinstance(node, Load) or len(node.indices) < 2:
            return None
        *leading, last = node.indices
        if any(mentions(i, lambda n: isinstance(n, Index) and n.name in ("q", "k", "row")) for i in leading):
            return None
        key = Load(node.type, node.tensor, tuple(leading))
        return Load(node.type, names.setdefault(key, f"{node.tensor}@{len(names)}"), (last,))

    mask = rewrite(attention.mask, narrow)
    facts = {p.name for p in attention.params if isinstance(p, Input) and "sorted" in p.facts and p.dtype[0] == "i"}
    rising = frozenset(n for n in (*names.values(), *facts) if n.split("@")[0] in facts)
    return few_runs(mask, rising)


def generate_classify(attention: Attention, form: ClassifyForm) -> ClassifyModule:
    """The module for an attention (consts bound, simplified) on a line. UnsupportedError names a missing feature."""
    return _Generator(attention, form).module()


class _Generator:
    def __init__(self, attention: Attention, form: ClassifyForm) -> None:
        self.attention, self.form = attention, form
        self.reads = Reads(input_ranks(attention), form.wide, frozenset(form.loaded))
        self.rows, self.columns, self.ranges, self.pairs = (Scope(p) for p in "rvxy")
        uniform: dict[Expr, str] = {BATCH: "b", HEAD: "h", KEY_HEAD: "hkv"}
        own: dict[Expr, str] = {Index(INT, "row"): "row", Index(INT, "q"): "q_at"}
        if form.turned:
            own = {Index(INT, "k"): "row"}
        self.by_row = self._printer({**uniform, **own}, self.rows)
        self.by_column = self._printer({**uniform, **self._others("columns")}, self.columns)
        self.by_pair = self._printer({**uniform, **own, **self._others("column")}, self.pairs, self.rows)

    def _printer(self, leaves: Mapping[Expr, str], scope: Scope, outer: Scope | None = None) -> Printer:
        return Printer(self.reads, leaves, scope, outer, turned=self.form.turned)

    def _others(self, name: str) -> dict[Expr, str]:
        if not self.form.turned:
            return {Index(INT, "k"): name}
        return {Index(INT, "row"): name, Index(INT, "q"): f"({name} + q_offset)"}

    def module(self) -> ClassifyModule:
        mask = self.attention.mask
        truth = Intervals(self.reads, self.ranges, self._reduced).truth(mask)
        visible = self.by_pair.print(mask)
        arguments = self._arguments()
        lookups, lines, lookup = self._lookups() if self.form.searched else ([], [], ())
        text = render(
            "triton/classify.py.j2",
            title=title(self.attention),
            helpers=self.reads.helpers,
            assembly=False,
            fast_tanh=False,
            numbers=[a.name for a in arguments if a.role != "constexpr" and not a.type.startswith("*")],
            arguments=arguments,
            decode=self.form.decode,
            turned=self.form.turned,
            spans=self.form.spans,
            batch_offset=self.form.batch_offset,
            rows=self.rows.lines,
            columns=self.columns.lines,
            ranges=self.ranges.lines,
            pairs=self.pairs.lines,
            maybe=f"{truth.maybe} & (box >= 0)" if truth.maybe else "box >= 0",
            sure=f"{truth.sure} & (box >= 0)" if truth.sure else "box < 0",
            visible=visible,
            bounds_numbers=self.form.numbers,
            runs=[("partial", PARTIAL_SPANS), ("full", FULL_SPANS)],
            places=_places(),
            lookups=lookups,
            lookup_lines=lines,
            lookup_arguments=lookup,
            lookup_numbers=[a.name for a in lookup if a.role != "constexpr" and not a.type.startswith("*")],
        )
        return ClassifyModule(tidy(text), arguments, lookup)

    def _lookups(self) -> tuple[list[tuple[str, str, str]], list[str], tuple[Argument, ...]]:
        """What is searched for where, the statements before, and the arguments."""
        reads, scope = Reads(self.reads.ranks, self.form.wide), Scope("t")
        printer = Printer(reads, {Index(INT, "row"): "row", Index(INT, "q"): "row"}, scope)
        found: list[tuple[str, str, str]] = []
        for node in searches_of(self.attention):
            value = printer.print(node.value)
            reads.inputs[node.tensor] = None
            found.append((f"({value})", input_name(node.tensor), "<" if node.side == "left" else "<="))
        arguments = [Argument(f"search{i}", "*i32", "tensor", (f"search{i}",)) for i in range(len(found))]
        arguments += [Argument("length", "i32", "number", ("length", -1)), *read_arguments(reads)]
        return found, scope.lines, (*arguments, Argument("BLOCK", "constexpr", "constexpr", ("BLOCK",)))

    def _reduced(self, node: Expr) -> tuple[str, str] | None:
        """The smallest and largest value of what depends on one side at most."""
        level = self.by_row.level(node)
        if self.form.decode and mentions(node, lambda n: n == HEAD):
            # heads are rows
            level = Level.ROW if level <= Level.ROW else Level.PAIR
        if level is Level.PAIR:
            return None
        if isinstance(node, Literal):
            text = str(int(node.value))
            return text, text
        is_bool = node.type.kind is Kind.BOOL
        if level is Level.COLUMN:
            text = self.by_column.print(node)
            text = self.columns.name(f"({text}).to(tl.int32)").code if is_bool else text
            return self._ends(f"tl.min({text}, 1)", f"tl.max({text}, 1)", self.columns)
        text = self.by_row.print(node)
        text = self.rows.name(f"({text}).to(tl.int32)").code if is_bool else text
        if level is Level.UNIFORM:
            end = self.rows.name(f"({text}).to(tl.int64)").code
            return end, end
        return self._ends(f"tl.min(tl.reshape({text}, [BM]), 0)", f"tl.max(tl.reshape({text}, [BM]), 0)", self.rows)

    def _ends(self, low: str, high: str, scope: Scope) -> tuple[str, str]:
        return scope.name(f"{low}.to(tl.int64)").code, scope.name(f"{high}.to(tl.int64)").code

    def _arguments(self) -> tuple[Argument, ...]:
        found = [Argument("codes", "*i8", "tensor", ("codes",))]
        if self.form.batch_offset:
            found.append(Argument("offsets", "*i32", "tensor", ("offsets",)))
        numbers = ["H", "Hkv", "tiles", "lists", "length", "width", "height", "class_heads", "look"]
        numbers += [] if self.form.batch_offset else ["q_offset"]
        found += [Argument(n, "i32", "number", (n, -1)) for n in numbers]
        found += read_arguments(self.reads)
        return (*found, *(Argument(c, "constexpr", "constexpr", (c,)) for c in ("BM", "BN", "CHUNK", "PAIRS")))


def _places() -> list[tuple[str, int, int, int]]:
    """Every span: its class, number, and where its end and its origin are in a tile's bounds."""
    spans = [("full", n) for n in range(FULL_SPANS)] + [("partial", n) for n in range(PARTIAL_SPANS)]
    return [(name, n, i, len(spans) + i) for i, (name, n) in enumerate(spans)]
