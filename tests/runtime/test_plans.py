"""Plans are kept by what a problem is, never by where its tables lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from attndsl.frontend.compile import compile_text
from attndsl.ir.attention import Attention
from attndsl.ir.bind import bind
from attndsl.runtime.plans import PlanCache
from attndsl.schedule.problem import Problem

SIZES = {"B": 1, "H": 1, "Hkv": 1, "Lq": 8, "Lk": 8, "L": 8, "D": 4, "Dv": 4}


def spec(text: str) -> Attention:
    (written,) = compile_text(text)
    return bind(written, {})


WINDOW = spec("attention a(scalar w: int, scalar strength: float) { score s * strength mask q - k < w }")


class Builds:
    """Stands for the scheduler, and counts."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def __call__(self, problem: Problem) -> Any:
        self.problems.append(problem)
        return object()


def problem(w: int = 4, strength: float = 1.0, offset: Any = 0, **tables: Any) -> Problem:
    return Problem(SIZES, {"w": w, "strength": strength}, tables, {}, {}, offset)


def test_the_same_problem_is_planned_once() -> None:
    cache, build = PlanCache(WINDOW), Builds()
    first = cache.get(problem(), build)
    assert cache.get(problem(strength=2.0), build) is first
    assert cache.get(problem(strength=float("nan")), build) is first
    assert len(build.problems) == 1


@pytest.mark.parametrize(
    "other",
    [
        problem(w=5), problem(w=True), problem(offset=1), problem(offset=np.array([0])),
        problem(doc=np.zeros(8, np.int32)),
        Problem({**SIZES, "Lk": 9}, {"w": 4, "strength": 1.0}),
        Problem(SIZES, {"w": 4, "strength": 1.0}, {}, {"": (2, 4)}, {"": (2, 4)}),
        Problem(SIZES, {"w": 4, "strength": 1.0}, {}, {"": (4, 2)}, {"": (4, 2)}),
    ],
)  # fmt: skip
def test_another_problem_has_its_own_plan(other: Problem) -> None:
    cache, build = PlanCache(WINDOW), Builds()
    assert cache.get(problem(), build) is not cache.get(other, build)


def test_tables_are_compared_by_content() -> None:
    cache, build = PlanCache(WINDOW), Builds()
    table = np.arange(8, dtype=np.int32)
    first = cache.get(problem(doc=table), build)
    assert cache.get(problem(doc=table.copy()), build) is first
    assert cache.get(problem(doc=table.astype(np.int64)), build) is not first
    assert cache.get(problem(doc=table.reshape(2, 4)), build) is not first
    table[3] = 7
    assert cache.get(problem(doc=table), build) is not first


def test_a_kept_plan_shares_no_memory_with_a_table() -> None:
    cache, build = PlanCache(WINDOW), Builds()
    table, offset = np.arange(8, dtype=np.int32), np.array([1])
    cache.get(problem(offset=offset, doc=table), build)
    table[:], offset[:] = 0, 9
    (kept,) = build.problems
    assert list(kept.tables["doc"]) == list(range(8)) and list(kept.q_offset) == [1]  # pyright: ignore


def test_the_oldest_plan_is_dropped() -> None:
    cache, build = PlanCache(WINDOW, capacity=2), Builds()
    a, b = cache.get(problem(w=1), build), cache.get(problem(w=2), build)
    assert cache.get(problem(w=1), build) is a
    cache.get(problem(w=3), build)
    assert len(cache) == 2
    assert cache.get(problem(w=1), build) is a
    assert cache.get(problem(w=2), build) is not b


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (2, 3)])
@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.float32])
def test_tables_of_any_shape_have_a_key(shape: tuple[int, ...], dtype: Any) -> None:
    cache, build = PlanCache(WINDOW), Builds()
    table = np.asarray(np.zeros((4, 4), dtype)[tuple(slice(n) for n in shape)] if shape else dtype(0))
    assert cache.get(problem(t=table), build) is cache.get(problem(t=table.copy()), build)
