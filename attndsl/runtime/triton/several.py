"""Kernels whose tiles have several dot products: how long their vectors may be."""

from __future__ import annotations

from collections.abc import Mapping

from attndsl.ir.attention import Attention
from attndsl.ir.expr import Size

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


def check_depth(attention: Attention, sizes: Mapping[str, int]) -> None:
    """ValueError where the vectors of several dot products are too long for tiles."""
    further = depths(attention, sizes)
    if further and (sizes["D"] + sum(further) > MOST_COMPONENTS or max(further) > LARGEST_HEAD):
        raise ValueError(
            f"{attention.name}: backend 'triton' has dot products of at most {LARGEST_HEAD} components each and "
            f"{MOST_COMPONENTS} together, got {', '.join(map(str, (sizes['D'], *further)))}; backend 'cpu' has no limit"
        )
