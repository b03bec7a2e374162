"""A folder written whole or not at all, that replaces only what was written the same way."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attndsl.cli.output import CallError

MANIFEST = "manifest.json"
MADE_BY = "attndsl build"


def check_folder(folder: Path) -> None:
    """CallError unless the folder can be made: there is none, it is empty, or a build made all that is in it."""
    target = folder.resolve()
    if not target.exists():
        parent = next(p for p in target.parents if p.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise CallError(f"cannot write {folder}: {parent} is no folder that can be written")
        return
    if not target.is_dir():
        raise CallError(f"cannot write {folder}: it is a file")
    present = {p.relative_to(target).as_posix() for p in target.rglob("*") if not p.is_dir()}
    present = {p for p in present if "__pycache__" not in p}
    if not present:
        return
    listed = _listed(target)
    if listed is None:
        raise CallError(f"cannot write {folder}: it is not empty, and no build made it")
    if strange := sorted(present - listed - {MANIFEST}):
        raise CallError(f"cannot write {folder}: {strange[0]} in it is not of a build; move it away")


def _listed(folder: Path) -> set[str] | None:
    """The files that a build wrote here; None where none did."""
    try:
        manifest: Any = json.loads((folder / MANIFEST).read_text())
        return set(manifest["files"]) if manifest["made_by"] == MADE_BY else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_folder(folder: Path, files: Mapping[str, str | bytes], manifest: Mapping[str, Any]) -> None:
    """Write the files (by path within the folder) and the manifest that lists them: a temporary neighbour, then one
    rename. A folder that is replaced is moved aside first and put back if that fails."""
    check_folder(folder)
    target = folder.resolve()
    whole = {"made_by": MADE_BY, **manifest, "files": sorted(files)}
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
        made = temporary / "made"
        for name, content in {**files, MANIFEST: json.dumps(whole, indent=2) + "\n"}.items():
            path = made / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        _swap(made, target, temporary / "old")
    except OSError as error:
        raise CallError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _swap(made: Path, target: Path, old: Path) -> None:
    if not target.exists():
        made.rename(target)
        return
    target.rename(old)
    try:
        made.rename(target)
    except OSError:
        old.rename(target)
        raise
