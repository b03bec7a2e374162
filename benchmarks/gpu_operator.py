"""The operator on a GPU: graphs, streams, threads, compilations, first calls and the cost of a plan. One run.

    python benchmarks/gpu_operator.py [--out FILE] [--only PART] [--commit HASH]

Every check is a row with `case` and `wrong` (empty where it is right); every figure a row with peerbench's keys, in
milliseconds. A part is `checks`, all `figures`, or one of these: `lengths`, `repeated`, `first`, `decode`. Rows go to
benchmarks/results/<gpu>/<date>-operator.json.
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
DOCUMENTS = "attention docs(input doc: i32[B, L] sorted) { mask doc[b, q] == doc[b, k] and k <= q }"
ALIBI = "attention alibi(input slope: f32[H], scalar c: float = 1.0) { score s - c * slope[h] * (q - k) mask k <= q }"
CAUSAL = "attention causal { mask k <= q }"
SINK = "attention sink { mask k <= q and (q - k < 1024 or k < 64) }"
SOFTCAP = "attention cap { score 50 * tanh(s / 50) mask k <= q }"
FULL = "attention full { score s }"
RETENTION = "attention retention(input g: f32[H]) { mask k <= q weight dot(Q, K) * g[h]^(q - k) }"
LINEAR = "attention linear { mask k <= q weight dot(elu(Q) + 1, elu(K) + 1) / sum }"
COLD = """
import sys, time
import torch
sys.path.insert(0, {root!r})
import attndsl
text, train = {text!r}, {train!r}
q = torch.randn(1, 16, 4096, 128, device="cuda", dtype=torch.bfloat16, requires_grad=train)
given = dict(doc=torch.zeros(1, 4096, device="cuda", dtype=torch.int32)) if "doc" in text else dict()
seed = torch.randn_like(q)
torch.cuda.synchronize()
start = time.perf_counter()
out = attndsl.load(text)(q, q, q, **given)
if train:
    out.backward(seed)
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


def captured(run: Callable[[], Any]) -> tuple[torch.cuda.CUDAGraph, Any]:
    """A graph of what `run` launches, and what it returned while it was captured; warmed up on a stream of its own."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.synchronize()
    found = torch.cuda.CUDAGraph()
    with torch.cuda.graph(found):
        result = run()
    return found, result


def graph() -> str:
    """A captured call, replayed on new numbers, equals the call."""
    f = attndsl.load(WINDOW)
    q, k, v = tensors(2, 4, 3000)
    replayed, out = captured(lambda: f(q, k, v))
    for t, new in zip((q, k, v), tensors(2, 4, 3000), strict=True):
        t.copy_(new)
    replayed.replay()
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

    replayed, found = captured(step)
    replayed.replay()
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


def silent(run: Callable[[int], Tensor], expected: Callable[[int], Tensor]) -> str:
    """The third call of three on new tensors does not wait for the device, and is right."""
    for i in (0, 1):
        run(i)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = run(2)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return near(found, expected(2))


def near(found: Tensor, expected: Tensor) -> str:
    """Empty where two results in bf16 agree up to rounding."""
    worst = float((found.float() - expected.float()).abs().max())
    return "" if worst < 3e-2 else f"differs by {worst:.2e}"


def dense(q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
    """The same by torch, for a mask [B, 1, Lq, Lk]; rows that see nothing are 0."""
    group = q.shape[1] // k.shape[1]
    k, v = (t.repeat_interleave(group, 1) for t in (k, v))
    out = torch.nn.functional.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=visible)
    return torch.where(visible.any(-1, keepdim=True), out, 0.0)


def document_ids(L: int, seed: int, B: int = 1) -> Tensor:
    """Sorted ids of eight documents on average."""
    made = torch.Generator(device="cuda").manual_seed(seed)
    found = torch.randint(0, 9, (B, L), generator=made, device="cuda", dtype=torch.int32)
    return found.sort(-1).values


def causal_pairs(L: int) -> Tensor:
    """[1, 1, L, L]."""
    return torch.ones(L, L, dtype=torch.bool, device="cuda").tril()[None, None]


def documents_without_synchronisation() -> str:
    """Nor does one whose mask reads a new run-time tensor, once its kernels are compiled."""
    L = 2048
    q, k, v = tensors(2, 4, L)
    for text, rank in ((DOCUMENTS, 2), (DOCUMENTS.replace("[B, L]", "[L]").replace("[b, ", "["), 1)):
        f = attndsl.load(text)
        made = [document_ids(L, i, 2 if rank == 2 else 1) for i in range(3)]

        def run(i: int, f: Any = f, made: list[Tensor] = made, rank: int = rank) -> Tensor:
            return f(q, k, v, doc=made[i] if rank == 2 else made[i][0])

        def expected(i: int, made: list[Tensor] = made) -> Tensor:
            return dense(q, k, v, (made[i][:, :, None] == made[i][:, None, :])[:, None] & causal_pairs(L))

        if wrong := silent(run, expected):
            return f"ids of {rank} dimensions: {wrong}"
    return ""


def blocks_without_synchronisation() -> str:
    """A table of blocks per head."""
    f = attndsl.load("attention blocks(input t: bool[H, N, M]) { mask t[h, q // 64, k // 64] and k <= q }")
    L = 2048
    q, k, v = tensors(1, 4, L)
    made = [torch.rand(4, L // 64, L // 64, device="cuda") < 0.3 for _ in range(3)]

    def expected(i: int) -> Tensor:
        return dense(q, k, v, made[i].repeat_interleave(64, 1).repeat_interleave(64, 2)[None] & causal_pairs(L))

    return silent(lambda i: f(q, k, v, t=made[i]), expected)


def offsets_without_synchronisation() -> str:
    """An offset for each batch: many rows, and one row over a cache (decode)."""
    f = attndsl.load(WINDOW)
    for rows, keys in ((512, 4096), (1, 4096)):
        q, k, v = tensors(4, 8, keys)
        q, k, v = q[:, :, :rows], k[:, :2], v[:, :2]
        made = [torch.randint(0, keys - rows, (4,), device="cuda") for _ in range(3)]

        def expected(i: int, q: Tensor = q, k: Tensor = k, v: Tensor = v, made: list[Tensor] = made) -> Tensor:
            at = made[i][:, None, None] + torch.arange(q.shape[2], device="cuda")[None, :, None]
            apart = at - torch.arange(k.shape[2], device="cuda")
            return dense(q, k, v, ((apart >= 0) & (apart < 1024))[:, None])

        def run(i: int, q: Tensor = q, k: Tensor = k, v: Tensor = v, made: list[Tensor] = made) -> Tensor:
            return f(q, k, v, q_offset=made[i])

        if wrong := silent(run, expected):
            return f"{rows} rows: {wrong}"
    return ""


def scalars_without_synchronisation() -> str:
    """0-d tensors as a window in the mask, and as a factor of the score."""
    text = "attention s(scalar w: int, scalar c: float) { score s - c * (q - k) mask k <= q and q - k < w }"
    f = attndsl.load(text)
    q, k, v = tensors(1, 4, 1500)
    widths = [torch.tensor(n, device="cuda") for n in (100, 999, 333)]
    slopes = [torch.tensor(x, device="cuda") for x in (0.1, 0.02, 0.5)]
    return silent(
        lambda i: f(q, k, v, w=widths[i], c=slopes[i]),
        lambda i: f(q, k, v, w=int(widths[i]), c=float(slopes[i])),
    )


def graph_of_documents() -> str:
    """A captured forward and backward, replayed on other document ids, finds their boxes."""
    f = attndsl.load(DOCUMENTS)
    L = 3000
    q, k, v = (t.requires_grad_() for t in tensors(1, 4, L))
    doc = document_ids(L, 0)
    seed = torch.randn_like(q)

    def step() -> tuple[Tensor, ...]:
        out = f(q, k, v, doc=doc)
        return out, *torch.autograd.grad(out, (q, k, v), seed)

    replayed, found = captured(step)
    for i in (1, 2):
        doc.copy_(document_ids(L, i))
        replayed.replay()
        torch.cuda.synchronize()
        visible = (doc[:, :, None] == doc[:, None, :])[:, None] & causal_pairs(L)
        out = dense(q, k, v, visible)
        for a, b in zip(found, (out, *torch.autograd.grad(out, (q, k, v), seed.float())), strict=True):
            if float((a.float() - b.float()).norm() / b.float().norm()) > 2e-2:
                return f"ids {i}: relative difference {float((a.float() - b.float()).norm() / b.float().norm()):.2e}"
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


def host(run: Callable[[int], Any], skip: int = 8) -> float:
    """Milliseconds until a call returns, where the device has nothing else to do; the median of 50 after the first."""
    times: list[float] = []
    for i in range(50 + skip):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run(i)
        times.append((time.perf_counter() - start) * 1e3)
    torch.cuda.synchronize()
    return sorted(times[skip:])[25]


def called(run: Callable[[], Any]) -> float:
    """Milliseconds per call of many, one after another."""
    for _ in range(10):
        run()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(200):
        run()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) * 5.0


def on_device(run: Callable[[], Any]) -> float:
    """Milliseconds per call on the device alone: ten calls in a graph."""

    def ten() -> None:
        for _ in range(10):
            run()

    replayed, _ = captured(ten)
    replayed.replay()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(5):
        replayed.replay()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 50


Row = Callable[..., None]


def figures(keep: Callable[[dict[str, Any]], None], part: str | None) -> None:
    """What a first call, a plan and a repeated call cost; a part of it or all."""

    def row(workload: str, step: str, ms: float, note: str = "") -> None:
        keep({"wl": workload, "sys": "attndsl-triton", "pas": step, "ms": ms, "tflops": None, "note": note})

    parts = {"lengths": new_lengths, "repeated": repeated_calls, "first": first_calls, "decode": decoding}
    for name, measure in parts.items():
        if part in (None, "figures", name):
            measure(row)


def first_calls(row: Row) -> None:
    """A process with an empty cache, and the next one: until the result of a first call, or training step, is there."""
    cases = (
        ("dense", CAUSAL, False), ("window", WINDOW, False), ("softcap", SOFTCAP, False),
        ("documents", DOCUMENTS, False), ("dense, training", CAUSAL, True), ("documents, training", DOCUMENTS, True),
    )  # fmt: skip
    # as installed: modules and templates are compiled, kernels are not
    installed = {n: v for n, v in os.environ.items() if n != "PYTHONDONTWRITEBYTECODE"}
    compiled = (
        "import torch, attndsl.runtime.triton.kernel; from attndsl.codegen.templates import compile_all; compile_all()"
    )
    root = str(Path(__file__).resolve().parent.parent)
    subprocess.run([sys.executable, "-c", compiled], env={**installed, "PYTHONPATH": root}, check=True)
    for name, text, train in cases:
        with tempfile.TemporaryDirectory() as folder:
            environment = {**installed, "ATTNDSL_CACHE_DIR": f"{folder}/a", "ATTNDSL_CACHE": f"{folder}/a",
                           "TRITON_CACHE_DIR": f"{folder}/t"}  # fmt: skip
            code = COLD.format(root=root, text=text, train=train)
            for what in ("cold", "second process"):
                done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
                seconds = float(done.stdout.split()[-1]) if done.returncode == 0 else float("nan")
                row(f"first call {name}", what, seconds * 1e3, done.stderr[-200:] if done.returncode else "")


def new_lengths(row: Row) -> None:
    """A call of a length of its own each time, so that nothing of it is remembered: until it returns."""
    tokens = 524_288
    q, k, v = tensors(1, 1, tokens)
    doc = document_ids(tokens, 0)
    cases = (("causal", CAUSAL), ("window", WINDOW), ("sink and window", SINK), ("full", FULL),
             ("documents", DOCUMENTS))  # fmt: skip
    for name, text in cases:
        f = attndsl.load(text)
        plan = f.plan(L=tokens, H=1, D=128) if text is WINDOW else None
        # lengths that no tile divides, and those that every tile does
        for what, step, odd in (("", 128, 0), (", odd", 128, 37)):

            def call(i: int, f: Any = f, text: str = text, step: int = step, odd: int = odd) -> Tensor:
                n = tokens - step * (i + 1) - odd
                given = {"doc": doc[:, :n]} if text is DOCUMENTS else {}
                return f(q[:, :, :n], k[:, :, :n], v[:, :, :n], **given)

            ms = host(call, 2)
            note = "" if plan is None else f"plan {plan.nbytes} bytes"
            row(f"{name}, {tokens} tokens{what}", "plan and launch of a new length", ms, note)
        if text in (CAUSAL, WINDOW):
            leaves = [t.clone().requires_grad_() for t in (q, k, v)]

            def train(i: int, f: Any = f, leaves: list[Tensor] = leaves) -> Any:
                part = [t[:, :, : tokens - 128 * (i + 1)] for t in leaves]
                out = f(*part)
                return torch.autograd.grad(out, part, out)

            row(f"{name}, {tokens} tokens", "forward and backward of a new length", host(train, 2))


def repeated_calls(row: Row) -> None:
    """Until a call, or its backward, returns."""
    slope = torch.rand(16, device="cuda")
    gamma = torch.full((16,), 0.9, device="cuda")
    cases: list[tuple[str, str, dict[str, Tensor]]] = [
        ("window", WINDOW, {}), ("alibi", ALIBI, {"slope": slope}), ("linear retention", RETENTION, {"g": gamma}),
        ("linear elu", LINEAR, {}), ("documents", DOCUMENTS, {}),
    ]  # fmt: skip
    for length in (256, 4096):
        for name, text, given in cases:
            f = attndsl.load(text)
            more = {"doc": document_ids(length, 0)} if text is DOCUMENTS else given
            q, k, v = tensors(1, 16, length)

            def call(i: int, f: Any = f, t: Any = (q, k, v), more: Any = more) -> Tensor:
                return f(*t, **more)

            row(f"repeated call {name} L{length}", "host", host(call))
            leaves = tuple(t.clone().requires_grad_() for t in (q, k, v))
            row(f"repeated call {name} L{length} with gradients", "host", host(lambda i: call(i, t=leaves)))  # noqa: B023
            seed = torch.randn_like(q)
            times: list[float] = []
            for _ in range(58):
                out = f(*leaves, **more)
                torch.cuda.synchronize()
                start = time.perf_counter()
                torch.autograd.grad(out, leaves, seed)
                times.append((time.perf_counter() - start) * 1e3)
                torch.cuda.synchronize()
            row(f"repeated backward {name} L{length}", "host", sorted(times[8:])[25])
    docs = attndsl.load(DOCUMENTS)
    for length in (4096, 32768):
        q, k, v = tensors(1, 16, length)
        ids = [document_ids(length, i) for i in range(8)]
        row(f"documents L{length}", "host", host(lambda i, q=q, k=k, v=v, ids=ids: docs(q, k, v, doc=ids[i % 8])))
        doc = ids[0]
        row(f"documents L{length}", "device, in a graph", on_device(lambda q=q, k=k, v=v, d=doc: docs(q, k, v, doc=d)))


def decoding(row: Row) -> None:
    """A row over a cache: the same, and one that grows by a key a step."""
    f = attndsl.load(CAUSAL)
    for B, H, Hkv, keys in ((1, 32, 8, 32768), (8, 32, 8, 8192), (32, 32, 8, 2048)):
        q, k, v = tensors(B, H, keys)
        q, k, v = q[:, :, :1].contiguous(), k[:, :Hkv].contiguous(), v[:, :Hkv].contiguous()
        for name, offset in (("", "end"), (" offsets [B]", torch.full((B,), keys - 1, device="cuda"))):

            def step(q: Tensor = q, k: Tensor = k, v: Tensor = v, offset: Any = offset) -> Tensor:
                return f(q, k, v, q_offset=offset)

            row(f"decode B{B}{name}", "as called", called(step))
            row(f"decode B{B}{name}", "host", host(lambda i, step=step: step()))
            row(f"decode B{B}{name}", "device, in a graph", on_device(step))
    q, k, v = tensors(1, 32, 8192)
    q, k, v = q[:, :, :1].contiguous(), k[:, :8].contiguous(), v[:, :8].contiguous()
    for name, text in (("causal", CAUSAL), ("window", WINDOW), ("sink and window", SINK)):
        f = attndsl.load(text)
        times: list[float] = []
        for n in range(4000, 4720):
            torch.cuda.synchronize()
            start = time.perf_counter()
            f(q, k[:, :, :n], v[:, :, :n], q_offset="end")
            times.append((time.perf_counter() - start) * 1e3)
        times = sorted(times[80:])
        note = f"longest {times[-1]:.3f} ms, mean {sum(times) / len(times):.3f} ms"
        row(f"decode growing {name}", "host", times[len(times) // 2], note)


CHECKS = (
    graph, graph_of_training, graph_of_documents, streams, threads, no_synchronisation,
    documents_without_synchronisation, blocks_without_synchronisation, offsets_without_synchronisation,
    scalars_without_synchronisation, one_compilation, compiled,
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", choices=("checks", "figures", "lengths", "repeated", "first", "decode"))
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
    for check in CHECKS if given.only in (None, "checks") else ():
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

    if given.only != "checks":
        figures(keep, given.only)
    return 1 if any(r["wrong"] for r in record["checks"]) else 0


if __name__ == "__main__":
    sys.exit(main())
