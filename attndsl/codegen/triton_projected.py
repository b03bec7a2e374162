"""What an attention's Triton source reads like where vectors of positions are computed before its kernels."""

from __future__ import annotations

from attndsl.codegen.triton import typical_source
from attndsl.ir.attention import Attention
from attndsl.ir.infix import infix
from attndsl.ir.projection import Projection, projection


def projected_source(attention: Attention) -> str:
    """As `typical_source`, below a note of what torch computes first."""
    found = projection(attention)
    if not isinstance(found, Projection):
        return typical_source(attention)
    lines = ["# Computed first, once a position:"]
    if found.vectors is not None:
        lines += [f"# q = {infix(found.vectors.query)}", f"# k = {infix(found.vectors.key)}"]
    lines += [f"# {n.name} = {infix(n.value)}" for n in found.numbers]
    for p in found.prefixes:
        names = ", ".join(f"{name} + {rest}" for name, rest in (p.rows, p.keys))
        lines.append(f"# {names}: prefix sums of {p.tensor}")
    return "\n".join(lines) + "\n\n" + typical_source(found.inner)
