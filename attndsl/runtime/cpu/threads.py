"""Workers of a compiled kernel on as many threads as torch uses.

torch keeps a pool of OpenMP threads that wait for work; a second pool would fight with it for the cores. So workers run
in torch's own: `GOMP_parallel` of the library that torch is linked to. Where it has none (macOS), Python's threads run
them; ctypes lets go of the interpreter meanwhile.
"""

from __future__ import annotations

import ctypes
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch


@lru_cache(maxsize=1)
def fork() -> ctypes.c_void_p | None:
    """torch's `GOMP_parallel`."""
    for path in sorted((Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*")):
        try:
            # looked for in the library and in those that it needs
            return ctypes.cast(ctypes.CDLL(str(path)).GOMP_parallel, ctypes.c_void_p)
        except (OSError, AttributeError):
            continue
    return None


@lru_cache(maxsize=1)
def _sgemm() -> ctypes.c_void_p | None:
    """MKL's `sgemm_` in the library of torch, if it is there and right: within a fork it runs on the calling thread."""
    if not torch.backends.mkl.is_available() or sys.byteorder != "little":
        return None
    for path in sorted((Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*")):
        try:
            found = ctypes.cast(ctypes.CDLL(str(path)).sgemm_, ctypes.c_void_p)
        except (OSError, AttributeError):
            continue
        return found if _multiplies(found) else None
    return None


def _multiplies(gemm: ctypes.c_void_p) -> bool:
    """Whether it gives a b^T, and reads nothing of where it writes."""
    a, b = (torch.arange(3.0 * rows).reshape(rows, 3).sin() for rows in (5, 4))
    c = torch.full((5, 4), float("nan"))
    n, m, k = (ctypes.c_int64(x) for x in (4, 5, 3))
    one, zero = ctypes.c_float(1.0), ctypes.c_float(0.0)
    left, right = ctypes.c_char(b"T"), ctypes.c_char(b"N")
    numbers = [ctypes.addressof(x) for x in (left, right, n, m, k, one, zero)]
    left_at, right_at, n_at, m_at, k_at, one_at, zero_at = numbers
    call = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 13)(gemm.value or 0)
    call(
        left_at, right_at, n_at, m_at, k_at, one_at, b.data_ptr(), k_at, a.data_ptr(), k_at, zero_at, c.data_ptr(), n_at
    )
    return bool(torch.allclose(c, a @ b.T, atol=1e-5))


def gemm() -> ctypes.c_void_p | None:
    """What multiplies matrices within a kernel: None where it would not stay on its thread."""
    return _sgemm() if torch.get_num_threads() == 1 or fork() is not None else None


def run(library: ctypes.CDLL, name: str, job: Any) -> None:
    """Run a kernel's entry point `name` on a job, in every thread."""
    count = torch.get_num_threads()
    shared = fork()
    worker = getattr(library, f"{name}_worker")
    worker.restype = None
    at = ctypes.byref(job)
    if count <= 1:
        worker(at)
    elif shared is not None:
        entry = getattr(library, name)
        entry.restype = None
        entry(at, shared, ctypes.c_uint(count))
    else:
        with ThreadPoolExecutor(count) as pool:
            for waiting in [pool.submit(worker, at) for _ in range(count)]:
                waiting.result()
