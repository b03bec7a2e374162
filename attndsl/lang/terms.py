"""Values of specs that are written as Python functions."""

from __future__ import annotations

from typing import NoReturn


class OutsideSpecError(TypeError):
    """A word of the language was executed by Python instead of being read by `@attndsl.attention`."""


def outside(name: str) -> NoReturn:
    """What Python is told that executes a word."""
    message = f"`{name}` is a word of the attention language: it has a meaning only inside a function that is "
    raise OutsideSpecError(message + "decorated with @attndsl.attention, which is read and never executed")


class Term:
    """Any value inside a spec: a position, a score, a vector, a tuple of coordinates. Never made at run time."""

    def __init__(self) -> None:
        outside(type(self).__name__)

    def __add__(self, other: Value, /) -> Term:
        outside("add")

    def __radd__(self, other: Value, /) -> Term:
        outside("add")

    def __sub__(self, other: Value, /) -> Term:
        outside("sub")

    def __rsub__(self, other: Value, /) -> Term:
        outside("sub")

    def __mul__(self, other: Value, /) -> Term:
        outside("mul")

    def __rmul__(self, other: Value, /) -> Term:
        outside("mul")

    def __truediv__(self, other: Value, /) -> Term:
        outside("truediv")

    def __rtruediv__(self, other: Value, /) -> Term:
        outside("truediv")

    def __floordiv__(self, other: Value, /) -> Term:
        outside("floordiv")

    def __rfloordiv__(self, other: Value, /) -> Term:
        outside("floordiv")

    def __mod__(self, other: Value, /) -> Term:
        outside("mod")

    def __rmod__(self, other: Value, /) -> Term:
        outside("mod")

    def __matmul__(self, other: Value, /) -> Term:
        outside("matmul")

    def __rmatmul__(self, other: Value, /) -> Term:
        outside("matmul")

    def __pow__(self, other: Value, /) -> Term:
        outside("pow")

    def __rpow__(self, other: Value, /) -> Term:
        outside("pow")

    def __lt__(self, other: Value, /) -> Term:
        outside("lt")

    def __le__(self, other: Value, /) -> Term:
        outside("le")

    def __gt__(self, other: Value, /) -> Term:
        outside("gt")

    def __ge__(self, other: Value, /) -> Term:
        outside("ge")

    # comparisons are part of the formula: they give no bool
    def __eq__(self, other: object, /) -> Term:  # type: ignore[override]
        outside("==")

    def __ne__(self, other: object, /) -> Term:  # type: ignore[override]
        outside("!=")

    __hash__ = None  # type: ignore[assignment]

    def __neg__(self) -> Term:
        outside("-")

    def __bool__(self) -> bool:
        outside("bool")

    def __contains__(self, position: Value, /) -> bool:
        outside("in")

    def __getitem__(self, indices: Value | tuple[Value, ...], /) -> Term:
        outside("a subscript")

    def __getattr__(self, name: str, /) -> Term:
        if name.startswith("__"):
            raise AttributeError(name)
        outside(name)


Value = Term | bool | int | float | tuple["bool | int | float", ...]
"""What operators and functions of the language take."""
