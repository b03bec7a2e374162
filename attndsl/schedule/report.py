"""A plan in words."""

from __future__ import annotations

from attndsl.ir.attention import Attention
from attndsl.schedule.plan import Plan
from attndsl.schedule.predict import Prediction, predict
from attndsl.schedule.problem import Problem
from attndsl.schedule.scan_report import scan_report


def report(attention: Attention, problem: Problem, plan: Plan) -> str:
    """Why the plan of a call is what it is: tiles, bounds, ranges, what is not exact."""
    sizes = ", ".join(f"{n}={v}" for n, v in problem.sizes.items())
    bounds = plan.bounds
    scan = scan_report(attention, problem)
    lines = [
        f"{attention.name}: {sizes}",
        *([] if scan is None else [f"{what}: {text}" for what, text in scan.lines.items()]),
        f"tiles: {plan.visited} of {plan.total} visited, {plan.full} full, {plan.partial} partial",
        "exact: every partial tile has a visible and an invisible pair"
        if plan.exact
        else "sound, not exact: some partial tiles may be full or empty",
    ]
    for piece in plan.forward.pieces:
        where = f" {piece.rows.segment} x {piece.cols.segment}" if piece.rows.segment or piece.cols.segment else ""
        splits = [f"{a.name} by {a.split}" for a in piece.rows.axes if a.split > 1]
        split = f", split {', '.join(splits)}" if splits else ""
        lines.append(f"boxes{where}: q {_shape(piece.rows.box)}, k {_shape(piece.cols.box)}{split}")
    if bounds.dense_over_pairs is not None:
        lines.append(f"bound by pairs: {bounds.dense_over_pairs:.2f}x over dense")
    lines.append(f"bound by tiles: {bounds.dense_over_tiles:.2f}x over dense")
    lines.append(f"boxes per q tile: mean {bounds.boxes_mean:.1f}, worst {bounds.boxes_worst}")
    lines.append(f"predicted: {prediction_line(predict(plan, problem))}")
    lines += [f"visible: {line}" for line in plan.closed_form]
    lines += [f"note: {line}" for line in plan.reasons]
    return "\n".join(lines)


def prediction_line(found: Prediction) -> str:
    """A prediction as a line of text."""
    limit = "matrix work" if found.work >= found.bytes else "memory traffic"
    return f"{found.seconds * 1e3:.3g} ms forward in bf16 on an {found.machine}, bound by {limit}"


def _shape(box: tuple[int, ...]) -> str:
    return " x ".join(map(str, box))
