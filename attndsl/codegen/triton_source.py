"""What the Triton backend runs for an attention: its source, readable, and in words."""

from __future__ import annotations

from attndsl.codegen.triton import supported, typical_source
from attndsl.codegen.triton_arguments import operands
from attndsl.codegen.triton_scan_source import typical_scan
from attndsl.ir.attention import Attention
from attndsl.ir.infix import infix
from attndsl.ir.projection import Projection, projection
from attndsl.schedule.legalise import scan_form


def source_of(attention: Attention) -> str:
    """The kernels of a likely call, below a note of what torch computes first. ValueError where the backend cannot run
    the attention."""
    scan = typical_scan(attention)
    if scan:
        return scan
    found = projection(attention)
    if not isinstance(found, Projection):
        return typical_source(attention)
    note = "\n".join(f"# {line}" for line in ("Computed first, once a position:", *_first(found)))
    return f"{note}\n\n{typical_source(found.inner)}"


def gpu_way(attention: Attention) -> str:
    """What computes an attention on a GPU, in words."""
    if scan_form(attention).form is not None:
        return "kernels linear in the length; tiles of pairs where lengths or offsets do not allow them"
    found = projection(attention)
    inner = found.inner if isinstance(found, Projection) else attention
    try:
        supported(inner)
    except ValueError as error:
        return str(error).removeprefix(f"{attention.name}: ")
    first = f", after {'; '.join(_first(found))}" if isinstance(found, Projection) else ""
    return f"Triton kernels of tiles{first}"


def _first(found: Projection) -> list[str]:
    """What is computed before the kernels, an assignment each."""
    lines: list[str] = []
    if found.vectors is not None:
        lines += [f"q = {infix(found.vectors.query)}", f"k = {infix(found.vectors.key)}"]
    for name, pair in operands(found.inner.products).items():
        vectors = next(p.vectors for p in found.products if pair in (p.query, p.key))
        lines.append(f"{name} = {infix(vectors.query if name[0] == 'q' else vectors.key)}")
    lines += [f"{n.name} = {infix(n.value)}" for n in found.numbers]
    lines += [
        f"{t.name}[.., j] = dot({infix(t.vector)}, {t.tensor}[{', '.join([*map(infix, t.lead), 'j'])}])"
        for t in found.tables
    ]
    for p in found.prefixes:
        names = ", ".join(f"{name} + {rest}" for name, rest in (p.rows, p.keys))
        lines.append(f"{names} = sums of {p.tensor} up to a position")
    return lines
