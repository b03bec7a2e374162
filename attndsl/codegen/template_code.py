"""Compiled templates, kept beside the templates as Python keeps compiled modules: in `__pycache__`.

What is kept is code. It is read where nobody could have written it who cannot write the templates themselves, and
counts only whole, for the very text of its template, and for the versions of jinja2 and Python that made it.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from contextlib import suppress
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any
from uuid import uuid4

import jinja2
from jinja2.bccache import Bucket, BytecodeCache

OPTIONS: dict[str, Any] = {
    "autoescape": False, "trim_blocks": True, "lstrip_blocks": True, "keep_trailing_newline": True,
}  # fmt: skip
"""What decides the code of a template beside its text."""
_SUM = hashlib.sha256().digest_size
_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class TemplateCode(BytecodeCache):
    """Where jinja2 looks for the code of a template. Keys are paths of files, empty where there is no place for any."""

    def get_cache_key(self, name: str, filename: str | None = None) -> str:
        if filename is None or sys.pycache_prefix is not None:
            # elsewhere others may own folders on the way
            return ""
        try:
            return cache_from_source(filename)
        except NotImplementedError:
            # a Python that keeps no compiled modules
            return ""

    def get_source_checksum(self, source: str) -> str:
        return hashlib.sha256(f"{jinja2.__version__} {OPTIONS} {source}".encode()).hexdigest()

    def load_bytecode(self, bucket: Bucket) -> None:
        """Have the code in the bucket, if there is any that counts."""
        with suppress(OSError):
            data = _read(Path(bucket.key)) if bucket.key else b""
            if data and hashlib.sha256(data[_SUM:]).digest() == data[:_SUM]:
                bucket.bytecode_from_string(data[_SUM:])

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Keep the code that was made, where that is possible."""
        if bucket.key and not sys.dont_write_bytecode:
            with suppress(OSError):
                _write(Path(bucket.key), bucket.bytecode_to_string())


def _read(path: Path) -> bytes:
    """The bytes of a file that only who can write the templates can have written; empty for another."""
    owner = path.parent.parent.stat()
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0))
    with os.fdopen(descriptor, "rb") as file:
        places = path.parent.lstat(), os.fstat(file.fileno())
        fine = stat.S_ISDIR(places[0].st_mode) and stat.S_ISREG(places[1].st_mode)
        return file.read() if fine and all(_as_safe(place, owner) for place in places) else b""


def _as_safe(place: os.stat_result, as_: os.stat_result) -> bool:
    """Whether nobody can write a place who cannot write another."""
    own = place.st_uid in (0, as_.st_uid) and (place.st_gid == as_.st_gid or not place.st_mode & stat.S_IWGRP)
    return own and not place.st_mode & ~as_.st_mode & _OTHERS


def _write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid4().hex}")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "wb") as file:
            file.write(hashlib.sha256(data).digest() + data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
