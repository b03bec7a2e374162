"""The arguments of a kernel, and what a launcher passes for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from attndsl.codegen.expr_triton import Reads, extent_name, input_name, scalar_name, size_name
from attndsl.codegen.triton_form import Form
from attndsl.ir.attention import Input
from attndsl.ir.expr import FURTHER
from attndsl.ir.types import Kind


@dataclass(frozen=True)
class Argument:
    """`type` as Triton spells it; `*qkv`, `*input` take the element type of their tensor. `role` and `key` say what
    it is: a `tensor`, `table`, `stride`, `number` of the call, `size`, `extent`, `scalar`, `input` or `constexpr`."""

    name: str
    type: str
    role: str
    key: tuple[str | int, ...] = ()

    @property
    def annotation(self) -> str:
        """How the kernel's text declares it."""
        if self.type == "constexpr":
            return "tl.constexpr"
        return "" if self.type.startswith("*") else f'"{self.type}"'


def suffix(form: Form, index: int) -> str:
    """What the names of a piece end in: nothing where there is one."""
    return "" if len(form.pieces) == 1 else str(index)


def operands(products: Sequence[tuple[Input, Input]]) -> dict[str, str]:
    """The inputs that hold the vectors of further dot products, by the names of their arguments: qa, ka, qb, ..."""
    sides = [(leaf.name[1:], pair) for leaf, pair in zip(FURTHER, products, strict=False)]
    return {side + letter: p.name for letter, pair in sides for side, p in zip("qk", pair, strict=True)}


def operand_arguments(found: Mapping[str, str]) -> list[Argument]:
    """The arguments of operands, given by name."""
    tensors = [Argument(t, "*qkv", "tensor", (name,)) for t, name in found.items()]
    return tensors + [Argument(f"{t}_s{axis}", "i64", "stride", (found[t], n)) for t in found for n, axis in _AXES]


_AXES = tuple(enumerate("bhl"))


def standard_arguments(
    form: Form, products: Sequence[tuple[Input, Input]] = (), *, logit: bool, saved: Sequence[str] = ()
) -> list[Argument]:
    """Those that every forward kernel of a form has. `saved` are kept for backward: `raw`, the output before its
    clause, and `sums`, those of the denominator."""
    tensors = ["q", *(("k", "v") if form.pieces else ()), "out"]
    found = [Argument(t, "*qkv", "tensor", (t,)) for t in tensors]
    found += operand_arguments(operands(products))
    if logit:
        found.append(Argument("lse", "*fp32", "tensor", ("lse",)))
    found += [Argument(t, "*qkv" if t == "raw" else "*fp32", "tensor", (t,)) for t in saved]
    return found + table_arguments(form) + numbers(form, tensors[:-1])


def table_arguments(form: Form) -> list[Argument]:
    """The tables of a sweep."""
    found = [Argument(t, "*i32", "table", (t, -1)) for t in ("order", "rows")]
    for i in range(len(form.pieces)):
        end = suffix(form, i)
        found += [Argument(t + end, "*i32", "table", (t, i)) for t in ("bounds", "boxes", "classes")]
    if form.batch_offset:
        found.append(Argument("offsets", "*i32", "tensor", ("offsets",)))
    return found


def numbers(form: Form, strided: Sequence[str]) -> list[Argument]:
    """Strides of tensors and the numbers of a call and its sweep."""
    own, other = form.sides
    found = [Argument(f"{t}_s{axis}", "i64", "stride", (t, n)) for t in strided for n, axis in enumerate("bhl")]
    names = ["B", "H", "Hkv", "Lq", "Lk", "tiles", "section", f"{own}_start"]
    found += [Argument(n, "i32", "number", (n, -1)) for n in names]
    if not form.batch_offset:
        found.append(Argument("q_offset", "i32", "number", ("q_offset", -1)))
    for i, piece in enumerate(form.pieces):
        end = suffix(form, i)
        found += [Argument(n + end, "i32", "number", (n, i)) for n in (f"{other}_start", "class_sb", "class_sh")]
        found += [
            Argument(f"split_{other}{end}_{a}", "i32", "number", (f"split_{a}", i))
            for a, split in enumerate(piece.side.split)
            if split
        ]
    found += [
        Argument(f"split_{own}_{a}", "i32", "number", (f"split_{a}", -1)) for a, s in enumerate(form.q.split) if s
    ]
    found.append(Argument("scale", "fp32", "number", ("scale", -1)))
    return found


def read_arguments(reads: Reads) -> list[Argument]:
    """Those that expressions read."""
    found = [Argument(size_name(name), "i32", "size", (name,)) for name in reads.sizes]
    for side, segment, axis in reads.extents:
        found.append(Argument(extent_name(side, segment, axis), "i32", "extent", (side, segment, axis)))
    for name, kind in reads.scalars.items():
        type_ = "*scalar" if name in reads.loaded else "fp32" if kind is Kind.FLOAT else "i32"
        found.append(Argument(scalar_name(name), type_, "scalar", (name,)))
    for name in reads.inputs:
        text = input_name(name)
        found.append(Argument(text, "*input", "input", (name,)))
        for i in range(reads.ranks[name]):
            found.append(Argument(f"{text}_s{i}", "i64", "input stride", (name, i)))
            found.append(Argument(f"{text}_n{i}", "i32", "input size", (name, i)))
    return found


def plain_arguments(types: Mapping[str, str]) -> tuple[Argument, ...]:
    """Arguments of these names and types, in order: tensors, numbers and constants."""
    roles = {"constexpr": "constexpr", "i32": "number"}
    return tuple(Argument(n, t, roles.get(t, "tensor"), (n,)) for n, t in types.items())
