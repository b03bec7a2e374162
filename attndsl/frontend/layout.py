"""Documents that fit a width: groups are printed on one line where they fit, else broken at their lines.

The algorithm is that of Wadler, "A prettier printer", 2003, with an explicit stack.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """A space, or nothing, where the group is on one line; a new line where it is broken."""

    flat: str = " "


@dataclass(frozen=True)
class OnlyBroken:
    """Text that stands only where the group is broken, such as a trailing comma."""

    text: str


@dataclass(frozen=True)
class Nest:
    """Lines inside are indented by four more."""

    body: Doc


@dataclass(frozen=True)
class Group:
    """Printed flat if it fits; `broken` forces its lines."""

    body: Doc
    broken: bool = False


@dataclass(frozen=True)
class Join:
    parts: tuple[Doc, ...]


Doc = str | Line | OnlyBroken | Nest | Group | Join

LINE = Line()
SOFT = Line("")


def join(*parts: Doc) -> Doc:
    return Join(parts)


def separated(items: Iterable[Doc]) -> Doc:
    """Items with commas and lines between them."""
    parts: list[Doc] = []
    for item in items:
        if parts:
            parts += [",", LINE]
        parts.append(item)
    return Join(tuple(parts))


def render(doc: Doc, indent: int, width: int, after: int = 0) -> str:
    """The text of a document that starts at column `indent`; `after` columns follow its last line."""
    out: list[str] = []
    column = indent
    stack: list[tuple[int, bool, Doc]] = [(indent, False, Group(doc))]
    while stack:
        level, flat, node = stack.pop()
        if isinstance(node, str):
            out.append(node)
            column += len(node)
        elif isinstance(node, Line):
            if flat:
                out.append(node.flat)
                column += len(node.flat)
            else:
                out.append("\n" + " " * level)
                column = level
        elif isinstance(node, OnlyBroken):
            if not flat:
                out.append(node.text)
                column += len(node.text)
        elif isinstance(node, Nest):
            stack.append((level + 4, flat, node.body))
        elif isinstance(node, Group):
            one_line = not node.broken and (flat or _fits(node.body, width - column - after, stack))
            stack.append((level, one_line, node.body))
        else:
            stack.extend((level, flat, part) for part in reversed(node.parts))
    return "".join(out)


def _fits(doc: Doc, room: int, rest: list[tuple[int, bool, Doc]]) -> bool:
    """Whether a document fits flat, together with what follows it on the same line."""
    todo: list[tuple[bool, Doc]] = [(True, doc)]
    following = len(rest)
    while room >= 0:
        if not todo:
            if following == 0:
                return True
            following -= 1
            _, flat, node = rest[following]
            todo.append((flat, node))
            continue
        flat, node = todo.pop()
        if isinstance(node, str):
            room -= len(node)
        elif isinstance(node, Line):
            if not flat:
                return True
            room -= len(node.flat)
        elif isinstance(node, Nest):
            todo.append((flat, node.body))
        elif isinstance(node, Group):
            if node.broken:
                return not flat
            todo.append((flat, node.body))
        elif isinstance(node, Join):
            todo.extend((flat, part) for part in reversed(node.parts))
        elif not flat:
            room -= len(node.text)
    return False
