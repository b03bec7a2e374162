"""The kernel that runs after a sweep that added up dq: rounded to its type."""

from __future__ import annotations

from dataclasses import replace

from attndsl.codegen.expr_triton import Reads
from attndsl.codegen.templates import render, title
from attndsl.codegen.triton import TritonModule, input_ranks, tidy
from attndsl.codegen.triton_arguments import Argument, numbers, read_arguments, table_arguments
from attndsl.codegen.triton_backward import BackwardForm
from attndsl.codegen.triton_form import limited, parts
from attndsl.codegen.triton_sides import row_code
from attndsl.ir.attention import Attention


def generate_finish(attention: Attention, backward: BackwardForm) -> TritonModule:
    """The kernel of a form, whose pieces play no part."""
    form = replace(backward.form, pieces=(), tma=False)
    reads = Reads(input_ranks(attention), form.wide, frozenset(form.loaded))
    rows = row_code(form, reads)
    arguments = [Argument("dq_sums", "*fp32", "tensor", ("dq_sums",)), Argument("dq", "*qkv", "tensor", ("dq",))]
    arguments += table_arguments(form) + numbers(form, ()) + read_arguments(reads)
    names = ["BM", *(rows.boxes if len(rows.axes) > 1 else [])]
    arguments += [Argument(c, "constexpr", "constexpr", (c,)) for c in names]
    text = render(
        "triton/finish.py.j2",
        title=title(attention),
        numbers=[a.name for a in arguments if a.role != "constexpr" and not a.type.startswith("*")],
        arguments=arguments,
        q=rows,
        d_parts=limited(parts(form.D, form.narrowest), form.D),
        D=form.D,
        batch_offset=form.batch_offset,
    )
    return TritonModule(tidy(text), tuple(arguments), name="finish")
