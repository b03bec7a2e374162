"""Codes of name, type, structure and value errors (E02xx, E03xx, E04xx, E07xx) and of the Python front end (E08xx)."""

from __future__ import annotations

from attndsl.diagnostics.code_info import CodeInfo

CHECK_CODES: dict[str, CodeInfo] = {}
