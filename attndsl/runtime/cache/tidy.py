"""Folders of the cache, cleaned of what killed processes left when a process first sees them."""

from __future__ import annotations

import os
from pathlib import Path

from attndsl.runtime.cache.files import clean
from attndsl.runtime.cache.folder import part

_cleaned: set[tuple[int, str]] = set()


def clean_part(name: str, *, make: bool = False) -> Path | None:
    """As `folder.part`."""
    found = part(name, make=make)
    if found is not None and (os.getpid(), str(found)) not in _cleaned:
        _cleaned.add((os.getpid(), str(found)))
        clean(found)
    return found
