"""Canonical text of a program, comments kept.

A comment at the end of a line stays behind what stands there; every other comment stays on a line of
its own above what follows it. One inside an expression moves above its clause. Blank lines are kept,
one at a time.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from attndsl.diagnostics.report import SpecError
from attndsl.diagnostics.source import Source
from attndsl.frontend import printer, tree
from attndsl.frontend.layout import Doc, join, render
from attndsl.frontend.lexer import Comment, tokenize
from attndsl.frontend.parser import parse

WIDTH = printer.WIDTH
Item = tree.Use | tree.Function | tree.AttentionBlock


def format_text(source: Source) -> str:
    """The canonical text of a source: the same tree, the same comments. SpecError if it does not parse."""
    file, found = parse(source)
    if found:
        raise SpecError(found)
    lexed = tokenize(source)
    starts = [t.start for t in lexed.tokens]
    return _Formatter(source, lexed.comments, starts).file(file)


def print_tree(file: tree.File) -> str:
    """The canonical text of a tree, wherever it comes from; without comments."""
    return _Formatter(None, (), []).file(file)


@dataclass
class _Lines:
    """Finished lines of one block."""

    lines: list[str]
    fresh: bool = True
    """Nothing stands in the block yet."""

    def add(self, text: str, blank: bool) -> None:
        if blank and not self.fresh:
            self.lines.append("")
        self.lines += text.split("\n")
        self.fresh = False


class _Formatter:
    def __init__(self, source: Source | None, comments: tuple[Comment, ...], starts: list[int]) -> None:
        self.text = source.text if source else ""
        self.has_source = source is not None
        self.comments = comments
        self.starts = starts
        self.index = 0

    # Comments

    def pending(self, stop: int) -> list[Comment]:
        """The comments before an offset that are not printed yet."""
        first = self.index
        while self.index < len(self.comments) and self.comments[self.index].start < stop:
            self.index += 1
        return list(self.comments[first : self.index])

    def trailing(self, stop: int) -> str:
        """The comment at the end of the line on which a piece ends, ready to append."""
        if self.index == len(self.comments):
            return ""
        comment = self.comments[self.index]
        between = self.text[stop : comment.start]
        if comment.start < stop or between.strip(" \t,)"):
            return ""
        self.index += 1
        return f"  {comment.text}"

    def blank_before(self, offset: int) -> bool:
        """Whether an empty line stands before an offset."""
        if not self.has_source:
            return False
        gap = self.text[:offset].rpartition("\n")
        return bool(gap[1]) and not gap[2].strip() and not gap[0].rpartition("\n")[2].strip() and bool(gap[0].strip())

    def next_token(self, offset: int) -> int:
        """Where the first token at or after an offset starts."""
        return self.starts[bisect_left(self.starts, offset)]

    # Pieces

    def place(self, out: _Lines, node: tree.Node, text: str, indent: int, blank: bool) -> None:
        """Add a piece with the comments above it and behind it."""
        blank = self.above(out, node, indent, blank)
        for comment in self.pending(node.span.stop) if self.has_source else []:
            out.add(" " * indent + comment.text, blank)
            blank = False
        out.add(text + (self.trailing(node.span.stop) if self.has_source else ""), blank)

    def rest(self, out: _Lines, stop: int, indent: int) -> None:
        """The comments that stand between the last piece of a block and its end."""
        for comment in self.pending(stop):
            out.add(" " * indent + comment.text, self.blank_before(comment.start))

    def simple(self, doc: Doc, indent: int) -> str:
        return " " * indent + render(doc, indent, WIDTH)

    def file(self, file: tree.File) -> str:
        items: list[Item] = [*file.uses, *file.functions, *file.attentions]
        if self.has_source:
            items.sort(key=lambda item: item.span.start)
        out = _Lines([])
        before: Item | None = None
        for item in items:
            apart = before is not None and (
                _is_block(before) or _is_block(item) or isinstance(before, tree.Use) != isinstance(item, tree.Use)
            )
            self.item(out, item, apart)
            before = item
        self.rest(out, len(self.text) + 1, 0)
        return "".join(f"{line}\n" for line in out.lines)

    def item(self, out: _Lines, item: Item, blank: bool) -> None:
        if isinstance(item, tree.AttentionBlock):
            self.attention(out, item, blank)
        elif isinstance(item, tree.Function) and item.statements:
            self.function(out, item, 0, blank)
        else:
            doc = printer.use(item) if isinstance(item, tree.Use) else printer.clause(item)
            self.place(out, item, self.simple(doc, 0), 0, blank)

    def above(self, out: _Lines, node: tree.Node, indent: int, blank: bool) -> bool:
        """The comments above a block; returns whether the block itself needs an empty line before it."""
        for comment in self.pending(node.span.start) if self.has_source else []:
            out.add(" " * indent + comment.text, blank or self.blank_before(comment.start))
            blank = False
        return blank or (self.has_source and self.blank_before(node.span.start))

    def function(self, out: _Lines, node: tree.Function, indent: int, blank: bool) -> None:
        """A function with a block."""
        blank = self.above(out, node, indent, blank)
        out.add(self.simple(printer.function_head(node), indent) + " {", blank)
        body = _Lines(out.lines)
        for statement in node.statements:
            self.place(body, statement, self.simple(printer.clause(statement), indent + 4), indent + 4, False)
        value = join("return ", printer.expression(node.value))
        self.place(body, _returned(node, self.starts, self.text), self.simple(value, indent + 4), indent + 4, False)
        self.rest(body, node.span.stop, indent + 4)
        out.add(" " * indent + "}" + (self.trailing(node.span.stop) if self.has_source else ""), False)

    def attention(self, out: _Lines, node: tree.AttentionBlock, blank: bool) -> None:
        blank = self.above(out, node, 0, blank)
        self.head(out, node, blank)
        body = _Lines(out.lines)
        for clause in node.clauses:
            if isinstance(clause, tree.Function) and clause.statements:
                self.function(body, clause, 4, False)
            else:
                self.place(body, clause, self.simple(printer.clause(clause), 4), 4, False)
        if self.has_source:
            self.rest(body, node.span.stop, 4)
        end = self.trailing(node.span.stop) if self.has_source else ""
        if body.fresh and not end:
            out.lines[-1] += "}"
        elif body.fresh:
            out.lines[-1] += "}" + end
        else:
            out.add("}" + end, False)

    def head(self, out: _Lines, node: tree.AttentionBlock, blank: bool) -> None:
        """The line or lines up to `{`."""
        parameters = [printer.parameter(p) for p in node.parameters]
        last = node.parameters[-1].span.stop if node.parameters else 0
        close = self.closing(last) if self.has_source and parameters else 0
        if not any(node.span.start <= c.start < close for c in self.comments[self.index :]):
            out.add(render(printer.attention_head(node.name, parameters), 0, WIDTH), blank)
            return
        out.add(f"attention {node.name}(", blank)
        listed = _Lines(out.lines)
        for p, doc in zip(node.parameters, parameters, strict=True):
            self.place(listed, p, self.simple(doc, 4) + ",", 4, False)
        self.rest(listed, close, 4)
        out.add(") {", False)

    def closing(self, offset: int) -> int:
        """Where the `)` after the last parameter stands."""
        start = self.next_token(offset)
        return self.next_token(start + 1) if self.text[start] == "," else start


def _is_block(item: Item) -> bool:
    return isinstance(item, tree.AttentionBlock) or (isinstance(item, tree.Function) and bool(item.statements))


def _returned(node: tree.Function, starts: list[int], text: str) -> tree.Node:
    """A node that spans `return` and its value."""
    if not starts:
        return node.value
    i = bisect_left(starts, node.value.span.start)
    while not text.startswith("return", starts[i]):
        i -= 1
    return tree.Node(span=type(node.span)(node.span.source, starts[i], node.value.span.stop))
