"""Numbers from what a caller may give for one: Python and numpy numbers, 0-d arrays and tensors."""

from __future__ import annotations

from typing import Any

from attndsl.ir.attention import Scalar
from attndsl.ir.types import Kind

INT32 = range(-(2**31), 2**31)


def describe(value: object) -> str:
    """What a caller gave, in words short enough for a message."""
    shape: Any = getattr(value, "shape", None)
    dtype: Any = getattr(value, "dtype", None)
    if shape is not None and dtype is not None:
        dims = ", ".join(map(str, tuple(shape)))
        return f"{type(value).__name__} of {str(dtype).removeprefix('torch.')}[{dims}]"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def host_number(value: Any) -> object:
    """A 0-d array or tensor as a Python number; anything else unchanged."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        try:
            return value.item()
        except RuntimeError:
            # a tensor without data, on the meta device
            return value
    return value


def scalar_value(owner: str, param: Scalar, given: Any) -> bool | int | float:
    """The value of a scalar parameter of the attention `owner`. TypeError for another kind of value, ValueError for
    an int that leaves int32. Floats may be nan or inf; an int is a good float."""
    if getattr(given, "requires_grad", False):
        raise TypeError(
            f"{owner}: scalar {param.name!r} gets no gradient, but a tensor that requires one was given; "
            f"pass {param.name}.detach(), or declare it as an input"
        )
    value = host_number(given)
    match param.kind:
        case Kind.BOOL:
            fits = isinstance(value, bool)
        case Kind.INT:
            fits = isinstance(value, int) and not isinstance(value, bool)
        case Kind.FLOAT:
            fits = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not fits or not isinstance(value, (bool, int, float)):
        raise TypeError(f"{owner}: scalar {param.name!r} must be {_ARTICLE[param.kind]}, got {describe(given)}")
    if param.kind is Kind.INT and value not in INT32:
        raise ValueError(f"{owner}: scalar {param.name!r} must fit in 32 bits, got {value}")
    try:
        return float(value) if param.kind is Kind.FLOAT else value
    except OverflowError as error:
        raise ValueError(f"{owner}: scalar {param.name!r} is too large for a float") from error


_ARTICLE = {Kind.BOOL: "a bool", Kind.INT: "an int", Kind.FLOAT: "a float"}


def whole(owner: str, name: str, given: Any, least: int = 0) -> int:
    """A size or an extent: an int of at least `least` that fits in 32 bits."""
    value = host_number(given)
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{owner}: {name} must be an int, got {describe(given)}")
    if value < least or value not in INT32:
        raise ValueError(f"{owner}: {name} must be from {least} to {INT32.stop - 1}, got {value}")
    return value
