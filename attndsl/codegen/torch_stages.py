"""The functions of a written module that compute numbers of rows from sums over them, as statements of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attndsl.codegen.torch_projection import MOST, TorchCode, arrays_of, shape, statements, tensor_of
from attndsl.codegen.torch_sides import SideCode
from attndsl.ir.attention import Attention
from attndsl.ir.infix import infix
from attndsl.ir.statistics import Stage
from attndsl.ir.types import Kind
from attndsl.schedule.problem import Problem


@dataclass(frozen=True)
class NumbersCode(TorchCode):
    """`given` is the code of what the statements read beside inputs of the call, by name, from `totals`."""

    given: Sequence[tuple[str, str]]


def numbers_code(attention: Attention, stages: Sequence[Stage], problem: Problem, fixed: Sequence[str]) -> NumbersCode:
    """What stands in the function of the last of these stages: from `totals`, the sums of all of them that add any, and
    from `inputs` of `attention`, numbers of earlier stages among them, its numbers."""
    assert isinstance(problem.q_offset, int)
    body = statements(attention, problem, fixed)
    length = problem.sizes["Lq"]
    shapes, kinds = dict(body.shapes), dict(body.kinds)
    given: list[tuple[str, str]] = []
    totals = 0
    for stage in stages:
        given += [(name, f"totals[{totals}][{i}]") for i, (name, _) in enumerate(stage.sums)]
        totals += bool(stage.sums or stage.count)
        counts = [stage.count] if stage.count else []
        for name in (*(n for n, _ in stage.sums), *(n.name for n in stage.numbers), *counts):
            shapes[name] = (None, None, length)
            kinds[name] = Kind.INT if name in counts else Kind.FLOAT
    body.shapes, body.kinds = shapes, kinds
    side = SideCode(body, "row", "H", length, problem.q_offset)
    wanted = stages[-1].numbers
    side.expect(*(n.computed for n in wanted))
    for number in wanted:
        body.lines.append(f"# {infix(number.value, MOST)}")
        code = side.value(number.computed)
        made = f"{tensor_of(side, code)}.expand({shape(side)}).contiguous()"
        body.lines.append(f"{number.name} = {made}")
        body.lines.append(f'inputs["{number.name}"] = {number.name}')
    body.lines.append(f"return {', '.join(n.name for n in wanted)},")
    helpers = body.helpers | {n for n in ("number",) if any(f"{n}(" in line for line in body.lines)}
    return NumbersCode(body.lines, frozenset(helpers), arrays_of(attention, [n.computed for n in wanted]), given)
