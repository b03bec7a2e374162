"""The words of the language for specs that are written as Python functions.

A function under `@attndsl.attention` is read by its syntax tree and never executed; these names make it readable for
ruff, pyright and editors. `const`, `scalar` and `tensor` declare parameters (as defaults of keyword-only arguments) and
may run, everything else raises `OutsideSpecError` when Python executes it.

flake8-bugbear's B008 (calls in defaults), where it is selected, is told by ruff's setting
`lint.flake8-bugbear.extend-immutable-calls = ["attndsl.lang.const", "attndsl.lang.scalar", "attndsl.lang.tensor"]`;
pyright's strict mode also wants annotations: `q: Term`, `window: Term = const(64)`.

Functions of the standard library are named here too; their meaning is in `attndsl/std/*.attn`.
"""

from __future__ import annotations

from attndsl.lang.library import *  # noqa: F403
from attndsl.lang.terms import *  # noqa: F403
from attndsl.lang.words import *  # noqa: F403
