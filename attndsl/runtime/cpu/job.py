"""What compiled C is given, laid out as in `templates/cpu/native.c.j2`."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from attndsl.runtime.cpu import threads

Five = ctypes.c_int64 * 5


class _Leaf(ctypes.Structure):
    _fields_ = (("at", ctypes.c_void_p), ("step", Five))


class _Matrix(ctypes.Structure):
    _fields_ = (
        ("at", ctypes.c_void_p), ("step", ctypes.c_int64 * 4), ("ld", ctypes.c_int64), ("width", ctypes.c_int64)
    )  # fmt: skip


class _Job(ctypes.Structure):
    _fields_ = (
        ("pairs", ctypes.c_void_p), ("gradients", ctypes.c_void_p), ("total", ctypes.c_void_p),
        ("lse", ctypes.c_void_p), ("grad_lse", ctypes.c_void_p), ("leaves", ctypes.c_void_p),
        ("wanted", ctypes.c_void_p), ("range", ctypes.c_void_p), ("ranges", ctypes.c_int64), ("keys", ctypes.c_int64),
        ("size", Five), ("rows", ctypes.c_int64), ("next", ctypes.c_int64), ("failed", ctypes.c_int64),
        ("gemm", ctypes.c_void_p), ("scale", ctypes.c_float), ("q", _Matrix), ("k", _Matrix), ("v", _Matrix),
        ("out", _Matrix), ("grad_out", _Matrix), ("grad_q", _Matrix), ("grad_k", _Matrix), ("grad_v", _Matrix),
        ("parts", ctypes.c_int64),
    )  # fmt: skip


class Job:
    """One call of a kernel on a tile of `shape`, `rows` rows at a time; it keeps what it points at."""

    def __init__(self, shape: tuple[int, ...], rows: int, ranges: Sequence[tuple[int, int, int]]) -> None:
        self.shape = shape
        table = (ctypes.c_int64 * (3 * len(ranges)))(*[n for r in ranges for n in r])
        self._kept: list[Any] = [table]
        self._job = _Job(
            size=Five(*shape[:5]), keys=shape[5], rows=rows, ranges=len(ranges), range=ctypes.addressof(table), parts=1
        )

    def leaves(self, tensors: Sequence[Tensor]) -> None:
        """What expressions read: [.., rows, 1], [.., 1, columns] or [.., rows, columns], keys side by side."""
        table = (_Leaf * max(1, len(tensors)))(*[_leaf(t) for t in tensors])
        self._kept += [table, *tensors]
        self._job.leaves = ctypes.addressof(table)

    def wanted(self, tensors: Sequence[Tensor]) -> None:
        """Room for gradients of leaves."""
        table = (ctypes.c_void_p * max(1, len(tensors)))(*[t.data_ptr() for t in tensors])
        self._kept += [table, *tensors]
        self._job.wanted = ctypes.addressof(table) if tensors else None

    def arrays(self, **tensors: Tensor | None) -> None:
        """Contiguous tensors of numbers by row or pair."""
        for name, t in tensors.items():
            assert t is None or t.is_contiguous()
            self._kept.append(t)
            setattr(self._job, name, None if t is None else t.data_ptr())

    def matrices(self, gemm: ctypes.c_void_p, scale: float, parts: int = 1, **tensors: Tensor) -> None:
        """Rows of numbers: [b, g, tiles, r, rows, D], and [b, g, tiles, columns, D] of keys and values."""
        self._job.gemm, self._job.scale, self._job.parts = gemm, scale, parts
        for name, t in tensors.items():
            rows, width = t.shape[-2:]
            if (width > 1 and t.stride(-1) != 1) or (rows > 1 and t.stride(-2) < width):
                assert name in ("q", "k", "v", "grad_out")
                t = t.contiguous()
            self._kept.append(t)
            steps = [t.stride(d) if t.shape[d] > 1 else 0 for d in range(t.ndim - 2)]
            steps += [0] * (4 - len(steps))
            ld = t.stride(-2) if rows > 1 else max(1, width)
            setattr(self._job, name, _Matrix(t.data_ptr(), (ctypes.c_int64 * 4)(*steps), ld, width))

    def run(self, library: ctypes.CDLL, name: str) -> None:
        """Run an entry point. MemoryError where a thread finds no room for its rows."""
        threads.run(library, name, self._job)
        if self._job.failed:
            raise MemoryError(f"no memory for {self._job.rows} rows of {self.shape[5]} keys")


def _leaf(t: Tensor) -> _Leaf:
    size = t.element_size()
    return _Leaf(t.data_ptr(), Five(*[t.stride(d) * size if t.shape[d] > 1 else 0 for d in range(5)]))
