"""Codes of the text front end: lexing and parsing (E01xx), `use` (E05xx) and limits (E06xx)."""

from __future__ import annotations

from attndsl.diagnostics.code_info import CodeInfo

SYNTAX_CODES: dict[str, CodeInfo] = {}
