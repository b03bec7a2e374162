"""From an attention and the sizes of a call to the kernels that it launches, without a tensor or a GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any
from typing import Literal as Lit

from attndsl.codegen.expr_triton import UnsupportedError
from attndsl.codegen.triton import TritonModule, generate, unsupported
from attndsl.codegen.triton_backward import BackwardForm, generate_sweep
from attndsl.codegen.triton_form import Dtype, Form
from attndsl.codegen.triton_prepare import generate_prepare
from attndsl.ir.attention import Attention, Const, Input
from attndsl.runtime.failures import KernelError
from attndsl.runtime.triton.config import Config, Pass, apart, choose, shared_memory, stages_that_fit
from attndsl.runtime.triton.cross import Compiled, cross_compile, signature_of
from attndsl.runtime.triton.failures import Attempt, failure, reported, words_of
from attndsl.runtime.triton.launch import constants
from attndsl.runtime.triton.locate import Located
from attndsl.runtime.triton.several import LARGEST_HEAD, check_depth, depth, depths, pair_tiles, sums_components
from attndsl.runtime.triton.side_by_side import side_by_side
from attndsl.runtime.triton.sift import Sifted
from attndsl.runtime.triton.tables import LaunchTables, QSegment, launches
from attndsl.runtime.triton.visits import visits_of
from attndsl.runtime.triton.walks import pipelines, plain, specialized, walked
from attndsl.schedule.build import build
from attndsl.schedule.plan import Plan
from attndsl.schedule.problem import Problem
from attndsl.schedule.tiling import Tiling

ELEMENTS = {
    "f16": "fp16", "bf16": "bf16", "f32": "fp32", "f64": "fp32", "bool": "u8",
    "i8": "i8", "i16": "i16", "i32": "i32", "i64": "i64",
}  # fmt: skip
"""Declared element types as Triton spells them; fp64 inputs are read as fp32."""


Found = tuple[LaunchTables, Located | Sifted | None]
"""The tables of a launch, and what makes some of them on the device."""
Locate = Callable[[Config, bool], Sequence[Found]]
"""The sweep of a configuration, with keys as rows if so."""


@dataclass(frozen=True)
class Lowered:
    """One launch of a call: its kernel's code, constants and options, and the tables it reads.

    `config` is the configuration that was chosen, `stages` how many of its stages shared memory holds.
    """

    attention: Attention
    step: Pass | Lit["prepare"]
    form: Form
    module: TritonModule
    tables: LaunchTables
    constants: Mapping[str, Any]
    config: Config
    stages: int
    capability: int
    variant: str = ""
    """What its name has beside the pass."""
    located: Located | Sifted | None = None
    """How its tables are made on the device, where they are."""

    @property
    def tile(self) -> tuple[int, int]:
        """Rows and columns of a tile."""
        return prod(self.tables.box), max((prod(p.box) for p in self.tables.pieces), default=0)

    @property
    def name(self) -> str:
        """Pass, segment, tile and options: `forward_video_128x64_w8_s3`."""
        rows, columns = self.tile
        parts = [self.step, self.variant, self.form.q.segment]
        options = [f"w{self.config.warps}", f"s{self.stages}", *(["specialized"] if self.config.specialize else [])]
        return "_".join([*(p for p in parts if p), f"{rows}x{columns}", *options])


def lower(
    attention: Attention,
    problem: Problem,
    dtype: Dtype,
    *,
    capability: int = 90,
    config: Config | None = None,
    tma: bool = True,
    lse: bool = True,
    save: bool = False,
    locate: Locate | None = None,
) -> tuple[Plan, tuple[Lowered, ...]]:
    """The plan of a call of `attention` (consts bound, simplified) and its launches, in order.

    Tensors are taken to be aligned to 16 bytes where their rows are; `tma` allows tensor descriptors where the
    capability has them; `save` keeps what a backward pass needs; `locate` gives sweeps whose tables the device makes.
    ValueError names a feature that the backend does not have.
    """
    D, Dv = problem.sizes["D"], problem.sizes["Dv"]
    if max(D, Dv) > LARGEST_HEAD:
        raise ValueError(
            f"{attention.name}: backend 'triton' has heads of at most {LARGEST_HEAD} components; "
            "backend 'cpu' has no limit"
        )
    check_depth(attention, problem.sizes)
    whole, further = depth(attention, problem.sizes), depths(attention, problem.sizes)
    on_grid = attention.gridded and not problem.moved
    if config is None:
        visits = partial(visits_of, attention, problem)
        config = choose(
            "forward", dtype, whole, Dv, capability, visits, pair_tiles(attention), sums_components(attention)
        )
    plan = build(
        attention, problem, Tiling(config.rows, config.columns, config.q_box, config.k_box).tile(attention, problem)
    )
    found: list[Lowered] = []
    element = 4 if dtype == "fp32" else 2
    try:
        for tables, located in _sweep(plan, problem, config, on_grid, False, locate):
            pieces = tuple(p.form for p in tables.pieces)
            boxes = tma and capability >= 90 and bool(pieces) and not any(p.side.any_split for p in pieces)
            form = Form(dtype, D, Dv, tables.q, pieces, on_grid=on_grid, tma=boxes and Dv * element % 16 == 0,
                        aligned=D * element % 16 == 0 and Dv * element % 16 == 0,
                        batch_offset=not isinstance(problem.q_offset, int), products=further,
                        searched=bool(tables.searches and pieces))  # fmt: skip
            rows, columns = prod(tables.box), max((prod(p.box) for p in tables.pieces), default=16)
            granted = walked(attention, form, tables, config, capability)
            form, config_here = granted.form, granted.config
            stages = stages_that_fit(config_here, element, whole, Dv, rows, columns, shared_memory(capability))
            module = generate(attention, form)
            values = constants(form, tables) | {"LSE": lse, "SAVE": save}
            found.append(
                Lowered(
                    attention, "forward", form, module, tables, values, config_here, stages, capability, located=located
                )
            )
    except UnsupportedError as error:
        raise unsupported(attention, error) from error
    return plan, tuple(found)


def lower_backward(
    attention: Attention,
    problem: Problem,
    dtype: Dtype,
    plan: Plan,
    *,
    capability: int = 90,
    dq: Config | None = None,
    dkdv: Config | None = None,
    wanted: frozenset[str] = frozenset(),
    grad_lse: bool = False,
    deterministic: bool = False,
    variant: str = "",
    locate: Locate | None = None,
    channels: bool = True,
) -> tuple[Lowered, ...]:
    """The launches of the backward pass to q, k and v, in order: `prepare` and `dq` over rows, `dkdv` over keys, which
    computes dq along only where the given configuration says so. With the gradients of the inputs that are `wanted`,
    of the vectors that are read component by component where `channels`, and for a gradient of lse; `variant` tells
    their names from others. `plan` is that of the forward pass. ValueError names a feature that the backend does not
    have."""
    D, Dv = problem.sizes["D"], problem.sizes["Dv"]
    on_grid = attention.gridded and not problem.moved
    element = 4 if dtype == "fp32" else 2
    aligned = D * element % 16 == 0 and Dv * element % 16 == 0
    check_depth(attention, problem.sizes)
    whole, further = depth(attention, problem.sizes), depths(attention, problem.sizes)
    prepared: list[Lowered] = []
    swept: list[Lowered] = []
    steps: tuple[tuple[Pass, Config | None], ...] = (("dq", dq), ("dkdv", dkdv))
    try:
        for step, given in steps:
            turned = step == "dkdv"
            count = pair_tiles(attention)
            chosen = given or choose(
                step, dtype, whole, Dv, capability, products=count, sums=sums_components(attention)
            )
            config = chosen if given else apart(chosen, dtype, whole, Dv, capability, count)
            sizes = (config.columns, config.rows) if turned else (config.rows, config.columns)
            own = plan.tiled(Tiling(*sizes, config.q_box, config.k_box))
            for tables, located in _sweep(own, problem, config, on_grid, turned, locate):
                pieces = tuple(p.form for p in tables.pieces)
                tma = aligned and capability >= 90 and bool(pieces) and not any(p.side.any_split for p in pieces)
                form = Form(dtype, D, Dv, tables.q, pieces, on_grid=on_grid, tma=tma, aligned=aligned, turned=turned,
                            batch_offset=not isinstance(problem.q_offset, int), products=further,
                            boxed_stats=turned and tma and tables.begin_even(problem.q_extents))  # fmt: skip
                form = replace(form, pipelined=pipelines(attention, form, config))
                columns = max((prod(p.box) for p in tables.pieces), default=16)
                limit = shared_memory(capability)
                stages = stages_that_fit(config, element, whole, Dv, prod(tables.box), columns, limit, backward=True)
                values = constants(form, tables)
                if not turned:
                    bare = replace(form, pieces=(), tma=False, aligned=False, pipelined=False)
                    module = generate_prepare(attention, BackwardForm(bare, wanted, grad_lse, deterministic))
                    if module is not None:
                        prepared.append(
                            Lowered(
                                attention,
                                "prepare",
                                bare,
                                module,
                                tables,
                                values,
                                config,
                                stages,
                                capability,
                                variant,
                                located,
                            )
                        )
                if pieces:
                    backward = BackwardForm(
                        form, wanted, grad_lse, deterministic,
                        fused=bool(config.fused), boxed_sums=config.fused == "boxes",
                        channels=frozenset(p.name for p in attention.channels if channels),
                    )  # fmt: skip
                    module = generate_sweep(attention, backward)
                    swept.append(
                        Lowered(
                            attention, step, form, module, tables, values, config, stages, capability, variant, located
                        )
                    )
    except UnsupportedError as error:
        raise unsupported(attention, error) from error
    return *prepared, *swept


def _sweep(
    plan: Plan, problem: Problem, config: Config, on_grid: bool, turned: bool, locate: Locate | None
) -> Sequence[Found]:
    """The tables of the launches of a sweep; `turned` with keys as rows."""
    if locate is not None:
        return locate(config, turned)
    segments = q_segments(problem, on_grid, turned)
    return [(t, None) for t in launches(plan, segments, config.rows, on_grid, turned=turned, spans=True)]


def q_segments(problem: Problem, on_grid: bool, turned: bool = False) -> list[QSegment]:
    """The segments of the rows of a call; `turned` those of its keys."""
    by_segment = problem.k_extents if turned else problem.q_extents
    if not on_grid or not by_segment:
        return [QSegment("", 0, problem.sizes["Lk" if turned else "Lq"])]
    found: list[QSegment] = []
    start = 0
    for name, extents in by_segment.items():
        found.append(QSegment(name, start, prod(extents)))
        start += prod(extents)
    return found


def elements(attention: Attention) -> dict[str, str]:
    """The element type of every input and const array as Triton spells it, as they are declared."""
    found = {p.name: ELEMENTS[p.dtype] for p in attention.params if isinstance(p, Input)}
    for p in attention.params:
        if isinstance(p, Const) and isinstance(p.default, tuple):
            first = p.default[0]
            found[p.name] = "u8" if isinstance(first, bool) else "i64" if isinstance(first, int) else "fp32"
    return found


def compile_lowered(it: Lowered, inputs: Mapping[str, str] | None = None) -> Compiled:
    """The machine code of a launch's kernel. `inputs` gives element types as `elements` does, which are the declared
    ones. KernelError where Triton's compiler fails."""
    given = elements(it.attention) if inputs is None else inputs
    with reported(lambda: attempt_of(it, given)):
        return cross_compile(
            it.module, it.constants, dtype=it.form.dtype, inputs=given, warps=it.config.warps, stages=it.stages,
            registers=it.config.registers, capability=it.capability,
        )  # fmt: skip


def compile_fitting(it: Lowered, inputs: Mapping[str, str] | None = None) -> tuple[Lowered, Compiled]:
    """As `compile_lowered`, with fewer stages where the kernel takes more shared memory than there is, as a call does
    it. KernelError where one stage does not fit either."""
    limit = shared_memory(it.capability)
    while True:
        built = compile_lowered(it, inputs)
        if built.shared <= limit:
            return it, built
        if it.stages == 1:
            words = f"out of resource: shared memory, required: {built.shared}, hardware limit: {limit}"
            raise failure(attempt_of(it, elements(it.attention) if inputs is None else inputs), words)
        it = replace(it, stages=it.stages - 1)


def compile_granted(it: Lowered, inputs: Mapping[str, str] | None = None) -> tuple[Lowered, Compiled]:
    """As `compile_fitting`, with two loops where Triton does not specialise warps, as a call does it."""
    if it.form.walk != "specialized":
        return compile_fitting(it, inputs)
    try:
        built = compile_lowered(it, inputs)
    except KernelError:
        return compile_fitting(unspecialized(it), inputs)
    if specialized(built) and built.shared <= shared_memory(it.capability):
        return it, built
    return compile_fitting(unspecialized(it), inputs)


def unspecialized(it: Lowered) -> Lowered:
    """The launch with two loops in place of specialised warps."""
    form = replace(it.form, walk="two loops", bare=it.form.on_grid and it.tables.bare)
    config = plain(it.config)
    element = 4 if form.dtype == "fp32" else 2
    columns = max((prod(p.box) for p in it.tables.pieces), default=16)
    limit = shared_memory(it.capability)
    stages = stages_that_fit(config, element, form.depth, form.Dv, prod(it.tables.box), columns, limit)
    return replace(it, form=form, config=config, stages=stages, module=generate(it.attention, form))


def compile_all(
    found: Sequence[Lowered], done: Callable[[int], None] = lambda _: None
) -> list[tuple[Lowered, Compiled]]:
    """`compile_granted` for every launch, in processes of their own where there are several. `done` is told how many
    are. A kernel that two launches share is compiled once."""
    return side_by_side(compile_granted, found, done)


def attempt_of(it: Lowered, inputs: Mapping[str, str]) -> Attempt:
    """The compilation of a launch's kernel, as a failure report tells it."""
    signature, attributes = signature_of(it.module, it.form.dtype, inputs)
    values = {a.name: it.constants[a.name] for a in it.module.arguments if a.role == "constexpr"}
    return Attempt(
        it.attention, it.module.source, it.module.name, signature, values, attributes, it.config.warps, it.stages,
        it.capability, words_of(it.form, *it.tile), it.config.registers,
    )  # fmt: skip
