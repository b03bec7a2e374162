"""Every code is registered, explained, and its examples are what they say."""

import re
from pathlib import Path

import pytest

from attndsl.diagnostics.codes import CODES
from attndsl.diagnostics.codes_files import FILE_CODES
from attndsl.diagnostics.codes_syntax import SYNTAX_CODES
from attndsl.frontend.modules import program_from_text

PACKAGE = Path(__file__).parents[2] / "attndsl"
NEEDS_MORE_THAN_A_TEXT = {"E0102", "E0502", "E0505", "E0507", "E0601", "E0604", "E0605", "E0606"}
TEXT_CODES = sorted({**SYNTAX_CODES, **FILE_CODES}.keys() - NEEDS_MORE_THAN_A_TEXT)


def test_every_code_in_the_package_is_registered():
    used = {
        code
        for path in PACKAGE.rglob("*.py")
        if "diagnostics" not in path.parts
        for code in re.findall(r"\"(E0\d{3})\"", path.read_text())
    }
    assert used - CODES.keys() == set()


def test_no_code_has_two_meanings():
    from attndsl.diagnostics.codes_check import CHECK_CODES
    from attndsl.diagnostics.codes_ir import IR_CODES

    groups = [SYNTAX_CODES, FILE_CODES, CHECK_CODES, IR_CODES]
    assert sum(map(len, groups)) == len(CODES)


@pytest.mark.parametrize("code", CODES)
def test_explanation_is_complete(code: str):
    info = CODES[code]
    assert info.title and info.text and info.wrong and info.right
    assert not info.title.endswith(".")
    assert "Wrong:" in info.explanation and "Right:" in info.explanation


@pytest.mark.parametrize("code", TEXT_CODES)
def test_wrong_example_gives_its_code_alone(code: str):
    found = program_from_text(CODES[code].wrong, folder=Path(__file__).parent).diagnostics
    assert {d.code for d in found} == {code}


@pytest.mark.parametrize("code", sorted(SYNTAX_CODES))
def test_right_example_parses(code: str):
    assert program_from_text(CODES[code].right).diagnostics == ()
