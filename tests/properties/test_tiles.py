"""Plans of random masks, against the mask pair by pair."""

from __future__ import annotations

from collections import Counter
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, note, seed
from hypothesis import strategies as st

import attndsl.schedule.blocks
import attndsl.schedule.piece
from attndsl.ir.simplify import simplify
from attndsl.reference import visible
from attndsl.schedule.build import build
from attndsl.schedule.plan import Plan, Product
from attndsl.schedule.problem import Problem
from tests.brute_force import check_plan
from tests.drawing import SEED, drawn
from tests.random_specs import masks
from tests.spec import Spec

PARTS, EXAMPLES = 4, 500
WAYS = ("all known", "all known", "all known", "few boxes", "few pairs", "no tables")


def _plan(spec: Spec, way: str) -> Plan:
    """The plan of a spec, with everything known or with a part of the analysis out of reach.

    What a plan does at lengths where boxes and pairs are too many to look at is done here at small ones.
    """
    problem = spec.problem()
    if way == "no tables":
        problem = Problem(problem.sizes, problem.scalars, {}, problem.q_extents, problem.k_extents, problem.q_offset)
    boxes = 0 if way == "few boxes" else attndsl.schedule.blocks.MOST_BOXES
    pairs = 0 if way == "few pairs" else attndsl.schedule.blocks.MOST_PAIRS
    with (
        patch.object(attndsl.schedule.blocks, "MOST_BOXES", boxes),
        patch.object(attndsl.schedule.blocks, "MOST_PAIRS", pairs),
    ):
        plan = build(simplify(spec.attention), problem, spec.tile)
        assert plan.dkdv.kind == "dkdv"  # made when first asked for
        return plan


@pytest.mark.parametrize("part", range(PARTS))
def test_plans_of_random_masks(part: int) -> None:
    """Each visible pair in one box, FULL boxes visible throughout, in both passes; exact where a plan says so."""
    found: Counter[str] = Counter()

    @seed(SEED + part)
    @drawn(EXAMPLES)
    @given(masks(), st.sampled_from(WAYS))
    def run(spec: Spec, way: str) -> None:
        note(f"{spec.text}\n{spec}")
        seen = visible(
            spec.attention, spec.sizes, inputs=spec.make_inputs(), scalars=spec.scalars, grid=spec.grid,
            q_offset=spec.offset(),
        ).numpy()  # fmt: skip
        plan = _plan(spec, way)
        wrong = check_plan(plan, seen)
        assert not wrong, "\n".join(wrong)
        share = float(np.mean(seen)) if seen.size else 0.0
        found["all" if share == 1 else "none" if share == 0 else "some"] += 1
        found.update("exact" if sweep.exact else "sound" for sweep in (plan.forward, plan.dkdv))
        sources = [s for p in plan.forward.pieces for s in p.sources]
        found.update("by axis" if isinstance(s, Product) else "by box" for s in sources)
        if plan.full and plan.partial:
            found["full and partial"] += 1

    run()
    print(dict(found))
    total = found["all"] + found["none"] + found["some"]
    assert total >= EXAMPLES
    assert found["some"] >= 0.6 * total, "too few of the masks are neither empty nor full"
    assert min(found["exact"], found["by axis"]) >= 0.2 * total and found["by box"] >= 0.05 * total
    assert found["sound"] > 0 and found["full and partial"] >= 0.03 * total
