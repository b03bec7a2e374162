"""What the standard library offers, by name of the function."""

from __future__ import annotations

from functools import cache

from attndsl.frontend.modules import STD, read_program, std_modules


@cache
def library_functions() -> dict[str, str]:
    """Every function of the standard library and the module it stands in."""
    found: dict[str, str] = {}
    for module in std_modules():
        for function in read_program(STD / f"{module}.attn").file.functions:
            found.setdefault(function.name, module)
    return found
