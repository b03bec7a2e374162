"""From an attention and the sizes of a call of few rows to its kernels, without a tensor or a GPU."""

from __future__ import annotations

from dataclasses import replace

from attndsl.codegen.expr_triton import UnsupportedError
from attndsl.codegen.triton import unsupported
from attndsl.codegen.triton_form import Dtype, Form
from attndsl.ir.attention import Attention
from attndsl.runtime.triton.config import Config, choose, stages_that_fit
from attndsl.runtime.triton.decode import FORWARD_ROWS, Device, decode_tiling, shares_of, sure_keys
from attndsl.runtime.triton.decode_launch import tile_of_few
from attndsl.runtime.triton.decode_tables import decode_tables
from attndsl.runtime.triton.generated import decode_module
from attndsl.runtime.triton.lowering import Lowered, shared_memory
from attndsl.runtime.triton.tables import QSegment, launches
from attndsl.schedule.build import build
from attndsl.schedule.plan import Plan
from attndsl.schedule.problem import Problem


def lower_decode(
    attention: Attention,
    problem: Problem,
    dtype: Dtype,
    *,
    capability: int = 90,
    multiprocessors: int = 132,
    config: Config | None = None,
    lse: bool = False,
) -> tuple[Plan, tuple[Lowered, ...]]:
    """The plan of a call of few rows of `attention` (consts bound, simplified) and its kernels: `decode`, and `merge`
    where keys are split. Tensors are taken to be aligned. ValueError names a feature that the backend does not have,
    or says that a call has no such kernel."""
    s = problem.sizes
    config = config or choose("decode", dtype, s["D"], s["Dv"], capability)
    tiling = decode_tiling(config, s)
    planned = tiling.problem(attention, problem)
    plan = build(attention, planned, tiling.tile(attention, planned))
    made = launches(plan, [QSegment("", 0, s["Lq"])], FORWARD_ROWS, False)
    if len(made) != 1 or len(made[0].pieces) != 1 or len(made[0].q.axes) != 1:
        raise ValueError(f"{attention.name}: calls of few rows are split over keys on a line only")
    group = s["H"] // s["Hkv"]
    tables = decode_tables(made[0], s["B"], s["H"], group, sure_keys(made[0], s["Lk"]))
    element = 4 if dtype == "fp32" else 2
    aligned = s["D"] * element % 16 == 0 and s["Dv"] * element % 16 == 0
    form = Form(dtype, s["D"], s["Dv"], tables.q, (tables.piece,), aligned=aligned,
                batch_offset=not isinstance(problem.q_offset, int))  # fmt: skip
    try:
        module = decode_module(attention, form)
    except UnsupportedError as error:
        raise unsupported(attention, error) from error
    shares = shares_of(config, form, tables, s, Device(multiprocessors, capability))
    rows, warps = tile_of_few(config, tables, s)
    stages = stages_that_fit(config, element, s["D"], s["Dv"], rows, tables.box, shared_memory(capability))
    values = {"BM": rows, "BN": tables.box, "SPLIT": shares > 1, "LSE": lse}
    first = Lowered(
        attention, "decode", form, module, made[0], values, replace(config, warps=warps), stages, capability
    )
    if shares == 1:
        return plan, (first,)
    merge = replace(
        first, module=replace(module, name="merge"), constants={**values, "BM": 1}, config=replace(config, warps=4),
        stages=1,
    )  # fmt: skip
    return plan, (first, merge)
