"""The operator on a GPU: graphs, streams, threads, compilations, first calls and the cost of a plan. One run.

    python benchmarks/gpu_operator.py [--out FILE] [--commit HASH]

Every check is a row with `case` and `wrong` (empty where it is right); every figure a row with peerbench's keys, in
milliseconds. Rows go to benchmarks/results/<gpu>/<date>-operator.json.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingImports=false, reportUnknownParameterType=false, reportUnknownLambdaType=false

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor

import attndsl
from benchmarks.gpu import ask, versions

RESULTS = Path(__file__).parent / "results"
WINDOW = "attention window(const w: int = 1024) { mask k <= q and q - k < w }"
ALIBI = "attention alibi(input slope: f32[H], scalar c: float = 1.0) { score s - c * slope[h] * (q - k) mask k <= q }"
COLD = """
import sys, time
import torch
sys.path.insert(0, {root!r})
import attndsl
q = torch.randn(1, 16, 4096, 128, device="cuda", dtype=torch.bfloat16)
torch.cuda.synchronize()
start = time.perf_counter()
attndsl.load({text!r})(q, q, q)
torch.cuda.synchronize()
print(time.perf_counter() - start)
"""
Rows = list[dict[str, Any]]


def tensors(B: int, H: int, L: int, D: int = 128) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v in bf16."""
    q, k, v = (torch.randn(B, H, L, D, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    return q, k, v


def same(a: Tensor, b: Tensor) -> str:
    """Empty where two results are bitwise equal and finite."""
    if not bool(a.isfinite().all()):
        return "not finite"
    return "" if torch.equal(a, b) else f"differs by {float((a - b).abs().max()):.2e}"


def graph() -> str:
    """A captured call, replayed on new numbers, equals the call."""
    f = attndsl.load(WINDOW)
    q, k, v = tensors(2, 4, 3000)
    for _ in range(3):
        f(q, k, v)
    torch.cuda.synchronize()
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        out = f(q, k, v)
    for t, new in zip((q, k, v), tensors(2, 4, 3000), strict=True):
        t.copy_(new)
    captured.replay()
    torch.cuda.synchronize()
    return same(out, f(q, k, v))


def graph_of_training() -> str:
    """A captured forward and backward equals the eager one."""
    f = attndsl.load(ALIBI)
    q, k, v = (t.requires_grad_() for t in tensors(1, 4, 1000))
    slope = torch.rand(4, device="cuda").requires_grad_()
    leaves = (q, k, v, slope)

    def step() -> tuple[Tensor, ...]:
        return torch.autograd.grad(f(q, k, v, slope=slope).float().square().sum(), leaves)

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.synchronize()
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        found = step()
    captured.replay()
    torch.cuda.synchronize()
    return next((w for a, b in zip(found, step(), strict=True) if (w := same(a, b))), "")


def streams() -> str:
    """A call on another stream waits for nothing but that stream."""
    f = attndsl.load(WINDOW)
    q, k, v = tensors(1, 4, 2048)
    expected = f(q, k, v)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        late = q * 1.0
        out = f(late, k, v)
    side.synchronize()
    return same(out, expected)


def threads() -> str:
    """Calls with gradients from threads of their own."""
    f = attndsl.load(ALIBI)
    slope = torch.rand(4, device="cuda")
    made = [tuple(t.requires_grad_() for t in tensors(1, 4, 700 + i)) for i in range(4)]
    expected = [torch.autograd.grad(f(*t, slope=slope).float().sum(), t) for t in made]
    found: dict[int, Any] = {}

    def run(i: int) -> None:
        found[i] = torch.autograd.grad(f(*made[i], slope=slope).float().sum(), made[i])

    workers = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    if len(found) < 4:
        return "a thread failed"
    return next((w for i in range(4) for a, b in zip(found[i], expected[i], strict=True) if (w := same(a, b))), "")


def no_synchronisation() -> str:
    """A repeated call never waits for the device."""
    f = attndsl.load(WINDOW)
    q, k, v = tensors(1, 4, 2048)
    for _ in range(2):
        f(q, k, v)
    torch.cuda.set_sync_debug_mode("error")
    try:
        f(q, k, v)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return ""


def documents_without_synchronisation() -> str:
    """Nor does one whose mask reads a new run-time tensor, once its kernels are compiled."""
    f = attndsl.load("attention docs(input doc: i32[B, L] sorted) { mask doc[b, q] == doc[b, k] and k <= q }")
    q, k, v = tensors(1, 4, 2048)
    made = [torch.randint(0, 9, (1, 2048), device="cuda", dtype=torch.int32).sort(-1).values for _ in range(3)]
    for doc in made[:2]:
        f(q, k, v, doc=doc)
    torch.cuda.set_sync_debug_mode("error")
    try:
        f(q, k, v, doc=made[2])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return ""


def one_compilation() -> str:
    """20 lengths, one compilation each way."""
    from triton import knobs

    count = [0]
    f = attndsl.load(ALIBI)
    slope = torch.rand(4, device="cuda")

    def run(length: int, c: float) -> None:
        q, k, v = (t.requires_grad_() for t in tensors(1 + length % 2, 4, length))
        f(q, k, v, slope=slope, c=c).sum().backward()

    run(1500, 1.0)
    run(1501, 0.9)
    hook = knobs.compilation.listener
    knobs.compilation.listener = lambda **_: count.__setitem__(0, count[0] + 1)
    try:
        for i in range(20):
            run(130 + 97 * i, 0.1 * i)
    finally:
        knobs.compilation.listener = hook
    return "" if count[0] == 0 else f"{count[0]} compilations more"


def compiled() -> str:
    """torch.compile(fullgraph=True), forward and backward."""
    f = attndsl.load(ALIBI)
    slope = torch.rand(4, device="cuda").requires_grad_()
    q, k, v = (t.requires_grad_() for t in tensors(1, 4, 900))

    def model(q: Tensor, k: Tensor, v: Tensor, slope: Tensor) -> Tensor:
        return f(q * 2, k, v, slope=slope).relu()

    leaves = (q, k, v, slope)
    expected = torch.autograd.grad(model(*leaves).float().sum(), leaves)
    found = torch.autograd.grad(torch.compile(model, fullgraph=True)(*leaves).float().sum(), leaves)
    worst = max(float((a - b).float().norm() / b.float().norm()) for a, b in zip(found, expected, strict=True))
    return "" if worst < 1e-2 else f"relative difference {worst:.2e}"


def figures(keep: Callable[[dict[str, Any]], None]) -> None:
    """What a first call and a plan cost."""

    def row(workload: str, step: str, ms: float, note: str = "") -> None:
        keep({"wl": workload, "sys": "attndsl-triton", "pas": step, "ms": ms, "tflops": None, "note": note})

    for name, text in (("window", WINDOW), ("softcap", "attention cap { score 50 * tanh(s / 50) mask k <= q }")):
        with tempfile.TemporaryDirectory() as folder:
            environment = {**os.environ, "ATTNDSL_CACHE_DIR": f"{folder}/a", "ATTNDSL_CACHE": f"{folder}/a",
                           "TRITON_CACHE_DIR": f"{folder}/t"}  # fmt: skip
            code = COLD.format(root=str(Path(__file__).resolve().parent.parent), text=text)
            for what in ("cold", "second process"):
                done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
                seconds = float(done.stdout.split()[-1]) if done.returncode == 0 else float("nan")
                row(f"first call {name}", what, seconds * 1e3, done.stderr[-200:] if done.returncode else "")
    f = attndsl.load(WINDOW)
    tokens = 524_288
    q, k, v = tensors(1, 1, tokens)
    f(q, k, v)
    torch.cuda.synchronize()
    plan = f.plan(L=tokens, H=1, D=128)
    times: list[float] = []
    for i in range(9):
        # a length of its own each time, so that nothing is remembered
        part = [t[:, :, : tokens - 128 * (i + 1)] for t in (q, k, v)]
        torch.cuda.synchronize()
        start = time.perf_counter()
        f(*part)
        times.append((time.perf_counter() - start) * 1e3)
        torch.cuda.synchronize()
    row("window 1024, 524288 tokens", "plan and launch of a new length", sorted(times)[4], f"plan {plan.nbytes} bytes")
    for length in (256, 4096):
        q, k, v = tensors(1, 16, length)
        for needs in (False, True):
            made = [t.clone().requires_grad_(needs) for t in (q, k, v)]
            times = []
            for _ in range(50):
                start = time.perf_counter()
                f(*made)
                times.append((time.perf_counter() - start) * 1e3)
                torch.cuda.synchronize()
            row(f"repeated call L{length}{' with gradients' if needs else ''}", "host", sorted(times)[25])


CHECKS = (
    graph, graph_of_training, streams, threads, no_synchronisation, documents_without_synchronisation,
    one_compilation, compiled,
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--commit", default="")
    given = parser.parse_args()
    gpu = torch.cuda.get_device_name()
    folder = gpu.replace("NVIDIA ", "").replace(" ", "-").lower()
    out: Path = given.out or RESULTS / folder / f"{datetime.date.today().isoformat()}-operator.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {
        "gpu": gpu, "driver": ask("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "versions": versions(), "commit": given.commit or ask("git", "rev-parse", "HEAD"), "checks": [], "rows": [],
    }  # fmt: skip
    for check in CHECKS:
        try:
            wrong = check()
        except Exception as error:
            wrong = f"{type(error).__name__}: {error}"[:300]
        record["checks"].append({"case": check.__name__, "wrong": wrong})
        print(f"{'WRONG' if wrong else 'right'} {check.__name__} {wrong}", flush=True)
        out.write_text(json.dumps(record, indent=1))

    def keep(row: dict[str, Any]) -> None:
        record["rows"].append(row)
        print(f"{row['wl']:44s} {row['pas']:32s} {row['ms']:9.3f} ms {row['note']}", flush=True)
        out.write_text(json.dumps(record, indent=1))

    figures(keep)
    return 1 if any(r["wrong"] for r in record["checks"]) else 0


if __name__ == "__main__":
    sys.exit(main())
