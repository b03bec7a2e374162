"""What a tile reads: pairs that count, run-time tensors, and the tape of reads that want gradients."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce

import torch
from torch import Tensor

PAIR_RANK = 6
"""Dimensions of a tile's pairs: batch, key head, tile, query head of the key head, row, column."""


@dataclass(frozen=True)
class Pairs:
    """The pairs of a tile that count: a bool mask that broadcasts over it (None: all), and its columns."""

    mask: Tensor | None
    columns: int

    def beside(self, x: Tensor) -> Tensor:
        """The mask with trailing dimensions for the components of x."""
        assert self.mask is not None
        return self.mask.reshape(self.mask.shape + (1,) * (x.ndim - self.mask.ndim))

    def count(self) -> Tensor:
        """How many count, by row."""
        if self.mask is None:
            return torch.full((1,) * PAIR_RANK, self.columns)
        expanded = self.mask.expand(*self.mask.shape[:-1], self.columns)
        return expanded.sum(-1, keepdim=True)


@dataclass
class Tape:
    """Reads made while a tile's derivative is taken: which elements, and the leaf that holds them."""

    reads: list[tuple[TensorSource, Tensor, Tensor]] = field(
        default_factory=list["tuple[TensorSource, Tensor, Tensor]"]
    )

    @property
    def leaves(self) -> list[Tensor]:
        return [leaf for _, _, leaf in self.reads]

    def collect(self, grads: list[Tensor | None]) -> None:
        """Add each leaf's gradient to the elements that it was read from."""
        for (source, at, _), grad in zip(self.reads, grads, strict=True):
            if grad is not None:
                source.accumulate(at, grad)


class TensorSource:
    """A run-time tensor as generated code reads it.

    `dtype` is what its elements are read as (int64 for ints), `result` what derived values have in the end. With a
    `tape` and `wants_gradient`, elements read become leaves whose gradients are summed into `grad` in a fixed order.
    """

    def __init__(
        self, tensor: Tensor, dtype: torch.dtype, result: torch.dtype | None = None, wants_gradient: bool = False
    ) -> None:
        self.tensor = tensor
        self.dtype = dtype
        self.result = dtype if result is None else result
        self.wants_gradient = wants_gradient
        self.tape: Tape | None = None
        self.grad: Tensor | None = None
        self.bounds: dict[int, tuple[Tensor, int]] = {}

    def read(self, at: tuple[Tensor, ...]) -> Tensor:
        """The elements at these indices, 0 outside; at least PAIR_RANK dimensions, then those of the rest."""
        t = self.tensor
        rest = tuple(t.shape[len(at) :])
        flat, inside = self._flatten(at)
        shape = (1,) * (PAIR_RANK - flat.ndim) + tuple(flat.shape)
        found = t.reshape(-1, *rest) if t.numel() else t.new_zeros((1, *rest))
        values = found.index_select(0, flat.reshape(-1)).to(self.dtype).reshape(shape + rest)
        if self.tape is not None and self.wants_gradient:
            values = values.detach().requires_grad_()
            self.tape.reads.append((self, flat, values))
        if inside is not None:
            inside = inside.reshape((1,) * (PAIR_RANK - inside.ndim) + tuple(inside.shape) + (1,) * len(rest))
            values = torch.where(inside, values, torch.zeros((), dtype=self.dtype))
        return values

    def _flatten(self, at: tuple[Tensor, ...]) -> tuple[Tensor, Tensor | None]:
        """Row-major numbers of the elements (or rows of the rest), and where they are inside, if not everywhere."""
        flat: Tensor | None = None
        insides: list[Tensor] = []
        for i, n in zip(at, self.tensor.shape, strict=False):
            known = self.bounds.get(id(i))
            if known is None or known[1] > n:
                inside = (i >= 0) & (i < n)
                if not bool(inside.all()):
                    insides.append(inside)
                    i = torch.where(inside, i, 0)
            flat = i if flat is None else flat * n + i
        if flat is None:
            flat = torch.zeros((), dtype=torch.int64)
        return flat, reduce(torch.logical_and, insides) if insides else None

    def accumulate(self, at: Tensor, grad: Tensor) -> None:
        """Add gradients of elements (numbered row-major) one after another."""
        rest = tuple(grad.shape[max(PAIR_RANK, at.ndim) :])
        if self.grad is None:
            count = max(1, self.tensor.numel()) // max(1, _product(rest))
            self.grad = torch.zeros((max(1, count), *rest), dtype=self.dtype)
        self.grad.index_add_(0, at.reshape(-1), grad.reshape(-1, *rest).to(self.dtype))

    def gradient(self) -> Tensor | None:
        """The gradient in the tensor's shape; None where nothing was read."""
        if self.grad is None:
            return None
        return self.grad.reshape(-1)[: self.tensor.numel()].reshape(self.tensor.shape)


def _product(shape: tuple[int, ...]) -> int:
    return reduce(lambda a, b: a * b, shape, 1)
