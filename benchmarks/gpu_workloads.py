"""Our forward kernels in several configurations and FlexAttention, on the workloads of `attndsl.bench`."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportMissingImports=false, reportUnknownParameterType=false
# pyright: reportMissingParameterType=false

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

import attndsl
from attndsl.bench.workloads import Workload, dense, masked, neighborhoods, tensors
from attndsl.reference import reference
from attndsl.runtime.binding import bind_call
from attndsl.runtime.triton.config import Config, configured
from attndsl.runtime.triton.kernel import TritonKernel
from attndsl.runtime.triton.labels import label
from attndsl.schedule.build import build
from benchmarks.gpu_compile import Compiling

Keep = Callable[[dict[str, Any]], None]
ROWS_CHECKED = 64
LIMIT = 8e-3
"""Relative error (norm over norm) of a bf16 result: its rounding is 1.7e-3."""

SPECIALIZED = Config(128, 128, 4, 2, specialize=True)
TWO_A_SM = Config(128, 64, 8, 2, registers=128)
"""Two programs fit a multiprocessor: one computes while the other starts or ends."""
LARGE, SMALL = Config(128, 128, 8, 3), Config(64, 64, 4, 3)
CONFIGS = {
    128: (SPECIALIZED, SMALL),
    64: (SPECIALIZED, Config(128, 64, 8, 3), Config(128, 64, 4, 3)),
}
"""By head size; specialised ones are Triton's to get right, and every result is compared with the definition."""
SHORT_CONFIGS = (TWO_A_SM, SMALL)
BLOCK_CONFIGS = (SPECIALIZED, LARGE)
GRID_CONFIGS = (LARGE, Config(128, 64, 4, 2), SMALL)
WAIT = 60.0
"""Seconds after which a kernel counts as one that does not compile."""


def workloads() -> list[Workload]:
    """All of them, in the order of the table."""
    return [*dense(16384), *masked(), *neighborhoods(), *dense(4096)]


def configurations(w: Workload, quick: bool = False) -> tuple[Config, ...]:
    """What is measured of ours, best guesses first, for tiles that see many or few keys."""
    found = GRID_CONFIGS if w.grid is not None else CONFIGS[w.D]
    if w.grid is None and w.pairs < w.S * w.S // 4:
        found = BLOCK_CONFIGS if "randblk" in w.name else SHORT_CONFIGS
    return found[:1] if quick else found


def compile_one(number: int, config: Config | None) -> str:
    """Run a workload once in a process of its own, so that its kernel is in the cache; FlexAttention without a
    configuration. What went wrong, if something did."""
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
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


def jobs_of(every: list[Workload], quick: bool, select: str) -> list[tuple[int, Config | None]]:
    """What is compiled, in the order in which it is measured."""
    jobs: list[tuple[int, Config | None]] = []
    for i, w in enumerate(every):
        if not re.search(select, w.name):
            continue
        jobs += [(_same_kernels(every, i), c) for c in configurations(w, quick)]
        jobs += [] if quick else [(i, None)]
    return jobs


def compile_all(deadline: float, *, quick: bool, workers: int = 8, select: str = "") -> None:
    """Fill the caches on disk, in processes of their own."""
    every = workloads()
    jobs = list(dict.fromkeys(jobs_of(every, quick, select)))
    start, missing = time.time(), 0
    compiling = Compiling(compile_one, jobs, workers)
    try:
        for number, config in jobs:
            problem = compiling.problem((number, config), deadline)
            missing += bool(problem)
            if problem:
                print(f"compiling {every[number].name} {label(config) if config else 'flex'}: {problem}", flush=True)
    finally:
        compiling.close()
    print(f"-- {len(jobs) - missing} of {len(jobs)} kernels compiled in {time.time() - start:.0f} s", flush=True)


def measure(keep: Keep, deadline: float, *, quick: bool, workers: int = 8, select: str = "") -> None:
    """Every workload: our configurations, then FlexAttention. Rows as peers' tables have them. Without workers kernels
    are compiled where they are measured, or found in the caches."""
    every = workloads()
    compiling = Compiling(compile_one, jobs_of(every, quick, select), workers) if workers else None
    try:
        for i, w in enumerate(every):
            if re.search(select, w.name):
                _measure_one(w, i, _same_kernels(every, i), compiling, keep, deadline, quick)
    finally:
        if compiling is not None:
            compiling.close()


def _same_kernels(every: list[Workload], number: int) -> int:
    """The first workload that runs the same kernels: nothing depends on lengths."""
    w = every[number]
    return next(i for i, o in enumerate(every) if (o.text, o.D, o.consts) == (w.text, w.D, w.consts))


def _measure_one(
    w: Workload, number: int, kernels: int, compiling: Compiling | None, keep: Keep, deadline: float, quick: bool
) -> None:
    until = min(deadline, time.time() + WAIT)

    def problem(job: tuple[int, Config | None]) -> str:
        return compiling.problem(job, until) if compiling is not None else ""

    configs: list[Config] = []
    for config in configurations(w, quick):
        found = problem((kernels, config))
        if found:
            _row(keep, w, "attndsl-config", None, f"{label(config)}: {found}")
        else:
            configs.append(config)
    for run in (_ours,) if quick else (_ours, _flex):
        if time.time() > deadline:
            print(f"no time for {w.name}", flush=True)
            return
        found = problem((number, None)) if run is _flex else ""
        if found:
            _row(keep, w, "flex", None, found)
            continue
        try:
            run(w, keep, configs)
        except Exception as error:
            _row(keep, w, run.__name__.strip("_"), None, "ERR " + repr(error)[:300].replace("\n", " "))
    torch.cuda.empty_cache()


def _bench(run: Callable[[], Any]) -> float:
    import triton

    found: Any = triton.testing.do_bench(run, warmup=20, rep=80, return_mode="median")
    return float(found)


def _by_graph(ms: float, run: Callable[[], Any]) -> str:
    """The time in a CUDA graph, in words, where the host cannot keep up with kernels this short."""
    if ms > 2.0:
        return ""
    import triton

    try:
        found: Any = triton.testing.do_bench_cudagraph(run, rep=20, return_mode="median")
        return f"; {float(found):.4f} ms in a graph"
    except Exception as error:
        return f"; no graph: {error!r}"[:120]


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
            shown = label(config)
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
            shown += _by_graph(ms, lambda kernel=kernel, plan=plan: kernel.forward(call, plan, False, False))
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
    from torch.nn.attention.flex_attention import flex_attention

    from attndsl.bench.peers import block_mask

    assert w.flex is not None
    # past its limit of recompilations it would run uncompiled
    torch.compiler.reset()
    score, mask = w.flex()
    S = w.permuted or w.S
    q, k, v = tensors(w.B, w.H, S, w.D)
    blocks = None
    if mask is not None:
        blocks = block_mask(mask, S, S, "cuda")
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
    note += _by_graph(ms, lambda: attention(q, k, v, **kwargs))
    _row(keep, w, "flex-perm" if w.permuted else "flex", ms, note)
