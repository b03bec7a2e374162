"""The two kernels of a backward pass that sweep over pairs: dq (rows are queries) and dkdv (rows are keys)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from attndsl.codegen.expr_triton import Level, Printer, Scope, level
from attndsl.codegen.templates import render, title
from attndsl.codegen.triton import TritonModule, input_ranks, reads_of, score_leaves, tidy
from attndsl.codegen.triton_arguments import (
    Argument,
    numbers,
    operand_arguments,
    operands,
    read_arguments,
    table_arguments,
)
from attndsl.codegen.triton_bands import KEY, QUERY, Band, bands_of
from attndsl.codegen.triton_channels import channel_gradients, gradient_arguments, moving
from attndsl.codegen.triton_components import Wanted, numbered_gradients, read_by_rows
from attndsl.codegen.triton_form import Form, Product, limited, parts, products_of
from attndsl.codegen.triton_gradient import Term, certain, load_slopes, score_slopes, terms, without_uniform
from attndsl.codegen.triton_score import LOG2E, SCALE, Exponent, exponent, gathered, of_raw
from attndsl.codegen.triton_sides import PieceCode, local_meaning, neighbours, piece_code, row_code
from attndsl.codegen.triton_slots import Slot, Slots, element_of, scope_lines
from attndsl.codegen.triton_weight import Rule, rule_of, vector_free
from attndsl.ir.attention import Attention
from attndsl.ir.build import ONE
from attndsl.ir.expr import FURTHER, SCORE, TRUE, Expr, Index, Load, number, op
from attndsl.ir.free import q_side
from attndsl.ir.passes.softmax import substitute
from attndsl.ir.types import INT


@dataclass(frozen=True)
class BackwardForm:
    """A backward kernel: `form` (turned for dkdv), the inputs whose gradients are `wanted`, whether lse has one, and
    whether sums must not depend on the order of programs. `fused`: dq is computed along with dk and dv, as sums that
    several programs add to, whole boxes at a time where they are `boxed_sums`. `channels` are those of the vectors that
    are read component by component whose gradients are wanted."""

    form: Form
    wanted: frozenset[str] = frozenset()
    grad_lse: bool = False
    deterministic: bool = False
    fused: bool = False
    boxed_sums: bool = False
    channels: frozenset[str] = frozenset()


@dataclass
class SlotCode:
    """What a pair adds to a slot: `text`; `share` is the derivative of the exponent alone."""

    slot: Slot
    text: str
    share: str = ""
    at: str = ""
    inside: str = ""


@dataclass(frozen=True)
class GradientCode:
    """The gradient of a product of a pair, and what it takes from delta (`pull`). `guarded`: it may be no number on
    invisible pairs."""

    product: Product
    text: str
    pull: str
    guarded: bool


@dataclass
class LoopCode:
    """The statements of one loop's body and the values it needs. `uncertain`: the amplitude may be no number on
    invisible pairs. `gradients` are those of products that have one,
    `kept` the exponent VALUE of visible pairs, -inf of others, where one comparison tells them apart; `channels` add up
    the gradients of vectors that are read component by component."""

    mask_lines: list[str] = field(default_factory=list[str])
    visible: str = ""
    kept: str = ""
    lines: list[str] = field(default_factory=list[str])
    exponent: str = ""
    amplitude: str = ""
    uncertain: bool = False
    numerator: str = ""
    after: list[str] = field(default_factory=list[str])
    gradients: list[GradientCode] = field(default_factory=list[GradientCode])
    slots: list[SlotCode] = field(default_factory=list[SlotCode])
    channels: list[str] = field(default_factory=list[str])
    columns: bool = False
    position: bool = False

    @property
    def guarded(self) -> bool:
        return any(g.guarded for g in self.gradients)


def stats_of(rule: Rule, grad_lse: bool) -> tuple[str, ...]:
    """What the backward kernels read of a row: `lse` in the kernel's units, `delta`, what the gradient of lse takes
    from it, 1 / the denominator, and the gradients of its sums."""
    if rule.logit is not None and rule.over != "none":
        return ("lse_row", "delta", "taken") if grad_lse else ("lse_row", "delta")
    if rule.logit is not None:
        return ("delta",) if grad_lse else ()
    if rule.over == "none":
        return ()
    return ("inverse", *(f"sigma{i}" for i in range(len(rule.sums))))


def generate_sweep(attention: Attention, backward: BackwardForm) -> TritonModule:
    """The dq kernel of a form, or its dkdv kernel where the form is turned. UnsupportedError names what is missing."""
    return _Sweep(attention, backward).module()


class _Sweep:
    def __init__(self, attention: Attention, backward: BackwardForm) -> None:
        vector_free(attention)
        self.attention, self.backward, self.form = attention, backward, backward.form
        self.turned, self.fused = self.form.turned, backward.fused
        assert self.turned or not self.fused
        assert not (self.fused and (self.form.products or attention.channels))
        self.products = products_of(self.form, self.form.narrowest)
        self.operands = operands(attention.products)
        self.rule = rule_of(attention)
        self.reads = reads_of(attention, self.form)
        self.slots = Slots(backward.wanted, input_ranks(attention), self.form.batch_offset)
        self.hoisted = Scope("r")
        self.rows = row_code(self.form, self.reads)
        self.exponent = self._exponent()
        self.corrected = not self.turned and self.rule.over in ("sum", "sum and constant")
        # what delta is off by is far below a rounding to 16 bits
        self.refined = self.corrected and self.form.dtype == "fp32"
        self.stats = stats_of(self.rule, backward.grad_lse)
        if not self.corrected:
            self.stats = tuple(s for s in self.stats if s != "taken")
        self.exp = "tl.exp2" if self.form.low_precision else "tl.exp"
        self.unit = LOG2E if self.form.low_precision else 1.0
        self.terms = terms(attention, self.rule)
        own = Level.COLUMN if self.turned else Level.ROW
        self.wanted = Wanted(backward.channels, frozenset() if self.turned else backward.wanted, own)
        self.vectors = [*moving(self.terms, backward.channels, own), *read_by_rows(self.terms, self.wanted)]
        self.factor = self._common_factor()

    def _exponent(self) -> Exponent | None:
        if self.rule.logit is None:
            return None
        low = self.form.low_precision
        return exponent(self.attention.score, self.rule.logit, low_precision=low, cancels=self.rule.over == "sum")

    def module(self) -> TritonModule:
        form = self.form
        pieces = [self._piece(i) for i in range(len(form.pieces))]
        shift = self._shift_of_rows()
        factor_lines, factor = self._factor()
        slot_ends = self._slot_ends()
        arguments = self._arguments()
        own, other = (("k", "v"), ("q", "do")) if self.turned else (("q", "do"), ("k", "v"))
        text = render(
            "triton/backward.py.j2",
            title=title(self.attention),
            turned=self.turned,
            fused=self.fused,
            boxed_stats=form.boxed_stats,
            boxed_sums=self.fused and self.backward.boxed_sums and form.tma,
            helpers=self.reads.helpers,
            assembly=form.low_precision and not form.interpreted,
            fast_tanh=form.dtype == "bf16" and not form.interpreted,
            numbers=[a.name for a in arguments if a.role != "constexpr" and not a.type.startswith("*")],
            arguments=arguments,
            hoisted=self.hoisted.lines,
            q=self.rows,
            pieces=pieces,
            rule=self.rule,
            plain=self.exponent is not None and self.exponent.plain,
            dropped=self.exponent is not None and self.exponent.dropped is not None,
            shift=shift,
            stats=self.stats,
            corrected=self.corrected and (self.refined or any(s.level is not Level.PAIR for s in self.slots.listed)),
            refined=self.refined and any(g.pull for p in pieces for c in (p.full, p.partial) for g in c.gradients),
            exp=self.exp,
            scale="scale_log2" if form.low_precision else "scale",
            factor_lines=factor_lines,
            factor=factor if factor.isidentifier() else f"({factor})",
            slots=self.slots.listed,
            slot_ends=slot_ends,
            deterministic=self.backward.deterministic,
            own=own,
            other=other,
            tensors=["q", "k", "v", "do", *self.operands],
            products=self.products,
            further_x=[a.q if self.turned else a.k for a in self.products[1:]],
            operands_x=[(a.q if self.turned else a.k, a.parts, a.D) for a in self.products[1:]],
            operands_y=[(a.k if self.turned else a.q, a.parts, a.D) for a in self.products[1:]],
            d_parts=limited(parts(form.D, form.narrowest), form.D),
            v_parts=limited(form.v_parts, form.Dv),
            D=form.D,
            Dv=form.Dv,
            tma=form.tma,
            far=form.far,
            walk="two loops",
            aligned=form.stride_unit if form.stride_unit > 1 else 0,
            negative=form.negative,
            batch_offset=form.batch_offset,
            precision=', input_precision="ieee"' if form.dtype == "fp32" else "",
        )
        name = "dkdvq" if self.fused else "dkdv" if self.turned else "dq"
        return TritonModule(tidy(text), arguments, name=name, slots=tuple(self.slots.listed))

    # Loops

    def _piece(self, index: int) -> PieceCode:
        local = local_meaning(self.attention, self.form, index)
        code = piece_code(self.form, index, self.reads)
        found = self._terms(index)
        leaves = {**self.rows.leaves, **code.leaves, SCALE: "scale", **score_leaves(self.attention)}
        code.full = self._loop(local, leaves, code, found, masked=False)
        code.partial = self._loop(local, leaves, code, found, masked=True)
        return code

    def _loop(
        self, local: Any, leaves: dict[Expr, str], piece: PieceCode, found: tuple[Term, ...], *, masked: bool
    ) -> LoopCode:
        loop = LoopCode()
        scope = Scope("c")
        own = Level.COLUMN if self.turned else Level.ROW
        printer = Printer(
            self.reads, leaves, scope, self.hoisted, turned=self.turned, columns=piece.size, seen=not masked,
            like="s" if self.form.low_precision else "", places=neighbours(self.rows, piece, self.form),
        )  # fmt: skip
        if masked:
            self._visible(loop, local(self.attention.mask), piece, printer)
            loop.mask_lines = scope_lines(scope, "x")
        by_product = [(a, score_slopes(found, leaf)) for a, leaf in zip(self.products, (SCORE, *FURTHER), strict=False)]
        if self.factor != ONE:
            first, slopes = by_product[0]
            by_product[0] = first, [(p, without_uniform(e, per_head=not self.turned)[1]) for p, e in slopes]
        levels = (Level.COLUMN,) if self.turned else (Level.UNIFORM, Level.ROW, Level.PAIR)
        slots = self.slots.of([t.value for t in found], levels, lambda n: bool(load_slopes(found, n)))
        slot_slopes = [(s, load_slopes(found, s.load)) for s in slots]
        self._values(loop, local, printer, [e for _, slopes in by_product for _, e in slopes])
        loop.lines = scope_lines(scope, "y")
        loop.gradients = [self._gradient(a, slopes, printer) for a, slopes in by_product if slopes]
        for slot, of_load in slot_slopes:
            text = _combined([(part, "" if e == ONE else printer.print(e)) for part, e in of_load])
            at, inside = ("", "")
            if slot.level is Level.PAIR:
                at, inside = element_of(slot.load, printer, self.reads)
            share = ""
            if self.corrected and slot.level is not Level.PAIR:
                share = next((printer.print(e) for part, e in of_load if part == "dl"), "")
            loop.slots.append(SlotCode(slot, text, share, at, inside))
        loop.after = scope_lines(scope, "j")
        channel_gradients(found, moving(found, self.backward.channels, own), printer, masked=masked)
        numbered_gradients(
            found, self.wanted, printer, self.slots, masked=masked, deterministic=self.backward.deterministic
        )
        loop.channels = printer.inner.lines
        used = printer.used & piece.leaves.keys()
        places = {Index(INT, "k"), Index(INT, "q"), Index(INT, "row")}
        loop.columns = bool(used) or self.turned
        loop.position = bool(used & places) or self.turned
        return loop

    def _gradient(self, product: Product, slopes: list[tuple[str, Expr]], printer: Printer) -> GradientCode:
        def combined(some: list[tuple[str, Expr]]) -> str:
            return _combined([(part, "" if e == ONE else printer.print(e)) for part, e in some])

        text = combined(slopes)
        pull = combined([("p", e) for part, e in slopes if part == "dl"]) if self.refined else ""
        guarded = not all(part in ("dl", "da") and certain(e) for part, e in slopes)
        return GradientCode(product, text, pull, guarded)

    def _visible(self, loop: LoopCode, mask: Expr, piece: PieceCode, printer: Printer) -> None:
        """The condition on pairs of a PARTIAL box: where it can be, that a position lies between bounds of the row."""
        found = None if self.form.on_grid or piece.residues else self._bands(mask)
        if found is None:
            inside = f"row_inside & {piece.inside}" if self.fused else piece.inside
            loop.visible = inside if mask == TRUE else f"{inside} & ({printer.print(mask)})"
            return
        printer.used.add(QUERY if self.turned else KEY)
        first = "q_offset" if self.turned else ""
        bounds: list[str] = []
        for band in found:
            low = "0" if band.low is None else self._bound("tl.maximum", band.low, first, "0", printer)
            high = piece.extents[0]
            if band.high is not None:
                high = self._bound("tl.minimum", band.high, first, high, printer)
            if band.rows != TRUE:
                high = self.hoisted.name(f"tl.where({printer.print(band.rows)}, {high}, 0)").code
            if self.fused:
                high = self.hoisted.name(f"tl.where(row_inside, {high}, 0)").code
            bounds += [low, high]
        pairs = list(zip(bounds[::2], bounds[1::2], strict=True))
        terms = [f"({piece.at} >= {low}) & ({piece.at} < {high})" for low, high in pairs]
        loop.visible = terms[0] if len(terms) == 1 else " | ".join(f"({t})" for t in terms)
        if self.exponent is None:
            return
        if len(pairs) == 1:
            loop.kept = f"{self.reads.helper('between')}(VALUE, {piece.at}, {', '.join(bounds)})"
            return
        for i in (1, 3):
            low = bounds[i - 1]
            width = bounds[i] if low == "0" else f"{bounds[i]} - {low}"
            bounds[i] = self.hoisted.name(f"tl.maximum({width}, 0)").code
        loop.kept = f"{self.reads.helper('within_either')}(VALUE, {piece.at}, {', '.join(bounds)})"

    def _bound(self, extreme: str, bound: Expr, first: str, limit: str, printer: Printer) -> str:
        text = printer.print(bound)
        return self.hoisted.name(f"{extreme}({text}{f' - {first}' if first else ''}, {limit})").code

    def _bands(self, mask: Expr) -> tuple[Band, ...] | None:
        found = bands_of(mask, QUERY if self.turned else KEY)
        if found is None or not self.turned:
            return found
        parts = [e for band in found for e in (band.low, band.high, band.rows) if e is not None]
        return None if any(q_side(e) for e in parts) else found

    def _values(self, loop: LoopCode, local: Any, printer: Printer, after: list[Expr]) -> None:
        """The exponent and amplitude, or the numerator, of a pair."""
        rule = self.rule
        if self.exponent is None:
            assert rule.numerator is not None
            value = local(self._of_raw(rule.numerator))
            printer.expect(value, *after)
            loop.numerator = self._pair(printer, value)
            return
        value = local(self.exponent.value)
        amplitude = None if rule.numerator is None else local(self._of_raw(rule.numerator))
        printer.expect(value, *([] if amplitude is None else [amplitude]), *after)
        if not self.exponent.plain:
            loop.exponent = self._pair(printer, value)
        if self.exponent.dropped is not None and self.turned:
            text = printer.print(local(gathered(op("mul", self.exponent.dropped, number(self.unit)))))
            printer.inner.lines.append(f"lse_here = lse_row - ({text})")
        if amplitude is not None:
            loop.amplitude = printer.print(amplitude)
            loop.uncertain = not certain(amplitude)

    def _pair(self, printer: Printer, e: Expr) -> str:
        text = printer.print(e)
        return text if level(e) is Level.PAIR else f"tl.zeros_like(s) + ({text})"

    def _of_raw(self, e: Expr) -> Expr:
        return gathered(of_raw(substitute(e, SCORE, self.attention.score)))

    def _common_factor(self) -> Expr:
        """The factor of every loop's gradient that is the same for all pairs, which is applied to the sums."""
        found: dict[Expr, None] = {}
        if self.fused:
            # those of other launches add to the same sums
            return ONE
        for index in range(len(self.form.pieces)):
            slopes = score_slopes(self._terms(index))
            if not slopes:
                continue
            single = len(slopes) == 1
            found[without_uniform(slopes[0][1], per_head=not self.turned)[0] if single else ONE] = None
        return next(iter(found)) if len(found) == 1 else ONE

    def _terms(self, index: int) -> tuple[Term, ...]:
        local = local_meaning(self.attention, self.form, index)
        return tuple(Term(t.part, local(t.value)) for t in self.terms)

    # After the loops

    def _shift_of_rows(self) -> str:
        """What is left out of a row's exponents, where rows are queries: hoisted, like what it is taken from."""
        if self.turned or self.exponent is None or self.exponent.dropped is None:
            return ""
        local = local_meaning(self.attention, self.form, None)
        printer = Printer(self.reads, {**self.rows.leaves, SCALE: "scale"}, self.hoisted)
        return printer.print(local(gathered(op("mul", self.exponent.dropped, number(self.unit)))))

    def _factor(self) -> tuple[list[str], str]:
        """What dq or dk is multiplied by in the end."""
        scope = Scope("z")
        local = local_meaning(self.attention, self.form, None)
        printer = Printer(self.reads, {**self.rows.leaves, SCALE: "scale"}, scope)
        whole = gathered(op("mul", SCALE, local(self.factor)))
        text = printer.print(gathered(op("mul", whole, number(-1.0))) if self.form.negative else whole)
        return scope.lines, text

    def _slot_ends(self) -> dict[int, SlotCode]:
        """How the sums of rows that have no place of their own are added to theirs."""
        found: dict[int, SlotCode] = {}
        local = local_meaning(self.attention, self.form, None)
        for slot in self.slots.listed:
            code = SlotCode(slot, "")
            if not slot.direct and slot.level is not Level.PAIR:
                scope = Scope(f"u{slot.number}_")
                printer = Printer(self.reads, self.rows.leaves, scope, turned=self.turned)
                load = local(slot.load)
                assert isinstance(load, Load)
                code.at, code.inside = element_of(load, printer, self.reads)
                code.text = "\n".join(scope.lines)
            found[slot.number] = code
        return found

    # Arguments

    def _arguments(self) -> tuple[Argument, ...]:
        form = self.form
        found = [Argument(t, "*qkv", "tensor", (t,)) for t in ("q", "k", "v", "do")]
        found += [Argument(t, "*qkv", "tensor", (t,)) for t in (("dk", "dv") if self.turned else ("dq",))]
        found += operand_arguments(self.operands)
        own = [(t, name) for t, name in self.operands.items() if t[0] == ("k" if self.turned else "q")]
        found += [Argument("d" + t, "*qkv", "tensor", ("d " + name,)) for t, name in own]
        found += gradient_arguments(self.vectors)
        if self.stats:
            found.append(Argument("stats", "*fp32", "tensor", ("stats",)))
        if self.fused:
            found.append(Argument("dq_sums", "*fp32", "tensor", ("dq_sums",)))
        found += self.slots.arguments(self.backward.deterministic)
        found += table_arguments(form) + numbers(form, ("q", "k", "v", "do"))
        found += read_arguments(self.reads)
        constants = ["BM"]
        if self.rows.boxes and len(self.rows.axes) > 1:
            constants += self.rows.boxes
        for i in range(len(form.pieces)):
            constants += [c for c in piece_code(form, i, self.reads).constants if c not in constants]
        assert len({a.name for a in found}) == len(found)
        return (*found, *(Argument(c, "constexpr", "constexpr", (c,)) for c in constants))


def _combined(parts_: list[tuple[str, str]]) -> str:
    """A sum of parts times factors."""
    found: list[str] = []
    for part, text in parts_:
        factor = text if text.replace("_", "").isalnum() else f"({text})"
        found.append(f"{part} * {factor}" if text else part)
    return " + ".join(found)
