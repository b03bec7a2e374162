"""Small results for the next process: whole or not there, and nobody else's."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

from attndsl.runtime.cache import folder, tidy
from attndsl.runtime.cache.facts import keep, known


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATTNDSL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(tidy, "_cleaned", set())
    monkeypatch.setattr(folder, "_warned", set())
    return tmp_path / "cache"


def only(root: Path) -> Path:
    (path,) = (root / "facts").glob("*.json")
    return path


def test_what_is_kept_is_known(root: Path) -> None:
    assert known("source", "a") is None
    keep("source", "a", {"module": [1, "two"]})
    assert known("source", "a") == {"module": [1, "two"]}
    assert known("source", "b") is None
    assert known("other", "a") is None
    assert only(root).stat().st_mode & 0o077 == 0


def test_damaged_files_are_nothing_known(root: Path) -> None:
    keep("source", "a", {"n": 1})
    path = only(root)
    whole = path.read_bytes()
    damaged = [whole[:k] for k in (0, 1, len(whole) // 2, len(whole) - 1)]
    damaged += [whole.replace(b'"n": 1', b'"n": 2'), b"[]", b"null", b'"text"', b"\xff\xfe", b"[" * 100_000]
    damaged.append(json.dumps({**json.loads(whole), "kind": "other"}).encode())
    for text in damaged:
        path.write_bytes(text)
        assert known("source", "a") is None, text[:60]
        keep("source", "a", {"n": 1})
        assert known("source", "a") == {"n": 1}


def test_a_file_of_another_fact_says_nothing(root: Path) -> None:
    keep("source", "a", {"n": 1})
    taken = only(root)
    keep("source", "b", {"n": 2})
    (other,) = set((root / "facts").glob("*.json")) - {taken}
    other.write_bytes(taken.read_bytes())
    assert known("source", "b") is None


def test_a_link_is_not_followed(root: Path, tmp_path: Path) -> None:
    keep("source", "a", {"n": 1})
    path = only(root)
    away = tmp_path / "away.json"
    path.rename(away)
    path.symlink_to(away)
    assert known("source", "a") is None
    keep("source", "a", {"n": 2})
    assert known("source", "a") == {"n": 2}
    assert json.loads(away.read_text())["fact"] == {"n": 1}


def test_a_folder_of_others_is_one_warning(root: Path) -> None:
    keep("source", "a", {"n": 1})
    (root / "facts").chmod(0o777)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert known("source", "a") is None
        keep("source", "a", {"n": 2})
    assert len(said) == 1
    assert "can be written by other users" in str(said[0].message)


def test_leftovers_are_removed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep("source", "a", {"n": 1})
    left = root / "facts" / ".source-1.json.7-abc.tmp"
    left.write_text("half")
    assert known("source", "a") is not None
    assert left.exists()
    monkeypatch.setattr(tidy, "_cleaned", set())
    assert known("source", "a") == {"n": 1}
    assert not left.exists()
