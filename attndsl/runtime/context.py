"""What surrounds a call, for its backward pass: autograd runs that on a thread of its own, which knows none of it."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def in_context(context: Context, run: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
    """Run a function in a context that was copied when a call was made. Several threads may, at once."""
    return context.copy().run(run, *given, **named)
