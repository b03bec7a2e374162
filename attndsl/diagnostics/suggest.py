"""Did-you-mean."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def closest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate that was probably meant, or None. Case alone never keeps two words apart."""
    names = sorted(set(candidates) - {word})
    lowered = [n for n in names if n.lower() == word.lower()]
    if lowered:
        return lowered[0]
    if len(word) == 1:
        return None
    found = get_close_matches(word, names, n=1, cutoff=0.6)
    return found[0] if found else None


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """A help line such as "did you mean `causal`?", or the empty string."""
    found = closest(word, candidates)
    return f"did you mean `{found}`?" if found else ""
