"""Workers of a compiled kernel on as many threads as torch uses.

torch keeps a pool of OpenMP threads that wait for work; a second pool would fight with it for the cores. So workers run
in torch's own: `GOMP_parallel` of the library that torch is linked to. Where it has none (macOS), Python's threads run
them; ctypes lets go of the interpreter meanwhile.
"""

from __future__ import annotations

import ctypes
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
