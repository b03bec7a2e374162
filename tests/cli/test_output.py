"""Files are written whole or not at all."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from attndsl.cli.output import CallError, print_json, write_whole


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_new_file_obeys_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_whole(tmp_path / "a.svg", "text")
    finally:
        os.umask(old)
    assert (tmp_path / "a.svg").read_text() == "text"
    assert stat.S_IMODE((tmp_path / "a.svg").stat().st_mode) == 0o640
    assert names(tmp_path) == ["a.svg"]


def test_permissions_and_links_stay(tmp_path: Path) -> None:
    target, link = tmp_path / "real.attn", tmp_path / "link.attn"
    target.write_text("old")
    target.chmod(0o604)
    link.symlink_to(target.name)
    write_whole(link, b"new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o604
    assert names(tmp_path) == ["link.attn", "real.attn"]


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(CallError, match="it is a directory"):
        write_whole(tmp_path, "text")
    with pytest.raises(CallError, match=r"cannot write .*missing.*: No such file or directory"):
        write_whole(tmp_path / "missing" / "a.svg", "text")


def test_nothing_is_left_when_the_write_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.attn"
    target.write_text("old")

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(CallError, match="No space left"):
        write_whole(target, "new")
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.attn"]


def test_json_has_no_infinities(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": [float("inf"), (1, float("nan"))], "b": True})
    assert json.loads(capsys.readouterr().out) == {"a": [None, [1, None]], "b": True}
