"""Where the cache lies, and whether that place can be trusted.

A folder that belongs to someone else, that others may write to or that is not there and cannot be made is not used:
one warning says so, and everything works without it.
"""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import tempfile
import warnings
from pathlib import Path

VARIABLE = "ATTNDSL_CACHE_DIR"
_warned: set[str] = set()


class CacheWarning(UserWarning):
    """The cache cannot be used as it should be. Results do not depend on it."""


def warn(message: str) -> None:
    """Say it once in a process."""
    if message not in _warned:
        _warned.add(message)
        warnings.warn(message, CacheWarning, stacklevel=3)


def cache_root() -> Path:
    """`$ATTNDSL_CACHE_DIR`, or `attndsl` in the user's cache folder."""
    given = os.environ.get(VARIABLE)
    if given:
        return Path(given).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "attndsl"
    except RuntimeError:
        # a user without a home
        return Path(tempfile.gettempdir()) / f"attndsl-{user()}"


def user() -> int:
    """The effective user's number; 0 where a system has none."""
    return os.geteuid() if hasattr(os, "geteuid") else 0


def distrust(folder: Path) -> str:
    """Why what lies in a folder cannot be trusted; empty where it can, or where there is no folder yet."""
    try:
        link, real = folder.lstat(), folder.stat()
    except FileNotFoundError:
        return "is a symbolic link to nothing" if folder.is_symlink() else ""
    except OSError as error:
        return f"cannot be looked at ({error.strerror or error})"
    if not stat.S_ISDIR(real.st_mode):
        return "is not a folder"
    if link.st_uid != user() or real.st_uid != user():
        return "belongs to another user"
    if real.st_mode & 0o022:
        return "can be written by other users (chmod go-w)"
    return ""


_process_folders: dict[int, Path] = {}


def process_folder() -> Path:
    """A folder of this process alone, gone when it ends: for what the cache cannot hold."""
    made = _process_folders.get(os.getpid())
    if made is None:
        made = _process_folders[os.getpid()] = Path(tempfile.mkdtemp(prefix="attndsl-"))
        atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def part(name: str, *, make: bool = False) -> Path | None:
    """A folder of the cache, which others cannot enter; with `make` it is made where it is missing.

    None, and a warning where there is something to say, for a folder that cannot be trusted, and with `make` for one
    that cannot be made.
    """
    root = cache_root()
    folder = root / name
    try:
        if make and not folder.is_dir():
            root.parent.mkdir(parents=True, exist_ok=True)
            root.mkdir(mode=0o700, exist_ok=True)
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        reason = distrust(root) or distrust(folder) or f"cannot be made ({error.strerror or error})"
        warn(f"the cache folder {root} is not used: it {reason}; {VARIABLE} names another")
        return None
    for place in (root, folder):
        reason = distrust(place)
        if not reason and place is folder and place.is_symlink():
            reason = "is a symbolic link"
        if reason:
            warn(f"the cache folder {place} is not used: it {reason}; {VARIABLE} names another")
            return None
    return folder if folder.is_dir() else None
