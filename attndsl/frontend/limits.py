"""Limits of the text front end. Each one that is passed gives a diagnostic (E06xx), never a hang."""

from __future__ import annotations

SOURCE_BYTES = 64 * 1024
"""Size of one source file, in bytes of UTF-8."""

NESTING = 64
"""Height of an expression's tree, brackets included; a chain such as `a + b + c` counts each of its operators."""

NODES = 4096
"""Expression nodes in one file."""

LITERAL = 2**31
"""Integer literals stay below this."""

FILES = 64
"""Files that one program may reach by `use`."""

DIAGNOSTICS = 100
"""Findings reported for one file."""
