"""torch.vmap of the attention operator: the mapped dimension joins the batch where an attention allows it, and is
looped over where it does not (a mapped tensor without a batch dimension, a mapped number, a spec that computes
with `b`)."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from attndsl.ir.attention import Attention
from attndsl.ir.expr import Decay, Expr, Index, Load, Size
from attndsl.runtime.call import Kept, Saved
from attndsl.runtime.given import Given
from attndsl.runtime.host import meaning
from attndsl.runtime.registry import runner_of

_FIELDS = len(Given._fields)
Dims = Any
"""The mapped dimension of an argument, None where there is none; a list of them for a list."""


def attend_batched(info: Any, dims: tuple[Dims, ...], *args: Any) -> tuple[Any, Any]:
    """The rule of `attndsl::attend`: both lists of its results, mapped along dimension 0."""
    op: Any = torch.ops.attndsl.attend.default
    given, rest = Given(*args[:_FIELDS]), args[_FIELDS:]
    count: int = info.batch_size
    folded = _folded(given, dims, count)
    if folded is not None:
        results, kept = op(*folded, *rest)
        own = [s.batch for s in saves_of(folded, rest[0]) if isinstance(s, Kept)] if kept else []
        parts = (results, [0] * len(results)), (kept, own)
        found = tuple([_unfold(t, count, b) for t, b in zip(*part, strict=True)] for part in parts)
    else:
        found = _stacked([op(*(_at(a, d, i) for a, d in zip(args, dims, strict=True))) for i in range(count)])
    return found, tuple([0] * len(part) for part in found)


def backward_batched(info: Any, dims: tuple[Dims, ...], *args: Any) -> tuple[Any, Any]:
    """The rule of `attndsl::attend_backward`."""
    op: Any = torch.ops.attndsl.attend_backward.default
    given, (saved, grads, places, needs) = Given(*args[:_FIELDS]), args[_FIELDS:]
    count: int = info.batch_size
    folded = _folded(given, dims, count)
    places_of_batch = (0, 0, 0, *_batch_dimensions(runner_of(given.spec).attention))
    chosen = [d for d, n in zip(places_of_batch, needs, strict=True) if n]
    wanted = [d for d in chosen if d is not None]
    if folded is not None and wanted == chosen:
        own = [s.batch if isinstance(s, Kept) else 0 for s in saves_of(folded, False)]
        parts = zip((saved, grads), dims[_FIELDS : _FIELDS + 2], (own, [0] * len(grads)), strict=True)
        more = [[_fold(t, d, b, count) for t, d, b in zip(*part, strict=True)] for part in parts]
        found = [_unfold(t, count, d) for t, d in zip(op(*folded, *more, places, needs), wanted, strict=True)]
    else:
        (found,) = _stacked([(op(*(_at(a, d, i) for a, d in zip(args, dims, strict=True))),) for i in range(count)])
    return found, [0] * len(found)


def saves_of(given: Given, need_lse: bool) -> tuple[Saved, ...]:
    """What the kernel of a call saves for backward."""
    # a kernel that is made now must not be made of a tracer's tensors
    with _disable_current_modes():
        return runner_of(given.spec).saves(given, need_lse)


def _folded(given: Given, dims: tuple[Dims, ...], count: int) -> Given | None:
    """The call with the mapped dimension in its batch; None where that would mean something else."""
    attention = runner_of(given.spec).attention
    in_batch = _batch_dimensions(attention)
    at: Any = Given(*dims[:_FIELDS])
    inputs, numbers = list(at.inputs), list(at.numbers)
    if count == 0 or not _only_reads(attention) or any(d is not None for d in numbers):
        return None
    if any(d is not None and b is None for d, b in zip(inputs, in_batch, strict=True)):
        return None
    per_batch = {len(attention.scalars) + 1}
    return given._replace(
        q=_fold(given.q, at.q, 0, count),
        k=_fold(given.k, at.k, 0, count),
        v=_fold(given.v, at.v, 0, count),
        inputs=[t if b is None else _fold(t, d, b, count)
                for t, d, b in zip(given.inputs, inputs, in_batch, strict=True)],
        numbers=[t.repeat(count) if place in per_batch and t.ndim else t
                 for place, t in zip(given.places, given.numbers, strict=True)],
    )  # fmt: skip


def _fold(tensor: Tensor, mapped: int | None, batch: int, count: int) -> Tensor:
    """Dimension `batch` of the tensor without its mapped dimension, times the mapped one."""
    if mapped is None:
        whole = tensor.unsqueeze(batch).expand(*tensor.shape[:batch], count, *tensor.shape[batch:])
    else:
        whole = tensor.movedim(mapped, batch)
    return whole.reshape(*whole.shape[:batch], count * whole.shape[batch + 1], *whole.shape[batch + 2 :])


def _unfold(tensor: Tensor, count: int, batch: int = 0) -> Tensor:
    """The mapped dimension in front of the others."""
    return tensor.unflatten(batch, (count, tensor.shape[batch] // count)).movedim(batch, 0)


def _at(argument: Any, dims: Dims, i: int) -> Any:
    """An argument for one place of the mapped dimension."""
    if isinstance(dims, (list, tuple)):
        return [_at(a, d, i) for a, d in zip(argument, dims, strict=True)]
    return argument if dims is None else argument.select(dims, i)


def _stacked(found: Sequence[Sequence[Sequence[Tensor]]]) -> tuple[list[Tensor], ...]:
    if not found:
        raise ValueError("vmap over a dimension of size 0 needs tensors that can join the batch")
    return tuple([torch.stack(ts) for ts in zip(*parts, strict=True)] for parts in zip(*found, strict=True))


@lru_cache(maxsize=256)
def _batch_dimensions(attention: Attention) -> tuple[int | None, ...]:
    """For each input its dimension B, None without one."""
    found: list[int | None] = []
    for param in attention.inputs:
        at = [i for i, n in enumerate(param.shape) if isinstance(n, Size) and n.name == "B"]
        found.append(at[0] if len(at) == 1 else None)
    return tuple(found)


@lru_cache(maxsize=256)
def _only_reads(attention: Attention) -> bool:
    """Whether the batch index does nothing but choose an element along a dimension B, and no value depends on B."""
    in_batch: dict[str, int | None] = {"Q": 0, "K": 0, "V": 0}
    in_batch |= dict(zip((i.name for i in attention.inputs), _batch_dimensions(attention), strict=True))
    seen: set[Expr] = set()

    def clean(expr: Expr) -> bool:
        if expr in seen:
            return True
        if isinstance(expr, Index | Size) and expr.name in ("b", "B"):
            return False
        children: Sequence[Expr] = expr.children
        if isinstance(expr, Load | Decay):
            at = in_batch.get(expr.tensor)
            if at is not None:
                own = children[at] if at < len(children) else None
                if not (isinstance(own, Index) and own.name == "b"):
                    return False
                children = [e for i, e in enumerate(children) if i != at]
        found = all(map(clean, children))
        seen.add(expr)
        return found

    shapes = [e for i in attention.inputs for e in i.shape if not isinstance(e, Size)]
    return all(map(clean, (*meaning(attention), *(r.condition for r in attention.requires), *shapes)))
