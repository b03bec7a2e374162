"""`check` and `fmt` from the outside."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tests.cli.shell import EXAMPLES, attndsl, one_line

GOOD = "attention a {\n    mask k <= q\n}\n"
UGLY = "# kept\nattention   a{mask k<=q}  # also kept\n"
BROKEN = "attention a { mask k <= }\nattention b { score s + t }\n"


def test_examples_have_no_mistakes() -> None:
    files = sorted(EXAMPLES.glob("*.attn"))
    result = attndsl("check", *files)
    assert result.code == 0, result.err
    assert len(result.out.splitlines()) == len(files)


def test_every_mistake_of_every_file(tmp_path: Path) -> None:
    (tmp_path / "good.attn").write_text(GOOD)
    (tmp_path / "broken.attn").write_text(BROKEN)
    result = attndsl("check", "good.attn", "broken.attn", cwd=tmp_path)
    assert result.code == 1
    assert "good.attn: ok (a)" in result.out
    assert "broken.attn:1:25" in result.err
    assert "broken.attn:2:25" in result.err
    assert "2 errors in 1 file" in result.err


def test_check_json(tmp_path: Path) -> None:
    (tmp_path / "good.attn").write_text(GOOD)
    (tmp_path / "broken.attn").write_text(BROKEN)
    result = attndsl("check", "--json", "good.attn", "broken.attn", cwd=tmp_path)
    assert result.code == 1
    good, broken = result.json["files"]
    assert (good["ok"], good["attentions"], good["diagnostics"]) == (True, ["a"], [])
    assert not result.json["ok"]
    assert [(d["line"], d["column"]) for d in broken["diagnostics"]] == [(1, 25), (2, 25)]
    assert all(d["code"].startswith("E") and d["message"] for d in broken["diagnostics"])


def test_a_missing_file_is_a_wrong_call_but_the_others_are_checked(tmp_path: Path) -> None:
    (tmp_path / "window.attn").write_text(GOOD)
    result = attndsl("check", "windw.attn", "window.attn", cwd=tmp_path)
    assert result.code == 2
    assert result.err == "attndsl: no such file: windw.attn (did you mean window.attn?)\n"
    assert result.out == "window.attn: ok (a)\n"
    result = attndsl("check", "--json", "windw.attn", "window.attn", cwd=tmp_path)
    assert (result.code, result.json["ok"], [f["ok"] for f in result.json["files"]]) == (2, False, [False, True])


def test_standard_input() -> None:
    assert attndsl("check", "-", stdin=GOOD).code == 0
    assert attndsl("check", "-", stdin=BROKEN).code == 1
    assert attndsl("check", "-", stdin=b"\xff\xfe\x00").code == 1
    assert attndsl("check", "-", stdin=b"#" * 200_000).code == 1


def test_control_characters_do_not_reach_the_terminal() -> None:
    result = attndsl("check", "-", stdin="attention a { mask k <= \x1b[31m }")
    assert result.code == 1
    assert "\x1b" not in result.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["check"], "Missing argument"),
        (["check", "--jsn", "x.attn"], "--jsn"),
        (["chek", "x.attn"], "chek"),
        (["fmt"], "Missing argument"),
        (["fmt", "--check", "--stdout", "x.attn"], "exclude each other"),
    ],
)
def test_wrong_calls(arguments: list[str], says: str) -> None:
    assert says in one_line(attndsl(*arguments))


def test_fmt_keeps_comments_permissions_and_links(tmp_path: Path) -> None:
    file, link = tmp_path / "a.attn", tmp_path / "link.attn"
    file.write_text(UGLY)
    file.chmod(0o640)
    link.symlink_to("a.attn")
    assert attndsl("fmt", "--check", link).code == 1
    assert file.read_text() == UGLY
    assert attndsl("fmt", link).code == 0
    text = file.read_text()
    assert "# kept" in text
    assert "# also kept" in text
    assert "mask k <= q" in text
    assert link.is_symlink()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert attndsl("fmt", "--check", link).code == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.attn", "link.attn"]


def test_fmt_leaves_a_broken_file_alone(tmp_path: Path) -> None:
    (tmp_path / "broken.attn").write_text("attention a { mask k <= }")
    (tmp_path / "ugly.attn").write_text(UGLY)
    result = attndsl("fmt", "broken.attn", "ugly.attn", cwd=tmp_path)
    assert result.code == 1
    assert (tmp_path / "broken.attn").read_text() == "attention a { mask k <= }"
    assert (tmp_path / "ugly.attn").read_text() != UGLY
    assert "broken.attn:1:25" in result.err


def test_fmt_streams(tmp_path: Path) -> None:
    (tmp_path / "ugly.attn").write_text(UGLY)
    from_stdin = attndsl("fmt", "-", stdin=UGLY)
    from_file = attndsl("fmt", "--stdout", "ugly.attn", cwd=tmp_path)
    assert from_stdin.out == from_file.out != UGLY
    assert (tmp_path / "ugly.attn").read_text() == UGLY
    assert attndsl("fmt", "--check", "-", stdin=from_stdin.out).code == 0


def test_fmt_of_what_is_no_file(tmp_path: Path) -> None:
    assert "no such file" in one_line(attndsl("fmt", "nothing.attn", cwd=tmp_path))
    assert "is a directory" in one_line(attndsl("fmt", ".", cwd=tmp_path))
