"""Linear attention on a GPU: are the scans right, and how fast are they beside flash-linear-attention. One run.

    python benchmarks/gpu_linear.py [--out FILE] [--only check|sweep|peers] [--budget 100] [--workers 8]

`check` compares forward and backward with a dense computation in fp64, in every decay, with and without a normaliser,
with feature maps, states and documents, for odd lengths and several configurations. `sweep` measures configurations;
`peers` the best of them beside fla and cuDNN on the same tensors. Rows carry workload, system, pass, milliseconds.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportMissingImports=false, reportUnknownParameterType=false
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from attndsl.runtime.triton.scan_config import ScanConfig, scan_configured
from attndsl.runtime.triton.scan_passes import Maps, ScanCall, backward, forward
from benchmarks.linear_cases import ELU1, LinearCase, compare

RESULTS = Path(__file__).parent / "results"
START = time.time()
CHECKED = (
    ScanConfig(64, 64, 4, 2, 2), ScanConfig(64, 32, 4, 3, 2), ScanConfig(64, 64, 8, 2, 1), ScanConfig(64, 128, 8, 2, 1),
    ScanConfig(128, 64, 8, 2, 1), ScanConfig(64, 16, 4, 2, 2), ScanConfig(32, 32, 4, 2, 2), ScanConfig(64, 64, 4, 1, 2),
)  # fmt: skip
NARROW = ScanConfig(32, 32, 4, 1)


def cases() -> Iterator[tuple[LinearCase, ScanConfig]]:
    """What is compared, and the configuration."""
    sizes = ((128, 128), (64, 64), (32, 32), (96, 40), (128, 64), (16, 128))
    others = ((0, 0, 0, 0), (1, 1, 0, 0), (0, 0, 1, 1), (1, 1, 1, 1), (0, 1, 0, 1))
    for i, (L, decay) in enumerate(product((1, 2, 17, 127, 129, 1023), ("none", "head", "log", "token"))):
        for j, (norm, mapped, docs, state) in enumerate(others):
            n = i * 5 + j
            dtype = ("bf16", "fp16", "fp32")[n % 3] if L != 1023 else ("bf16", "fp16")[j % 2]
            D, Dv = sizes[n % 6]
            kind: Any = decay
            case = LinearCase(
                dtype, L, D, Dv, kind, bool(norm), bool(mapped), bool(docs), bool(state), strict=n % 7 == 0
            )
            yield case, CHECKED[n % len(CHECKED)] if dtype != "fp32" else NARROW
    # every configuration on the same tensors
    for n, (config, decay) in enumerate(product(CHECKED, ("none", "head", "token"))):
        kind = decay
        yield LinearCase("bf16", 1023, 128, 128, kind, n % 2 == 1, n % 2 == 1), config
        if config.warps == 4:
            yield LinearCase("bf16", 333, 32, 64, kind, n % 2 == 0, n % 2 == 0), config


def check_case(case: tuple[LinearCase, ScanConfig]) -> tuple[str, str]:
    """(case, what is wrong or empty)."""
    name = " ".join(map(str, case))
    try:
        return name, compare(*case, "cuda")
    except Exception as error:
        return name, f"{type(error).__name__}: {error}"[:400]


def check(workers: int, rows: list[dict[str, Any]]) -> None:
    """All cases in processes of their own, so that kernels compile side by side."""
    wrong = 0
    every = list(cases())
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(check_case, c) for c in every]):
            name, text = done.result()
            if text:
                wrong += 1
                print(f"WRONG {name}: {text}", flush=True)
                rows.append({"check": name, "wrong": text})
    print(f"{len(every) - wrong} of {len(every)} cases right, {time.time() - START:.0f} s", flush=True)
    rows.append({"check": "all", "right": len(every) - wrong, "of": len(every)})


# Speed

WORKLOADS = ((8192, 4), (32768, 1))
H, D = 16, 128
FORWARD_CONFIGS = (
    ScanConfig(64, 64, 4, 2, 2), ScanConfig(64, 32, 4, 2, 2), ScanConfig(64, 64, 4, 2, 1), ScanConfig(64, 64, 4, 3, 1),
    ScanConfig(64, 128, 8, 2, 1), ScanConfig(128, 64, 8, 2, 1), ScanConfig(64, 64, 8, 3, 1),
    ScanConfig(64, 32, 4, 3, 2),
)  # fmt: skip


def bench(f: Callable[[], Any], rep: int = 60) -> float:
    """Milliseconds, the median."""
    import triton

    found: Any = triton.testing.do_bench(f, warmup=20, rep=rep, return_mode="median")
    return float(found)


def add(rows: list[dict[str, Any]], S: int, B: int, system: str, pas: str, ms: float | None, note: str) -> None:
    """A row, printed as it comes."""
    flops = 4 * B * H * S * D * D * (1.0 if pas == "fwd" else 2.5)
    wl = f"linear S{S} B{B} H16 D128"
    rows.append(
        {"wl": wl, "sys": system, "pas": pas, "ms": ms, "tflops": flops / ms / 1e9 if ms else None, "note": note}
    )
    print(f"{wl} {system:26s} {pas} {ms if ms is None else round(ms, 4)} {note}", flush=True)


def tensors(S: int, B: int) -> tuple[Any, ...]:
    """q, k, v [B, H, S, D] and log decays [B, H, S]."""
    made = torch.Generator(device="cuda").manual_seed(0)
    q, k, v = (torch.randn(B, H, S, D, device="cuda", dtype=torch.bfloat16, generator=made) for _ in range(3))
    return q, k, v, torch.nn.functional.logsigmoid(torch.randn(B, H, S, device="cuda", generator=made)) / 16


def call_of(name: str, q: Any, k: Any, v: Any, g: Any) -> ScanCall:
    """The call of a workload."""
    if name == "retention":
        gamma = 1 - torch.exp2(-5.0 - torch.arange(H, device="cuda", dtype=torch.float32))
        return ScanCall(Maps(decay="head"), q, k, v, gamma[None])
    if name == "simplegla":
        return ScanCall(Maps(decay="token"), q, k, v, None, g)
    if name == "elu1":
        return ScanCall(Maps(ELU1, ELU1, normalised=True), q, k, v)
    return ScanCall(Maps(), q, k, v)


def sweep(rows: list[dict[str, Any]], budget: float, workers: int) -> None:
    """Every workload with every configuration."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for text in pool.map(warm, jobs()):
            if text:
                print(f"WRONG {text}", flush=True)
    print(f"compiled, {time.time() - START:.0f} s", flush=True)
    for (S, B), (name, config) in product(WORKLOADS, jobs()):
        if time.time() - START > budget:
            print("out of time", flush=True)
            return
        call = call_of(name, *tensors(S, B))
        notes = f"{config.chunk}x{config.columns} w{config.warps} s{config.stages} r{config.resident}"
        with scan_configured(config):
            for pas in ("fwd", "bwd"):
                try:
                    ms, note = bench(pass_of(call, pas)), notes
                except Exception as error:
                    ms, note = None, f"{notes} ERR {error!r}"[:200]
                add(rows, S, B, f"attndsl-triton {name}", pas, ms, note)


def pass_of(call: ScanCall, pas: str) -> Callable[[], Any]:
    """A pass of a call, ready to be measured."""
    if pas == "fwd":
        return lambda: forward(call)
    out, shares, _ = forward(call)
    return lambda: backward(call, out, shares, out, frozenset(("q", "k", "v")))


def warm(job: tuple[str, ScanConfig]) -> str:
    """Compile what a workload needs."""
    name, config = job
    try:
        call = call_of(name, *tensors(512, 1))
        with scan_configured(config):
            out, shares, _ = forward(call)
            backward(call, out, shares, out, frozenset(("q", "k", "v")))
            with scan_configured(replace(config, segments=2)):
                out, shares, _ = forward(call)
                backward(call, out, shares, out, frozenset(("q", "k", "v")))
        return ""
    except Exception as error:
        return f"{name} {config}: {error!r}"[:300]


def jobs() -> list[tuple[str, ScanConfig]]:
    """Workloads and configurations that are measured."""
    every = [(n, c) for n in ("linear", "retention", "simplegla") for c in FORWARD_CONFIGS]
    return every + [("elu1", c) for c in FORWARD_CONFIGS[:3]]


def peers(rows: list[dict[str, Any]], budget: float) -> None:
    """fla and cuDNN on tensors of the same shapes."""
    from fla.ops.gla import chunk_gla
    from fla.ops.linear_attn import chunk_linear_attn
    from fla.ops.retention import chunk_retention
    from fla.ops.simple_gla import chunk_simple_gla

    def runs(S: int, B: int) -> dict[str, tuple[Callable[..., Any], tuple[Any, ...], bool]]:
        made = torch.Generator(device="cuda").manual_seed(0)
        q, k, v = (torch.randn(B, S, H, D, device="cuda", dtype=torch.bfloat16, generator=made) for _ in range(3))
        gs = torch.nn.functional.logsigmoid(torch.randn(B, S, H, device="cuda", generator=made)) / 16
        gk = (torch.nn.functional.logsigmoid(torch.randn(B, S, H, D, device="cuda", generator=made)) / 16).to(q.dtype)
        return {
            "fla-retention": (lambda *a: chunk_retention(*a)[0], (q, k, v), True),
            "fla-simplegla": (lambda *a: chunk_simple_gla(*a)[0], (q, k, v, gs), False),
            "fla-gla": (lambda *a: chunk_gla(*a)[0], (q, k, v, gk), False),
            "fla-linear": (lambda *a: chunk_linear_attn(*a, normalize=False)[0], (q, k, v), True),
        }

    for S, B in WORKLOADS:  # fla's layout is [B, S, H, D]
        for name, (run, given, has_backward) in runs(S, B).items():
            if time.time() - START > budget:
                return
            for pas in ("fwd", "bwd") if has_backward else ("fwd",):
                try:
                    ms, note = bench(peer_pass(run, given, pas)), ""
                except Exception as error:
                    ms, note = None, f"ERR {error!r}"[:200]
                add(rows, S, B, name, pas, ms, note)


def peer_pass(run: Callable[..., Any], given: tuple[Any, ...], pas: str) -> Callable[[], Any]:
    """A pass of a peer, ready to be measured."""
    if pas == "fwd":
        return lambda: run(*given)
    leaves = [t.detach().requires_grad_(True) for t in given]
    out = run(*leaves)
    grad = torch.randn_like(out)
    return lambda: torch.autograd.grad(out, leaves, grad, retain_graph=True)


def main() -> int:
    """Runs the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", choices=("check", "sweep", "peers"))
    parser.add_argument("--budget", type=float, default=100.0)
    parser.add_argument("--workers", type=int, default=12)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    card = torch.cuda.get_device_name()
    out: Path = args.out or RESULTS / card.replace(" ", "-").lower() / f"{datetime.date.today()}-linear.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    parts: dict[str, Callable[[], None]] = {
        "check": lambda: check(args.workers, rows),
        "peers": lambda: peers(rows, args.budget),
        "sweep": lambda: sweep(rows, args.budget, args.workers),
    }
    for name, run in parts.items():
        if args.only in (None, name):
            try:
                run()
            except Exception as error:
                print(f"{name}: {error!r}", flush=True)
            found = {"card": card, "torch": torch.__version__, "seconds": time.time() - START, "rows": rows}
            out.write_text(json.dumps(found, indent=0))
    return 0


if __name__ == "__main__":
    sys.exit(main())
