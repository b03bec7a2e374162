"""Triton's own cache, kept below ours: entries that are not whole are deleted and compiled again.

Triton takes a truncated file for a hit, and then fails on every later run. Here every file's checksum is written down
with its group; a group that does not fit them is not there. What a driver still refuses to load is deleted
and compiled once more.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingImports=false, reportUntypedBaseClass=false

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from threading import Lock, local
from typing import Any, TypeVar, cast

from attndsl.diagnostics.parsing import alone
from attndsl.runtime.cache.files import write_file
from attndsl.runtime.cache.folder import part, process_folder, warn
from attndsl.runtime.triton import limit, toolchain

FOLDER = "compiled"
SUMS, SEAL = "sha256.json", ".sha256"
T = TypeVar("T")
_used = local()


def folder() -> Path | None:
    """Where compiled kernels are kept: where Triton is told to by the environment, else in our cache."""
    given = os.environ.get("TRITON_CACHE_DIR")
    return Path(given) if given else part(FOLDER, make=True)


@lru_cache(maxsize=1)
def _manager() -> Any:
    from triton.runtime.cache import FileCacheManager

    class Checked(FileCacheManager):
        """Triton's manager of one entry, in our folder and with checksums."""

        def __init__(self, key: str, override: bool = False, dump: bool = False) -> None:
            place = folder()
            if override or dump or place is None:
                super().__init__(key, override=override, dump=dump)
                return
            self.key = key
            try:
                self._live(place / key)
            except OSError as error:
                self._give_up(error)

        def _live(self, home: Path) -> None:
            self.cache_dir = str(home)
            self.lock_path = str(home / "lock")
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
            used_entries().append(home)

        def _give_up(self, error: OSError) -> None:
            """Go on in a folder of this process: the cache cannot be written."""
            said = error.strerror or error
            warn(f"compiled kernels are not kept: {Path(self.cache_dir).parent} cannot be written ({said})")
            self._live(process_folder() / self.key)

        def _kept(self, write: Callable[[], str]) -> str:
            try:
                return write()
            except OSError as error:
                self._give_up(error)
                return write()

        def get_group(self, filename: str) -> dict[str, str] | None:
            # compiling again replaces every file, one by one: another process may be reading them
            if _whole(Path(self.cache_dir), filename):
                return super().get_group(filename)
            _sweep(Path(self.cache_dir))
            return None

        def get_file(self, filename: str) -> str | None:
            # a launcher, which is loaded as a library: half of one takes the process with it
            found = super().get_file(filename)
            return found if found is None or not _library(filename) or _sealed(Path(found)) else None

        def put(self, data: Any, filename: str, binary: bool = True) -> str:
            def write() -> str:
                path = FileCacheManager.put(self, data, filename, binary)
                if _library(filename):
                    write_file(Path(path + SEAL), _sum(Path(path)).encode())
                return path

            return self._kept(write)

        def put_group(self, filename: str, group: dict[str, str]) -> str:
            sums = {name: _sum(Path(path)) for name, path in group.items()}

            def write() -> str:
                write_file(Path(self.cache_dir) / SUMS, json.dumps({filename: sums}).encode())
                return FileCacheManager.put_group(self, filename, group)

            return self._kept(write)

    return Checked


def _sweep(home: Path) -> None:
    """Remove what killed processes were writing: folders that Triton names after the process."""
    for left in home.glob("tmp.pid_*"):
        number = left.name.removeprefix("tmp.pid_").split("_")[0]
        if number.isdigit() and not _alive(int(number)):
            shutil.rmtree(left, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _library(filename: str) -> bool:
    return filename.endswith(".so")


def _sealed(path: Path) -> bool:
    """Whether a library is the one that was written."""
    try:
        return Path(str(path) + SEAL).read_text() == _sum(path)
    except (OSError, ValueError):
        return False


def _whole(home: Path, filename: str) -> bool:
    """Whether the files of a group are there, and those that were written."""
    try:
        sums: Any = json.loads((home / SUMS).read_bytes())
        group: Any = json.loads((home / f"__grp__{filename}").read_bytes())
        children = cast("dict[str, str]", group["child_paths"])
        return set(sums[filename]) == set(children) and all(
            _sum(Path(path)) == sums[filename][name] for name, path in children.items()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _sum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def used_entries() -> list[Path]:
    """The folders of the entries that this thread looked for last."""
    if not hasattr(_used, "keys"):
        _used.keys = []
    return cast("list[Path]", _used.keys)


@contextmanager
def our_cache() -> Generator[None]:
    """Kernels compiled within are looked for, and kept, in our cache. Who chose a manager of his own keeps it."""
    _enter()
    try:
        yield
    finally:
        _leave()


_lock = Lock()
_within = 0
_before: list[tuple[Any, str, Any]] = []
"""What modules and classes of Triton had under a name, while any thread is within."""


def _enter() -> None:
    global _within
    from triton import knobs

    with _lock:
        _within += 1
        if _within > 1:
            return
        if knobs.cache.manager_class is None:
            # not by assignment, which would write the environment too
            vars(knobs.cache)["manager_class"] = _manager()
        for several in (toolchain.stand_ins(), limit.stand_ins(), _parser()):
            for place, names in several.items():
                for name, value in names.items():
                    _before.append((place, name, vars(place)[name]))
                    setattr(place, name, value)


def _parser() -> dict[Any, dict[str, Any]]:
    """Kernels are parsed by one thread at a time."""
    from triton.runtime.jit import JITCallable

    as_is: Any = JITCallable.parse

    def parse(self: Any) -> Any:
        return alone(as_is, self)

    return {JITCallable: {"parse": parse}}


def _leave() -> None:
    global _within
    from triton import knobs

    with _lock:
        _within -= 1
        if _within:
            return
        if vars(knobs.cache).get("manager_class") is _manager():
            vars(knobs.cache).pop("manager_class", None)
        while _before:
            setattr(*_before.pop())


def compiling(run: Callable[[], T], forget: Callable[[], None]) -> T:
    """Run what may compile and load kernels, in our cache; where a kernel that was found there cannot be loaded,
    delete it, `forget` it and compile once more."""
    used_entries().clear()
    with our_cache():
        try:
            return run()
        except Exception as error:
            if not _unloadable(error) or not used_entries():
                raise
            for home in used_entries():
                shutil.rmtree(home, ignore_errors=True)
            forget()
            return run()


def _unloadable(error: Exception) -> bool:
    """Whether the driver, or Triton, could not read what the cache held."""
    text = str(error)
    words = ("device kernel image is invalid", "named symbol not found", "invalid source", "file not found")
    return isinstance(error, RuntimeError) and "Triton Error [CUDA]" in text and any(w in text for w in words)
