"""`attndsl explain --dump`: every stage of a compilation, one after another."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, cast

from attndsl.cli.output import OK, print_json
from attndsl.cli.planning import Planned
from attndsl.cli.setup import Setup
from attndsl.schedule.plan import AxisRanges, Blocks, Piece, Plan, Product, TileClass

SHOWN = 6
"""Most ranges of an axis that are written out."""


def dump_stages(file: str, setup: Setup, planned: Planned, as_json: bool) -> int:
    """Print the tree, the typed IR with its consts, the simplified IR, the plan and the generated source."""
    from attndsl.ir.printer import print_attention

    stages: dict[str, str] = {}
    if file != "-":
        stages["tree"] = _tree(file, setup.attention.name)
    stages["ir"] = print_attention(setup.attention)
    stages["simplified"] = print_attention(planned.simplified)
    stages["plan"] = plan_text(planned.plan)
    stages["source"] = _source(setup)
    if as_json:
        print_json(stages)
    else:
        for title, text in stages.items():
            print(f"-- {title} --\n{text.rstrip()}\n")
    return OK


def _tree(file: str, name: str) -> str:
    from attndsl.frontend.modules import read_program

    program = read_program(Path(file))
    return "\n".join(node_text(block) for block in program.file.attentions if block.name == name)


def node_text(node: Any, indent: int = 0) -> str:
    """A tree node, one field a line, fields that are nodes indented below it."""
    pad = "  " * indent
    if isinstance(node, tuple):
        return "\n".join(node_text(item, indent) for item in cast(tuple[Any, ...], node))
    if not is_dataclass(node) or isinstance(node, type):
        return f"{pad}{node!r}"
    plain: list[str] = []
    nested: list[str] = []
    for field in fields(node):
        value = getattr(node, field.name)
        if field.name.endswith("span") or field.name.endswith("spans") or value in ((), None):
            continue
        items = cast(tuple[Any, ...], value) if isinstance(value, tuple) else (value,)
        if any(is_dataclass(item) for item in items):
            nested += [f"{pad}  {field.name}:", node_text(value, indent + 2)]
        else:
            plain.append(f"{field.name}={value!r}")
    return "\n".join([f"{pad}{type(node).__name__} {' '.join(plain)}".rstrip(), *nested])


def plan_text(plan: Plan) -> str:
    """Both passes of a plan, with the first ranges of each axis."""
    lines: list[str] = []
    for sweep in (plan.forward, plan.dkdv):
        lines.append(f"pass {sweep.kind}")
        for piece in sweep.pieces:
            lines += [f"  {line}" for line in _piece(piece)]
    return "\n".join(lines)


def _piece(piece: Piece) -> list[str]:
    def layout(side: str, it: Any) -> str:
        axes = ", ".join(
            f"{a.name or 'position'}: {a.extent} in boxes of {a.box}" + (f" of {a.split} residues" * (a.split > 1))
            for a in it.axes
        )
        return f"{side} {it.segment or 'sequence'} from {it.start} ({axes})"

    lines = [layout("rows", piece.rows), layout("cols", piece.cols)]
    for i, source in enumerate(piece.sources):
        lines.append(f"source {i}: {type(source).__name__.lower()}")
        match source:
            case Product(axes=axes):
                for axis, ranges in zip(piece.rows.axes, axes, strict=True):
                    lines += _ranges(axis.name or "position", ranges)
            case Blocks(indptr=indptr, first=first):
                lines.append(f"  {len(indptr) - 1} row tiles, {source.visited} boxes in {len(first)} runs")
    return lines


def _ranges(axis: str, ranges: AxisRanges) -> list[str]:
    lines = [f"  axis {axis}: {ranges.tiles} row tiles, {len(ranges.first)} ranges"]
    for t in range(min(SHOWN, ranges.tiles)):
        of = ranges.of(t)
        at = range(of.start, of.stop)
        runs = [f"{ranges.count[j]} {TileClass(int(ranges.kind[j])).name} from {ranges.first[j]}" for j in at]
        lines.append(f"    [{ranges.row_start[t]}, {ranges.row_stop[t]}): {', '.join(runs) or 'nothing'}")
    return lines


def _source(setup: Setup) -> str:
    load: Callable[..., Any] | None = None
    with suppress(ImportError):
        from attndsl.api import AttentionFunction

        load = AttentionFunction
    if load is None:
        return "(the generated source needs torch: pip install 'attndsl[torch]')"
    return str(load(setup.attention).source(backend="cpu"))
