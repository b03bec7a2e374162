"""Compiled kernels on disk: what is kept, what is not trusted, and what happens without a compiler."""

from __future__ import annotations

import ctypes
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import attndsl
from attndsl.runtime.cache import folder
from attndsl.runtime.native import compiler, store
from attndsl.runtime.native.choice import forced

TEXT = "int seven(void) { return 7; }"
needs_compiler = pytest.mark.skipif(isinstance(compiler.find(), str), reason="no C compiler")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("ATTNDSL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(folder, "_warned", set())
    store.forget()
    yield tmp_path / "cache" / "native"
    store.forget()


def only(cache: Path) -> Path:
    (path,) = cache.glob("*.so")
    return path


def seven(found: ctypes.CDLL | None) -> bool:
    return found is not None and found.seven() == 7


@needs_compiler
def test_a_kernel_is_compiled_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert seven(store.library(TEXT))
    assert cache.stat().st_mode & 0o077 == 0
    assert sorted(p.name for p in cache.iterdir()) == [only(cache).name]
    monkeypatch.setattr(store, "compiled", lambda *_: pytest.fail("compiled again"))
    assert seven(store.library(TEXT))
    store.forget()
    assert seven(store.library(TEXT))


@needs_compiler
@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_damaged_file_is_made_again(cache: Path, damage: str) -> None:
    # never loaded: the loader would not survive it
    found = compiler.find()
    assert not isinstance(found, str)
    assert folder.part("native", make=True) == cache
    whole = compiler.compiled(found, TEXT)
    path = store._made(cache, store.key_of(TEXT, found), TEXT, found)
    half = len(whole) // 2
    path.write_bytes({"cut": whole[:half], "changed": whole[:half] + b"!" + whole[half + 1 :], "empty": b""}[damage])
    assert not store.is_whole(path)
    assert seven(store.library(TEXT))
    assert store.is_whole(only(cache))


@needs_compiler
def test_the_file_of_another_user_is_not_loaded(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = compiler.find()
    assert not isinstance(found, str)
    folder.part("native", make=True)
    path = store._made(cache, store.key_of(TEXT, found), TEXT, found)
    assert store.is_whole(path)
    if os.geteuid() == 0:
        os.chown(path, 12345, 12345)
    else:
        monkeypatch.setattr("attndsl.runtime.cache.files.user", lambda: os.geteuid() + 1)
    assert not store.is_whole(path)
    link = path.with_name("0-" + path.stem.rpartition("-")[2] + ".so")
    link.symlink_to(path)
    assert not store.is_whole(link)


@needs_compiler
def test_only_so_many_are_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MOST", 3)
    for i in range(5):
        assert store.library(f"int number(void) {{ return {i}; }}") is not None
        assert len(list(cache.glob("*.so"))) <= 3
    store.forget()
    monkeypatch.setattr(store, "compiled", lambda *_: pytest.fail("compiled again"))
    assert store.library("int number(void) { return 4; }") is not None


def call() -> torch.Tensor:
    q, k, v = torch.randn(3, 1, 2, 9, 8, generator=torch.Generator().manual_seed(1))
    with forced("always"):
        return attndsl.load("attention a { score tanh(s) * 3 }")(q, k, v)


def want() -> torch.Tensor:
    with forced("never"):
        q, k, v = torch.randn(3, 1, 2, 9, 8, generator=torch.Generator().manual_seed(1))
        return attndsl.load("attention a { score tanh(s) * 3 }")(q, k, v)


@needs_compiler
def test_an_open_folder_is_not_used(cache: Path) -> None:
    cache.parent.mkdir()
    cache.mkdir()
    cache.chmod(0o777)
    with pytest.warns(folder.CacheWarning, match="can be written by other users"):
        out = call()
    assert torch.equal(out, want())
    assert not list(cache.iterdir())


@needs_compiler
def test_a_failing_compiler_is_one_warning(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "cc"
    script.write_text('#!/bin/sh\n[ "$1" = --version ] && echo odd 1.0 && exit 0\necho no luck >&2\nexit 1\n')
    script.chmod(0o755)
    monkeypatch.setenv("CC", str(script))
    with pytest.warns(folder.CacheWarning, match="no luck"):
        out = call()
    assert torch.equal(out, want())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(call(), want())
    assert not list(cache.glob("*.so"))


def test_without_a_compiler_torch_runs(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler-anywhere")
    found = compiler.find()
    assert isinstance(found, str)
    assert "no-such-compiler-anywhere" in found
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(call(), want())


@needs_compiler
def test_native_code_can_be_switched_off(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = torch.randn(3, 1, 2, 9, 8, generator=torch.Generator().manual_seed(1))
    function = attndsl.load("attention a { score tanh(s) * 3 }")
    monkeypatch.setattr("attndsl.runtime.native.choice.PAIRS", 1)
    monkeypatch.setenv("ATTNDSL_NATIVE", "0")
    assert torch.equal(function(q, k, v), want())
    assert not cache.exists()
    monkeypatch.delenv("ATTNDSL_NATIVE")
    assert torch.equal(function(q, k, v), call())
    assert len(list(cache.glob("*.so"))) == 1
