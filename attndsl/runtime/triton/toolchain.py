"""What Triton finds out about itself before it looks into its cache, known from an earlier process.

Triton's key of a kernel holds a hash of its whole compiler, a library of 400 MB, and the words of `ptxas --version`:
0.3 s of every process. Both follow from the files, and the size and times of every one (of its contents, and of what is
said of it, which nobody can set) tell whether they are those that were read before.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingImports=false

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

from attndsl.runtime.cache.facts import keep, known

KIND = "triton"
_PARTS = ("_C", "backends", "compiler", "language", "runtime")


def stand_ins() -> dict[Any, dict[str, Callable[..., str]]]:
    """For modules of Triton, functions that answer as theirs do."""
    import triton.backends.nvidia.compiler as nvidia
    import triton.runtime.cache as cache

    whole, version = cache.triton_key, nvidia.get_ptxas_version

    def assembler(arch: int = 80) -> str:
        return _known(_tool(arch), lambda: version(arch))

    return {
        cache: {"triton_key": lambda: _known("key", whole)},
        nvidia: {"get_ptxas_version": assembler},
    }


def _tool(arch: int) -> str:
    """Which assembler a compute capability has; nothing where the user chose another."""
    chosen = ("TRITON_PTXAS_PATH", "TRITON_PTXAS_BLACKWELL_PATH", "TRITON_MOCK_PTX_VERSION")
    if any(os.environ.get(name) for name in chosen):
        return ""
    return "ptxas-blackwell" if arch >= 100 else "ptxas"


_answers: dict[str, str] = {}
_asking = {what: Lock() for what in ("key", "ptxas", "ptxas-blackwell")}


def _known(what: str, ask: Callable[[], str]) -> str:
    if not what:
        return ask()
    if what not in _answers:
        # whoever else asks meanwhile waits
        with _asking[what]:
            if what not in _answers:
                about = f"{what} {_fingerprint()}"
                fact = known(KIND, about)
                if fact is None or not isinstance(fact.get("answer"), str):
                    fact = {"answer": ask()}
                    keep(KIND, about, fact)
                _answers[what] = fact["answer"]
    return _answers[what]


@lru_cache(maxsize=1)
def _fingerprint() -> str:
    """Path, size and times of every file that the answers follow from."""
    import triton

    home = Path(triton.__file__).parent
    found = [f"{home} {triton.__version__}"]
    for part in _PARTS:
        found += sorted(_files(str(home / part)))
    return "\n".join(found)


def _files(folder: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for e in entries:
            if e.is_dir():
                if e.name not in ("__pycache__", "include"):
                    yield from _files(e.path)
            elif not e.name.endswith(".pyc"):
                s = e.stat()
                yield f"{e.path} {s.st_size} {s.st_mtime_ns} {s.st_ctime_ns}"
