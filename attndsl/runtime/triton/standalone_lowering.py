"""What a module that runs by itself is written from: the launches of every pass of one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict, Unpack

from attndsl.codegen.triton_form import Dtype
from attndsl.ir.attention import Attention
from attndsl.ir.finished import before_output
from attndsl.ir.projected import Projection
from attndsl.ir.projection import projection
from attndsl.ir.statistics import GIVEN, Stage, Staged, gradient_of, staged
from attndsl.ir.types import Kind, kind_of_dtype
from attndsl.ir.vector_sums import VectorSums, vector_sums
from attndsl.ir.weights import weight_form
from attndsl.runtime.triton.config import Config
from attndsl.runtime.triton.locate import Locator
from attndsl.runtime.triton.lowering import Found, Locate, Lowered, lower, lower_backward
from attndsl.runtime.triton.scan_lowering import DTYPES, bare_call
from attndsl.runtime.triton.several import STAGE_WIDTH, sums_components
from attndsl.runtime.triton.sift import Sifted, Sifter
from attndsl.schedule.plan import Plan
from attndsl.schedule.problem import Problem
from attndsl.schedule.tiling import Tiling


@dataclass(frozen=True)
class LoweredStage:
    """Sums over rows that kernels of their own add up first, and the gradients that follow from theirs (None: none)."""

    stage: Stage
    sums: Lowering
    gradients: Lowering | None


@dataclass(frozen=True)
class Lowering:
    """The launches of a call of `attention` (consts bound, simplified), which means `written`. Kernels run `inner` on a
    call of `problem`, which is `given` but for what `projection` moves before them, and leave out an output clause that
    torch computes after them. `gradients` are launched in place of `backward` where inputs or lse have gradients; the
    latter is empty where inputs always have."""

    attention: Attention
    written: Attention
    given: Problem
    inner: Attention
    problem: Problem
    projection: Projection | None
    plan: Plan
    forward: tuple[Lowered, ...]
    backward: tuple[Lowered, ...] = ()
    gradients: tuple[Lowered, ...] = ()
    deterministic: bool = False
    stages: tuple[LoweredStage, ...] = ()
    """What runs between `projection` and `inner`."""
    moved_lse: bool = False
    """The lse of `inner` is not that of the attention."""

    @property
    def parts(self) -> dict[str, Lowering]:
        """What stages launch, by name."""
        found: dict[str, Lowering] = {}
        for i, it in enumerate(self.stages):
            found[f"sums{i}"] = it.sums
            if it.gradients is not None:
                found[f"gradients{i}"] = it.gradients
        return found

    @property
    def differentiated(self) -> bool:
        """Whether there is a backward pass."""
        return bool(self.backward or self.gradients)

    @property
    def has_lse(self) -> bool:
        """Whether the module returns lse."""
        moved = self.projection is not None and self.projection.moved_lse
        return weight_form(self.written).has_lse and not moved and not self.moved_lse

    @property
    def launches(self) -> tuple[Lowered, ...]:
        """All of them but those of `parts`, each once."""
        every = {id(it): it for it in (*self.forward, *self.backward, *self.gradients)}
        return tuple(every.values())

    def replaced(self, others: Mapping[int, Lowered]) -> Lowering:
        """With other launches, by the identity of these."""
        passes = (tuple(others[id(it)] for it in which) for which in (self.forward, self.backward, self.gradients))
        forward, backward, gradients = passes
        return replace(self, forward=forward, backward=backward, gradients=gradients)


class Configs(TypedDict, total=False):
    """Configurations of the passes that are not to be the usual ones."""

    forward: Config
    dq: Config
    dkdv: Config


def lower_module(
    attention: Attention,
    written: Attention,
    problem: Problem,
    dtype: Dtype,
    *,
    capability: int = 90,
    backward: bool = True,
    deterministic: bool = False,
    **configs: Unpack[Configs],
) -> Lowering:
    """The launches of a call, with those of its backward pass if asked for; `deterministic`: sums of gradients do not
    depend on the order of programs. ValueError names a feature that the backend does not have."""
    if isinstance(vector_sums(attention), VectorSums):
        raise ValueError(
            f"{attention.name}: its weight needs sums of vectors over the row that kernels of their own find first, "
            "which no module does by itself; `attndsl explain` says what they are, and calls of attndsl run them"
        )
    inner = before_output(attention)
    found = projection(inner)
    if not isinstance(found, Projection):
        found = None
    else:
        inner = found.inner
    own = problem if found is None else replace(problem, sizes=found.sizes(problem.sizes))
    stages: tuple[LoweredStage, ...] = ()
    steps = staged(inner)
    if isinstance(steps, Staged):
        stages = tuple(
            _stage(it, own, dtype, capability, backward, deterministic, configs) for it in steps.stages
        )  # fmt: skip
        inner = steps.inner
    locate = locating(inner, own, dtype)
    plan, rows = lower(
        inner, own, dtype, capability=capability, config=configs.get("forward"), save=backward, locate=locate
    )  # fmt: skip
    made = Lowering(
        attention, written, problem, inner, own, found, plan, rows, deterministic=deterministic, stages=stages,
        moved_lse=isinstance(steps, Staged) and steps.moved_lse,
    )  # fmt: skip
    if not backward:
        return made
    given = configs.get("dq"), configs.get("dkdv")

    def passes(wanted: frozenset[str], grad_lse: bool, variant: str) -> tuple[Lowered, ...]:
        return lower_backward(
            inner, own, dtype, plan, capability=capability, dq=given[0], dkdv=given[1], wanted=wanted,
            grad_lse=grad_lse, deterministic=deterministic and bool(wanted), variant=variant, locate=locate,
        )  # fmt: skip

    floats = [p for p in inner.inputs if kind_of_dtype(p.dtype) is Kind.FLOAT]
    wanted = frozenset(p.name for p in floats if not p.facts & {"operand", "channels"})
    plain = passes(frozenset(), False, "")
    further = bool(inner.products) or sums_components(inner)
    if not wanted and not made.has_lse:
        # vectors of further dot products and sums are inputs, whose gradients kernels write as those of q and k
        return replace(made, gradients=plain) if further else replace(made, backward=plain)
    full = tuple(_same(it, plain) for it in passes(wanted, made.has_lse, "inputs" if wanted else "lse"))
    if all(any(it is other for other in plain) for it in full) and not further:
        return replace(made, backward=plain)
    if stages or (found is not None and (found.numbers or found.tables or found.gates or further)):
        # what torch makes of q and k
        plain = ()
        full = tuple(replace(it, variant="") for it in full)
    return replace(made, backward=plain, gradients=full)


def _stage(
    stage: Stage,
    problem: Problem,
    dtype: Dtype,
    capability: int,
    backward: bool,
    deterministic: bool,
    configs: Configs,
) -> LoweredStage:
    """The launches of a stage of a call of `problem`."""
    sizes = {**problem.sizes, **{given: problem.sizes[n] for n, given in GIVEN.items()}, "Dv": STAGE_WIDTH}
    if not stage.of_score:
        sizes["D"] = STAGE_WIDTH
    own = replace(problem, sizes=sizes)

    def lowered(attention: Attention) -> tuple[Lowering, Locate | None]:
        locate = locating(attention, own, dtype)
        plan, rows = lower(
            attention, own, dtype, capability=capability, config=configs.get("forward"), save=True, locate=locate
        )  # fmt: skip
        return Lowering(attention, attention, own, attention, own, None, plan, rows), locate

    sums, _ = lowered(stage.forward)
    if stage.backward is None or not backward:
        return LoweredStage(stage, sums, None)
    slopes = {gradient_of(name) for name, _ in stage.sums}
    floats = [p for p in stage.backward.inputs if kind_of_dtype(p.dtype) is Kind.FLOAT and p.name not in slopes]
    wanted = frozenset(p.name for p in floats if not p.facts & {"operand", "channels"})
    if not floats and not stage.of_score:
        return LoweredStage(stage, sums, None)
    gradients, locate = lowered(stage.backward)
    passes = lower_backward(
        stage.backward, own, dtype, gradients.plan, capability=capability, dq=configs.get("dq"),
        dkdv=configs.get("dkdv"), wanted=wanted, deterministic=deterministic and bool(wanted),
        variant="inputs" if wanted else "", locate=locate,
    )  # fmt: skip
    return LoweredStage(
        stage, sums, replace(gradients, forward=(), gradients=passes, deterministic=deterministic)
    )  # fmt: skip


def locating(attention: Attention, problem: Problem, dtype: Dtype) -> Locate | None:
    """How the tables of sweeps are made on the device, where the mask reads tensors; None elsewhere."""
    if problem.q_offset != 0:
        return None
    call = bare_call(attention, problem.sizes, problem.scalars, DTYPES[dtype])
    call = replace(call, q_extents=problem.q_extents, k_extents=problem.k_extents)
    locator, sifter = Locator(attention), Sifter(attention)
    if locator.on_line and locator.wanted(call):

        def line(config: Config, turned: bool) -> Sequence[Found]:
            found = locator.sweep(call, config.rows, config.columns, turned=turned, searched=not turned)
            return [(found.tables, found)]

        return line
    if not sifter.wanted(call):
        return None

    def grid(config: Config, turned: bool) -> Sequence[Found]:
        sizes = (config.columns, config.rows) if turned else (config.rows, config.columns)
        tiling = Tiling(*sizes, config.q_box, config.k_box)
        swept = sifter.sweeps(call, config.rows, tiling, turned=turned)
        return [(it.tables, it.located if isinstance(it.located, Sifted) else None) for it in swept]

    return grid


def _same(it: Lowered, others: tuple[Lowered, ...]) -> Lowered:
    """The launch among others that does the same, or itself."""
    for other in others:
        alike = other.module.source == it.module.source and other.constants == it.constants
        if alike and (other.config, other.form, other.step) == (it.config, it.form, it.step):
            return other
    return it
