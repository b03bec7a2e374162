"""What is tuned: the workloads of the benchmarks, every mask and score of the standard library at one shape, and linear
attention."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

import attndsl
from attndsl.bench.workloads import Workload, decode, dense, documents, masked, neighborhoods
from attndsl.ir.free import tensors as tensors_read
from attndsl.runtime.triton.config import Pass
from attndsl.runtime.triton.scan_config import ScanPass
from attndsl.schedule.problem import Problem

LIBRARY, LINEAR = "standard library", "linear attention"
GROUPS = ("grids", LIBRARY, LINEAR, "decode", "dense", "masks", "scores")
"""In the order in which they are tuned: what gains most, and what nothing was measured of, before what defaults were
made from."""
LENGTH, SIDE = 16384, 128


@dataclass(frozen=True)
class Item:
    """One pass of one workload; `group` is what gains are told for."""

    group: str
    workload: Workload
    step: Pass | ScanPass

    @property
    def place(self) -> tuple[str, str]:
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


ELU = "fn elu1(x) = elu(x) + 1 attention linear { mask k <= q weight dot(elu1(Q), elu1(K)) / sum }"


def linear(device: str = "cuda") -> list[Workload]:
    """Sequences and heads that fill a GPU, and few of them; heads of 128."""
    g = torch.Generator().manual_seed(3)
    found: list[Workload] = []
    for S, B in ((8192, 4), (32768, 1)):
        H, D = 16, 128
        token, channel = (-0.1 * torch.rand(H, 1, d, generator=g) for d in (1, D))
        rates: dict[str, Any] = {"token": token[..., 0].expand(B, H, S), "channel": channel.expand(B, H, S, D)}
        if device != "cpu":
            rates = {n: t.to(device).contiguous() for n, t in rates.items()}
        gamma = (1 - torch.exp2(-5.0 - torch.arange(H) / 4)).to(device)
        rows: list[tuple[str, str, dict[str, Any]]] = [
            ("retention", "attention retention(input gamma: f32[H]) "
             "{ mask k <= q weight dot(Q, K) * gamma[h]^(q - k) }", {"gamma": gamma}),
            ("elu + 1", ELU, {}),
            ("gate per token", "attention gated(input g: f32[B, H, L] log_decay) "
             "{ mask k <= q weight dot(Q, K) * decay(g) }", {"g": rates["token"]}),
            ("gate per channel", "attention gla(input g: f32[B, Hkv, L, D] log_decay) "
             "{ mask k <= q weight dot(Q, K * decay(g)) }", {"g": rates["channel"]}),
        ]  # fmt: skip
        found += [Workload(f"linear S{S} B{B} {n}", text, B, H, S, D, 0, inputs=given) for n, text, given in rows]
    return found


def group_of(w: Workload) -> str:
    """What a workload is an example of."""
    if w.name.startswith("linear "):
        return LINEAR
    if w.name.startswith("std "):
        return LIBRARY
    if w.Lq is not None:
        return "decode"
    if w.grid is not None:
        return "grids"
    return "dense" if w.name.startswith("dense") else "scores" if "alibi" in w.name or "softcap" in w.name else "masks"


@cache
def items(device: str = "cuda") -> tuple[Item, ...]:
    """Everything, by `GROUPS`; within a group passes that every call runs come first."""
    every, own = [*dense(16384), *masked(device), *neighborhoods(), *dense(4096)], library(device)
    backward: tuple[Pass, ...] = ("dkdv", "dq")
    scans: tuple[ScanPass, ...] = ("scan", "scan_dq", "scan_dk", "scan_dv", "step")
    found = [Item("decode", w, "decode") for w in decode()]
    found += [Item(group_of(w), w, step) for step in ("forward", *backward) for w in (*every, *own)]
    found += [Item(LINEAR, w, step) for step in scans for w in linear(device)]
    return tuple(sorted(found, key=lambda i: GROUPS.index(i.group)))


def problem_of(w: Workload) -> tuple[attndsl.AttentionFunction, Problem]:
    """A workload's attention, and what its plans depend on."""
    f = attndsl.load(w.text, **w.consts)
    masked = tensors_read(f.simplified.mask)
    tables: dict[str, Any] = {n: np.asarray(t.cpu()) for n, t in w.inputs.items() if n in masked}
    sizes: dict[str, Any] = {"B": w.B, "H": w.H, "Hkv": w.Hkv or w.H, "D": w.D}
    if w.grid is not None:
        sizes["grid"] = w.grid
    else:
        sizes |= {"Lq": w.Lq, "Lk": w.S} if w.Lq is not None else {"L": w.S}
    return f, f.problem(**sizes, **tables)
