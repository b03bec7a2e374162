"""Kernels whose tiles have several dot products, or sums over components: how many, and how long vectors may be."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from attndsl.ir.attention import Attention
from attndsl.ir.channels import numbered, reduces_components
from attndsl.ir.expr import Size, mentions, walk
from attndsl.ir.types import INT

LARGEST_HEAD = 256
"""Components of a vector of one dot product, and of a value."""
STAGE_WIDTH = 16
"""Components of the values of a stage, and of the vectors of one that multiplies none: as few as matrix units take."""
MOST_COMPONENTS = 512
"""Components of a query in all dot products: tiles of more do not fit."""


def depths(attention: Attention, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The components of the further dot products of an attention, from the sizes of a call."""
    found: list[int] = []
    for query, _ in attention.products:
        extent = query.shape[-1]
        assert isinstance(extent, Size)
        found.append(sizes[extent.name])
    return tuple(found)


def depth(attention: Attention, sizes: Mapping[str, int]) -> int:
    """The components of a query in all dot products."""
    return sizes["D"] + sum(depths(attention, sizes))


def pair_tiles(attention: Attention) -> int:
    """How many numbers a kernel keeps of every pair for its score: dot products, sums over components, and of these the
    components that are under way, one of each column for few rows of a thread, and where these move two more."""
    clauses = [e for e in (attention.score, attention.weight) if e is not None]
    sums = {n for e in clauses for n in walk(e) if reduces_components(n)}
    rows = sum(p.shape[2] == Size(INT, "Lq") for p in attention.channels)
    moved = 2 * sum(map(numbered, sums))
    return 1 + len(attention.products) + len(sums) + moved + max(rows, len(attention.channels) - rows)


@lru_cache(maxsize=512)
def sums_components(attention: Attention) -> bool:
    """Whether kernels sum over the components of vectors of the pair."""
    clauses = [e for e in (attention.score, attention.weight) if e is not None]
    return bool(attention.channels) or any(mentions(e, numbered) for e in clauses)


def check_depth(attention: Attention, sizes: Mapping[str, int]) -> None:
    """ValueError where the vectors of several dot products are too long for tiles."""
    further = depths(attention, sizes)
    if further and (sizes["D"] + sum(further) > MOST_COMPONENTS or max(further) > LARGEST_HEAD):
        raise ValueError(
            f"{attention.name}: backend 'triton' has dot products of at most {LARGEST_HEAD} components each and "
            f"{MOST_COMPONENTS} together, got {', '.join(map(str, (sizes['D'], *further)))}; backend 'cpu' has no limit"
        )
