"""What a call runs over tiles: kernels that add up what a weight needs first, each under a key of its own, and the last
one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from attndsl.ir.attention import Attention
from attndsl.ir.finished import before_output
from attndsl.ir.projection import Projection, projection
from attndsl.ir.statistics import GIVEN, Stage, Staged, staged
from attndsl.runtime.triton.config import Pass
from attndsl.runtime.triton.several import STAGE_WIDTH
from attndsl.schedule.problem import Problem


@dataclass(frozen=True)
class Part:
    """An attention whose kernels a call runs, and the problem that it is of these. `stage` is the number of the stage
    whose sums it adds up, None for what runs last; `nth` which of its sums, where each has a kernel of its own."""

    attention: Attention
    problem: Problem
    stage: int | None = None
    nth: int = 0

    def name(self, whole: str) -> str:
        """What people know it by, from the name of the whole."""
        if self.stage is None:
            return whole
        return f"{whole} sums {self.stage + 1}" + (f".{self.nth + 1}" if self.nth else "")


def parts_of(attention: Attention, problem: Problem, step: Pass) -> list[Part]:
    """Everything that a pass of a call runs, what runs last at the end. `attention` has its consts bound and is
    simplified."""
    last, stages = _projected_and_staged(attention, problem)
    found: list[Part] = []
    for i, (stage, own) in enumerate(stages):
        found += [Part(a, own, i, n) for n, a in enumerate(attentions_of(stage, step))]
    return [*found, last]


def attentions_of(stage: Stage, step: Pass) -> tuple[Attention, ...]:
    """The attentions whose kernels a stage runs in a pass."""
    if step == "forward":
        return (stage.forward,)
    if step == "decode":
        return stage.alone
    # without products q and k have no gradients
    return (stage.backward,) if stage.backward is not None and stage.of_score else ()


def _projected_and_staged(attention: Attention, problem: Problem) -> tuple[Part, list[tuple[Stage, Problem]]]:
    attention = before_output(attention)
    inner = projection(attention)
    if isinstance(inner, Projection):
        # kernels of tiles run on what is computed before them
        attention, problem = inner.inner, replace(problem, sizes=inner.sizes(problem.sizes))
    stages = staged(attention)
    if not isinstance(stages, Staged):
        return Part(attention, problem), []
    given = {own: problem.sizes[n] for n, own in GIVEN.items()}
    found: list[tuple[Stage, Problem]] = []
    for stage in stages.stages:
        narrow = {} if stage.of_score else {"D": STAGE_WIDTH}
        sizes = {**problem.sizes, **given, "Dv": STAGE_WIDTH, **narrow}
        found.append((stage, replace(problem, sizes=sizes)))
    return Part(stages.inner, problem), found
