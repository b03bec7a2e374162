"""Python's parser, for one thread at a time.

Up to Python 3.11.7 the parser counts its depth for all threads together: two that parse at once may both fail with
`SystemError: AST constructor recursion depth mismatch`.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Callable
from threading import RLock
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
_lock = RLock()


def alone(run: Callable[P, T], *given: P.args, **more: P.kwargs) -> T:
    """Run what parses, while no other thread of ours does."""
    with _lock:
        return run(*given, **more)


def parse(text: str) -> ast.Module:
    """As `ast.parse`."""
    return alone(ast.parse, text)


def _after_fork() -> None:
    global _lock
    _lock = RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
