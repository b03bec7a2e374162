"""Small results that are dear to compute, for the next process: one JSON file each, named after what they follow from.

A file that is not there, not whole, or about something else is nothing known: its result is computed again.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, cast

from attndsl.runtime.cache.files import read_file, write_file
from attndsl.runtime.cache.folder import warn
from attndsl.runtime.cache.key import FORMAT, digest
from attndsl.runtime.cache.tidy import clean_part

FOLDER = "facts"


def known(kind: str, about: str) -> dict[str, Any] | None:
    """What a process wrote down of this kind about this text; None where nothing can be read."""
    folder = clean_part(FOLDER)
    if folder is None:
        return None
    try:
        whole: Any = json.loads(read_file(folder / _name(kind, about)))
        sums = whole.pop("sha256")
        if sums != _sum(whole) or (whole["format"], whole["kind"], whole["about"]) != (FORMAT, kind, digest(about)):
            return None
        return cast("dict[str, Any]", whole["fact"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def keep(kind: str, about: str, fact: dict[str, Any]) -> None:
    """Write down a fact; a folder that cannot be written is a warning."""
    folder = clean_part(FOLDER, make=True)
    if folder is None:
        return
    whole = {"format": FORMAT, "kind": kind, "about": digest(about), "fact": fact}
    try:
        write_file(folder / _name(kind, about), json.dumps({**whole, "sha256": _sum(whole)}).encode())
    except OSError as error:
        warn(f"what was generated is not kept: {folder} cannot be written ({error.strerror or error})")


def _name(kind: str, about: str) -> str:
    return f"{kind}-{digest(about)[:24]}.json"


def _sum(whole: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(whole, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
