"""Feature maps on the CPU: how time grows with the length, and how far the scan is from going pair by pair.

    python benchmarks/cpu_linear.py [--rounds 5] [--out FILE]

One thread and its processor time, which other users of the machine hardly change: forward, and forward with backward,
at 4,096 and 65,536 rows (16 times as many), and the same kernel's pair by pair path at 8,192 rows (at 4,096 with
backward). Rounds alternate between all of them; times are medians. Raw times go to
benchmarks/results/cpu-linear/<date>.json.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import argparse
import datetime
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from cpu import Run, machine, write_whole
from torch import Tensor

import attndsl
from attndsl.runtime.binding import bind_call
from attndsl.runtime.runner import Runner

RESULTS = Path(__file__).parent / "results" / "cpu-linear"
B, H, D = 1, 4, 64
SHORT, MIDDLE, LONG = 4096, 8192, 65536
SLOW = 10_000

SPECS = {
    "linear, elu + 1 over its sum": "attention a { mask k <= q weight dot(elu(Q) + 1, elu(K) + 1) / sum }",
    "retention": "attention a(input gamma: f32[H]) { mask k <= q weight dot(Q, K) * gamma[h]^(q - k) }",
    "gate per token": "attention a(input g: f32[B, H, L] log_decay) { mask k <= q weight dot(Q, K) * decay(g) }",
    "documents": "attention a(input doc: i32[B, L] sorted) { mask k <= q and doc[b, q] == doc[b, k] "
    "weight dot(elu(Q) + 1, elu(K) + 1) / sum }",
    "unmasked": "attention a { weight dot(elu(Q) + 1, elu(K) + 1) / sum }",
    "gate per channel": "attention a(input c: f32[B, H, L, D] log_decay) { mask k <= q weight dot(Q, K * decay(c)) }",
}


def inputs(names: set[str], length: int) -> dict[str, Tensor]:
    made = {
        "gamma": lambda: torch.linspace(0.9, 0.99, H),
        "g": lambda: -0.1 * torch.rand(B, H, length),
        "c": lambda: -0.1 * torch.rand(B, H, length, D),
        "doc": lambda: (torch.arange(length) // 3000).int().expand(B, length),
    }
    return {n: f() for n, f in made.items() if n in names}


def runs_of(text: str) -> dict[str, Run]:
    """What is measured, by name."""
    function = attndsl.load(text)
    names = {i.name for i in function.attention.inputs}
    found: dict[str, Run] = {}
    for length in (SHORT, MIDDLE, LONG):
        q, k, v, g = (torch.randn(B, H, length, D) for _ in range(4))
        given = inputs(names, length)

        def forward(q: Tensor = q, k: Tensor = k, v: Tensor = v, given: Any = given) -> Tensor:
            return function(q, k, v, **given)

        def both(q: Tensor = q, k: Tensor = k, v: Tensor = v, g: Tensor = g, given: Any = given) -> Any:
            live = [x.detach().requires_grad_() for x in (q, k, v)]
            return torch.autograd.grad(function(*live, **given), live, g)

        found[f"forward {length}"] = forward
        if length != MIDDLE:
            found[f"with backward {length}"] = both
        else:
            found[f"pairs {length}"] = pairs(function, q, k, v, given)
    return found


def pairs(function: Any, q: Tensor, k: Tensor, v: Tensor, given: dict[str, Tensor]) -> Run:
    """The forward pass of the same kernel pair by pair."""
    runner = Runner(function.attention, function.simplified)
    kernel = runner.kernel("cpu")
    call = bind_call(function.attention, function.simplified, q, k, v, given)
    plan = runner.plan(call)

    def run() -> Any:
        with torch.no_grad():
            return kernel.forward(call, plan, False, False)

    return run


def measure(runs: dict[str, Run], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every round; what takes longer than SLOW runs once, and its first run counts."""
    times: dict[str, list[float]] = {n: [] for n in runs}
    for i in range(rounds + 1):
        for name, run in runs.items():
            if times[name] and times[name][0] > SLOW:
                continue
            start = time.thread_time()
            run()
            took = round((time.thread_time() - start) * 1e3, 3)
            if i > 0 or took > SLOW:
                times[name].append(took)
    return times


def report(name: str, times: dict[str, list[float]]) -> dict[str, Any]:
    at = {n: median(t) for n, t in times.items()}
    return {
        "weight": name,
        "forward 4k ms": at[f"forward {SHORT}"],
        "forward 64k ms": at[f"forward {LONG}"],
        "grows by": at[f"forward {LONG}"] / at[f"forward {SHORT}"],
        "with backward 4k ms": at[f"with backward {SHORT}"],
        "with backward 64k ms": at[f"with backward {LONG}"],
        "both grow by": at[f"with backward {LONG}"] / at[f"with backward {SHORT}"],
        "forward 8k ms": at[f"forward {MIDDLE}"],
        "pair by pair 8k ms": at[f"pairs {MIDDLE}"],
        "faster by": at[f"pairs {MIDDLE}"] / at[f"forward {MIDDLE}"],
        "rounds_ms": [{n: t} for n, t in times.items()],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="weights whose name contains this")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    facts = machine()
    path = options.out or RESULTS / f"{datetime.date.today().isoformat()}.json"
    shape = {"B": B, "H": H, "D": D, "dtype": "float32", "clock": "processor time of one thread"}
    rows: list[dict[str, Any]] = []
    for name, text in SPECS.items():
        if options.only not in name:
            continue
        rows.append(report(name, measure(runs_of(text), options.rounds)))
        print(
            {k: v if isinstance(v, str) else round(v, 2) for k, v in rows[-1].items() if k != "rounds_ms"}, flush=True
        )
        write_whole(path, json.dumps({"machine": facts, "shape": shape, "rows": rows}, indent=1) + "\n")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
