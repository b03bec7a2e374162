"""How an attention whose weight is a dot product of features runs, in words and numbers."""

from __future__ import annotations

from dataclasses import dataclass

from attndsl.ir.attention import Attention
from attndsl.ir.weights import FeatureMap, weight_form
from attndsl.schedule.legalise import Legalised, legalise
from attndsl.schedule.problem import Problem

CHUNK = 64
"""Positions of a chunk in the estimate of work."""


@dataclass(frozen=True)
class ScanReport:
    """What `explain` says of a scan. Work is multiplications and additions of a row of a head, forward."""

    found: Legalised
    features: int
    decay: str
    normaliser: str
    state_bytes: int
    work: float
    pairwise: float

    @property
    def lines(self) -> dict[str, str]:
        """Labels and texts, in order."""
        out = {"runs as": str(self.found)}
        if self.found.form is None:
            return out | ({"because": "; ".join(self.found.reasons)} if self.found.reasons else {})
        out["features"] = f"{self.features:,} of a key, decay: {self.decay}, normaliser: {self.normaliser}"
        why = self.found.form.stateless
        words = f"{_size(self.state_bytes)} a sequence" if why is None else f"none to start from or return: {why}"
        out["state"] = words
        ratio = self.pairwise / self.work
        out["work"] = f"{self.work:,.0f} FLOP a row and head, {self.pairwise:,.0f} pair by pair ({ratio:,.2g}x)"
        return out


def scan_report(attention: Attention, problem: Problem) -> ScanReport | None:
    """How a call of a simplified attention runs; None if its weight is no dot product of features."""
    found = legalise(attention, problem)
    form = found.form
    if form is None:
        if not isinstance(weight_form(attention), FeatureMap):
            return None
        return ScanReport(found, 0, "", "", 0, 1.0, 1.0)
    sizes, weight = problem.sizes, form.weight
    F, z, Dv = form.features(sizes), form.z_features(sizes), sizes["Dv"]
    heads = sizes["H"] if form.by_head else sizes["Hkv"]
    keys = sizes["Lk"] if form.kind != "scan" else sizes["Lk"] / 2
    states = 4.0 * F * Dv * (2 if form.kind == "both" else 1)
    inner = 0.0 if form.kind == "reduction" else 2.0 * CHUNK * (F + Dv)
    return ScanReport(
        found,
        F,
        str(weight.decay),
        "none" if weight.normaliser is None else str(weight.normaliser),
        heads * (F * Dv + z) * 4,
        states + inner,
        max(1.0, 2.0 * keys * (F + Dv)),
    )


def _size(count: int) -> str:
    if count < 1024:
        return f"{count} bytes"
    return f"{count / 2**10:,.1f} KiB" if count < 2**20 else f"{count / 2**20:,.1f} MiB"
