"""What Triton finds out about itself before it looks into its cache, known from an earlier process.

Triton's key of a kernel holds a hash of its whole compiler, a library of 400 MB, and the words of `ptxas --version`:
0.3 s of every process. Both follow from the files, and the size and times of every one (of its contents, and of what is
said of it, which nobody can set) tell whether they are those that were read before.

The first process has the hash of the library, which takes nearly all of that time, from the record of what was
installed, where the library is no younger than its record and as large as it says.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingImports=false

from __future__ import annotations

import base64
import binascii
import csv
import hashlib
import os
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from io import BytesIO
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
        cache: {"triton_key": lambda: _known("key", partial(_key, whole))},
        nvidia: {"get_ptxas_version": assembler},
    }


def _tool(arch: int) -> str:
    """Which assembler a compute capability has; nothing where the user chose another."""
    chosen = ("TRITON_PTXAS_PATH", "TRITON_PTXAS_BLACKWELL_PATH", "TRITON_MOCK_PTX_VERSION")
    if any(os.environ.get(name) for name in chosen):
        return ""
    return "ptxas-blackwell" if arch >= 100 else "ptxas"


def _key(whole: Any) -> str:
    """What Triton's own function says, which is not given the library to read where its hash is written down."""
    import triton.runtime.cache as cache

    library, written = _library()
    work = getattr(whole, "__wrapped__", None)
    if not written or work is None:
        return whole()
    # something to know the hash of what was not read by
    instead = os.urandom(32)

    def opened(path: Any, *given: Any, **more: Any) -> Any:
        return BytesIO(instead) if str(path) == library else Path(path).open(*given, **more)

    module: Any = cache
    module.open = opened
    try:
        said: str = work()
    finally:
        del module.open
    place = hashlib.sha256(instead).hexdigest()
    return said.replace(place, written) if said.count(place) == 1 else whole()


def _library() -> tuple[str, str]:
    """Triton's library, and its sha256 as its installer wrote it down; empty where that cannot be relied on."""
    import sysconfig
    from importlib.metadata import PackageNotFoundError, distribution

    import triton

    home = Path(triton.__file__).parent
    path = home / "_C" / f"libtriton.{str(sysconfig.get_config_var('EXT_SUFFIX')).rpartition('.')[2]}"
    try:
        record = distribution("triton").read_text("RECORD") or ""
        place = Path(str(distribution("triton").locate_file(f"triton-{triton.__version__}.dist-info/RECORD")))
        library = path.stat()
        if place.parent.parent != home.parent or library.st_mtime_ns > place.stat().st_mtime_ns:
            return str(path), ""
        wanted = path.relative_to(home.parent).as_posix()
        for name, hashed, size in (row for row in csv.reader(record.splitlines()) if len(row) == 3):
            if name == wanted and hashed.startswith("sha256=") and size == str(library.st_size):
                found = base64.urlsafe_b64decode(hashed.removeprefix("sha256=") + "=")
                return str(path), found.hex() if len(found) == hashlib.sha256().digest_size else ""
    except (OSError, PackageNotFoundError, ValueError, binascii.Error):
        pass
    return str(path), ""


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
