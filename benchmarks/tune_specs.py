"""What is tuned: the workloads of the benchmarks, and every mask and score of the standard library at one shape."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

import attndsl
from attndsl.bench.workloads import Workload, decode, dense, documents, masked, neighborhoods
from attndsl.runtime.triton.config import Pass
from attndsl.schedule.problem import Problem

LIBRARY = "standard library"
LENGTH, SIDE = 16384, 128


@dataclass(frozen=True)
class Item:
    """One pass of one workload; `group` is what gains are told for."""

    group: str
    workload: Workload
    step: Pass

    @property
    def place(self) -> tuple[str, Pass]:
        return self.workload.name, self.step


def _std(name: str, uses: str, body: str, params: str = "", **more: Any) -> Workload:
    """A spec of one function of the library."""
    text = f"{uses}\nattention {name}({params}) {{ {body} }}"
    grid = more.get("grid")
    sizes: dict[str, Any] = {"B": 1, "H": 16, "S": SIDE * SIDE if grid else LENGTH, "D": 128}
    return Workload(f"std {name}", text, pairs=0, **(sizes | more))


def library(device: str = "cuda") -> list[Workload]:
    """Sequences of 16,384 tokens and pictures of 128 x 128, heads of 128."""
    picture: dict[str, Any] = {"grid": (SIDE, SIDE)}
    H = 16
    g = torch.Generator().manual_seed(2)
    slope = torch.exp2(-8.0 * torch.arange(1, H + 1) / H).to(device)
    table = torch.randn(H, 32, generator=g).to(device)
    _, ids = documents(LENGTH, 8, device)
    frames = 32, 512

    def mask(call: str) -> tuple[str, str]:
        return f"use masks ({call.split('(')[0]})", f"mask {call}"

    return [
        _std("causal", *mask("causal(q, k)")),
        _std("sliding_window", *mask("sliding_window(q, k, 1024)")),
        _std("sink_window", *mask("sink_window(q, k, 4, 1024)")),
        _std("document", "use masks (causal, document)", "mask causal(q, k) and document(doc[q], doc[k])",
             "input doc: i32[L] sorted", inputs={"doc": ids}),
        _std("alibi", "use masks (causal)\nuse scores (alibi)", "mask causal(q, k) score s + alibi(q - k, slope[h])",
             "input slope: f32[H]", inputs={"slope": slope}),
        _std("softcap", "use masks (causal)\nuse scores (softcap)", "mask causal(q, k) score softcap(s, 50)"),
        _std("prefix", *mask("prefix(q, k, 2048)")),
        _std("block_diagonal", *mask("block_diagonal(q, k, 512)")),
        _std("neighborhood", "use masks (neighborhood)", "grid g(y, x) mask all(neighborhood(q.g, k.g, size(g), "
             "(15, 15), (1, 1), (1, 1), false))", **picture),
        _std("swin", "use masks (swin)", "grid g(y, x) mask all(swin(q.g, k.g, 8, 4))", **picture),
        _std("halo", "use masks (halo)", "grid g(y, x) mask all(halo(q.g, k.g, 8, 3))", **picture),
        _std("axial", "use masks (axial)", "grid g(y, x) mask axial(q.y, q.x, k.y, k.x)", **picture),
        _std("t5", "use masks (causal)\nuse scores (t5_bucket)",
             "mask causal(q, k) score s + table[h, t5_bucket(q - k, 32, 128)]", "input table: f32[H, 32]",
             inputs={"table": table}),
        _std("dilated", *mask("dilated(q, k, 256, 4)")),
        _std("strided", *mask("strided(q, k, 128)")),
        _std("power", *mask("power(q, k, 128, 4, 1)")),
        _std("radial", "use masks (radial)", "grid v(t, p) "
             "mask k.t == 0 or radial(q.t, q.p, k.t, k.p, size(p), 1.0, 128)", grid=frames),
    ]  # fmt: skip


def group_of(w: Workload) -> str:
    """What a workload is an example of."""
    if w.name.startswith("std "):
        return LIBRARY
    if w.Lq is not None:
        return "decode"
    if w.grid is not None:
        return "grids"
    return "dense" if w.name.startswith("dense") else "scores" if "alibi" in w.name or "softcap" in w.name else "masks"


@cache
def items(device: str = "cuda") -> tuple[Item, ...]:
    """Everything, the most important first: passes that every call runs, of what the benchmarks show, then the rest."""
    every, own = [*dense(16384), *masked(device), *neighborhoods(), *dense(4096)], library(device)
    backward: tuple[Pass, ...] = ("dkdv", "dq")
    found = [Item(group_of(w), w, "forward") for w in every]
    found += [Item("decode", w, "decode") for w in decode()]
    found += [Item(group_of(w), w, step) for step in backward for w in every]
    found += [Item(LIBRARY, w, "forward") for w in own]
    found += [Item(LIBRARY, w, step) for step in backward for w in own]
    return tuple(found)


def problem_of(w: Workload) -> tuple[attndsl.AttentionFunction, Problem]:
    """A workload's attention, and what its plans depend on."""
    f = attndsl.load(w.text, **w.consts)
    tables: dict[str, Any] = {n: np.asarray(t.cpu()) for n, t in w.inputs.items()}
    sizes: dict[str, Any] = {"B": w.B, "H": w.H, "Hkv": w.Hkv or w.H, "D": w.D}
    if w.grid is not None:
        sizes["grid"] = w.grid
    else:
        sizes |= {"Lq": w.Lq, "Lk": w.S} if w.Lq is not None else {"L": w.S}
    return f, f.problem(**sizes, **tables)
