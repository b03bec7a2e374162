"""Whether a mask implies k <= q, as `decay` needs: it runs over the keys after k, up to q."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from attndsl.ir.attention import Attention
from attndsl.ir.expr import Decay, Expr, Index, Literal, Op, op, walk
from attndsl.ir.types import INT
from attndsl.schedule.build import build
from attndsl.schedule.problem import Problem

_Q, _K = Index(INT, "q"), Index(INT, "k")
_CAUSAL = (op("le", _K, _Q), op("lt", _K, _Q), op("ge", _Q, _K), op("gt", _Q, _K), op("eq", _K, _Q), op("eq", _Q, _K))


def implies_causal(attention: Attention, problem: Problem) -> bool:
    """Whether every visible pair of a call has k <= q. True is a proof; False where none was found.

    A condition `k <= q` of the mask is enough. Otherwise the pairs with k > q are planned: there are none if no box is
    visited, for boxes without a visible pair are the only ones that are left out.
    """
    if any(part in _CAUSAL for part in _conjuncts(attention.mask)):
        return True
    later = replace(attention, mask=op("and", attention.mask, op("gt", _K, _Q)), weight=None, output=None)
    return build(later, problem).visited == 0


def check_decay(attention: Attention, problem: Problem) -> None:
    """ValueError for an attention with a `decay` whose mask does not imply k <= q in this call."""
    decays = dict.fromkeys(
        node.tensor
        for root in (attention.score, attention.weight)
        if root is not None
        for node in walk(root)
        if isinstance(node, Decay)
    )
    if decays and not implies_causal(attention, problem):
        names = ", ".join(f"`decay({name})`" for name in decays)
        raise ValueError(
            f"{attention.name}: {names} needs a mask that implies k <= q, and this one does not, or not in a way that "
            "can be proven; add the clause `mask k <= q`"
        )


def _conjuncts(mask: Expr) -> Iterator[Expr]:
    stack = [mask]
    while stack:
        node = stack.pop()
        if isinstance(node, Op) and node.op == "and":
            stack.extend(node.args)
        elif not isinstance(node, Literal):
            yield node
