"""From a prepared call to its plan, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from attndsl.cli.inputs import Table, make_inputs
from attndsl.cli.output import CallError
from attndsl.cli.setup import Setup
from attndsl.ir.attention import Attention
from attndsl.ir.expr import Load, walk
from attndsl.schedule.plan import Plan
from attndsl.schedule.problem import Problem


def mask_tables(setup: Setup, seed: int) -> dict[str, Table]:
    """Made-up inputs that the mask reads; the plan needs no others."""
    read = {n.tensor for n in walk(setup.attention.mask) if isinstance(n, Load)}
    if not read & {i.name for i in setup.attention.inputs}:
        return {}
    return {n: t for n, t in make_inputs(setup.attention, setup.sizes, seed).items() if n in read}


@dataclass(frozen=True)
class Planned:
    """The stages between a checked spec and its kernel."""

    problem: Problem
    simplified: Attention
    plan: Plan


def plan_of(setup: Setup, seed: int) -> Planned:
    """The plan of a call on made-up inputs. CallError for sizes that a `require` of the spec refuses."""
    from attndsl.ir.simplify import simplify
    from attndsl.schedule.build import build

    check(setup)
    problem = setup.problem(mask_tables(setup, seed))
    simplified = simplify(setup.attention)
    return Planned(problem, simplified, build(simplified, problem))


def check(setup: Setup) -> None:
    """CallError for a `require` that the sizes and scalars break, and for a zero divisor among them."""
    from attndsl.runtime.host import Facts, check_conditions

    facts: Any = Facts(setup.sizes, setup.scalars, setup.q_extents, setup.k_extents)
    try:
        check_conditions(setup.attention, facts)
    except ValueError as error:
        raise CallError(str(error)) from error
