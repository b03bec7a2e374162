"""The workloads: names, shapes, seeds and counts of operations, for our kernels and FlexAttention."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportMissingImports=false, reportUnknownParameterType=false
# pyright: reportMissingParameterType=false

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any

import torch
from torch import Tensor

import attndsl
from attndsl.reference import reference
from attndsl.runtime.binding import bind_call
from attndsl.runtime.triton.config import Config, configured
from attndsl.runtime.triton.kernel import TritonKernel
from attndsl.schedule.build import build

Keep = Callable[[dict[str, Any]], None]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
"""Inputs of workloads lie here: plans of what was measured elsewhere need no GPU."""
ROWS_CHECKED = 64
LIMIT = 8e-3
"""Relative error (norm over norm) of a bf16 result: its rounding is 1.7e-3."""

CONFIGS = {
    128: [Config(128, 128, 4, 2, True), Config(128, 64, 4, 3, True), Config(128, 64, 4, 2, True),
          Config(128, 128, 8, 3), Config(128, 64, 8, 3), Config(64, 64, 4, 3), Config(64, 64, 4, 4)],
    64: [Config(128, 128, 4, 2, True), Config(128, 128, 4, 3, True), Config(128, 64, 4, 3, True),
         Config(128, 64, 4, 2, True), Config(128, 64, 4, 3), Config(128, 64, 8, 3), Config(64, 64, 4, 4),
         Config(128, 128, 4, 2)],
}  # fmt: skip
"""By head size; specialised ones are Triton's to get right, and every result is compared with the definition."""
GRID_CONFIGS = [Config(128, 128, 8, 3), Config(128, 128, 8, 2), Config(128, 64, 8, 3), Config(64, 64, 4, 3)]


def _none() -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Workload:
    """One row of the table. `flex` makes FlexAttention's mask and score functions; `permuted` its token count and
    coordinates where tokens are permuted into tiles beforehand."""

    name: str
    text: str
    B: int
    H: int
    S: int
    D: int
    pairs: int
    consts: Mapping[str, Any] = field(default_factory=_none)
    inputs: Mapping[str, Tensor] = field(default_factory=_none)
    grid: Any = None
    flex: Callable[[], tuple[Any, Any]] | None = None
    permuted: int | None = None

    @property
    def flops(self) -> int:
        return 4 * self.B * self.H * self.D * self.pairs


def tensors(B: int, H: int, S: int, D: int) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator(device="cuda").manual_seed(0)
    q, k, v = (torch.randn(B, H, S, D, device="cuda", dtype=torch.bfloat16, generator=g) for _ in range(3))
    return q, k, v


def causal(b, h, i, j):
    return i >= j


def dense(S: int) -> list[Workload]:
    found: list[Workload] = []
    B = max(1, 16384 // S)
    for D, H in ((128, 16), (64, 32)):
        for is_causal in (False, True):
            name = f"dense D{D} S{S} B{B} H{H} {'causal' if is_causal else 'full'}"
            text = "attention causal { mask k <= q }" if is_causal else "attention dense {}"
            mask = causal if is_causal else None
            pairs = S * S // 2 if is_causal else S * S
            found.append(Workload(name, text, B, H, S, D, pairs, flex=lambda mask=mask: (None, mask)))
    return found


def documents(S: int, n: int) -> tuple[list[int], Tensor]:
    g = torch.Generator().manual_seed(0)
    cuts = torch.sort(torch.randperm(S - 1, generator=g)[: n - 1] + 1).values.tolist()
    ends = [0, *cuts, S]
    ids = torch.zeros(S, dtype=torch.int32)
    for d in range(n):
        ids[ends[d] : ends[d + 1]] = d
    return ends, ids.to(DEVICE)


def masked() -> list[Workload]:
    H, S, D = 16, 32768, 128
    ends, ids = documents(S, 16)
    slope = torch.exp2(-8.0 * torch.arange(1, H + 1, device=DEVICE) / H)
    g = torch.Generator().manual_seed(1)
    chosen = torch.rand(S // 128, S // 128, generator=g) < 0.10
    chosen |= torch.eye(S // 128, dtype=torch.bool)
    blocks = chosen.to(DEVICE)

    def window(w: int) -> int:
        return sum(min(i + 1, w) for i in range(S))

    triangle = S * (S + 1) // 2
    swa = "attention swa(const w: int) { mask k <= q and q - k < w }"
    rows: list[tuple[str, str, dict[str, Any], dict[str, Tensor], int, Any, Any]] = [
        ("swa1024 causal", swa, {"w": 1024}, {}, window(1024), None, lambda b, h, i, j: (i >= j) & (i - j < 1024)),
        ("swa4096 causal", swa, {"w": 4096}, {}, window(4096), None, lambda b, h, i, j: (i >= j) & (i - j < 4096)),
        ("swa+-512 bidir", "attention local { mask abs(q - k) <= 512 }", {}, {},
         sum(min(S, i + 513) - max(0, i - 512) for i in range(S)), None,
         lambda b, h, i, j: (i - j <= 512) & (j - i <= 512)),
        ("docs16 causal", "attention docs(input doc: i32[L] sorted) { mask doc[q] == doc[k] and k <= q }", {},
         {"doc": ids}, sum((ends[d + 1] - ends[d]) * (ends[d + 1] - ends[d] + 1) // 2 for d in range(16)), None,
         lambda b, h, i, j: (ids[i] == ids[j]) & (i >= j)),
        ("prefixlm 4096", "attention prefix { mask k < 4096 or k <= q }", {}, {},
         sum(max(4096, i + 1) for i in range(S)), None, lambda b, h, i, j: (j < 4096) | (i >= j)),
        ("alibi causal", "attention alibi(input slope: f32[H]) { score s - slope[h] * (q - k) mask k <= q }", {},
         {"slope": slope}, triangle, lambda s, b, h, i, j: s - slope[h] * (i - j), causal),
        ("softcap causal", "attention softcap { score 50 * tanh(s / 50) mask k <= q }", {}, {}, triangle,
         lambda s, b, h, i, j: 50.0 * torch.tanh(s / 50.0), causal),
        ("randblk 10%", "attention blocks(input r: bool[N, M]) { mask r[q // 128, k // 128] }", {}, {"r": blocks},
         int(blocks.sum()) * 128 * 128, None, lambda b, h, i, j: blocks[i // 128, j // 128]),
        ("sink4+swa1024", "attention sink { mask k <= q and (q - k < 1024 or k < 4) }", {}, {},
         window(1024) + 4 * (S - 1024), None, lambda b, h, i, j: (i >= j) & ((i - j < 1024) | (j < 4))),
    ]  # fmt: skip
    return [
        Workload(f"mask32k D128 H16 {name}", text, 1, H, S, D, pairs, consts, inputs,
                 flex=lambda score=score, mask=mask: (score, mask))
        for name, text, consts, inputs, pairs, score, mask in rows
    ]  # fmt: skip


def neighborhoods() -> list[Workload]:
    cases = [
        ("flux 256x256 w80 s16 H24", (256, 256), (80, 80), (16, 16), 24),
        ("hunyuan 30x48x80 w18,24,24 s16,8,8 H24", (30, 48, 80), (18, 24, 24), (16, 8, 8), 24),
        ("cosmos 16x44x80 w16,32,48 s1,16,16 H32", (16, 44, 80), (16, 32, 48), (1, 16, 16), 32),
        ("na2d 128x128 w31 s1 H16", (128, 128), (31, 31), (1, 1), 16),
    ]
    found: list[Workload] = []
    for name, shape, window, stride, H in cases:
        axes = ("t", "y", "x")[-len(shape) :]
        n = len(shape)
        text = (
            "use masks (neighborhood)\n"
            f"attention gna(const window: int[{n}], const stride: int[{n}]) {{ grid g({', '.join(axes)})\n"
            "    mask all(neighborhood(q.g, k.g, size(g), window, stride, 1, false)) }"
        )
        tile = {2: (16, 8), 3: (2, 8, 8)}[n]
        padded = math.prod(-(-e // t) * t for e, t in zip(shape, tile, strict=True))
        pairs = math.prod(shape) * math.prod(min(w, e) for w, e in zip(window, shape, strict=True))
        found.append(
            Workload(
                "gna " + name, text, 1, H, math.prod(shape), 128, pairs, {"window": window, "stride": stride},
                grid=shape, permuted=padded, flex=lambda a=(shape, window, stride, tile): (None, _tiled_mask(*a)),
            )
        )  # fmt: skip
    return found


def _tiled_mask(shape: Any, window: Any, stride: Any, tile: Any) -> Any:
    """The neighborhood of tokens that lie tile by tile."""
    n, volume = len(shape), math.prod(tile)
    tiles = [-(-e // t) for e, t in zip(shape, tile, strict=True)]

    def coordinates(index):
        block, inner, found = index // volume, index % volume, []
        for a in reversed(range(n)):
            found.append((block % tiles[a]) * tile[a] + inner % tile[a])
            block, inner = block // tiles[a], inner // tile[a]
        return found[::-1]

    def mask(b, h, i, j):
        ci, cj, seen = coordinates(i), coordinates(j), None
        for a in range(n):
            lead = torch.clamp((ci[a] // stride[a]) * stride[a] + stride[a] // 2, max=shape[a] - 1)
            low = torch.clamp(torch.clamp(lead - window[a] // 2, min=0), max=shape[a] - window[a])
            here = (cj[a] >= low) & (cj[a] < low + window[a]) & (cj[a] < shape[a])
            seen = here if seen is None else seen & here
        return seen

    return mask


def workloads() -> list[Workload]:
    """All of them, in the order of the table."""
    return [*dense(16384), *masked(), *neighborhoods(), *dense(4096)]


def configurations(w: Workload, quick: bool = False) -> list[Config]:
    """What is measured of ours: what tuning chooses from."""
    found = GRID_CONFIGS if w.grid is not None else CONFIGS[w.D]
    return found[:1] if quick else found


def compile_one(number: int, config: Config | None) -> str:
    """Run a workload once in a process of its own, so that its kernel is in the cache; FlexAttention without a
    configuration. What went wrong, if something did."""
    w = workloads()[number]
    try:
        if config is None:
            q, k, v, attention, kwargs = _flex_call(w)
            attention(q, k, v, **kwargs)
        else:
            q, k, v = tensors(w.B, w.H, w.S, w.D)
            f = attndsl.load(w.text, **w.consts)
            call = bind_call(f.attention, f.simplified, q, k, v, dict(w.inputs), grid=w.grid)
            kernel = TritonKernel(f.simplified)
            with configured(config):
                plan = build(f.simplified, call.problem, kernel.tiling(call).tile(f.simplified, call.problem))
                kernel.forward(call, plan, False, False)
        torch.cuda.synchronize()
    except Exception as error:
        return f"{w.name}: {error!r}"[:300]
    return ""


def compile_all(workers: int, deadline: float, *, quick: bool) -> set[tuple[str, int, Config]]:
    """Every kernel, many at a time, each run once. Those of ours that failed, or never returned, by text, head size and
    configuration."""
    start = time.time()
    every = workloads()
    jobs = [(i, c) for i, w in enumerate(every) if "S4096" not in w.name for c in configurations(w, quick)]
    if not quick:
        jobs = [(i, None) for i in range(len(every))] + jobs
    bad: set[tuple[str, int, Config]] = set()
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
    running = {pool.submit(compile_one, *job): job for job in jobs}
    done, late = wait(running, timeout=max(1.0, deadline - time.time()))
    stuck = [job for job in late if job.running()]
    for job in (*done, *stuck):
        number, config = running[job]
        text = "did not return" if job in late else repr(job.exception()) if job.exception() else job.result()
        if text:
            print(f"compiling {every[number].name} {config}: {text}", flush=True)
            if config is not None:
                bad.add((every[number].text, every[number].D, config))
    own = list((getattr(pool, "_processes", None) or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    if late:
        for process in own:
            process.kill()
    print(f"-- {len(done)} of {len(jobs)} kernels compiled in {time.time() - start:.0f} s", flush=True)
    return bad


def measure(keep: Keep, deadline: float, *, quick: bool, workers: int = 8) -> None:
    """Every workload: our configurations, then FlexAttention. Rows as peers' tables have them."""
    bad = compile_all(workers, min(deadline, time.time() + 120), quick=quick)
    for w in workloads():
        if time.time() > deadline:
            print(f"no time for {w.name}", flush=True)
            continue
        configs = [c for c in configurations(w, quick) if (w.text, w.D, c) not in bad]
        for run in (_ours,) if quick else (_ours, _flex):
            try:
                run(w, keep, configs)
            except Exception as error:
                _row(keep, w, run.__name__.strip("_"), None, "ERR " + repr(error)[:300].replace("\n", " "))
        torch.cuda.empty_cache()


def _bench(run: Callable[[], Any]) -> float:
    import triton

    found: Any = triton.testing.do_bench(run, warmup=30, rep=120, return_mode="median")
    return float(found)


def _row(keep: Keep, w: Workload, system: str, ms: float | None, note: str) -> None:
    tflops = w.flops / ms / 1e9 if ms else None
    keep({"wl": w.name, "sys": system, "pas": "fwd", "ms": ms, "tflops": tflops, "note": note})
    shown = "" if ms is None or tflops is None else f"{ms:9.4f} ms {tflops:7.1f} TF"
    print(f"{w.name:48s} {system:16s} {shown} {note}", flush=True)


def _ours(w: Workload, keep: Keep, configs: list[Config]) -> None:
    q, k, v = tensors(w.B, w.H, w.S, w.D)
    f = attndsl.load(w.text, **w.consts)
    call = bind_call(f.attention, f.simplified, q, k, v, dict(w.inputs), grid=w.grid)
    kernel = TritonKernel(f.simplified)
    exact = _exact(w, f, q, k, v)
    best: tuple[float, str] | None = None
    for config in configs:
        with configured(config):
            shown = f"{config.rows}x{config.columns} w{config.warps} s{config.stages}" + " ws" * config.specialize
            try:
                start = time.time()
                plan = build(f.simplified, call.problem, kernel.tiling(call).tile(f.simplified, call.problem))
                planned = (time.time() - start) * 1e3
                out, _, _ = kernel.forward(call, plan, False, False)
                torch.cuda.synchronize()
                first = time.time() - start
                error = _error(out, exact)
                if not error < LIMIT:
                    _row(keep, w, "attndsl-triton", None, f"WRONG {shown} error {error:.2e}")
                    continue
                ms = _bench(lambda kernel=kernel, plan=plan: kernel.forward(call, plan, False, False))
            except Exception as failure:
                _row(keep, w, "attndsl-triton", None, f"ERR {shown} " + repr(failure)[:200].replace("\n", " "))
                continue
            boxes = f"boxes {plan.visited} full {plan.full}"
            if kernel.reasons:
                shown += f" ({', '.join(kernel.reasons.values())})"
                kernel = TritonKernel(f.simplified)
            note = f"{shown}; plan {planned:.1f} ms, first {first:.2f} s, {boxes}, error {error:.1e}"
            _row(keep, w, "attndsl-config", ms, note)
            if best is None or ms < best[0]:
                best = ms, note
    if best is not None:
        host = _host_time(f, q, k, v, w)
        _row(keep, w, "attndsl-triton", best[0], f"{best[1]}; call {host:.0f} us of host")


def _host_time(f: Any, q: Tensor, k: Tensor, v: Tensor, w: Workload) -> float:
    """Microseconds that a whole call takes before it returns."""
    small = [t[:, :, :256] if w.grid is None and not w.inputs else t for t in (q, k, v)]
    arguments = {"grid": w.grid, **w.inputs}
    for _ in range(3):
        f(*small, backend="triton", **arguments)
    torch.cuda.synchronize()
    times: list[float] = []
    for _ in range(10):
        start = time.perf_counter()
        f(*small, backend="triton", **arguments)
        times.append(time.perf_counter() - start)
        torch.cuda.synchronize()
    return sorted(times)[5] * 1e6


def _exact(w: Workload, f: Any, q: Tensor, k: Tensor, v: Tensor) -> dict[int, Tensor]:
    """Some rows of the first batch and two heads by the dense definition."""
    found: dict[int, Tensor] = {}
    for start in (ROWS_CHECKED, w.S // 2 - 17, w.S - ROWS_CHECKED):
        rows = q[:1, :, start : start + ROWS_CHECKED]
        out, _ = reference(
            f.attention, rows, k[:1], v[:1], inputs=w.inputs, grid=w.grid, q_offset=start, dtype=torch.float32
        )  # fmt: skip
        found[start] = out
        torch.cuda.empty_cache()
    return found


def _error(out: Tensor, exact: Mapping[int, Tensor]) -> float:
    """The largest relative error over the rows that are known; infinite for what is not a number."""
    if not bool(out.isfinite().all()):
        return math.inf
    errors = [float((out[:1, :, s : s + ROWS_CHECKED] - e).norm() / e.norm()) for s, e in exact.items()]
    return max(errors)


def _flex_call(w: Workload) -> tuple[Tensor, Tensor, Tensor, Any, dict[str, Any]]:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    assert w.flex is not None
    # past its limit of recompilations it would run uncompiled
    torch.compiler.reset()
    score, mask = w.flex()
    S = w.permuted or w.S
    q, k, v = tensors(w.B, w.H, S, w.D)
    blocks = None
    if mask is not None:
        blocks = torch.compile(create_block_mask, dynamic=False)(mask, None, None, S, S, device="cuda")
    torch.cuda.synchronize()
    return q, k, v, torch.compile(flex_attention, dynamic=False), {"score_mod": score, "block_mask": blocks}


def _flex(w: Workload, keep: Keep, configs: list[Config]) -> None:
    start = time.time()
    q, k, v, attention, kwargs = _flex_call(w)
    note = f"bm {time.time() - start:.2f} s"
    start = time.time()
    attention(q, k, v, **kwargs)
    torch.cuda.synchronize()
    note += f" first {time.time() - start:.2f} s"
    ms = _bench(lambda: attention(q, k, v, **kwargs))
    _row(keep, w, "flex-perm" if w.permuted else "flex", ms, note)
