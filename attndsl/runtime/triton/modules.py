"""Generated modules as files: Triton reads the source of a kernel from where Python found it."""

from __future__ import annotations

import hashlib
import importlib.util
from functools import lru_cache
from pathlib import Path
from types import ModuleType

from attndsl.codegen.whitelist_triton import check_kernels
from attndsl.runtime.cache.files import write_file
from attndsl.runtime.cache.folder import process_folder, warn
from attndsl.runtime.cache.tidy import clean_part


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
    # with the `annotations` of this module's own future, Triton would not understand those of arguments
    exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)
    return module


def _written(source: str, name: str) -> Path:
    folder = clean_part("kernels", make=True)
    if folder is not None:
        path = folder / f"{name}.py"
        try:
            if not path.is_file() or path.is_symlink() or path.read_bytes() != source.encode():
                write_file(path, source.encode())
            return path
        except OSError as error:
            warn(f"generated kernels are not kept: {folder} cannot be written ({error})")
    # others must not write what Triton reads
    path = process_folder() / f"{name}.py"
    path.write_text(source)
    return path
