"""The user's entries: reading without locks, writing whole files, one lock a key for who tunes it."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

from attndsl.runtime.cache.entry import Entry, dump, parse
from attndsl.runtime.cache.files import LOCK, leftovers, locked, read_file, write_file
from attndsl.runtime.cache.folder import warn
from attndsl.runtime.cache.key import Key
from attndsl.runtime.cache.tidy import clean_part

FOLDER = "tuned"
_unkept: dict[Key, Entry] = {}
"""What could not be written, for the rest of this process."""
_generation = 0


def generation() -> int:
    """Rises with every entry that this process writes or removes: who remembers a look-up asks again then."""
    return _generation


def _changed() -> None:
    global _generation
    _generation += 1


class Store:
    """The entries in the cache folder. No method raises for a folder or file that is not as it should be: what cannot
    be read is not there, what cannot be written is a warning."""

    def folder(self, *, make: bool = False) -> Path | None:
        """The folder of entries; cleaned of what killed processes left when this process first sees it."""
        return clean_part(FOLDER, make=make)

    def read(self, key: Key) -> Entry | None:
        """The entry of a key; None where there is none that can be read."""
        folder = self.folder()
        entry = None if folder is None else read_entry(folder / f"{key.name}.json")
        return entry if entry is not None and entry.key == key else _unkept.get(key)

    def write(self, entry: Entry) -> bool:
        """Keep an entry; whether that worked. One that did not is known to this process all the same."""
        folder = self.folder(make=True)
        _changed()
        try:
            if folder is not None:
                write_file(folder / f"{entry.key.name}.json", dump(entry))
                _unkept.pop(entry.key, None)
                return True
        except OSError as error:
            warn(f"a tuned configuration was not kept: {folder} cannot be written ({error.strerror or error})")
        _unkept[entry.key] = entry
        return False

    def entries(self, family: str = "") -> Iterator[Entry]:
        """Entries that can be read, of one family or all."""
        for path in self.paths(family):
            entry = read_entry(path)
            if entry is not None:
                yield entry

    def paths(self, family: str = "") -> list[Path]:
        """The files of entries, of one family or all."""
        folder = self.folder()
        if folder is None:
            return []
        try:
            return sorted(p for p in folder.glob(f"{family}*.json") if not p.name.startswith("."))
        except OSError:
            return []

    def problems(self) -> dict[Path, str]:
        """What is wrong with files that are no entries, or not the entry that their name says; leftovers."""
        found: dict[Path, str] = {}
        for path in self.paths():
            try:
                entry = parse(read_file(path))
                if f"{entry.key.name}.json" != path.name:
                    found[path] = "is named after another key"
            except (OSError, ValueError) as error:
                found[path] = str(error)
        folder = self.folder()
        if folder is not None:
            found |= dict.fromkeys(leftovers(folder), "was left by a process that died")
        return found

    def remove(self, path: Path) -> bool:
        """Delete a file of the folder; whether that worked."""
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            warn(f"{path} cannot be removed ({error.strerror or error})")
            return False
        _changed()
        return True

    @contextmanager
    def lock(self, key: Key) -> Generator[bool]:
        """Hold a key while it is tuned. False where there is nothing to hold: the folder cannot be written."""
        folder = self.folder(make=True)
        if folder is None:
            yield False
            return
        with locked(folder / f"{key.name}{LOCK}") as held:
            yield held


def read_entry(path: Path) -> Entry | None:
    """The entry of a file; None for what cannot be read or is none."""
    try:
        return parse(read_file(path))
    except (OSError, ValueError):
        return None
