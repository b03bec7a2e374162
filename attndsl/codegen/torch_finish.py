"""The function of a written module that computes an output clause after its kernels, as statements of torch."""

from __future__ import annotations

from collections.abc import Sequence

from attndsl.codegen.torch_projection import MOST, TorchCode, arrays_of, statements
from attndsl.codegen.torch_sides import SideCode, Text
from attndsl.codegen.triton_sides import linear_coordinates
from attndsl.ir.attention import Attention
from attndsl.ir.expr import Expr, Extent, integer, rewrite, walk
from attndsl.ir.finished import Finished, is_o
from attndsl.ir.infix import infix
from attndsl.ir.simplify import simplify_expr
from attndsl.schedule.problem import Problem


def finish_code(attention: Attention, found: Finished, problem: Problem, fixed: Sequence[str]) -> TorchCode:
    """What stands in `finish`: from `o` and from `q`, `inputs`, `scalars` and `sizes` of a call the output."""
    assert isinstance(problem.q_offset, int)

    def extent(node: Expr) -> Expr | None:
        if not isinstance(node, Extent):
            return None
        of_query = node.side == "q"
        space = attention.q_space if of_query else attention.k_space
        given = problem.q_extents if of_query else problem.k_extents
        assert space is not None
        axes = next(s.axes for s in space.segments if s.name == node.segment)
        return integer(given[node.segment][axes.index(node.axis)])

    output = simplify_expr(rewrite(linear_coordinates(attention, found.output), extent))
    body = statements(attention, problem, fixed)
    values = {n: Text("o.float()") for n in walk(output) if is_o(n)}
    side = SideCode(body, "row", "H", problem.sizes["Lq"], problem.q_offset, values=dict(values))
    body.lines.append(f"# {infix(found.output, MOST)}")
    side.expect(output)
    code = side.tensor(output)
    body.lines.append(f"return ({code}).to(o.dtype).expand(o.shape).contiguous()")
    helpers = body.helpers | {n for n in ("number",) if any(f"{n}(" in line for line in body.lines)}
    return TorchCode(body.lines, frozenset(helpers), arrays_of(attention, [output]))
