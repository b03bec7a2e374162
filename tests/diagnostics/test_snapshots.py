"""What a user sees for each wrong spec of tests/bad, letter by letter.

`UPDATE_SNAPSHOTS=1 pytest tests/diagnostics/test_snapshots.py` writes the expected texts anew; read the difference.
"""

import os
from pathlib import Path

import pytest

from attndsl.diagnostics.codes import CODES
from attndsl.diagnostics.codes_files import FILE_CODES
from attndsl.diagnostics.codes_syntax import SYNTAX_CODES
from attndsl.diagnostics.report import SpecError
from attndsl.frontend.compile import compile_file

ROOT = Path(__file__).parents[2]
SPECS = sorted(p.relative_to(ROOT) for p in (ROOT / "tests/bad").glob("E*.attn"))
WITHOUT_A_FILE = {"E0606"}


@pytest.mark.parametrize("path", SPECS, ids=lambda p: p.stem)
def test_rendering(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SpecError) as caught:
        compile_file(path)
    shown = str(caught.value) + "\n"
    expected = path.with_suffix(".txt")
    if os.environ.get("UPDATE_SNAPSHOTS"):
        expected.write_text(shown, encoding="utf-8")
    assert shown == expected.read_text(encoding="utf-8")
    assert path.stem[:5] in {d.code for d in caught.value.diagnostics}
    assert all(d.code in CODES for d in caught.value.diagnostics)


@pytest.mark.parametrize("code", sorted({**SYNTAX_CODES, **FILE_CODES}))
def test_each_code_of_the_text_front_end_has_a_snapshot(code: str):
    assert code in WITHOUT_A_FILE or any(p.stem.startswith(code) for p in SPECS)
