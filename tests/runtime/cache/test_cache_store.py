"""Entries as files: what is read back, what is refused, and folders that are not as they should be."""

from __future__ import annotations

import errno
import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attndsl.runtime.cache import files, folder, store, tidy
from attndsl.runtime.cache.entry import dump, parse
from attndsl.runtime.cache.folder import CacheWarning, cache_root, part
from attndsl.runtime.cache.store import Store
from tests.runtime.cache.facts import make_entry, make_key


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("ATTNDSL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(folder, "_warned", set())
    monkeypatch.setattr(tidy, "_cleaned", set())
    monkeypatch.setattr(store, "_unkept", {})
    yield tmp_path / "cache"


def kept(where: Path) -> Path:
    """The only entry's file."""
    (path,) = (where / "tuned").glob("*.json")
    return path


def test_what_is_written_is_read(root: Path) -> None:
    entry = make_entry()
    assert Store().read(entry.key) is None
    assert Store().write(entry)
    assert Store().read(entry.key) == entry
    assert Store().read(make_key(1)) is None
    assert list(Store().entries()) == [entry]
    assert Store().problems() == {}


def test_the_folder_is_private_and_the_file_readable(root: Path) -> None:
    Store().write(make_entry())
    assert (root.stat().st_mode & 0o777, (root / "tuned").stat().st_mode & 0o777) == (0o700, 0o700)
    assert kept(root).stat().st_mode & 0o777 == 0o600
    data = json.loads(kept(root).read_text())
    assert data["key"]["machine"]["name"] == "NVIDIA H200"
    assert data["key"]["bucket"]["Lq"] == 32768
    assert data["payload"]["best"] == "128x64 w8 s4"
    assert [p.name for p in (root / "tuned").iterdir()] == [kept(root).name]


def test_best_and_gain() -> None:
    entry = make_entry(fast=1.0, slow=1.5)
    assert (entry.best, entry.gain, entry.measured) == ("128x64 w8 s4", 1.5, True)
    wrong = entry.with_timings({"128x64 w8 s4": replace(entry.timings["128x64 w8 s4"], state="wrong")})
    assert (wrong.best, wrong.gain) == ("64x64 w4 s2", 1.0)
    assert replace(entry, timings={}).best is None


@given(st.integers(0, 5000), st.integers(0, 255))
@settings(max_examples=150, deadline=None)
def test_a_changed_byte_is_a_miss(at: int, byte: int) -> None:
    entry = make_entry()
    data = bytearray(dump(entry))
    at %= len(data)
    same = data[at] == byte
    data[at] = byte
    try:
        found = parse(bytes(data))
    except ValueError:
        assert not same
    else:
        # blanks of the layout may change, nothing else
        assert found == entry


@given(st.integers(0, 3000))
@settings(max_examples=60, deadline=None)
def test_a_truncated_file_is_a_miss(length: int) -> None:
    data = dump(make_entry())
    with pytest.raises(ValueError, match=r"."):
        parse(data[: min(length, len(data) - 3)])


@pytest.mark.parametrize(
    "text",
    [b"", b"null", b"[]", b"{}", b"\xff\xfe", b"[" * 20000, b'{"format": 1}', b'{"format": 2, "sha256": ""}', b"1e999"],
)
def test_other_contents_are_a_miss(root: Path, text: bytes) -> None:
    entry = make_entry()
    Store().write(entry)
    kept(root).write_bytes(text)
    assert Store().read(entry.key) is None
    assert list(Store().entries()) == []
    assert list(Store().problems()) == [kept(root)]
    assert Store().write(entry)
    assert Store().read(entry.key) == entry


def test_a_file_of_another_key_is_a_miss(root: Path) -> None:
    entry = make_entry()
    Store().write(entry)
    kept(root).write_bytes(dump(make_entry(make_key(7))))
    assert Store().read(entry.key) is None
    assert "another key" in Store().problems()[kept(root)]


def test_a_link_as_an_entry_is_a_miss(root: Path, tmp_path: Path) -> None:
    entry = make_entry()
    Store().write(entry)
    path = kept(root)
    path.rename(tmp_path / "elsewhere.json")
    path.symlink_to(tmp_path / "elsewhere.json")
    assert Store().read(entry.key) is None


def unusable(words: str, *, reads: bool = False) -> None:
    """Nothing can be kept, one warning says why, nothing raises."""
    entry = make_entry()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(3):
            assert not Store().write(entry)
            with Store().lock(entry.key) as held:
                assert not held or reads
            # this process knows it all the same
            assert Store().read(entry.key) == entry
            assert Store().read(make_key(1)) is None
            assert len(list(Store().entries())) == reads
            Store().problems()
    assert [w.category for w in said] == [CacheWarning], [str(w.message) for w in said]
    assert words in str(said[0].message)


def test_a_folder_of_someone_else(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store().write(make_entry())
    monkeypatch.setattr(folder, "user", lambda: 4242)
    unusable("belongs to another user")


def test_a_folder_that_others_write(root: Path) -> None:
    Store().write(make_entry())
    root.chmod(0o777)
    unusable("can be written by other users")


def test_a_folder_below_that_is_a_link(root: Path, tmp_path: Path) -> None:
    Store().write(make_entry())
    (root / "tuned").rename(tmp_path / "other")
    (root / "tuned").symlink_to(tmp_path / "other")
    unusable("is a symbolic link")


def test_a_link_to_nothing(root: Path, tmp_path: Path) -> None:
    root.symlink_to(tmp_path / "nowhere")
    unusable("symbolic link to nothing")


def test_the_users_own_link_to_a_folder_of_his_is_fine(root: Path, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir(mode=0o700)
    root.symlink_to(tmp_path / "scratch")
    assert Store().write(make_entry())
    assert Store().read(make_key()) is not None


def test_a_file_where_the_folder_should_be(root: Path) -> None:
    root.write_text("")
    unusable("is not a folder")


def refuse(*names: str) -> Any:
    """`os.open` of a file system that is read-only below these names."""
    real = os.open

    def refused(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & os.O_CREAT and any(n in str(path) for n in names):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return real(path, flags, *rest, **more)

    return refused


def test_a_read_only_folder_is_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store().write(make_entry())
    monkeypatch.setattr(os, "open", refuse("tuned"))
    unusable("cannot be written (Read-only file system)", reads=True)


def test_a_read_only_parent(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path, *rest: Any, **more: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "mkdir", refused)
    unusable("cannot be made (Read-only file system)")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk(root: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    entry = make_entry()
    Store().write(entry)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    unusable("No space left on device", reads=True)
    assert [p.suffix for p in (root / "tuned").iterdir()] == [".json"]


def test_what_a_killed_process_left_goes_at_the_next_start(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store().write(make_entry())
    left = [root / "tuned" / n for n in (".a.json.12-ab.tmp", "a.lock")]
    for path in left:
        path.write_text("x")
    assert set(Store().problems()) == set(left)
    with files.locked(root / "tuned" / "held.lock"):
        monkeypatch.setattr(tidy, "_cleaned", set())
        assert len(list(Store().entries())) == 1
        assert sorted(p.suffix for p in (root / "tuned").iterdir()) == [".json", ".lock"]
    assert [p.suffix for p in (root / "tuned").iterdir()] == [".json"]


def test_where_the_cache_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("ATTNDSL_CACHE_DIR", raising=False)
    assert cache_root() == tmp_path / "attndsl"
    assert part("tuned") is None
    assert not (tmp_path / "attndsl").exists()
    monkeypatch.setenv("ATTNDSL_CACHE_DIR", str(tmp_path / "mine"))
    assert cache_root() == tmp_path / "mine"
