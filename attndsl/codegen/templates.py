"""Where templates are found and how they are filled."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import jinja2

import attndsl


@lru_cache(maxsize=1)
def environment() -> jinja2.Environment:
    """Strict: an undefined name is an error. Templates lie in the package, or beside it in a checkout."""
    package = Path(attndsl.__file__).parent
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([package / "templates", package.parent / "templates"]),
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def render(template: str, **holes: object) -> str:
    """The text of a template with its holes filled."""
    return environment().get_template(template).render(**holes)
