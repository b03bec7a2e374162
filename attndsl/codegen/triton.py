"""Triton code: one module per attention and form, with one forward kernel."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from attndsl.codegen.expr_triton import (
    Level,
    Printer,
    Reads,
    Scope,
    UnsupportedError,
    level,
)
from attndsl.codegen.templates import render, title
from attndsl.codegen.triton_arguments import Argument, operands, read_arguments, standard_arguments
from attndsl.codegen.triton_bands import FURTHEST, KEY, Band, bands_of, rising_of, searches_of
from attndsl.codegen.triton_form import Form, Part, limited, parts, products_of, typical_forms
from attndsl.codegen.triton_score import LOG2E, SCALE, Exponent, exponent, gathered, of_raw
from attndsl.codegen.triton_sides import PieceCode, RowCode, local_meaning, neighbours, piece_code, row_code
from attndsl.codegen.triton_slots import Slot
from attndsl.codegen.triton_weight import rule_of, vector_free
from attndsl.ir.attention import Attention, Const, Input
from attndsl.ir.expr import FURTHER, SCORE, TRUE, Count, Expr, Index, Op, ParamRef, Reduce, Value, number, op, rewrite
from attndsl.ir.free import q_side
from attndsl.ir.passes.softmax import substitute
from attndsl.ir.types import FLOAT, INT, Kind, Type

VALUE_O = Value(FLOAT, "o")


@dataclass(frozen=True)
class TritonModule:
    """A generated module: its text, the arguments of its kernel `name` in order, and the gradients of inputs that it
    sums. `reads_vectors`: it loads vectors of inputs by pointers."""

    source: str
    arguments: tuple[Argument, ...]
    reads_vectors: bool = False
    name: str = "forward"
    slots: tuple[Slot, ...] = ()


@dataclass
class LoopCode:
    """The statements of one loop's body and the values it needs. `kept` is the exponent VALUE of visible pairs, where
    there is a function for it."""

    mask_lines: list[str] = field(default_factory=list[str])
    visible: str = ""
    kept: str = ""
    lines: list[str] = field(default_factory=list[str])
    exponent: str = ""
    numerator: str = ""
    sums: list[str] = field(default_factory=list[str])
    columns: bool = False
    position: bool = False


@dataclass
class EndCode:
    """What is done with a row once all its keys were visited."""

    lines: list[str]
    values: list[str]
    output_lines: list[str]
    outputs: list[str]
    lse_lines: list[str]
    lse: str


def generate(attention: Attention, form: Form) -> TritonModule:
    """The module of an attention (consts bound, simplified) for a form. UnsupportedError names a missing feature."""
    return Generator(attention, form).module()


def supported(attention: Attention) -> None:
    """ValueError that names what this backend does not have, and the one that does."""
    try:
        for form in typical_forms(attention):
            # what is not there is found before a template is filled
            Generator(attention, form).code()
    except UnsupportedError as error:
        raise unsupported(attention, error) from error


def unsupported(attention: Attention, error: UnsupportedError) -> ValueError:
    """What to tell the user."""
    return ValueError(f"{attention.name}: backend 'triton' does not have {error}; backend 'cpu' does")


def typical_source(attention: Attention) -> str:
    """The kernels of a likely call, readable. ValueError where the backend cannot run the attention."""
    supported(attention)
    return "\n\n".join(generate(attention, form).source for form in typical_forms(attention))


class Generator:
    """Writes the kernel of a form, piece by piece."""

    def __init__(self, attention: Attention, form: Form) -> None:
        vector_free(attention)
        self.attention, self.form = attention, form
        self.rule = rule_of(attention)
        self.reads = reads_of(attention, form)
        self.hoisted = Scope("r")
        self.searched: dict[Expr, str] = {}
        self.exponent = self._exponent()
        self.rows = self._rows()
        self.exp = "tl.exp2" if form.low_precision else "tl.exp"

    def _rows(self) -> RowCode:
        return row_code(self.form, self.reads)

    def _by_row(self, e: Expr) -> bool:
        """Whether the code of an expression of the row is a column [BM, 1], not a scalar."""
        return q_side(e)

    def _vector(self, text: str, e: Expr) -> str:
        """The code of an expression of the row as a vector [BM], or as a scalar."""
        return f"tl.reshape({text}, [BM])" if self._by_row(e) and not self._vectors else f"({text})"

    def _exponent(self) -> Exponent | None:
        if self.rule.logit is None:
            return None
        cancels = self.rule.over == "sum"
        return exponent(
            self.attention.score, self.rule.logit, low_precision=self.form.low_precision, cancels=cancels
        )  # fmt: skip

    def code(self) -> tuple[list[PieceCode], EndCode, tuple[Argument, ...]]:
        """The loops, what follows them, and the arguments that they read."""
        pieces = [self._piece(i) for i in range(len(self.form.pieces))]
        return pieces, self._end(), self._arguments()

    def module(self) -> TritonModule:
        pieces, end, arguments = self.code()
        text = render("triton/forward.py.j2", **self._holes(arguments), pieces=pieces, end=end)
        return TritonModule(tidy(text), arguments, self.reads.vectors)

    def _holes(self, arguments: tuple[Argument, ...]) -> dict[str, Any]:
        """What every template is given. To be asked for after the code that says what it reads."""
        form = self.form
        return {
            "title": title(self.attention),
            "helpers": self.reads.helpers,
            "assembly": form.low_precision and not form.interpreted,
            "fast_tanh": form.dtype == "bf16" and not form.interpreted,
            "numbers": [a.name for a in arguments if a.role != "constexpr" and not a.type.startswith("*")],
            "arguments": arguments,
            "hoisted": self.hoisted.lines,
            "q": self.rows,
            "rule": self.rule,
            "plain": self.exponent is not None and self.exponent.plain,
            "exp": self.exp,
            "scale": "scale_log2" if form.low_precision else "scale",
            "has_output": self.attention.output is not None,
            "products": products_of(form),
            "d_parts": limited(parts(form.D), form.D),
            "v_parts": limited(form.v_parts, form.Dv),
            "tensors": ["q", *(("k", "v", *operands(self.attention.products)) if form.pieces else ())],
            "D": form.D,
            "Dv": form.Dv,
            "tma": form.tma,
            "far": form.far,
            "walk": form.walk,
            "bare": form.bare,
            "aligned": form.stride_unit if form.stride_unit > 1 else 0,
            "negative": form.negative,
            "batch_offset": form.batch_offset,
            "precision": ', input_precision="ieee"' if form.dtype == "fp32" else "",
        }

    # Loops

    def _piece(self, index: int) -> PieceCode:
        local = local_meaning(self.attention, self.form, index)
        code = piece_code(self.form, index, self.reads)
        leaves = {**self.rows.leaves, **code.leaves, SCALE: "scale", **score_leaves(self.attention)}
        if self.form.walk == "two loops":
            code.full = self._loop(local, leaves, code, masked=False)
            code.loops = (("full", code.full, False),)
            if not self.form.bare:
                code.partial = self._loop(local, leaves, code, masked=True)
                code.loops = (*code.loops, ("partial", code.partial, True))
        else:
            masked = not self.form.bare
            code.loops = (("all", self._loop(local, leaves, code, masked=masked), masked),)
        return code

    def _loop(self, local: Any, leaves: Mapping[Expr, str], piece: PieceCode, *, masked: bool) -> LoopCode:
        loop = LoopCode()
        scope = Scope("c")
        printer = Printer(
            self.reads, leaves, scope, self.hoisted, columns=piece.size, seen=not masked,
            like="s" if self.form.low_precision else "", places=neighbours(self.rows, piece, self.form),
        )  # fmt: skip
        if masked:
            self._visible(loop, local(self.attention.mask), piece, printer)
            loop.mask_lines, scope.lines = scope.lines, []
            scope.prefix = "x"
        shape = f"[BM, {piece.size}]"

        def pair(e: Expr) -> str:
            text = printer.print(local(e))
            return text if level(local(e)) is Level.PAIR else f"tl.zeros({shape}, tl.float32) + ({text})"

        rule = self.rule
        if self.exponent is not None:
            if not self.exponent.plain:
                loop.exponent = pair(self.exponent.value)
            if rule.numerator is not None:
                loop.numerator = printer.print(local(self._of_raw(rule.numerator)))
        else:
            assert rule.numerator is not None
            loop.numerator = pair(self._of_raw(rule.numerator))
            loop.sums = [pair(self._of_raw(r.body)) for r in rule.sums]
        loop.lines = scope.lines
        used = printer.used & piece.leaves.keys()
        loop.columns, loop.position = bool(used), Index(INT, "k") in used
        return loop

    def _visible(self, loop: LoopCode, mask: Expr, piece: PieceCode, printer: Printer) -> None:
        """The condition on pairs; in a loop over all boxes it holds in FULL ones."""
        switched = self.form.walk != "two loops"
        full = f"i < middle{piece.suffix}"
        rising = rising_of(self.attention) if self.form.searched else frozenset[str]()
        found = None if self.form.on_grid or piece.residues else bands_of(mask, rising=rising)
        if found is None:
            text = piece.inside if mask == TRUE else f"{piece.inside} & ({printer.print(mask)})"
            loop.visible = f"({full}) | ({text})" if switched else text
            return
        printer.used.add(KEY)
        found = [self._looked_up(band, printer) for band in found]
        starts_inside = len(found) == 1 and found[0].low is None
        terms: list[tuple[str, str]] = []
        for band in found:
            low = "" if band.low is None else printer.print(band.low)
            high = printer.print(band.high) if band.high is not None else ""
            low = self.hoisted.name(f"tl.maximum({low}, 0)").code if low else "" if starts_inside else "0"
            high = self.hoisted.name(f"tl.minimum({high}, {piece.extents[0]})").code if high else piece.extents[0]
            if band.rows != TRUE:
                high = self.hoisted.name(f"tl.where({printer.print(band.rows)}, {high}, 0)").code
            terms.append((low, high))
        if switched:
            low, high = terms[0]
            low = printer.inner.name(f"tl.where({full}, {-FURTHEST}, {low})").code if low else ""
            terms[0] = low, printer.inner.name(f"tl.where({full}, {FURTHEST - 1}, {high})").code
        texts = [(f"({piece.at} >= {low}) & " if low else "") + f"({piece.at} < {high})" for low, high in terms]
        loop.visible = texts[0] if len(texts) == 1 else " | ".join(f"({t})" for t in texts)
        if len(terms) == 1:
            low, high = terms[0]
            kept = f"{self.reads.helper('between')}(VALUE, {piece.at}, {low}, " if low else ""
            loop.kept = (kept or f"{self.reads.helper('below')}(VALUE, {piece.at}, ") + f"{high})"
        else:
            bounds: list[str] = []
            for low, high in terms:
                scope = printer.inner if switched and not bounds else self.hoisted
                width = high if low == "0" else f"{high} - {low}"
                bounds += [low, scope.name(f"tl.maximum({width}, 0)").code]
            loop.kept = f"{self.reads.helper('within_either')}(VALUE, {piece.at}, {', '.join(bounds)})"

    def _looked_up(self, band: Band, printer: Printer) -> Band:
        """A band whose places in sorted tensors are vectors that the kernel loads."""
        if not self.form.searched:
            return band
        names: dict[Expr, Expr] = {}
        for i, node in enumerate(searches_of(self.attention)):
            leaf = ParamRef(INT, f"@search{i}")
            names[node] = leaf
            if leaf not in self.searched:
                load = f"tl.load(search{i} + row, mask=row_inside, other=0)"
                self.searched[leaf] = self.hoisted.name(load).code
        printer.leaves = {**printer.leaves, **self.searched}
        self.reads.vectors = True
        low, high, rows = (None if e is None else rewrite(e, names.get) for e in (band.low, band.high, band.rows))
        return Band(low, high, TRUE if rows is None else rows)

    def _of_raw(self, e: Expr) -> Expr:
        return gathered(of_raw(substitute(e, SCORE, self.attention.score)))

    # The end of a row

    def _end(self) -> EndCode:
        form = self.form
        local = local_meaning(self.attention, form, None)
        leaves = {**self.rows.leaves, SCALE: "scale"}
        scope = Scope("y")
        outer = Printer(self.reads, leaves, scope)
        printer = Printer(self.reads, {**leaves, **self.rows.vectors}, scope) if self._vectors else outer
        factor = self._factor(printer, local, scope)
        values = [f"acc{p.index}" + (f" * {factor}[:, None]" if factor else "") for p in form.v_parts]
        lines, scope.lines = scope.lines, []
        scope.prefix = "z"
        outputs = [self._output(part, outer, local, scope) for part in form.v_parts]
        output_lines, scope.lines = scope.lines, []
        lse = "(m + tl.log2(l)) * 0.6931471805599453" if self.form.low_precision else "m + tl.log(l)"
        scope.prefix = "t"
        if self.exponent is not None and self.exponent.dropped is not None:
            dropped = local(gathered(self.exponent.dropped))
            text = printer.print(dropped)
            lse += f" + {self._vector(text, dropped)}"
        return EndCode(lines, values, output_lines, outputs, scope.lines, lse)

    def _factor(self, printer: Printer, local: Any, scope: Scope) -> str:
        """What the accumulated rows are multiplied by, a vector [BM]; empty for one."""
        rule = self.rule
        if rule.over == "sum":
            return scope.name("tl.where(l == 0.0, 0.0, 1.0 / tl.where(l == 0.0, 1.0, l))").code
        if rule.over == "none":
            return "" if rule.logit is None else scope.name(f"{self.exp}(m)").code
        if rule.over == "sum and constant":
            assert rule.extra is not None
            extra = _exponent_of(local(rule.extra), LOG2E if self.form.low_precision else 1.0)
            text = printer.print(extra)
            sink = scope.name(self._vector(text, extra)).code
            top = scope.name(f"tl.maximum(m, {sink})").code
            share = scope.name(f"{self.exp}(m - {top})").code
            total = scope.name(f"l * {share} + {self.exp}({sink} - {top})").code
            return scope.name(f"tl.where({total} == 0.0, 0.0, {share} / tl.where({total} == 0.0, 1.0, {total}))").code
        assert rule.denominator is not None
        names: dict[Expr, str] = {}

        def replaced(node: Expr) -> Expr | None:
            if isinstance(node, Count):
                leaf = ParamRef(INT, "@count")
                names[leaf] = "count"
                return leaf
            if isinstance(node, Reduce):
                i = rule.sums.index(node)
                leaf = ParamRef(FLOAT, f"@sum{i}")
                names[leaf] = f"sum{i}" if node.kind == "sum" else f"(sum{i} / tl.maximum(count, 1).to(tl.float32))"
                return leaf
            return None

        bottom = local(rewrite(rule.denominator, replaced))
        if self._by_row(bottom) and not self._vectors:
            names = {e: f"({t})[:, None]" for e, t in names.items()}
        inner = Printer(self.reads, {**printer.leaves, **names}, scope)
        text = inner.print(bottom)
        by_row = self._by_row(bottom)
        total = scope.name(self._vector(text, bottom) if by_row else f"{text} + tl.zeros([BM], tl.float32)").code
        return scope.name(f"tl.where({total} == 0.0, 0.0, 1.0 / tl.where({total} == 0.0, 1.0, {total}))").code

    @property
    def _vectors(self) -> bool:
        """Whether values of rows are vectors [BM] at the end: Triton does not specialise warps across a reshape."""
        return self.form.walk == "specialized"

    def _output(self, part: Part, printer: Printer, local: Any, scope: Scope) -> str:
        i = part.index
        if self.attention.output is None:
            return f"o{i}"
        leaves = {**printer.leaves, VALUE_O: f"o{i}", Value(Type(Kind.FLOAT, ("Dv",)), "o"): f"o{i}"}
        own = Scope(f"z{i}_")
        inner = Printer(
            self.reads, leaves, own, component=(f"e{i}[None, :]", f"(e{i} < {self.form.Dv})[None, :]")
        )  # fmt: skip
        text = inner.print(local(self.attention.output))
        scope.lines += own.lines
        return f"tl.zeros([BM, {part.width}], tl.float32) + ({text})"

    # Arguments

    def _arguments(self) -> tuple[Argument, ...]:
        reads, form = self.reads, self.form
        saved = [
            t for t, there in (("raw", self.attention.output is not None), ("sums", self.rule.over == "row")) if there
        ]
        found = standard_arguments(
            form, self.attention.products if form.pieces else (), logit=self.rule.logit is not None, saved=saved
        )
        found += [Argument(f"search{i}", "*i32", "table", (f"search{i}", -1)) for i in range(len(self.searched))]
        found += read_arguments(reads)
        assert len({a.name for a in found}) == len(found)
        constants = ["BM"]
        if self.rows.boxes and len(self.rows.axes) > 1:
            constants += self.rows.boxes
        for i in range(len(form.pieces)):
            constants += [c for c in piece_code(form, i, reads).constants if c not in constants]
        if self.rule.logit is not None:
            constants.append("LSE")
        if saved:
            constants.append("SAVE")
        return (*found, *(Argument(c, "constexpr", "constexpr", (c,)) for c in constants))


def score_leaves(attention: Attention) -> dict[Expr, str]:
    """The names of a pair's dot products in a kernel."""
    found: dict[Expr, str] = {leaf: leaf.name for leaf, _ in zip(FURTHER, attention.products, strict=False)}
    return {SCORE: "s", **found}


def reads_of(attention: Attention, form: Form) -> Reads:
    """What a kernel of a form reads: nothing yet."""
    channels = frozenset(p.name for p in attention.channels)
    return Reads(input_ranks(attention), form.wide, frozenset(form.loaded), channels)


def input_ranks(attention: Attention) -> dict[str, int]:
    """Dimensions of the inputs and const arrays."""
    ranks: dict[str, int] = {}
    for p in attention.params:
        if isinstance(p, Input):
            ranks[p.name] = len(p.shape)
        elif isinstance(p, Const) and isinstance(p.default, tuple):
            ranks[p.name] = 1
    return ranks


def _exponent_of(e: Expr, unit: float) -> Expr:
    """The logarithm of a positive row expression in some unit; of an exponential without overflow."""
    if isinstance(e, Op) and e.op == "exp":
        return op("mul", e.args[0], number(unit))
    return op("mul", op("log", op("max", e, number(0.0))), number(unit))


def tidy(text: str) -> str:
    """Generated text without stray blank lines and spaces."""
    text = "\n".join(line.rstrip() for line in text.splitlines())
    start = "@triton.jit(do_not_specialize"
    head, *kernels = text.split(start)
    head = re.sub(r"\n{3,}", "\n\n\n", head)
    kernels = [re.sub(r"\n{2,}( *(?!#)\S)", r"\n\1", kernel) for kernel in kernels]
    kernels = [re.sub(r"\n{3,}", "\n\n", kernel).rstrip() for kernel in kernels]
    return head + "\n\n\n".join(start + kernel for kernel in kernels) + "\n"
