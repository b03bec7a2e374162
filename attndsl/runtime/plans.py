"""Plans of recent calls, kept so that a repeated call does not plan again."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import replace
from threading import Lock
from typing import Any

import numpy as np

from attndsl.ir.attention import Attention
from attndsl.ir.expr import ParamRef, walk
from attndsl.schedule.plan import Plan
from attndsl.schedule.problem import Problem


class PlanCache:
    """The plans of the last `capacity` different problems of one attention. Tables and offsets are compared by their
    contents, never by where they lie, so that a tensor changed in place gets a new plan."""

    def __init__(self, attention: Attention, capacity: int = 32) -> None:
        self._scalars = tuple(sorted({n.name for n in walk(attention.mask) if isinstance(n, ParamRef)}))
        self._capacity = capacity
        self._plans: OrderedDict[Hashable, Plan] = OrderedDict()
        self._lock = Lock()

    def get(self, problem: Problem, build: Callable[[Problem], Plan], tiling: Hashable = None) -> Plan:
        """The plan of a problem under a tiling, built if it is not known. A plan makes parts of itself later, so it is
        built on copies of tables and offsets that share no memory with a tensor."""
        key = (tiling, self._key(problem))
        with self._lock:
            plan = self._plans.get(key)
            if plan is not None:
                self._plans.move_to_end(key)
                return plan
        plan = build(_own(problem))
        with self._lock:
            self._plans[key] = plan
            while len(self._plans) > self._capacity:
                self._plans.popitem(last=False)
        return plan

    def __len__(self) -> int:
        return len(self._plans)

    def _key(self, problem: Problem) -> Hashable:
        offset = problem.q_offset
        return (
            tuple(sorted(problem.sizes.items())),
            # a bool and an int that compare equal, or a nan, must not share or miss an entry
            tuple((s, repr(problem.scalars[s])) for s in self._scalars if s in problem.scalars),
            tuple((name, _digest(table)) for name, table in sorted(problem.tables.items())),
            tuple(problem.q_extents.items()),
            tuple(problem.k_extents.items()),
            offset if isinstance(offset, int) else _digest(offset),
        )


def _own(problem: Problem) -> Problem:
    offset = problem.q_offset
    return replace(
        problem,
        tables={name: np.array(table) for name, table in problem.tables.items()},
        q_offset=offset if isinstance(offset, int) else np.array(offset),
    )


def _digest(array: Any) -> Hashable:
    data = np.ascontiguousarray(array)
    digest = hashlib.blake2b(data.reshape(-1).view(np.uint8).data, digest_size=16).digest()
    return str(data.dtype), data.shape, digest
