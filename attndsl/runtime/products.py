"""Products of the components of vectors, in torch."""
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import torch
from torch import Tensor


def outer(x: Tensor, y: Tensor) -> Tensor:
    """All products of a component of x and one of y, x's row by row."""
    return (x[..., :, None] * y[..., None, :]).flatten(-2)


def distinct(x: Tensor, y: Tensor | None = None) -> Tensor:
    """The products of every two different components, in the order of the IR's `distinct`; with `y`, a multiple of x,
    the second of each is y's."""
    size = x.shape[-1]
    n = torch.arange(size * (size - 1) // 2, device=x.device)
    i = n % max(size, 1)
    j = (i + torch.div(n, max(size, 1), rounding_mode="floor") + 1) % max(size, 1)
    # selected from all products: gradients of selected components would be added up in no fixed order
    return outer(x, x if y is None else y).index_select(-1, i * size + j)
