"""Triton code of one row of a scan, for decode."""

from __future__ import annotations

from dataclasses import dataclass

from attndsl.codegen.expr_triton import Reads
from attndsl.codegen.templates import render
from attndsl.codegen.triton_arguments import Argument
from attndsl.codegen.triton_scan import DecayKind, ScanModule, map_code, read_arguments, tidied
from attndsl.ir.expr import Expr


@dataclass(frozen=True)
class Step:
    """A row of `keys` components and values of `values`; maps of queries and of keys (None: the identity)."""

    keys: int
    values: int
    decay: DecayKind = "none"
    strict: bool = False
    normalised: bool = False
    query: Expr | None = None
    key: Expr | None = None
    ranks: tuple[tuple[str, int], ...] = ()
    wide: bool = False

    @property
    def width(self) -> int:
        """Components as a power of two."""
        return max(16, 1 << max(self.keys - 1, 0).bit_length())


def generate_step(w: Step, title: list[str]) -> ScanModule:
    """The module of a step, with one kernel `step`. `title` is a comment at its top."""
    reads = Reads(dict(w.ranks), w.wide)
    maps = [
        (name, map_code(mapped, f"{name}_row", f"{name}m", reads))
        for name, mapped in (("q", w.query), ("k", w.key))
        if mapped is not None
    ]
    found = tuple(_arguments(w, reads))
    text = render(
        "triton/scan_step.py.j2", title=title, helpers=reads.helpers, fast_tanh=False, w=w, width=w.width, maps=maps,
        arguments=found, numbers=[a.name for a in found if a.role != "constexpr" and not a.type.startswith("*")],
    )  # fmt: skip
    return ScanModule(tidied(text), {"step": found})


def _arguments(w: Step, reads: Reads) -> list[Argument]:
    found = [Argument(r, "*qkv", "tensor", (r,)) for r in ("q", "k", "v", "out")]
    names = ["state", "final", *(["column", "final_column", "shares"] if w.normalised else [])]
    found += [Argument(n, "*fp32", "tensor", (n,)) for n in names]
    strides = [(r, axis) for r in "qkv" for axis in "bh"]
    decay = {"head": "gamma", "log": "gamma", "token": "g", "channel": "g"}.get(w.decay)
    if decay is not None:
        found.append(Argument(decay, "*input", "tensor", (decay,)))
        strides += [(decay, "b"), (decay, "h")]
    found += [Argument(f"{t}_s{axis}", "i64", "stride", (t, axis)) for t, axis in strides]
    groups = [*"qkv", *(["g"] if w.decay == "channel" else [])]
    found += [Argument(f"{r}_group", "i32", "number", (f"{r}_group",)) for r in groups]
    found += [Argument(n, "i32", "number", (n,)) for n in ("group", "H", "slices")]
    found += read_arguments(reads)
    return [*found, *(Argument(c, "constexpr", "constexpr", (c,)) for c in ("BV", "START", "FINAL"))]
