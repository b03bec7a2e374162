"""The registry of error codes: E01xx lexing and parsing, E02xx names, E03xx types and shapes, E04xx clauses and
structure, E05xx `use`, E06xx limits, E07xx values, consts and requires, E08xx the Python front end."""

from __future__ import annotations

from attndsl.diagnostics.code_info import CodeInfo
from attndsl.diagnostics.codes_check import CHECK_CODES
from attndsl.diagnostics.codes_files import FILE_CODES
from attndsl.diagnostics.codes_ir import IR_CODES
from attndsl.diagnostics.codes_syntax import SYNTAX_CODES

__all__ = ["CODES", "CodeInfo"]

CODES: dict[str, CodeInfo] = dict(sorted({**SYNTAX_CODES, **FILE_CODES, **CHECK_CODES, **IR_CODES}.items()))
"""Every code that a user can meet, in order."""
