"""Plans of random masks, against the mask pair by pair."""

from __future__ import annotations

from collections import Counter

import numpy as np
from attndsl.ir.simplify import simplify
from attndsl.schedule.build import build
from hypothesis import given, note, seed

from attndsl.reference import visible
from tests.brute_force import check_plan
from tests.drawing import SEED, drawn
from tests.random_specs import masks
from tests.spec import Spec

EXAMPLES = 2000


def show(spec: Spec) -> str:
    return f"{spec.text}\n{spec}"


def test_plans_of_random_masks() -> None:
    """Each visible pair in one box, FULL boxes visible throughout, in both passes; exact where a plan says so."""
    found: Counter[str] = Counter()

    @seed(SEED)
    @drawn(EXAMPLES)
    @given(masks())
    def run(spec: Spec) -> None:
        note(show(spec))
        attention = spec.attention
        inputs = spec.make_inputs()
        seen = visible(
            attention, spec.sizes, inputs=inputs, scalars=spec.scalars, grid=spec.grid, q_offset=spec.offset()
        ).numpy()
        plan = build(simplify(attention), spec.problem(inputs), spec.tile)
        wrong = check_plan(plan, seen)
        assert not wrong, "\n".join(wrong)
        share = float(np.mean(seen)) if seen.size else 0.0
        found.update(["all" if share == 1 else "none" if share == 0 else "some", "exact" if plan.exact else "sound"])

    run()
    total = found["all"] + found["none"] + found["some"]
    print(dict(found))
    assert total >= EXAMPLES
    assert found["some"] >= 0.6 * total, "too few of the masks are neither empty nor full"
    assert found["exact"] >= 0.2 * total and found["sound"] > 0
