"""Where templates are found and how they are filled."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import attndsl
from attndsl.ir.attention import Attention
from attndsl.ir.printer import print_attention

if TYPE_CHECKING:
    import jinja2


@lru_cache(maxsize=1)
def environment() -> jinja2.Environment:
    """Strict: an undefined name is an error. Templates lie in the package, or beside it in a checkout."""
    # a process that finds all of its code in the cache fills no template
    import jinja2

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


def title(attention: Attention) -> list[str]:
    """The attention, printed, as the lines of a comment."""
    return print_attention(attention).splitlines()
