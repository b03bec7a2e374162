"""Triton's cache below ours: damaged entries are compiled again, and what cannot be loaded is deleted."""
# pyright: reportUnknownMemberType=false, reportMissingImports=false

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from attndsl.runtime.cache import folder
from attndsl.runtime.cache.folder import CacheWarning
from attndsl.runtime.triton import compiled
from attndsl.runtime.triton.compiled import compiling
from tests.runtime.triton.compiling import compile_spec

pytest.importorskip("triton")

SPEC = "attention small { mask k <= q }"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATTNDSL_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    return tmp_path / "compiled"


def build() -> bytes:
    from attndsl.runtime.triton.config import Config

    (built,) = compile_spec(SPEC, D=16, config=Config(16, 16, 1, 1), lse=False)
    return built.cubin


def test_damaged_entries_are_compiled_again(cache: Path) -> None:
    cubin = build()
    entries = list(cache.glob("*/forward.cubin"))
    assert len(entries) == 1
    entry = entries[0]
    assert entry.read_bytes() == cubin
    written = entry.stat().st_mtime_ns
    assert build() == cubin
    assert entry.stat().st_mtime_ns == written
    for name in ("forward.cubin", "forward.json", "__grp__forward.json", compiled.SUMS):
        path = entry.with_name(name)
        path.write_bytes(path.read_bytes()[:40])
        assert build() == cubin
        assert entry.read_bytes() == cubin
    entry.write_bytes(b"")
    assert build() == cubin
    assert entry.read_bytes() == cubin


def test_what_cannot_be_loaded_is_deleted_and_compiled_once_more(cache: Path) -> None:
    runs: list[str] = []

    def run() -> bytes:
        cubin = build()
        if not runs:
            runs.append("first")
            raise RuntimeError("Triton Error [CUDA]: device kernel image is invalid")
        runs.append("second" if list(cache.glob("*/forward.cubin")) else "gone")
        return cubin

    forgotten: list[int] = []
    assert compiling(run, lambda: forgotten.append(len(list(cache.glob("*/*"))))) == build()
    assert runs == ["first", "second"]
    assert forgotten == [0]


@pytest.mark.parametrize(
    "error",
    [RuntimeError("Triton Error [CUDA]: an illegal memory access"), ValueError("device kernel image is invalid")],
)
def test_other_errors_are_not_tried_again(error: Exception) -> None:
    def run() -> None:
        build()
        raise error

    with pytest.raises(type(error)):
        compiling(run, lambda: pytest.fail("tried again"))


def test_a_manager_that_the_user_chose_is_kept(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from triton import knobs
    from triton.runtime.cache import FileCacheManager

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "theirs"))
    monkeypatch.setattr(knobs.cache, "manager_class", FileCacheManager)
    build()
    assert not cache.exists()
    assert list((tmp_path / "theirs").glob("*/forward.cubin"))


def test_a_damaged_launcher_is_built_again(cache: Path) -> None:
    from triton.runtime.cache import get_cache_manager

    with compiled.our_cache():
        manager = get_cache_manager("ab" * 32)
        path = Path(manager.put(b"a library", "launcher.so", binary=True))
        assert manager.get_file("launcher.so") == str(path)
        for damaged in (b"", b"a lib", b"a librarY"):
            path.write_bytes(damaged)
            assert get_cache_manager("ab" * 32).get_file("launcher.so") is None
        manager.put(b"a library", "launcher.so", binary=True)
        assert manager.get_file("launcher.so") == str(path)
        Path(str(path) + compiled.SEAL).unlink()
        assert manager.get_file("launcher.so") is None


def refused(*arguments: object, **more: object) -> None:
    raise OSError(errno.EROFS, "Read-only file system")


def warned(said: list[warnings.WarningMessage]) -> list[str]:
    return [str(w.message) for w in said if w.category is CacheWarning]


def test_a_cache_that_cannot_be_written_is_a_warning(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where folders cannot be made, and where files cannot be written (a full disk)."""
    cubin = build()
    makes, replaces = Path.mkdir, os.replace

    def mkdir(self: Path, *arguments: Any, **more: Any) -> None:
        (refused if cache in self.parents else makes)(self, *arguments, **more)

    def replace(source: Any, target: Any) -> None:
        (refused if str(target).startswith(str(cache)) else replaces)(source, target)

    for module, name, broken in ((Path, "mkdir", mkdir), (os, "replace", replace)):
        for path in cache.glob("*"):
            shutil.rmtree(path)
        monkeypatch.setattr(folder, "_warned", set())
        with monkeypatch.context() as patched, warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            patched.setattr(module, name, broken)
            assert build() == cubin
            assert build() == cubin
        (text,) = [w for w in warned(said) if "compiled kernels are not kept" in w]
        assert "Read-only file system" in text
    assert build() == cubin
    assert list(cache.glob("*/forward.cubin"))


def test_a_file_where_a_folder_should_be(cache: Path) -> None:
    cubin = build()
    (home,) = {p.parent for p in cache.glob("*/forward.cubin")}
    shutil.rmtree(home)
    home.write_text("no folder")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert build() == cubin
    assert len([w for w in warned(said) if "compiled kernels" in w]) <= 1


def test_what_dead_processes_were_writing_is_removed(cache: Path) -> None:
    build()
    (home,) = {p.parent for p in cache.glob("*/forward.cubin")}
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    mine, theirs = home / f"tmp.pid_{os.getpid()}_abc", home / f"tmp.pid_{ended.pid}_abc"
    for left in (mine, theirs, home / "tmp.pid_x"):
        left.mkdir()
        (left / "forward.cubin").write_text("half")
    (home / "forward.cubin").write_text("half")
    build()
    assert mine.exists()
    assert not theirs.exists()
