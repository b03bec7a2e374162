"""Compiled kernels on disk and in memory.

A file is named after what it was made from and after its own bytes, so that one that was cut short or changed is not
loaded; files and folders of others are not trusted (`runtime.cache.folder`).
"""

from __future__ import annotations

import ctypes
import hashlib
from contextlib import suppress
from pathlib import Path
from threading import Lock

from attndsl.runtime.cache.files import locked, read_file, write_file
from attndsl.runtime.cache.folder import part, warn
from attndsl.runtime.native.compiler import CompileError, Compiler, compiled, find

FOLDER = "native"
SUFFIX = ".so"
MOST = 1024
"""Files that are kept; those that were made longest ago go first."""
_loaded: dict[str, ctypes.CDLL | None] = {}
_lock = Lock()


def library(source: str) -> ctypes.CDLL | None:
    """The compiled source, from memory, from the cache or made now; None, and one warning, where that is impossible."""
    compiler = find()
    if isinstance(compiler, str):
        return None
    key = key_of(source, compiler)
    with _lock:
        if key not in _loaded:
            _loaded[key] = _library(key, source, compiler)
        return _loaded[key]


def forget() -> None:
    """Look for every kernel anew."""
    with _lock:
        _loaded.clear()


def key_of(source: str, compiler: Compiler) -> str:
    """The name of a kernel."""
    return hashlib.sha256(f"{compiler.identity}\n{source}".encode()).hexdigest()[:32]


def _library(key: str, source: str, compiler: Compiler) -> ctypes.CDLL | None:
    folder = part(FOLDER, make=True)
    if folder is None:
        return None
    found = kept(folder, key)
    if found is None:
        try:
            with locked(folder / f"{key}.lock"):
                found = kept(folder, key) or _made(folder, key, source, compiler)
        except CompileError as error:
            warn(f"the CPU backend runs torch operations: a generated kernel does not compile: {error}")
            return None
        except OSError as error:
            warn(f"the CPU backend runs torch operations: {folder} cannot be written ({error.strerror or error})")
            return None
    try:
        return ctypes.CDLL(str(found))
    except OSError as error:
        warn(f"the CPU backend runs torch operations: a compiled kernel does not load ({error})")
        return None


def kept(folder: Path, key: str) -> Path | None:
    """The file of a kernel, if it is whole; others of its name are removed."""
    for path in sorted(folder.glob(f"{key}-*{SUFFIX}")):
        if is_whole(path):
            return path
        with suppress(OSError):
            path.unlink()
    return None


def is_whole(path: Path) -> bool:
    """Whether a file is this user's and its bytes are those that it was named after."""
    try:
        data = read_file(path)
    except (OSError, ValueError):
        return False
    return path.stem.rpartition("-")[2] == _digest(data)


def _made(folder: Path, key: str, source: str, compiler: Compiler) -> Path:
    data = compiled(compiler, source)
    path = folder / f"{key}-{_digest(data)}{SUFFIX}"
    write_file(path, data)
    _prune(folder, path)
    return path


def _prune(folder: Path, last: Path) -> None:
    with suppress(OSError):
        found = [p for p in folder.glob(f"*{SUFFIX}") if p != last]
        if len(found) >= MOST:
            for path in sorted(found, key=lambda p: p.stat().st_mtime)[: len(found) - MOST + 1 + MOST // 8]:
                path.unlink(missing_ok=True)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def files() -> list[Path]:
    """All kernels that are kept."""
    folder = part(FOLDER)
    return [] if folder is None else sorted(folder.glob(f"*{SUFFIX}"))
