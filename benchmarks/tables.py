"""Rewrites the tables of numbers in the docs from committed results, so that none is typed by hand.

`<!-- table: NAME -->` ... `<!-- end -->` in a markdown file is filled from the newest file of
`benchmarks/results/NAME/*.json` (`<!-- table: NAME WHAT -->`: of `*-WHAT*.json`): an object with `rows`, a list of
objects whose entries are the columns; an entry that is an object is a column for each of its keys, one that is a list
(raw samples) is left out. Rows with a system (`sys`) are set beside each other, a line a workload; rows with medians by
name have a line a peer; rows with a group and a gain are joined to a line a group. Other entries of the whole that are
text or numbers stand below the table. `--check` writes nothing and exits 1 where a table is not up to date.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from statistics import geometric_mean
from typing import Any, cast

ROOT = Path(__file__).resolve().parents[1]
PLACE = re.compile(r"(<!-- table: (?P<name>[\w-]+)(?: (?P<what>[\w-]+))? -->\n)(?P<body>.*?)(<!-- end -->)", re.DOTALL)


def documents() -> list[Path]:
    """Markdown files that may hold tables."""
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


def filled(text: str) -> str:
    """The text with every table rewritten."""
    return PLACE.sub(lambda m: m[1] + table(m["name"], m["what"] or "") + m[5], text)


def table(name: str, what: str = "") -> str:
    """The markdown of the newest result of this name, of the measurements called `what`."""
    files = sorted((ROOT / "benchmarks" / "results" / name).glob(f"*-{what}*.json" if what else "*.json"))
    if not files:
        return "No results are committed yet.\n"
    data: dict[str, Any] = json.loads(files[-1].read_text())
    first = data["rows"][0]
    by_group = {"group", "gain"} <= {c for row in data["rows"] for c in row}
    shape = gains if by_group else _beside_peers if "sys" in first else _per_peer
    shape = shape if by_group or "sys" in first or "median_ms" in first else _flattened
    rows = shape(data["rows"])
    columns = list(dict.fromkeys(c for row in rows for c in row))
    lines = ["| " + " | ".join(c.replace("_", " ") for c in columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(_cell(row.get(c)) for c in columns) + " |" for row in rows]
    known = {k: v for k, v in _flat(data).items() if isinstance(v, (str, int, float))}
    facts = [f"{k.replace('_', ' ')}: {_cell(v)}" for k, v in known.items()]
    return "\n".join([*lines, "", "; ".join(facts), ""]) if facts else "\n".join([*lines, ""])


def gains(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Geometric mean, least and greatest gain of tuning, one row a group and pass."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if row.get("gain"):
            found.setdefault((row["group"], row["pass"]), []).append(row["gain"])
    return [
        {"group": group, "pass": step, "workloads": len(all_), "gain": geometric_mean(all_), "least": min(all_),
         "most": max(all_)}
        for (group, step), all_ in found.items()
    ]  # fmt: skip


def _flattened(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [_flat(row) for row in rows]


def _per_peer(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a problem and peer: medians of both and how much faster ours is."""
    return [
        {
            "problem": row["name"],
            "ours ms": row["median_ms"]["ours"],
            "peer": peer,
            "peer ms": row["median_ms"][peer],
            "faster by": ratio,
        }
        for row in rows
        for peer, ratio in row["ours_is_faster_by"].items()
    ]


def _system(name: str) -> tuple[str, str]:
    """Whose a row is, and which mechanism of a workload that has several it is about."""
    system, _, variant = name.partition(" ")
    if system.startswith("attndsl"):
        return "ours", variant
    return ("fla", system.removeprefix("fla-")) if system.startswith("fla-") else (system, variant)


_PARTS = ("attndsl-config", "attndsl-dq", "attndsl-dkdv", "attndsl-fused", "attndsl-kernels")
"""Systems whose rows are no workload as a whole, or not as it is chosen."""


def _beside_peers(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a workload and pass: our time, the peers' and how much faster ours is; refusals stand as a dash."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        if row["sys"].partition(" ")[0] in _PARTS or not isinstance(row["ms"], int | float):
            continue
        system, variant = _system(row["sys"])
        workload = f"{row['wl']} {variant}".strip()
        line = found.setdefault((workload, row["pas"]), {"workload": workload, "pass": row["pas"]})
        line[f"{system} ms"] = row["ms"]
    for line in found.values():
        peers = [v for n, v in line.items() if n.endswith(" ms") and n not in ("ours ms", "min-bytes ms")]
        if peers and "ours ms" in line:
            line["faster by"] = min(peers) / line["ours ms"]
    return list(found.values())


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            parts = cast(dict[str, Any], value)
            out |= {f"{name}, {part}": v for part, v in parts.items() if not isinstance(v, list)}
        elif not isinstance(value, list):
            out[name] = value
    return out


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def main(arguments: list[str]) -> int:
    stale: list[Path] = []
    for path in documents():
        text = path.read_text()
        new = filled(text)
        if new != text:
            stale.append(path)
            if "--check" not in arguments:
                path.write_text(new)
    for path in stale:
        print(f"{path.relative_to(ROOT)}: {'is not up to date' if '--check' in arguments else 'rewritten'}")
    return int(bool(stale) and "--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
