"""Files that are whole or not there, and locks that a killed process lets go.

A file is written under a temporary name, synced and renamed. Its writer holds a lock on the temporary file, so that the
next process to start can tell what a killed one left (nobody holds it) from what is being written.
"""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

from attndsl.runtime.cache.folder import user

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # no such locks on this system
    fcntl = None

TEMPORARY, LOCK = ".tmp", ".lock"
LARGEST = 1 << 22
_ATTEMPTS = 5


def read_file(path: Path) -> bytes:
    """The bytes of a regular file of this user's. OSError for any other, ValueError for one that is too large."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0))
    with os.fdopen(descriptor, "rb") as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid != user():
            raise PermissionError(f"{path} is not a file of this user's")
        if facts.st_size > LARGEST:
            raise ValueError(f"{path} is larger than {LARGEST} bytes")
        return file.read(LARGEST + 1)


def write_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all. OSError where it cannot be written; nothing is left behind."""
    for attempt in range(_ATTEMPTS):
        temporary = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}{TEMPORARY}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                _try_lock(file.fileno())
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                # still locked: a cleaner lets it be
                os.replace(temporary, path)  # noqa: PTH105
            _sync_folder(path.parent)
            return
        except FileNotFoundError:
            # a cleaner came between making and locking the file
            if attempt == _ATTEMPTS - 1:
                raise
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def locked(path: Path) -> Generator[bool]:
    """Hold the lock of a path, waiting for who holds it. False where there are no locks here: go on without."""
    descriptor = None
    if fcntl is not None:
        try:
            descriptor = _acquire(path)
        except OSError:
            descriptor = None
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            # while it is held, so that who waits for it sees that it is gone and makes a new one
            with suppress(OSError):
                path.unlink(missing_ok=True)
            os.close(descriptor)


def _acquire(path: Path) -> int:
    assert fcntl is not None
    while True:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
        descriptor = os.open(path, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _same(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _same(descriptor: int, path: Path) -> bool:
    """Whether the path still names the open file."""
    try:
        there = path.stat()
    except OSError:
        return False
    here = os.fstat(descriptor)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def _try_lock(descriptor: int) -> bool:
    with suppress(OSError):
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    return False


def leftovers(folder: Path) -> list[Path]:
    """Temporary files and locks that nobody holds: what killed processes left."""
    found: list[Path] = []
    with suppress(OSError):
        found = [p for p in folder.iterdir() if p.name.endswith((TEMPORARY, LOCK)) and not p.is_symlink()]
    return [p for p in found if _free(p, remove=False)]


def clean(folder: Path) -> int:
    """Remove what killed processes left; how many files that were."""
    return sum(_free(p, remove=True) for p in leftovers(folder))


def _free(path: Path, *, remove: bool) -> bool:
    """Whether nobody holds a file; removed, if asked for, while this process does."""
    try:
        descriptor = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0))
    except OSError:
        return False
    try:
        if fcntl is None or not _try_lock(descriptor) or not _same(descriptor, path):
            return False
        if remove:
            path.unlink(missing_ok=True)
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
