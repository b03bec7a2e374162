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
import torch.nn.functional as F

from attndsl.codegen.triton_scan import COMPONENT, DecayKind
from attndsl.ir.expr import number, op
from attndsl.runtime.triton.scan import Carried
from attndsl.runtime.triton.scan_config import ScanConfig, scan_configured
from attndsl.runtime.triton.scan_passes import Maps, ScanCall, backward, forward

RESULTS = Path(__file__).parent / "results"
START = time.time()
ELU1 = op("add", op("elu", COMPONENT), number(1.0))
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
CHECKED = (
    ScanConfig(64, 64, 4, 2, 2), ScanConfig(64, 32, 4, 3, 2), ScanConfig(64, 64, 8, 2, 1), ScanConfig(64, 128, 8, 2, 1),
    ScanConfig(128, 64, 8, 2, 1), ScanConfig(64, 16, 4, 2, 2), ScanConfig(32, 32, 4, 2, 2), ScanConfig(64, 64, 4, 1, 2),
)  # fmt: skip
NARROW = ScanConfig(32, 32, 4, 1)


def dense(call: ScanCall, dtype: torch.dtype) -> tuple[Any, Any, Any]:
    """Output and final state by the definition, computed in `dtype`."""
    maps = call.maps

    def mapped(x: Any, e: Any) -> Any:
        return x.to(dtype) if e is None else F.elu(x.to(dtype)) + 1

    q, k, v = mapped(call.q, maps.query), mapped(call.k, maps.key), call.v.to(dtype)
    H, L = q.shape[1], q.shape[2]
    k, v = (x.repeat_interleave(H // x.shape[1], 1) for x in (k, v))
    at = torch.arange(L, device=q.device)
    apart = at[:, None] - at[None, :]
    visible = (apart >= 0)[None, None]
    decay = torch.ones((1, 1, L, L), dtype=dtype, device=q.device)
    enter = torch.ones((1, 1, L), dtype=dtype, device=q.device)
    leave = enter
    if call.gamma is not None:
        gamma = call.gamma.to(dtype)[:, :, None]
        decay = gamma[..., None] ** apart.clamp(min=0)
        enter, leave = gamma ** (at + 1), gamma ** (L - 1 - at)
    if call.g is not None:
        total = call.g.to(dtype).cumsum(-1)
        decay = torch.where(visible, total[..., :, None] - total[..., None, :], 0).exp()
        enter, leave = total.exp(), (total[..., -1:] - total).exp()
    if call.docs is not None:
        docs = call.docs
        visible = visible & (docs[:, None, :, None] == docs[:, None, None, :])
        enter, leave = enter * (docs == docs[:, :1])[:, None], leave * (docs == docs[:, -1:])[:, None]
    w = torch.where(visible, (q @ k.transpose(-1, -2)) * decay, 0)
    out, z = w @ v, w.sum(-1)
    state = (k * leave[..., None]).transpose(-1, -2) @ v
    if call.initial is not None:
        first = call.initial.state.to(dtype)
        out = out + enter[..., None] * (q @ first)
        state = state + enter[:, :, -1:, None] * first
        if call.initial.column is not None:
            z = z + enter * (q @ call.initial.column.to(dtype)[..., None])[..., 0]
    if maps.normalised:
        out = out / torch.where(z == 0, 1, z)[..., None]
    return out, z, state


def cases() -> Iterator[tuple[Any, ...]]:
    """(dtype, L, D, Dv, decay, normalised, mapped, documents, initial state, configuration)."""
    for i, (L, decay) in enumerate(product((1, 2, 17, 127, 129, 1023), ("none", "head", "token"))):
        for j, (norm, mapped, docs, state) in enumerate(
            ((0, 0, 0, 0), (1, 1, 0, 0), (0, 0, 1, 1), (1, 1, 1, 1), (0, 1, 0, 1))
        ):
            n = i * 5 + j
            dtype = ("bf16", "fp16", "fp32")[n % 3] if L != 1023 else ("bf16", "fp16")[j % 2]
            D, Dv = ((128, 128), (64, 64), (32, 32), (96, 40), (128, 64), (16, 128))[n % 6]
            yield dtype, L, D, Dv, decay, norm, mapped, docs, state, CHECKED[n % len(CHECKED)] if dtype != "fp32" else NARROW
    # every configuration on the same tensors
    for n, (config, decay) in enumerate(product(CHECKED, ("none", "head", "token"))):
        yield "bf16", 1023, 128, 128, decay, n % 2, n % 2, 0, 0, config
        if config.warps == 4:
            yield "bf16", 333, 32, 64, decay, 1 - n % 2, 1 - n % 2, 0, 0, config


def check_case(case: tuple[Any, ...]) -> tuple[str, str]:
    """(case, what is wrong or empty)."""
    name = " ".join(str(x) for x in case[:9]) + f" {case[9]}"
    try:
        return name, _check(*case)
    except Exception as error:
        return name, f"{type(error).__name__}: {error}"[:400]


def _check(
    dtype_name: str, L: int, D: int, Dv: int, decay: DecayKind, norm: int, mapped: int, docs: int, state: int, config: Any
) -> str:
    dtype, dev = DTYPES[dtype_name], "cuda"
    torch.manual_seed(L + D)
    B, H, Hkv = 2, 4, 2

    def draw(heads: int, size: int) -> Any:
        x = torch.randn((B, heads, L, size), device=dev, dtype=dtype)
        return (x if mapped or not norm else x.abs() + 0.1) / (D**0.25 if size == D and not mapped else 1)

    q, k, v = draw(H, D), draw(Hkv, D), torch.randn((B, Hkv, L, Dv), device=dev, dtype=dtype)
    gamma = torch.tensor([[0.99, 0.9, 0.5, -0.7 if not norm else 0.999]], device=dev) if decay == "head" else None
    g = -torch.rand((B, H, L), device=dev) * torch.tensor([0.02, 0.1, 0.5, 2.0], device=dev)[:, None]
    ids = (torch.rand((B, L), device=dev) < 0.02).cumsum(1).int() if docs else None
    first = Carried(torch.rand((B, H, D, Dv), device=dev), torch.rand((B, H, D), device=dev) if norm else None)
    call = ScanCall(
        Maps(ELU1 if mapped else None, ELU1 if mapped else None, decay, bool(norm)), q, k, v, gamma,
        g if decay == "token" else None, ids, first if state else None,
    )  # fmt: skip
    leaves = {"q": q, "k": k, "v": v}
    if gamma is not None:
        leaves["gamma"] = gamma
    if decay == "token":
        leaves["g"] = g
    grad = torch.randn((B, H, L, Dv), device=dev, dtype=dtype)

    def by_definition(precision: torch.dtype) -> tuple[Any, Any, list[Any]]:
        own = {n: t.detach().to(precision).requires_grad_() for n, t in leaves.items()}
        given = ScanCall(call.maps, own["q"], own["k"], own["v"], own.get("gamma"), own.get("g"), ids, call.initial)
        out, _, after = dense(given, precision)
        return out.detach(), after.detach(), list(torch.autograd.grad(out, list(own.values()), grad.to(precision)))

    exact, plain = by_definition(torch.float64), by_definition(dtype)
    with scan_configured(config):
        out, shares, final = forward(call, want_final=True)
        needs = {"q", "k", "v"} | ({"log"} if decay != "none" else set())
        found = backward(call, out, shares, grad, frozenset(needs), None, final)
    mine = [found.q, found.k, found.v]
    if decay == "head":
        mine.append((found.log.sum(-1) / gamma).sum(0, keepdim=True))
    elif decay == "token":
        mine.append(found.log)
    wrong = _wrong("out", out, plain[0], exact[0], dtype, 2.0)
    wrong += _wrong("state", final.state, plain[1], exact[1], dtype, 2.0)
    for name, a, b, c in zip(leaves, mine, plain[2], exact[2], strict=True):
        wrong += _wrong(f"d{name}", a, b, c, dtype, 3.0)
    return wrong


def _wrong(name: str, found: Any, plain: Any, exact: Any, dtype: torch.dtype, factor: float) -> str:
    if not bool(found.isfinite().all()):
        return f" {name}: {int((~found.isfinite()).sum())} not finite"
    error = float((found.double() - exact).abs().max())
    allowed = float((plain.double() - exact).abs().max())
    if not allowed < float("inf"):
        allowed = torch.finfo(dtype).eps * float(exact.abs().max())
    rounded = exact.to(dtype)
    floor = 2 * float((rounded + 0.3 - 0.3 - rounded).abs().max())
    return "" if error <= factor * allowed + floor else f" {name}: {error:.3g} above {factor:g} * {allowed:.3g} + {floor:.3g}"


def check(workers: int, rows: list[dict[str, Any]]) -> None:
    """All cases in processes of their own, so that kernels compile side by side."""
    wrong = 0
    every = list(cases())
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(check_case, c) for c in every]):
            name, text = done.result()
            if text:
                wrong += 1
                print(f"WRONG {name}:{text}", flush=True)
                rows.append({"check": name, "wrong": text})
    print(f"{len(every) - wrong} of {len(every)} cases right, {time.time() - START:.0f} s", flush=True)
    rows.append({"check": "all", "right": len(every) - wrong, "of": len(every)})


# Speed

WORKLOADS = ((8192, 4), (32768, 1))
H, D = 16, 128
FORWARD_CONFIGS = (
    ScanConfig(64, 64, 4, 2, 2), ScanConfig(64, 32, 4, 2, 2), ScanConfig(64, 64, 4, 2, 1), ScanConfig(64, 64, 4, 3, 1),
    ScanConfig(64, 128, 8, 2, 1), ScanConfig(128, 64, 8, 2, 1), ScanConfig(64, 64, 8, 3, 1), ScanConfig(64, 32, 4, 3, 2),
)  # fmt: skip


def bench(f: Callable[[], Any], rep: int = 60) -> float:
    """Milliseconds, the median."""
    import triton

    return float(triton.testing.do_bench(f, warmup=20, rep=rep, return_mode="median"))


def tensors(S: int, B: int) -> tuple[Any, ...]:
    """q, k, v [B, H, S, D] and log decays [B, H, S]."""
    made = torch.Generator(device="cuda").manual_seed(0)
    q, k, v = (torch.randn(B, H, S, D, device="cuda", dtype=torch.bfloat16, generator=made) for _ in range(3))
    return q, k, v, F.logsigmoid(torch.randn(B, H, S, device="cuda", generator=made)) / 16


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
                    out, shares, _ = forward(call)
                    needs = frozenset(("q", "k", "v"))
                    run = (lambda: forward(call)) if pas == "fwd" else (lambda: backward(call, out, shares, out, needs))
                    ms, note = bench(run), notes
                except Exception as error:
                    ms, note = None, f"{notes} ERR {error!r}"[:200]
                wl = f"linear S{S} B{B} H16 D128"
                rows.append({"wl": wl, "sys": f"attndsl-triton {name}", "pas": pas, "ms": ms, "tflops": None, "note": note})
                print(f"{wl} {name:10s} {pas} {ms if ms is None else round(ms, 4)} {note}", flush=True)


def warm(job: tuple[str, ScanConfig]) -> str:
    """Compile what a workload needs."""
    name, config = job
    try:
        q, k, v, g = tensors(512, 1)
        call = call_of(name, q, k, v, g)
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

    for S, B in WORKLOADS:
        made = torch.Generator(device="cuda").manual_seed(0)
        q, k, v = (torch.randn(B, S, H, D, device="cuda", dtype=torch.bfloat16, generator=made) for _ in range(3))
        gs = F.logsigmoid(torch.randn(B, S, H, device="cuda", generator=made)) / 16
        gk = (F.logsigmoid(torch.randn(B, S, H, D, device="cuda", generator=made)) / 16).to(q.dtype)
        runs: dict[str, tuple[Callable[[], Any], bool]] = {
            "fla-retention": (lambda: chunk_retention(q, k, v)[0], True),
            "fla-simplegla": (lambda: chunk_simple_gla(q, k, v, gs)[0], False),
            "fla-gla": (lambda: chunk_gla(q, k, v, gk)[0], False),
            "fla-linear": (lambda: chunk_linear_attn(q, k, v, normalize=False)[0], True),
        }
        for name, (run, has_backward) in runs.items():
            if time.time() - START > budget:
                return
            for pas in ("fwd", "bwd") if has_backward else ("fwd",):
                try:
                    if pas == "fwd":
                        ms = bench(run)
                    else:
                        for t in (q, k, v):
                            t.requires_grad_(True)
                        out = run()
                        grad = torch.randn_like(out)
                        ms = bench(lambda: torch.autograd.grad(out, (q, k, v), grad, retain_graph=True))
                    note = ""
                except Exception as error:
                    ms, note = None, f"ERR {error!r}"[:200]
                for t in (q, k, v):
                    t.requires_grad_(False)
                rows.append({"wl": f"linear S{S} B{B} H16 D128", "sys": name, "pas": pas, "ms": ms, "tflops": None, "note": note})
                print(rows[-1], flush=True)


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
