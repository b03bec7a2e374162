"""The sizes of a call as people read them."""

from __future__ import annotations

from typing import Any

from attndsl.runtime.triton.choices import Facts


def shape_of(facts: Facts) -> dict[str, Any]:
    """The sizes of a call as entries tell them."""
    s = facts.sizes
    found: dict[str, Any] = {"B": s["B"], "H": s["H"]}
    found |= {"Hkv": s["Hkv"]} if s["Hkv"] != s["H"] else {}
    found |= {"L": s["Lq"]} if s["Lq"] == s["Lk"] else {"Lq": s["Lq"], "Lk": s["Lk"]}
    found |= {"D": s["D"]} | ({"Dv": s["Dv"]} if s["Dv"] != s["D"] else {})
    if facts.q_extents:
        found["grid"] = ",".join("x".join(map(str, e)) for e in facts.q_extents.values())
    return found
