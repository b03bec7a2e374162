"""Triton's interpreter without work that it repeats for every operation: what it computes is the same.

An element-wise operation on a tile of 32 x 32 takes numpy a few microseconds and the interpreter 50 to 200: it makes
types and shapes anew, looks through `triton.language` at each call of a function, and computes every sum of integers
once more in 64 bits, of which it reads nothing unless kernels are debugged. Here that is compared with the range of the
type.
"""
# pyright: reportUnknownMemberType=false, reportMissingImports=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportPrivateUsage=false

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import numpy as np
import triton.language as tl
from triton.language import core
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter

_WHOLE = {"add": np.add, "sub": np.subtract, "mul": np.multiply}


def install() -> None:
    """For every kernel of this process from now on."""
    if interpreter._get_np_dtype is not _np_dtype:
        interpreter._get_np_dtype = _np_dtype
        core.tensor.__init__ = _init_tensor
        core.block_type.__init__ = _init_block_type
        TritonSemantic.binary_op_sanitize_overflow_impl = _check_overflow
        interpreter.GridExecutor.__call__ = _launched
        interpreter.InterpretedFunction.__call__ = _called


_plain_np_dtype = interpreter._get_np_dtype
_plain_block_type = core.block_type.__init__
_plain_launch = interpreter.GridExecutor.__call__


_dtypes: dict[str, Any] = {}


def _np_dtype(of: Any) -> Any:
    element = of.scalar
    found = _dtypes.get(element.name)
    if found is None:
        found = _dtypes[element.name] = _plain_np_dtype(element)
    return found


def _check_overflow(self: Any, lhs: Any, rhs: Any, binary_op: Any) -> None:
    """As the original with `debug`: whether a result is one of its type."""
    of = lhs.type.scalar
    if of.int_bitwidth >= 64:
        return
    a, b = (np.asarray(t.handle.data).astype(np.int64) for t in (lhs, rhs))
    found = _WHOLE[binary_op.__name__](a, b)
    low, high = of.get_int_min_value(), of.get_int_max_value()
    assert found.min(initial=0) >= low and found.max(initial=0) <= high, f"{of} overflow of {binary_op.__name__}"


@cache
def _shape_of(sizes: tuple[int, ...]) -> tuple[Any, Any]:
    return core.constexpr(int(np.prod(sizes, dtype=np.int64))), core.tuple([core.constexpr(n) for n in sizes])


def _init_tensor(self: Any, handle: Any, type: Any) -> None:
    self.handle, self.type, self.dtype = handle, type, type.scalar
    self.numel, self.shape = _shape_of(tuple(type.shape.values) if type.is_block() else ())


_blocks: dict[tuple[int, ...], tuple[Any, int, str]] = {}


def _init_block_type(self: Any, element_ty: Any, shape: Any) -> None:
    sizes = tuple(n.value if isinstance(n, core.constexpr) else n for n in shape)
    known = _blocks.get(sizes)
    if known is None:
        _plain_block_type(self, element_ty, shape)
        known = _blocks[sizes] = self.shape, self.numel, str(self.shape)
    self.element_ty, (self.shape, self.numel, text) = element_ty, known
    self.name = f"<{text}, {element_ty}>"


_patched: set[tuple[int, ...]] = set()
"""Modules that functions which the running kernel called had patched."""


def _launched(self: Any, *arguments: Any, **options: Any) -> None:
    _patched.clear()
    _plain_launch(self, *arguments, **options)


def _called(self: Any, *arguments: Any, **options: Any) -> Any:
    """As the original, which patches what the function sees of `triton.language` each time."""
    sees = tuple(id(v) for v in self.fn.__globals__.values() if inspect.ismodule(v) and v in (tl, core))
    if sees not in _patched:
        interpreter._patch_lang(self.fn)
        _patched.add(sees)
    try:
        return self.rewrite()(*arguments, **options)
    except Exception as error:
        raise interpreter.InterpreterError(repr(error)) from error
