"""What the Triton backend runs for an attention: its source, readable, and in words."""

from __future__ import annotations

from collections.abc import Sequence

from attndsl.codegen.triton import supported, typical_source
from attndsl.codegen.triton_arguments import operands
from attndsl.ir.attention import Attention
from attndsl.ir.finished import Finished, finished
from attndsl.ir.infix import infix
from attndsl.ir.projection import Projection, projection
from attndsl.ir.statistics import Stage, Staged, staged
from attndsl.schedule.legalise import scan_form


def source_of(attention: Attention) -> str:
    """The kernels of a likely call, below a note of what torch computes first. ValueError where the backend cannot run
    the attention."""
    # explanations answer without it
    from attndsl.codegen.triton_scan_source import typical_scan

    scan = typical_scan(attention)
    if scan:
        return scan
    after = finished(attention)
    if after is not None:
        return f"{source_of(after.inner)}\n\n{_note('Computed last, once a row:', [_last(after)])}\n"
    found = projection(attention)
    if not isinstance(found, Projection):
        return _staged_source(attention)
    return f"{_note('Computed first, once a position:', _first(found))}\n\n{_staged_source(found.inner)}"


def _staged_source(attention: Attention) -> str:
    """The kernels of stages, each below a note of what follows from it, and of what runs after them."""
    found = staged(attention)
    if not isinstance(found, Staged):
        return typical_source(attention)
    parts: list[str] = []
    for stage in found.stages:
        parts += [_note("Added up first, over the row:", _stage(stage)), typical_source(stage.forward)]
    return "\n\n".join((*parts, typical_source(found.inner)))


def _note(title: str, lines: Sequence[str]) -> str:
    return "\n".join(f"# {line}" for line in (title, *lines))


def gpu_way(attention: Attention) -> str:
    """What computes an attention on a GPU, in words."""
    if scan_form(attention).form is not None:
        return "kernels linear in the length; tiles of pairs where lengths or offsets do not allow them"
    last = finished(attention)
    whole = attention if last is None else last.inner
    found = projection(whole)
    inner = found.inner if isinstance(found, Projection) else whole
    stages = staged(inner)
    try:
        for each in attentions_of(inner):
            supported(each)
    except ValueError as error:
        return str(error).removeprefix(f"{attention.name}: ")
    first = _first(found) if isinstance(found, Projection) else []
    if isinstance(stages, Staged):
        first += [line for stage in stages.stages for line in _stage(stage)]
    after = f", after {'; '.join(first)}" if first else ""
    return f"Triton kernels of tiles{after}{'' if last is None else f', then {_last(last)}'}"


def attentions_of(attention: Attention) -> tuple[Attention, ...]:
    """The attentions whose kernels run for one without vectors of one position: stages, and what reads their sums."""
    found = staged(attention)
    if not isinstance(found, Staged):
        return (attention,)
    swept = [a for s in found.stages for a in (s.forward, s.backward) if a is not None]
    return *swept, found.inner


def _stage(stage: Stage) -> list[str]:
    """What a stage adds up and what is known then, an assignment each."""
    lines = [f"{name} = sum({infix(body)})" for name, body in stage.sums]
    lines += [f"{stage.count} = count"] if stage.count else []
    return [*lines, *(f"{n.name} = {infix(n.value)}" for n in stage.numbers)]


def _last(found: Finished) -> str:
    """What is computed after the kernels."""
    return f"o = {infix(found.output)}"


def _first(found: Projection) -> list[str]:
    """What is computed before the kernels, an assignment each."""
    lines: list[str] = []
    if found.vectors is not None:
        lines += [f"q = {infix(found.vectors.query)}", f"k = {infix(found.vectors.key)}"]
    for name, pair in operands(found.inner.products).items():
        vectors = next(p.vectors for p in found.products if pair in (p.query, p.key))
        lines.append(f"{name} = {infix(vectors.query if name[0] == 'q' else vectors.key)}")
    lines += [f"{n.name} = {infix(n.value)}" for n in (*found.numbers, *found.channels, *found.gates)]
    lines += [
        f"{t.name}[.., j] = dot({infix(t.vector)}, {t.tensor}[{', '.join([*map(infix, t.lead), 'j'])}])"
        for t in found.tables
    ]
    for p in found.prefixes:
        names = ", ".join(f"{name} + {rest}" for name, rest in (p.rows, p.keys))
        lines.append(f"{names} = sums of {p.tensor} up to a position")
    return lines
