"""A finding as data."""

from attndsl.diagnostics.report import Diagnostic, Note
from attndsl.diagnostics.source import Source, Span


def test_data_holds_places_and_notes():
    source = Source("a.attn", "one\ntwo three\n")
    note = Note(Span(source, 0, 3), "the first one is here")
    found = Diagnostic("E0206", "declared twice", Span(source, 8, 13), "here", "rename it", (note,))
    assert found.to_json() == {
        "code": "E0206", "message": "declared twice", "label": "here", "help": "rename it", "file": "a.attn",
        "line": 2, "column": 5, "end_line": 2, "end_column": 10,
        "notes": [{"file": "a.attn", "line": 1, "column": 1, "text": "the first one is here"}],
    }  # fmt: skip
    assert Diagnostic("E0206", "m", Span(source, 0, 1)).to_json()["notes"] == []
