"""What Triton would find out about itself in every process is remembered, and is what Triton says."""
# pyright: reportUnknownMemberType=false, reportMissingImports=false, reportUnknownVariableType=false

from __future__ import annotations

from pathlib import Path
from threading import Barrier, Thread
from types import SimpleNamespace
from typing import Any

import pytest

from attndsl.runtime.triton import toolchain
from attndsl.runtime.triton.compiled import our_cache

pytest.importorskip("triton")


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATTNDSL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(toolchain, "_answers", {})
    return tmp_path / "cache"


def test_it_says_what_triton_says(monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.backends.nvidia import compiler
    from triton.runtime import cache

    whole, version = cache.triton_key, compiler.get_ptxas_version
    with our_cache():
        assert cache.triton_key() == whole()
        assert compiler.get_ptxas_version(90) == version(90)
        assert compiler.get_ptxas_version(100) == version(100)
    assert cache.triton_key is whole
    assert compiler.get_ptxas_version is version
    # the next process asks nobody
    monkeypatch.setattr(toolchain, "_answers", {})
    asked: list[str] = []

    def asks(arch: int = 80) -> str:
        asked.append("asked")
        return "no"

    monkeypatch.setattr(cache, "triton_key", asks)
    monkeypatch.setattr(compiler, "get_ptxas_version", asks)
    with our_cache():
        assert cache.triton_key() == whole()
        assert compiler.get_ptxas_version(90) == version(90)
    assert asked == []


def test_another_file_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["first", "second"])
    monkeypatch.setattr(toolchain, "_fingerprint", lambda: "these files")
    ask: Any = lambda: next(answers)  # noqa: E731
    assert toolchain._known("key", ask) == "first"  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(toolchain, "_answers", {})
    assert toolchain._known("key", ask) == "first"  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(toolchain, "_answers", {})
    monkeypatch.setattr(toolchain, "_fingerprint", lambda: "other files")
    assert toolchain._known("key", ask) == "second"  # pyright: ignore[reportPrivateUsage]


def test_an_assembler_that_was_chosen_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_PTXAS_PATH", "/somewhere/ptxas")
    assert toolchain._tool(90) == ""  # pyright: ignore[reportPrivateUsage]
    assert toolchain._known("", lambda: "its words") == "its words"  # pyright: ignore[reportPrivateUsage]


def test_files_are_told_apart_by_more_than_their_size(tmp_path: Path) -> None:
    (tmp_path / "lib.so").write_bytes(b"one")
    (tmp_path / "__pycache__").mkdir()
    before = list(toolchain._files(str(tmp_path)))  # pyright: ignore[reportPrivateUsage]
    assert len(before) == 1
    (tmp_path / "new").write_bytes(b"two")
    (tmp_path / "new").rename(tmp_path / "lib.so")
    assert list(toolchain._files(str(tmp_path))) != before  # pyright: ignore[reportPrivateUsage]


def test_threads_share_the_cache() -> None:
    """One that leaves first takes nothing from the others."""
    from triton import knobs
    from triton.runtime import cache

    whole = cache.triton_key
    both, one_left = Barrier(2), Barrier(2)
    seen: list[bool] = []

    def first() -> None:
        with our_cache():
            both.wait()
        one_left.wait()

    def second() -> None:
        with our_cache():
            both.wait()
            one_left.wait()
            seen.append(knobs.cache.manager_class is not None and cache.triton_key is not whole)

    threads = [Thread(target=t) for t in (first, second)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert seen == [True]
    assert knobs.cache.manager_class is None
    assert cache.triton_key is whole


def test_the_hash_of_the_library_is_its_installers(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the one that Triton counts, and what is younger than the installer's record is read."""
    from triton.runtime import cache

    whole: Any = cache.triton_key
    path, written = toolchain._library()  # pyright: ignore[reportPrivateUsage]
    if not written:
        pytest.skip("this Triton was not installed from a wheel")
    read: list[str] = []

    class Counted:
        def __call__(self) -> str:
            read.append("read")
            return whole()

        def __wrapped__(self) -> str:
            return whole.__wrapped__()

    assert toolchain._key(Counted()) == whole()  # pyright: ignore[reportPrivateUsage]
    assert read == []
    assert "open" not in vars(cache)
    real = Path.stat

    def younger(self: Path, **more: Any) -> Any:
        found = real(self, **more)
        if str(self) != path:
            return found
        return SimpleNamespace(st_mtime_ns=found.st_mtime_ns + 10**18, st_size=found.st_size)

    def larger(self: Path, **more: Any) -> Any:
        found = real(self, **more)
        return found if str(self) != path else SimpleNamespace(st_mtime_ns=found.st_mtime_ns, st_size=1)

    for changed in (younger, larger):
        monkeypatch.setattr(Path, "stat", changed)
        assert toolchain._library() == (path, "")  # pyright: ignore[reportPrivateUsage]
        assert toolchain._key(Counted()) == whole()  # pyright: ignore[reportPrivateUsage]
        assert read.pop() == "read"
