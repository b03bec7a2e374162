"""The kernel that runs before the others of a backward pass: what they need to know of a row, and the gradients of
what only rows read (denominators, the output clause)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from attndsl.codegen.expr_triton import Level, Printer, Reads, Scope
from attndsl.codegen.templates import render, title
from attndsl.codegen.triton import TritonModule, input_ranks, tidy
from attndsl.codegen.triton_arguments import Argument, numbers, read_arguments, table_arguments
from attndsl.codegen.triton_backward import BackwardForm, stats_of
from attndsl.codegen.triton_form import Part, limited
from attndsl.codegen.triton_score import LOG2E, SCALE
from attndsl.codegen.triton_sides import local_meaning, row_code
from attndsl.codegen.triton_slots import Slot, Slots, element_of, scope_lines
from attndsl.codegen.triton_weight import rule_of
from attndsl.ir.attention import Attention
from attndsl.ir.build import ONE, ZERO
from attndsl.ir.derivative import derivative
from attndsl.ir.expr import Count, Expr, Load, Op, ParamRef, Reduce, Value, number, op, rewrite
from attndsl.ir.simplify import simplify_expr
from attndsl.ir.types import FLOAT, INT, Type

O = Value(FLOAT, "o")  # noqa: E741


def generate_prepare(attention: Attention, backward: BackwardForm) -> TritonModule | None:
    """The kernel of a form (whose pieces play no part); None where there is nothing to do."""
    made = _Prepare(attention, backward)
    return made.module() if made.needed else None


class _Prepare:
    def __init__(self, attention: Attention, backward: BackwardForm) -> None:
        self.attention, self.backward = attention, backward
        self.form = replace(backward.form, pieces=(), tma=False)
        self.rule = rule_of(attention)
        ranks = input_ranks(attention)
        self.reads = Reads(ranks, self.form.wide, frozenset(self.form.loaded))
        self.slots = Slots(backward.wanted, ranks, self.form.batch_offset)
        self.rows = row_code(self.form, self.reads)
        self.stats = stats_of(self.rule, backward.grad_lse)
        self.scope = Scope("y")
        self.local: Any = local_meaning(attention, self.form, None)
        self.leaves: dict[Expr, str] = {**self.rows.leaves, SCALE: "scale"}
        self.sums: dict[Slot, list[str]] = {}
        self.vectors: dict[Slot, dict[int, str]] = {}

    @property
    def needed(self) -> bool:
        return bool(self.stats) or self.attention.output is not None

    def module(self) -> TritonModule:
        output = self._output()
        output_lines = scope_lines(self.scope, "x")
        sink = self._sink() if self.rule.over == "sum and constant" else ""
        sink_lines = scope_lines(self.scope, "z")
        bottom, bottom_lines, sigmas = self._denominator() if self.rule.over == "row" else ("", [], [])
        self.scope.prefix = "u"
        if self.rule.over == "sum and constant":
            self._sink_slots()
        slot_lines, ends = self._ends()
        arguments = self._arguments()
        form = self.form
        text = render(
            "triton/prepare.py.j2",
            title=title(self.attention),
            helpers=self.reads.helpers,
            assembly=False,
            fast_tanh=False,
            numbers=[a.name for a in arguments if a.role != "constexpr" and not a.type.startswith("*")],
            arguments=arguments,
            q=self.rows,
            rule=self.rule,
            stats=self.stats,
            unit=f"{LOG2E!r}" if form.low_precision else "",
            output=output,
            output_lines=output_lines,
            sink=sink,
            sink_lines=sink_lines,
            bottom=bottom,
            bottom_lines=bottom_lines,
            sigmas=sigmas,
            slot_lines=slot_lines,
            ends=ends,
            grad_lse=self.backward.grad_lse,
            deterministic=self.backward.deterministic,
            v_parts=limited(form.v_parts, form.Dv),
            Dv=form.Dv,
            batch_offset=form.batch_offset,
        )
        return TritonModule(tidy(text), arguments, name="prepare", slots=tuple(self.slots.listed))

    # The output clause

    def _output(self) -> list[str]:
        """The gradient of the sum of values, part by part; empty where there is no clause."""
        if self.attention.output is None:
            return []
        whole = simplify_expr(_of_component(self.local(self.attention.output)))
        slope = simplify_expr(derivative(whole, O))
        slots = self.slots.of([whole], (Level.UNIFORM, Level.ROW))
        by_slot = [(s, simplify_expr(derivative(whole, s.load))) for s in slots]
        found: list[str] = []
        for part in self.form.v_parts:
            i = part.index
            own = Scope(f"z{i}_")
            leaves = {**self.leaves, O: f"o{i}"}
            component = (f"e{i}[None, :]", f"(e{i} < {self.form.Dv})[None, :]")
            printer = Printer(self.reads, leaves, own, component=component)
            found.append(f"g{i} * ({printer.print(slope)})" if slope != ONE else f"g{i}")
            for slot, e in by_slot:
                text = f"g{i} * ({printer.print(e)})"
                if part.ragged:
                    text = f"tl.where({component[1]}, {text}, 0.0)"
                if slot.vector:
                    self.vectors.setdefault(slot, {})[i] = text
                else:
                    self.sums.setdefault(slot, []).append(f"tl.sum({text}, 1)[:, None]")
            self.scope.lines += own.lines
        return found

    # Denominators

    def _printer(self, names: dict[Expr, str] | None = None) -> Printer:
        return Printer(self.reads, {**self.leaves, **(names or {})}, self.scope)

    def _sink(self) -> str:
        """The logarithm of what is added to the sum of exponentials."""
        extra = self.local(self.rule.extra)
        if isinstance(extra, Op) and extra.op == "exp":
            return self._printer().print(extra.args[0])
        return self._printer().print(op("log", op("max", extra, number(0.0))))

    def _sink_slots(self) -> None:
        extra = self.local(self.rule.extra)
        power = isinstance(extra, Op) and extra.op == "exp"
        value = extra.args[0] if isinstance(extra, Op) and power else extra
        share = "extra_share" if power else "inverse"
        for slot in self.slots.of([value], (Level.UNIFORM, Level.ROW)):
            e = simplify_expr(derivative(value, slot.load))
            text = share if e == ONE else f"{share} * ({self._printer().print(e)})"
            self.sums.setdefault(slot, []).append(text)

    def _denominator(self) -> tuple[str, list[str], list[str]]:
        """The denominator, the statements for it, and its derivatives with respect to its sums."""
        rule = self.rule
        assert rule.denominator is not None
        names: dict[Expr, str] = {}
        leaves: dict[Reduce, Expr] = {r: ParamRef(FLOAT, f"@sum{i}") for i, r in enumerate(rule.sums)}
        count = ParamRef(INT, "@count")
        names[count] = "count"
        for i, r in enumerate(rule.sums):
            names[leaves[r]] = f"sum{i}" if r.kind == "sum" else f"(sum{i} / tl.maximum(count, 1).to(tl.float32))"

        def replaced(node: Expr) -> Expr | None:
            return count if isinstance(node, Count) else leaves.get(node) if isinstance(node, Reduce) else None

        bottom = simplify_expr(self.local(rewrite(rule.denominator, replaced)))
        printer = self._printer(names)
        text = printer.print(bottom)
        lines = scope_lines(self.scope, "v")
        sigmas: list[str] = []
        for r in rule.sums:
            slope = printer.print(simplify_expr(derivative(bottom, leaves[r])))
            share = "" if r.kind == "sum" else " / tl.maximum(count, 1).to(tl.float32)"
            sigmas.append(f"({slope}){share}")
        for slot in self.slots.of([bottom], (Level.UNIFORM, Level.ROW)):
            e = simplify_expr(derivative(bottom, slot.load))
            if e != ZERO:
                self.sums.setdefault(slot, []).append(f"by_bottom * ({printer.print(e)})")
        return text, lines, sigmas

    # Where gradients go

    def _ends(self) -> tuple[list[str], list[dict[str, Any]]]:
        lines = scope_lines(self.scope, "w")
        ends: list[dict[str, Any]] = []
        for slot, texts in self.sums.items():
            lines.append(f"{slot.name} = tl.zeros([BM, 1], tl.float32) + {' + '.join(texts)}")
            ends.append(self._end(slot, None))
        for slot, by_part in self.vectors.items():
            for part in self.form.v_parts:
                name = f"{slot.name}_{part.index}"
                lines.append(f"{name} = tl.zeros([BM, {part.width}], tl.float32) + {by_part[part.index]}")
                ends.append(self._end(slot, part))
        return lines, ends

    def _end(self, slot: Slot, part: Part | None) -> dict[str, Any]:
        at = inside = ""
        lines: list[str] = []
        if not slot.direct:
            scope = Scope(f"w{slot.number}_" + ("" if part is None else f"{part.index}_"))
            printer = Printer(self.reads, self.leaves, scope)
            component = (
                ("", "") if part is None else (f"e{part.index}[None, :]", f"(e{part.index} < {self.form.Dv})[None, :]")
            )
            at, inside = element_of(slot.load, printer, self.reads, *component)
            lines = scope.lines
        name = slot.name if part is None else f"{slot.name}_{part.index}"
        return {"slot": slot, "part": part, "name": name, "at": at, "inside": inside, "lines": lines}

    def _arguments(self) -> tuple[Argument, ...]:
        found = [Argument(t, "*qkv", "tensor", (t,)) for t in ("raw", "grad")]
        if self.attention.output is not None:
            found.append(Argument("do", "*qkv", "tensor", ("do",)))
        if self.rule.logit is not None and self.stats:
            found.append(Argument("lse", "*fp32", "tensor", ("lse",)))
            if self.backward.grad_lse:
                found.append(Argument("grad_lse", "*fp32", "tensor", ("grad_lse",)))
        if self.rule.over == "row":
            found.append(Argument("sums", "*fp32", "tensor", ("sums",)))
        if self.stats:
            found.append(Argument("stats", "*fp32", "tensor", ("stats",)))
        found += self.slots.arguments(self.backward.deterministic)
        found += table_arguments(self.form) + numbers(self.form, ())
        found += read_arguments(self.reads)
        constants = ["BM", *(self.rows.boxes if len(self.rows.axes) > 1 else [])]
        assert len({a.name for a in found}) == len(found)
        return (*found, *(Argument(c, "constexpr", "constexpr", (c,)) for c in constants))


def _of_component(e: Expr) -> Expr:
    """An elementwise expression of vectors as one of their components, which are numbers."""

    def rule(node: Expr) -> Expr | None:
        if isinstance(node, Value):
            return O
        if not node.type.shape:
            return None
        if isinstance(node, Load):
            return replace(node, type=Type(node.type.kind))
        if isinstance(node, Op):
            return op(node.op, *node.args)
        return None

    return rewrite(e, rule)
