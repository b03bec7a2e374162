"""A memory checker for Triton's interpreter: kernels may touch what is allocated for their own arguments alone.

The interpreter loads and stores wherever a pointer points. On a GPU that is an illegal access, or somebody else's
numbers. Boxes that TMA stores or adds may overhang the end of a tensor; one that begins before it is an illegal
instruction on an H200. Triton's interpreter adds no boxes by itself.
"""
# pyright: reportUnknownMemberType=false, reportMissingImports=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton._C.libtriton import ir
from triton.runtime import interpreter

from tests.runtime.triton import brisk


class OutOfBoundsError(AssertionError):
    """A kernel touched memory that is not of its arguments."""


def _storages(arguments: Iterable[Any]) -> list[tuple[int, int]]:
    """First byte and end of the memory of every tensor, those in tuples and descriptors included."""
    found: list[tuple[int, int]] = []
    for a in arguments:
        if isinstance(a, tuple):
            found += _storages(a)
        elif isinstance(a, torch.Tensor):
            storage = a.untyped_storage()
            found.append((storage.data_ptr(), storage.data_ptr() + storage.nbytes()))
        elif hasattr(a, "base"):
            found += _storages([a.base])
    return found


class _Guard:
    """Stands where the interpreter has its loads, stores and atomics."""

    def __init__(self, real: Any) -> None:
        self.real = real
        self.kernel = ""
        self.firsts = self.ends = np.zeros(0, np.int64)

    def allow(self, kernel: str, arguments: Iterable[Any]) -> None:
        places = sorted(set(_storages(arguments)))
        self.kernel = kernel
        self.firsts = np.array([a for a, _ in places], np.int64)
        self.ends = np.array([b for _, b in places], np.int64)

    def check(self, what: str, pointers: Any, mask: Any, size: int) -> None:
        live = np.asarray(pointers).astype(np.int64)[np.broadcast_to(mask, np.shape(pointers)).astype(bool)]
        if live.size == 0:
            return
        place = np.searchsorted(self.firsts, live, side="right") - 1
        right = (place >= 0) & (live + size <= self.ends[np.maximum(place, 0)]) if self.firsts.size else live < 0
        if not right.all():
            wrong = int(live[~right][0])
            near = int(np.abs(self.firsts - wrong).argmin()) if self.firsts.size else 0
            after, of = wrong - int(self.firsts[near]), int(self.ends[near] - self.firsts[near])
            raise OutOfBoundsError(
                f"{self.kernel} {what} {(~right).sum()} of {live.size} elements of {size} bytes that are not its own, "
                f"the first {after:,} bytes after the start of {of:,}"
            )

    def load(self, pointers: Any, mask: Any, other: Any, dtype: Any) -> Any:
        self.check("loads", pointers, mask, np.dtype(dtype).itemsize)
        return self.real.load(pointers, mask, other, dtype)

    def store(self, pointers: Any, value: Any, mask: Any) -> Any:
        self.check("stores", pointers, mask, np.asarray(value).itemsize)
        return self.real.store(pointers, value, mask)

    def atomic_rmw(self, op: Any, pointers: Any, value: Any, mask: Any, sem: Any) -> Any:
        self.check("adds to", pointers, mask, np.asarray(value).itemsize)
        return self.real.atomic_rmw(op, pointers, value, mask, sem)

    def atomic_cas(self, pointers: Any, compared: Any, value: Any, sem: Any) -> Any:
        self.check("swaps", pointers, np.ones_like(np.asarray(pointers), bool), np.asarray(value).itemsize)
        return self.real.atomic_cas(pointers, compared, value, sem)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


def install() -> None:
    """Check every kernel of this process from now on."""
    brisk.install()
    if isinstance(interpreter._interpreter, _Guard):
        return
    guard = _Guard(interpreter._interpreter)
    begin: Callable[..., Any] = interpreter.GridExecutor._init_args_hst

    def beginning(self: Any, args_dev: Any, kwargs: Any) -> Any:
        hosts = begin(self, args_dev, kwargs)
        guard.allow(self.fn.__name__, [*hosts[0], *hosts[1].values()])
        return hosts

    def starting(indices: Any, what: str) -> None:
        firsts = [int(i.data.item()) for i in indices]
        if min(firsts) < 0:
            raise OutOfBoundsError(f"{guard.kernel} {what} a box that begins before its tensor, at {firsts}")

    store: Callable[..., Any] = interpreter.InterpreterBuilder.create_descriptor_store

    def storing(self: Any, desc: Any, value: Any, indices: Any) -> Any:
        starting(indices, "stores")
        return store(self, desc, value, indices)

    def reducing(self: Any, kind: Any, desc: Any, value: Any, indices: Any) -> Any:
        assert kind == ir.DESCRIPTOR_REDUCE_KIND.ADD
        starting(indices, "adds")
        pointers, mask = desc.materialize_pointers(indices)
        self.create_atomic_rmw(
            ir.ATOMIC_OP.FADD, pointers, value, interpreter.TensorHandle(mask, tl.int1), ir.MEM_SEMANTIC.RELAXED, None
        )

    builder: Any = interpreter.InterpreterBuilder
    builder.create_descriptor_store = storing
    builder.create_descriptor_reduce = reducing
    interpreter._interpreter = guard
    interpreter.GridExecutor._init_args_hst = beginning
