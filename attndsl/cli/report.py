"""A call and its plan in words and as data, as `run`, `explain` and their `--json` say them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from attndsl.cli.options import show_setting
from attndsl.cli.setup import Setup
from attndsl.schedule.plan import Plan


def settings_line(setup: Setup) -> str:
    """Consts and scalars, those that were chosen for want of any marked."""
    chosen = {c.partition("=")[0] for c in setup.chosen}
    parts = [f"{n}={show_setting(v)}" for n, v in (*_const_values(setup).items(), *setup.scalars.items())]
    parts = [f"{p} (chosen)" if p.partition("=")[0] in chosen else p for p in parts]
    return "  ".join(parts)


def _const_values(setup: Setup) -> dict[str, Any]:
    return {c.name: c.default for c in setup.attention.consts}


def plan_line(plan: Plan) -> str:
    exact = "exact" if plan.exact else "sound, not exact"
    return (
        f"{plan.visited:,} of {plan.total:,} tiles visited ({plan.full:,} full, {plan.partial:,} partial); "
        f"{exact}; {size(plan.nbytes)}"
    )


def tiles_line(plan: Plan) -> str:
    """Coordinates of a q box and of a k box, for each pair of segments."""
    parts: list[str] = []
    for p in plan.forward.pieces:
        where = f" ({p.rows.segment} x {p.cols.segment})" if len(plan.forward.pieces) > 1 else ""
        splits = [f", {a.name or 'q'} split by {a.split}" for a in p.rows.axes if a.split > 1]
        parts.append(f"q {_box(p.rows.box)}, k {_box(p.cols.box)}{''.join(splits)}{where}")
    return "; ".join(parts)


def _box(box: tuple[int, ...]) -> str:
    return "x".join(map(str, box))


def bounds_line(plan: Plan) -> str:
    b = plan.bounds
    pairs = "pairs not counted" if b.dense_over_pairs is None else f"pairs {ratio(b.dense_over_pairs)}"
    return (
        f"dense is {pairs}, tiles {ratio(b.dense_over_tiles)}; "
        f"boxes of a row tile: {b.boxes_mean:,.4g} on average, {b.boxes_worst:,} at worst"
    )


def ratio(value: float) -> str:
    return f"{value:,.2f}x" if value < 1000 else f"{value:,.0f}x"


def size(count: int) -> str:
    if count < 1024:
        return f"{count} bytes"
    return f"{count / 2**10:,.1f} KiB" if count < 2**20 else f"{count / 2**20:,.1f} MiB"


def plan_data(plan: Plan) -> dict[str, Any]:
    """The plan without its tables."""
    return {
        "visited": plan.visited,
        "full": plan.full,
        "partial": plan.partial,
        "total": plan.total,
        "exact": plan.exact,
        "bytes": plan.nbytes,
        "bounds": asdict(plan.bounds),
        "tiles": [{"q": list(p.rows.box), "k": list(p.cols.box)} for p in plan.forward.pieces],
        "closed_form": list(plan.closed_form),
        "reasons": list(plan.reasons),
    }


def call_data(setup: Setup) -> dict[str, Any]:
    """Sizes, settings and grid of a call; `chosen` is what the command line filled in."""
    data: dict[str, Any] = {
        "sizes": dict(setup.sizes),
        "consts": _const_values(setup),
        "scalars": dict(setup.scalars),
        "chosen": list(setup.chosen),
    }
    if setup.q_extents:
        data["q_grid"] = {n or "q": list(e) for n, e in setup.q_extents.items()}
    if setup.k_extents:
        data["k_grid"] = {n or "k": list(e) for n, e in setup.k_extents.items()}
    return data
