"""Generated modules as files: Triton reads the source of a kernel from where Python found it."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import tempfile
from functools import lru_cache
from pathlib import Path
from types import ModuleType

from attndsl.codegen.whitelist_triton import check_kernels


def cache_folder() -> Path:
    """Where generated modules are kept: `$ATTNDSL_CACHE`, or `attndsl` in the user's cache folder."""
    given = os.environ.get("ATTNDSL_CACHE")
    if given:
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "attndsl"


@lru_cache(maxsize=512)
def load_module(source: str) -> ModuleType:
    """The module with this text. Its file is written whole or not at all; what runs is `source`, whatever it holds."""
    check_kernels(source)
    name = "attention_" + hashlib.sha256(source.encode()).hexdigest()[:24]
    path = _written(source, name)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__dict__["__file__"] = str(path)
    exec(compile(source, str(path), "exec"), module.__dict__)
    return module


def _written(source: str, name: str) -> Path:
    for folder in (cache_folder() / "triton", Path(tempfile.gettempdir()) / f"attndsl-{os.getuid()}" / "triton"):
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            path = folder / f"{name}.py"
            if not path.is_file() or path.read_text() != source:
                descriptor, temporary = tempfile.mkstemp(dir=folder, suffix=".tmp")
                with os.fdopen(descriptor, "w") as file:
                    file.write(source)
                Path(temporary).replace(path)
            return path
        except OSError:
            continue
    raise OSError(f"no folder to keep generated kernels in: {cache_folder()} cannot be written; set ATTNDSL_CACHE")
