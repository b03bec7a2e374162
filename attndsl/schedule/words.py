"""The visible columns of a row in closed form, as text."""

from __future__ import annotations

from attndsl.ir.expr import Coord, Expr, Index, Size, integer, rewrite
from attndsl.ir.infix import infix
from attndsl.ir.types import INT
from attndsl.schedule.axis import COLUMN_RESIDUE, ROW_RESIDUE, SolvedAxis
from attndsl.schedule.formula import Conjunct
from attndsl.schedule.piece import Analysed, dense

MOST_CLASSES = 4
MOST_CONJUNCTS = 6


def closed_forms(items: tuple[Analysed, ...], *, named: bool) -> list[str]:
    """One line per class and axis that has a condition of its own; with `named` also the pair of segments."""
    lines: list[str] = []
    where = f" ({items[0].rows.segment} x {items[0].columns.segment})" if named else ""
    for item in items[:MOST_CLASSES]:
        for axis in item.separated.axes:
            lines += [line + where for line in _axis(axis)]
    if named and not lines and all(dense(i) for i in items):
        lines.append("every key" + where)
    if len(items) > MOST_CLASSES:
        lines.append(f"... {len(items)} classes of batches and heads in all")
    return lines


def _axis(solved: SolvedAxis) -> list[str]:
    column = _named(solved.axis.column)
    # members are or-ed; most masks have one or two
    texts = [_conjunct(c, column) for c in solved.visible[:MOST_CONJUNCTS]]
    texts = [t for t in texts if t]
    if not texts:
        return []
    if len(solved.visible) > MOST_CONJUNCTS:
        texts.append(f"... {len(solved.visible)} ranges in all")
    if solved.split > 1:
        texts.append(f"within positions equal mod {solved.split}")
    return [" or ".join(texts[: -1 if solved.split > 1 else None]) + (f", {texts[-1]}" if solved.split > 1 else "")]


def _conjunct(member: Conjunct, column: str) -> str:
    lows = [_named(e) for e in member.lows]
    highs = [_named(e) for e in member.highs]
    low = "" if not lows else lows[0] if len(lows) == 1 else f"max({', '.join(lows)})"
    high = "" if not highs else highs[0] if len(highs) == 1 else f"min({', '.join(highs)})"
    parts: list[str] = []
    if low or high:
        parts.append(f"{low + ' <= ' if low else ''}{column}{' < ' + high if high else ''}")
    parts += [
        f"({column} - {_named(r.start)}) % {r.period} < {_named(r.length)}" for r in member.residues
    ]  # fmt: skip
    parts += [_named(e) for e in member.rows]
    parts += [f"[{_named(e)}]" for e in member.unsolved]
    return " and ".join(parts)


def _named(e: Expr) -> str:
    def rule(node: Expr) -> Expr | None:
        if node == ROW_RESIDUE:
            return Size(INT, "residue")
        if node == COLUMN_RESIDUE:
            return Size(INT, "residue'")
        if isinstance(node, Coord) and node.axis.startswith("#"):
            return integer(0)
        if isinstance(node, Coord) and node.segment == "" and node.axis == "0":
            return Index(INT, "row" if node.side == "q" else "k")
        return None

    return infix(rewrite(e, rule), 240)
