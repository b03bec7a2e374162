"""What a generated function is called with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Argument:
    """An argument `name`. `source` says where its value comes from: `index`, `coord`, `member`, `extent`, `size`,
    `scalar`, `value` (s, o, alive, count, offset), `tensor`, `own` (the row or column of Q, K or V itself) or
    `prefix` (prefix sums of a decay); `key` which one."""

    name: str
    source: str
    key: tuple[str | int, ...]


@dataclass(frozen=True)
class Function:
    """A function of a generated module."""

    name: str
    doc: str
    arguments: tuple[Argument, ...]
    lines: tuple[str, ...]
    result: str

    def reads(self, source: str) -> bool:
        """Whether any argument comes from this source."""
        return any(a.source == source for a in self.arguments)

    def names(self, *sources: str) -> frozenset[str]:
        """First keys of the arguments from these sources."""
        return frozenset(str(a.key[0]) for a in self.arguments if a.source in sources)
