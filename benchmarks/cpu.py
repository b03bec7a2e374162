"""The CPU backend beside torch's own: dense SDPA with a mask, and FlexAttention compiled. One run, alternating.

    python benchmarks/cpu.py [--rounds 5] [--length 4096] [--no-flex] [--select TEXT] [--cpu-time] [--out FILE]

Every row measures all its competitors in turn, round by round, and reports medians; the ratios are medians over the
rounds of ours to theirs, so that a machine that others use distorts them less. `--cpu-time` runs one thread and counts
its processor time, which other users of the machine hardly change. Raw times go to
benchmarks/results/cpu/<date>-<what>.json.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import attndsl
from attndsl.runtime.native.choice import forced

RESULTS = Path(__file__).parent / "results" / "cpu"
Run = Callable[[], Any]


@dataclass
class Row:
    """One problem: `ours` and its competitors, forward or backward, with milliseconds of every round."""

    name: str
    target: str
    runs: dict[str, Run]
    times: dict[str, list[float]] = field(default_factory=dict[str, list[float]])

    def measure(self, rounds: int, clock: Callable[[], float]) -> None:
        for run in self.runs.values():
            run()
        self.times = {n: [] for n in self.runs}
        for _ in range(rounds):
            for name, run in self.runs.items():
                start = clock()
                run()
                self.times[name].append((clock() - start) * 1e3)

    def ratio(self, other: str) -> float:
        """How many times faster ours is."""
        return median(b / a for a, b in zip(self.times["ours"], self.times[other], strict=True))

    def report(self) -> dict[str, Any]:
        others = [n for n in self.times if n != "ours"]
        return {
            "name": self.name,
            "target": self.target,
            "least_ms": {n: round(min(t), 3) for n, t in self.times.items()},
            "median_ms": {n: round(median(t), 3) for n, t in self.times.items()},
            "ours_is_faster_by": {n: round(self.ratio(n), 3) for n in others},
            "rounds_ms": {n: [round(x, 3) for x in t] for n, t in self.times.items()},
        }


def backward_of(make: Callable[..., Tensor], tensors: tuple[Tensor, ...], grad: Tensor) -> Run:
    """The backward pass alone of `make(*tensors)`."""
    live = [t.detach().requires_grad_() for t in tensors]
    out = make(*live)
    return lambda: torch.autograd.grad(out, live, grad, retain_graph=True)


def without_c(run: Run) -> Run:
    """The same on torch operations alone."""

    def alone() -> Any:
        with forced("never"):
            return run()

    return alone


def rows(length: int, with_flex: bool) -> list[Row]:
    B, H, D, window = 1, 8, 64, 256
    made = torch.Generator().manual_seed(0)
    q, k, v, g = (torch.randn(B, H, length, D, generator=made) for _ in range(4))
    at = torch.arange(length)
    distance = at[:, None] - at
    slope = 2.0 ** -torch.arange(1, H + 1)
    seen = (distance >= 0) & (distance < window)

    near = attndsl.load("attention near(const w: int) { mask k <= q and q - k < w }", w=window)
    dense = attndsl.load("attention dense { }")
    causal = attndsl.load("attention causal { mask k <= q }")
    alibi = attndsl.load("attention alibi(input slope: f32[H]) { score s - slope[h] * (q - k) }")
    softcap = attndsl.load("attention softcap(scalar cap: float = 20) { score tanh(s / cap) * cap }")
    capped = attndsl.load("attention capped(scalar cap: float = 20) { score tanh(s / cap) * cap mask k <= q }")

    def sdpa(mask: Tensor | None = None, is_causal: bool = False) -> Callable[..., Tensor]:
        return lambda q, k, v: scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=is_causal)

    sliding: dict[str, Run] = {"ours": lambda: near(q, k, v), "sdpa dense mask": lambda: sdpa(seen)(q, k, v)}
    if with_flex:
        sliding["flex compiled"] = flex_window(q, k, v, window)
    bias = -slope.reshape(H, 1, 1) * distance.float()
    return [
        Row("causal window 256, forward", "8x sdpa, 1/1.3 flex", sliding),
        Row("causal window 256, backward", "6x sdpa", {
            "ours": backward_of(near, (q, k, v), g), "sdpa dense mask": backward_of(sdpa(seen), (q, k, v), g)}),
        Row("dense, forward", "1/1.1 sdpa", {"ours": lambda: dense(q, k, v), "sdpa": lambda: sdpa()(q, k, v)}),
        Row("dense, backward", "", {
            "ours": backward_of(dense, (q, k, v), g), "sdpa": backward_of(sdpa(), (q, k, v), g)}),
        Row("causal, forward", "", {
            "ours": lambda: causal(q, k, v), "sdpa is_causal": lambda: sdpa(is_causal=True)(q, k, v)}),
        Row("dense alibi, forward", "1/1.1 sdpa", {
            "ours": lambda: alibi(q, k, v, slope=slope),
            "ours, torch alone": without_c(lambda: alibi(q, k, v, slope=slope)),
            "sdpa with the bias": lambda: sdpa(bias)(q, k, v), "sdpa": lambda: sdpa()(q, k, v)}),
        Row("dense alibi, backward", "", {
            "ours": backward_of(lambda q, k, v: alibi(q, k, v, slope=slope), (q, k, v), g),
            "ours, torch alone": without_c(backward_of(lambda q, k, v: alibi(q, k, v, slope=slope), (q, k, v), g)),
            "sdpa": backward_of(sdpa(), (q, k, v), g)}),
        Row("dense softcap, forward", "1/1.5 sdpa", {
            "ours": lambda: softcap(q, k, v), "ours, torch alone": without_c(lambda: softcap(q, k, v)),
            "sdpa": lambda: sdpa()(q, k, v)}),
        Row("dense softcap, backward", "", {
            "ours": backward_of(softcap, (q, k, v), g),
            "ours, torch alone": without_c(backward_of(softcap, (q, k, v), g)),
            "sdpa": backward_of(sdpa(), (q, k, v), g)}),
        Row("causal softcap, forward", "", {
            "ours": lambda: capped(q, k, v), "ours, torch alone": without_c(lambda: capped(q, k, v)),
            "sdpa is_causal": lambda: sdpa(is_causal=True)(q, k, v)}),
    ]  # fmt: skip


def flex_window(q: Tensor, k: Tensor, v: Tensor, window: int) -> Run:
    """Compiled FlexAttention on the same window; its block mask and compilation are not counted."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def near(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (j <= i) & (i - j < window)

    blocks = create_block_mask(near, None, None, q.shape[2], k.shape[2], device="cpu")
    compiled = torch.compile(flex_attention)

    def run() -> Any:
        with torch.no_grad():
            return compiled(q, k, v, block_mask=blocks)

    return run


def machine() -> dict[str, Any]:
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [x.split(":", 1)[1].strip() for x in info.read_text().splitlines() if x.startswith("model name")]
        model = names[0] if names else model
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {"cpu": model, "threads": torch.get_num_threads(), "cores": os.cpu_count(), "load": load,
            "python": platform.python_version(), "torch": torch.__version__,
            "attndsl": getattr(attndsl, "__version__", "0.1.0")}  # fmt: skip


def write_whole(path: Path, text: str) -> None:
    """The file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as f:
        f.write(text)
    Path(f.name).chmod(0o644)
    Path(f.name).replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--no-flex", action="store_true")
    parser.add_argument("--select", default="", help="rows whose name has this in it")
    parser.add_argument("--cpu-time", action="store_true", help="one thread, its processor time")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    found: list[dict[str, Any]] = []
    clock = time.thread_time if options.cpu_time else time.perf_counter
    if options.cpu_time:
        torch.set_num_threads(1)
    facts = machine()
    for row in rows(options.length, not options.no_flex):
        if options.select not in row.name:
            continue
        row.measure(options.rounds, clock)
        report = row.report()
        found.append(report)
        print(f"{row.name}: {report['median_ms']} ms; faster by {report['ours_is_faster_by']} (target {row.target})")
    today = datetime.date.today().isoformat()
    kind = "cpu-time" if options.cpu_time else "wall"
    path = options.out or RESULTS / f"{today}-b1h8l{options.length}d64-fp32-{kind}.json"
    shape = {"B": 1, "H": 8, "L": options.length, "D": 64, "dtype": "float32", "clock": kind}
    write_whole(path, json.dumps({"machine": facts, "shape": shape, "rows": found}, indent=1) + "\n")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
