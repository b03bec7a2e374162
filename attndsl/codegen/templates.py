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

    from attndsl.codegen.template_code import OPTIONS, TemplateCode

    package = Path(attndsl.__file__).parent
    places = [package / "templates", package.parent / "templates"]
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(places),
        undefined=jinja2.StrictUndefined,
        bytecode_cache=TemplateCode(),
        **OPTIONS,
    )


def render(template: str, **holes: object) -> str:
    """The text of a template with its holes filled."""
    return environment().get_template(template).render(**holes)


def compile_all() -> int:
    """Have every template compiled and kept, as an installer has modules of Python; how many there are."""
    names = environment().list_templates(extensions=["j2"])
    for name in names:
        environment().get_template(name)
    return len(names)


def title(attention: Attention) -> list[str]:
    """The attention, printed, as the lines of a comment."""
    return print_attention(attention).splitlines()
