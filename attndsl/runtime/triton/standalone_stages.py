"""The parts of a written module whose weight needs sums over rows: modules of their own that add these up, and what the
module computes from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attndsl.codegen.templates import render, title
from attndsl.codegen.torch_stages import NumbersCode, numbers_code
from attndsl.ir.attention import Attention
from attndsl.ir.finished import before_output
from attndsl.ir.statistics import GIVEN, gradient_of
from attndsl.runtime.triton.standalone_lowering import LoweredStage, Lowering


def staged_attention(lowering: Lowering) -> Attention:
    """The attention that stages are made of: what is left after `projection`."""
    found = lowering.projection
    return before_output(lowering.attention) if found is None else found.inner


def numbers_codes(lowering: Lowering, fixed: Mapping[str, int]) -> list[NumbersCode | None]:
    """What torch computes of the sums of every stage; None for nothing."""
    attention, stages = staged_attention(lowering), [it.stage for it in lowering.stages]
    known = [n for n in fixed if n in lowering.problem.sizes]
    return [
        numbers_code(attention, stages[: i + 1], lowering.problem, known) if stage.numbers else None
        for i, stage in enumerate(stages)
    ]


def stage_data(lowering: Lowering, codes: Sequence[NumbersCode | None]) -> list[dict[str, Any]]:
    """What the functions of a module that run its stages are written from."""
    return [
        {
            "number": i, "sums": len(it.stage.sums), "count": it.stage.count,
            "names": tuple(n.name for n in it.stage.numbers),
            "lines": [] if code is None else code.lines,
            "given": [] if code is None else code.given,
        }
        for i, (it, code) in enumerate(zip(lowering.stages, codes, strict=True))
    ]  # fmt: skip


def part_module(part: str, it: LoweredStage, context: Mapping[str, Any], arrays: Sequence[str], module: str) -> str:
    """The text of a part, `sums` or `gradients`; `context` is what the launches are written from, `arrays` the const
    arrays that kernels of the module read."""
    lowering = it.sums if part == "sums" else it.gradients
    assert lowering is not None
    sizes = lowering.problem.sizes
    slopes = [gradient_of(name) for name, _ in it.stage.sums] if part == "gradients" else []
    return render(
        "triton/standalone_part.py.j2",
        **context,
        part=part,
        module=module,
        title=title(lowering.attention),
        names=[*(i.name for i in lowering.attention.inputs if i.name not in slopes), *arrays],
        slopes=slopes,
        own_sizes={n: sizes[n] for n in ("D", "Dv", *GIVEN.values())},
        of_score=it.stage.of_score,
        counted=bool(it.stage.count),
    )
