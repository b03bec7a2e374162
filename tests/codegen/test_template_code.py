"""Compiled templates are kept beside them, belong to their text, and are read only where that is as safe as those."""

from __future__ import annotations

import os
import sys
from importlib.util import cache_from_source
from pathlib import Path

import jinja2
import pytest

from attndsl.codegen import template_code
from attndsl.codegen.template_code import OPTIONS, TemplateCode


class Counted(jinja2.Environment):
    """Says how many templates were compiled."""

    compiled = 0

    def _generate(self, *given: object, **more: object) -> object:  # pyright: ignore
        self.compiled += 1
        return super()._generate(*given, **more)  # type: ignore


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(sys, "pycache_prefix", None)
    (tmp_path / "t.j2").write_text("one {{ x }}\n")
    return tmp_path


def rendered(home: Path) -> tuple[str, int]:
    """The text, and how many templates were compiled for it."""
    environment = Counted(loader=jinja2.FileSystemLoader(home), bytecode_cache=TemplateCode(), **OPTIONS)
    return environment.get_template("t.j2").render(x=5), environment.compiled


def kept(home: Path) -> Path:
    return Path(cache_from_source(str(home / "t.j2")))


def test_a_template_is_compiled_once(home: Path) -> None:
    assert rendered(home) == ("one 5\n", 1)
    assert kept(home).is_file()
    assert [p.name for p in kept(home).parent.iterdir()] == [kept(home).name]
    assert rendered(home) == ("one 5\n", 0)


def test_another_text_is_another_template(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rendered(home)
    times = (home / "t.j2").stat()
    (home / "t.j2").write_text("two {{ x }}\n")
    os.utime(home / "t.j2", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert rendered(home) == ("two 5\n", 1)
    assert rendered(home) == ("two 5\n", 0)
    monkeypatch.setattr(jinja2, "__version__", "another")
    assert rendered(home) == ("two 5\n", 1)


@pytest.mark.parametrize("harm", ["cut", "changed", "empty"])
def test_code_that_is_not_whole_is_made_anew(home: Path, harm: str) -> None:
    rendered(home)
    data = kept(home).read_bytes()
    changed = {"cut": data[:-7], "changed": data[:-7] + b"\0" * 7, "empty": b""}[harm]
    kept(home).write_bytes(changed)
    assert rendered(home) == ("one 5\n", 1)
    assert kept(home).read_bytes()[:32] == data[:32]


@pytest.mark.parametrize("place", ["file", "folder", "link"])
def test_code_that_others_could_have_written_is_not_read(home: Path, place: str) -> None:
    rendered(home)
    file = kept(home)
    if place == "link":
        file.rename(home / "elsewhere")
        file.symlink_to(home / "elsewhere")
    else:
        (file if place == "file" else file.parent).chmod(0o666 if place == "file" else 0o777)
    assert rendered(home) == ("one 5\n", 1)


def test_code_of_another_user_is_not_read(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rendered(home)
    mine = home.stat().st_uid
    real = os.fstat

    def theirs(descriptor: int) -> os.stat_result:
        found = list(real(descriptor))
        found[4] = mine + 1
        return os.stat_result(found)

    monkeypatch.setattr(template_code.os, "fstat", theirs)
    assert rendered(home) == ("one 5\n", 1)


def test_code_in_a_folder_elsewhere_is_not_read(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who owns a folder above it can put another in its place, whoever owns the templates."""
    monkeypatch.setattr(sys, "pycache_prefix", str(home / "elsewhere"))
    for _ in range(2):
        assert rendered(home) == ("one 5\n", 1)
    assert not kept(home).exists()


def test_where_nothing_can_be_kept(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert rendered(home) == ("one 5\n", 1)
    assert not kept(home).exists()
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    (home / "__pycache__").write_text("no folder")
    assert rendered(home) == ("one 5\n", 1)
    monkeypatch.setattr(sys.implementation, "cache_tag", None)
    assert rendered(home) == ("one 5\n", 1)


def test_every_template_of_the_package_compiles() -> None:
    from attndsl.codegen.templates import compile_all

    assert compile_all() > 20
