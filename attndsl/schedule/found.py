"""In words: how boxes are found on a GPU where the mask reads tensors."""

from __future__ import annotations

from dataclasses import replace

from attndsl.ir.attention import Attention
from attndsl.ir.expr import Index, Load, mentions, walk
from attndsl.ir.types import INT
from attndsl.schedule.build import build
from attndsl.schedule.candidates import MOST_LISTED, loosened
from attndsl.schedule.problem import Problem


def found_on_device(attention: Attention, problem: Problem) -> str | None:
    """How the boxes of a call of an attention (consts bound, simplified) are found on a GPU; None where its mask reads
    no tensors."""
    inputs = {p.name for p in attention.inputs}
    names = dict.fromkeys(n.tensor for n in walk(attention.mask) if isinstance(n, Load) and n.tensor in inputs)
    if not names:
        return None
    told = ", ".join(f"`{n}`" for n in names)
    if not attention.gridded or problem.moved:
        return f"boxes are found there from {told}, which the host does not read"
    mask = loosened(attention.mask, lambda n: isinstance(n, Load) and n.tensor in inputs)
    plan = build(replace(attention, mask=mask), replace(problem, tables={}))
    kinds = problem.sizes["B"] if mentions(attention.mask, lambda n: n == Index(INT, "b")) else 1
    if mentions(attention.mask, lambda n: n in (Index(INT, "h"), Index(INT, "hkv"))):
        kinds *= problem.sizes["H"]
    left = f"{plan.visited} of {plan.total} boxes that the rest of the mask leaves"
    if plan.visited * kinds > MOST_LISTED:
        return f"{left} are visited with mask code: too many to look at before, so that {told} rule out none"
    return f"boxes are found there from {told}, which the host does not read, among {left}"
