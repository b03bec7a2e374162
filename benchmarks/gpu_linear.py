"""Linear attention on a GPU: are the scans right, and how fast are they beside flash-linear-attention. One run.

    python benchmarks/gpu_linear.py [--out FILE] [--only check|time] [--compile-only] [--budget 80] [--workers 12]

`time` measures a few configurations of every workload, and fla on tensors of the same shapes (after a run with
`--compile-only`, which fills the caches in other processes and exits). `check` compares forward and backward with a
dense computation in fp64, for odd lengths, every decay, feature maps, states and documents, in several
configurations, for as long as the budget of seconds lasts. Rows (workload, system, pass, milliseconds) are written as
they come; checks alone go to <date>-scans.json, one entry each. `--dry` compiles, without a GPU, the kernels of every
check.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportMissingImports=false, reportUnknownParameterType=false
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from attndsl.runtime.triton.labels import label
from attndsl.runtime.triton.scan import Carried
from attndsl.runtime.triton.scan_config import ScanConfig, choose_scan, scan_configured
from attndsl.runtime.triton.scan_passes import Maps, ScanCall, backward, forward
from benchmarks.crew import Crew, Job
from benchmarks.dry import compile_linear, compiled
from benchmarks.linear_cases import ELU1, LinearCase, compare
from benchmarks.raw import Raw, bare
from tests.accuracy import GRADIENT_FACTOR, OUTPUT_FACTOR, assert_right

RESULTS = Path(__file__).parent / "results"
START = time.time()
FORWARD = (
    ScanConfig(64, 64, 4, 3, 1, state_stages=4), ScanConfig(64, 64, 4, 4, 1, 0, 128, 8, 4), ScanConfig(64, 64, 8, 3, 1),
    ScanConfig(64, 64, 4, 4, 1, 0, 64, 4, 6), ScanConfig(64, 64, 4, 4, 2),
)  # fmt: skip
BACKWARD = (ScanConfig(64, 64, 4, 3, 1, state_stages=4),)
"""Configurations measured beside the chosen one."""
CHECKED = tuple(dict.fromkeys((*(choose_scan("bf16", n, 128) for n in (64, 128, 168, 256, 512)), *FORWARD, *BACKWARD)))
"""Every configuration that may be chosen, and those measured."""
NARROW = choose_scan("fp32", 128, 128)


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


CHANNELS = (
    ("bf16", 200, 64, 64),
    ("bf16", 150, 128, 128),
    ("fp16", 129, 64, 40),
    ("bf16", 17, 40, 128),
    ("fp32", 65, 40, 40),
)
"""What decays per channel are compared on: element type, rows, components of keys and of values."""


def check_case(case: LinearCase, config: ScanConfig) -> str:
    """What is wrong with a case, empty for nothing."""
    return compare(case, config, "cuda")


def check_taylor(dtype_name: str, L: int, size: int) -> str:
    """What is wrong with a Taylor map, whose weight is 1 + s + s^2 / 2 for s = q.k / sqrt(D), and with its gradients;
    empty for nothing."""
    import attndsl

    dtype, made = getattr(torch, dtype_name), torch.Generator(device="cuda").manual_seed(L)
    given = [torch.randn(2, 4, L, n, device="cuda", generator=made).to(dtype) for n in (size, size, 64)]
    grad = torch.randn(2, 4, L, 64, device="cuda", generator=made).to(dtype)
    taylor = attndsl.load(TAYLOR)

    def dense(q: Any, k: Any, v: Any) -> Any:
        s = q @ k.transpose(-1, -2) / size**0.5
        weights = (1 + s + s * s / 2).tril()
        return weights @ v / weights.sum(-1, keepdim=True)

    def every(run: Callable[..., Any], precision: torch.dtype) -> list[Any]:
        leaves = [x.to(precision).detach().requires_grad_(True) for x in given]
        out = run(*leaves)
        return [out.detach(), *torch.autograd.grad(out, leaves, grad.to(precision))]

    found = zip(every(taylor, dtype), every(dense, dtype), every(dense, torch.float64), strict=True)
    wrong: list[str] = []
    for name, (mine, eager, exact) in zip(("out", "dq", "dk", "dv"), found, strict=True):
        try:
            assert_right(name, mine, eager, exact, dtype, OUTPUT_FACTOR if name == "out" else GRADIENT_FACTOR)
        except AssertionError as error:
            wrong.append(str(error))
    return "; ".join(wrong)


def check_jobs() -> list[Job]:
    """Comparisons, those of many rows first."""
    every: list[Job] = [(" ".join(map(str, c)), check_case, c) for c in cases()]
    every.sort(key=lambda job: (job[2][0].dtype == "fp32", -job[2][0].L))
    channels: list[Job] = []
    for n, (dtype, L, D, Dv) in enumerate(CHANNELS):
        config = replace(choose_scan(dtype, D, Dv), gate_whole=True)
        for norm, state in ((False, False), (True, True)):
            case = LinearCase(
                dtype, L, D, Dv, "channel", norm, norm, False, state, strict=n == 2, B=1, Hkv=(2, 4)[n % 2]
            )
            channels.append((f"{case} {config}", check_case, (case, config)))
            # chunks whose decays are too strong for one product, and all of them in blocks
            strong = replace(case, speed=16.0)
            channels.append((f"{strong} {config}", check_case, (strong, config)))
            if norm:
                blocks = replace(config, gate_whole=False)
                channels.append((f"{case} {blocks}", check_case, (case, blocks)))
    taylor: list[Job] = [(f"taylor {c}", check_taylor, c) for c in (("bfloat16", 700, 16), ("float16", 65, 8))]
    return [*every[:6], *channels, *taylor, *every[6:]]


# Speed

WORKLOADS = ((8192, 4), (32768, 1))
H, D = 16, 128
NAMES = ("retention", "linear", "simplegla")


def runs() -> Iterator[tuple[str, str, ScanConfig | None]]:
    """(workload, pass, configuration), what is chosen (None) first."""
    for name in NAMES:
        yield name, "fwd", None
        yield name, "bwd", None
    yield "gla", "fwd", None
    yield "gla", "bwd", None
    yield "elu1", "fwd", None
    yield "elu1", "bwd", None
    for config in FORWARD:
        yield "retention", "fwd", config
        yield "linear", "fwd", config
    yield "gla", "fwd", ScanConfig(64, 64, 4, 4, 1, gate_whole=False)
    yield "gla", "bwd", ScanConfig(64, 64, 4, 4, 1, gate_whole=False)
    for config in BACKWARD:
        yield "retention", "bwd", config


def bench(f: Callable[[], Any], rep: int = 60) -> float:
    """Milliseconds, the median."""
    import triton

    found: Any = triton.testing.do_bench(f, warmup=20, rep=rep, return_mode="median")
    return float(found)


class Record:
    """Rows, written whenever one is added."""

    def __init__(self, out: Path, commit: str = "") -> None:
        from benchmarks.gpu import ask, versions

        self.out = out
        self.rows: list[dict[str, Any]] = []
        self.checks: list[dict[str, Any]] = []
        self.about: dict[str, Any] = {
            "gpu": torch.cuda.get_device_name(),
            "driver": ask("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
            "versions": versions(), "commit": commit or ask("git", "rev-parse", "HEAD"),
        }  # fmt: skip

    def write(self) -> None:
        """The file as it stands."""
        self.out.parent.mkdir(parents=True, exist_ok=True)
        checks = {"checks": self.checks} if self.checks else {}
        self.out.write_text(json.dumps({**self.about, **checks, "rows": self.rows}, indent=0))

    def add(self, S: int, B: int, system: str, pas: str, ms: float | None, note: str) -> None:
        """A row."""
        flops = 4 * B * H * S * D * D * (1.0 if pas == "fwd" else 2.5)
        wl = f"linear S{S} B{B} H16 D128"
        rate = flops / ms / 1e9 if ms else None
        self.rows.append({"wl": wl, "sys": system, "pas": pas, "ms": ms, "tflops": rate, "note": note})
        self.write()
        print(
            f"{time.time() - START:5.1f} {wl} {system:26s} {pas} {ms if ms is None else round(ms, 4)} {note}",
            flush=True,
        )

    def measure(
        self, S: int, B: int, system: str, pas: str, made: Callable[[], Callable[[], Any]], note: str,
        captured: bool = True,
    ) -> None:  # fmt: skip
        """A row of the run that `made` gives: the call, and (in the note) the kernels alone, from a CUDA graph where it
        can be `captured`. What fails is a note, and nothing more."""
        ms: float | None = None
        try:
            run = made()
            run()
            ms = bench(run)
            note = f"{note} host {host_us(run):.0f} us".strip()
            note += f" graph {graphed(run):.4f}" if captured else " no graph"
        except Exception as error:
            note = f"{note} ERR {type(error).__name__}: {str(error).splitlines()[:1]}"[:200]
        self.add(S, B, system, pas, ms, note)


def host_us(run: Callable[[], Any]) -> float:
    """Microseconds of the host per call."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(5):
        run()
    taken = (time.perf_counter() - start) / 5
    torch.cuda.synchronize()
    return taken * 1e6


def graphed(run: Callable[[], Any]) -> float:
    """Milliseconds of the kernels alone."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return bench(graph.replay)


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
    if name == "gla":
        made = torch.Generator(device="cuda").manual_seed(1)
        steps = torch.nn.functional.logsigmoid(torch.randn(q.shape, device="cuda", generator=made)) / 16
        return ScanCall(Maps(decay="channel"), q, k, v, None, steps.to(q.dtype))
    if name == "elu1":
        return ScanCall(Maps(ELU1, ELU1, normalised=True), q, k, v)
    return ScanCall(Maps(), q, k, v)


def pass_of(call: ScanCall, pas: str) -> Callable[[], Any]:
    """A pass of a call, ready to be measured."""
    if pas == "fwd":
        return lambda: forward(call)
    out, shares, _ = forward(call)
    return lambda: backward(call, out, shares, out, frozenset(("q", "k", "v")))


def own_pass(name: str, S: int, B: int, pas: str) -> Callable[[], Any]:
    """A pass of a workload."""
    return pass_of(call_of(name, *tensors(S, B)), pas)


def warm(name: str, config: ScanConfig | None, pas: str) -> str:
    """Compile what a pass of a workload needs, with the sequence in one and in several segments."""
    for S, B in ((1024, 1), (1024, 32)):
        call = call_of(name, *tensors(S, B))
        with scan_configured(config):
            pass_of(call, pas)()
    torch.cuda.synchronize()
    return ""


PARTS = 4
"""Processes that share the candidates of a peer's kernels among them."""


def warm_peer(name: str, S: int, B: int, pas: str, part: int) -> str:
    """Compile a part of what fla's kernels are tuned among. What they are tuned to is not kept: others use the GPU."""
    from triton.runtime.autotuner import Autotuner

    every = Autotuner.prune_configs

    def some(self: Any, *args: Any, **kwargs: Any) -> list[Any]:
        configs = list(every(self, *args, **kwargs))
        return configs[part::PARTS] or configs[:1]

    Autotuner.prune_configs = some
    try:
        run, given, _ = peer_runs(S, B)[name]
        peer_pass(run, given, pas)()
        torch.cuda.synchronize()
    finally:
        Autotuner.prune_configs = every
    return ""


def warm_others() -> str:
    """Compile what the rows beside the workloads need."""
    for _, _, _, _, made, _ in others():
        made()()
    torch.cuda.synchronize()
    return ""


def warm_jobs() -> list[Job]:
    """Compilations, the best guesses first."""
    found: list[Job] = [(f"{name} {pas} {c}", warm, (name, c, pas)) for name, pas, c in runs()]
    chosen = sum(config is None for _, _, config in runs())
    peers: list[Job] = [
        (f"{name} {pas} {S} {part}", warm_peer, (name, S, B, pas, part))
        for name, both in PEERS.items() for pas in ("fwd", "bwd") if both or pas == "fwd"
        for S, B in WORKLOADS[:1] for part in range(PARTS)
    ]  # fmt: skip
    return [*found[:chosen], ("others", warm_others, ()), *peers, *found[chosen:]]


def speed(record: Record, end: float) -> None:
    """What is chosen for every workload, then fla beside it, then other configurations; what was compiled before is
    loaded."""
    chosen = [r for r in runs() if r[2] is None]
    own_rows(record, end, chosen)
    for system, rows, batches, pas, made, text in others():
        record.measure(rows, batches, system, pas, made, text, captured=pas == "fwd")
    record.add(1, 64, "min-bytes step", "fwd", STEP_BYTES / 4.2e12 * 1e3, "the state read and written at 4.2 TB/s")
    peer_rows(record, end, "fwd", list(PEERS))
    peer_rows(record, end, "bwd", list(PEERS))
    own_rows(record, end, [r for r in runs() if r[2] is not None])
    kernels(record, end)


def own_rows(record: Record, end: float, measured: list[tuple[str, str, ScanConfig | None]]) -> None:
    """Rows of these workloads, passes and configurations."""
    for name, pas, config in measured:
        system = f"attndsl-triton {name}" if config is None else f"attndsl-config {name}"
        note = "" if config is None else words(config)
        for S, B in WORKLOADS:
            if time.time() > end:
                print("out of time", flush=True)
                return
            with scan_configured(config):
                record.measure(S, B, system, pas, partial(own_pass, name, S, B, pas), note)


def words(config: ScanConfig) -> str:
    """A configuration in short."""
    states = "x".join(map(str, config.of_states[:2]))
    whole = "" if config.gate_whole else " chunks in blocks"
    return (
        f"{config.chunk}x{config.columns} w{config.warps} s{config.stages} r{config.resident} "
        f"states {states} s{config.of_states[2]}{whole}"
    )


def kernels(record: Record, end: float) -> None:
    """Rows of the single kernels of a pass, as the profiler sees them."""
    from torch.profiler import ProfilerActivity, profile

    cases = [(S, B, name, pas) for (S, B), name, pas in product(WORKLOADS, (*NAMES, "gla", "elu1"), ("fwd", "bwd"))]
    for S, B, name, pas in [(32768, 1, "taylor", "fwd"), *cases]:
        if time.time() > end:
            return
        try:
            run = taylor_run() if name == "taylor" else pass_of(call_of(name, *tensors(S, B)), pas)
            run()
            torch.cuda.synchronize()
            with profile(activities=[ProfilerActivity.CUDA]) as taken:
                for _ in range(5):
                    run()
                torch.cuda.synchronize()
            parts = [
                f"{e.key[:24]} {e.device_time_total / 5e3:.4f}/{e.count // 5}"
                for e in taken.key_averages()
                if e.device_time_total
            ]
            record.add(S, B, f"attndsl-kernels {name}", pas, None, "; ".join(parts))
        except Exception as error:
            record.add(S, B, f"attndsl-kernels {name}", pas, None, f"ERR {error!r}"[:200])


TAYLOR = """
use features (taylor)
attention taylor_map { mask k <= q   weight dot(taylor(Q, D), taylor(K, D)) / sum }
"""


STEP_CONFIGS = (ScanConfig(1, 32, 4, 1), ScanConfig(1, 128, 4, 1), ScanConfig(1, 64, 2, 1), ScanConfig(1, 64, 8, 1))
"""Configurations of a step measured beside the chosen one."""
TAYLOR_CONFIGS = (
    ScanConfig(64, 64, 4, 2, state_stages=4), ScanConfig(64, 64, 8, 3, state_stages=4),
    ScanConfig(64, 128, 8, 2, state_stages=3), ScanConfig(64, 64, 4, 3, 1, 0, 128, 8, 3),
)  # fmt: skip
"""Of 168 features, measured beside what is chosen."""
STEP_BYTES = 2 * 64 * H * D * D * 4


def others() -> Iterator[tuple[str, int, int, str, Callable[[], Callable[[], Any]], str]]:
    """(system, rows, batches, pass, what gives a run, note): one row with a state, and a Taylor map of 16."""
    q, k, v, _ = tensors(1, 64)
    first = Carried(torch.rand(64, H, D, D, device="cuda"))
    call = replace(call_of("linear", q, k, v, None), initial=first)
    yield "attndsl-triton step", 1, 64, "fwd", lambda: partial(forward, call, want_final=True), "values and state"
    for config in STEP_CONFIGS:
        yield "attndsl-config step", 1, 64, "fwd", partial(partial, one_step, call, config), f"{label(config)};"
    # what the same bytes take by the same clock
    copied = torch.empty_like(first.state)
    yield "torch copy step", 1, 64, "fwd", lambda: partial(copied.copy_, first.state), "the state read and written"
    yield "attndsl-triton taylor", 32768, 1, "fwd", taylor_run, "16 components, values of 128"
    q, k, v, _ = tensors(32768, 1)
    yield "cudnn taylor", 32768, 1, "fwd", lambda: partial(cudnn, q, k, v), "causal softmax, heads of 128"
    for config in TAYLOR_CONFIGS:
        yield "attndsl-config taylor", 32768, 1, "fwd", partial(taylor_run, config), words(config)
    yield "attndsl-triton taylor", 32768, 1, "bwd", taylor_backward, "16 components, values of 128"


def taylor_run(config: ScanConfig | None = None) -> Callable[[], Any]:
    """A Taylor map of 16 components, ready to be measured."""
    import attndsl

    taylor = attndsl.load(TAYLOR)
    q, k, v, _ = tensors(32768, 1)
    q, k = (x[..., :16].contiguous() for x in (q, k))

    def run() -> Any:
        with scan_configured(config):
            return taylor(q, k, v)

    return run


def taylor_backward() -> Callable[[], Any]:
    """Its backward pass."""
    import attndsl

    q, k, v, _ = tensors(32768, 1)
    leaves = [x.detach().requires_grad_(True) for x in (q[..., :16].contiguous(), k[..., :16].contiguous(), v)]
    out = attndsl.load(TAYLOR)(*leaves)
    grad = torch.randn_like(out)
    return lambda: torch.autograd.grad(out, leaves, grad, retain_graph=True)


def one_step(call: ScanCall, config: ScanConfig) -> Any:
    """A step in a configuration."""
    with scan_configured(step=config):
        return forward(call, want_final=True)


def cudnn(q: Any, k: Any, v: Any) -> Any:
    """Causal softmax attention by cuDNN."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)


def peer_rows(record: Record, end: float, pas: str, names: list[str]) -> None:
    """The rows of the peers. Their kernels are tuned here, alone on the GPU, when they are first called."""
    for name, both in ((n, PEERS[n]) for n in names):
        for S, B in WORKLOADS:
            if time.time() < end and (both or pas == "fwd"):
                # a capture that fails, as those of some backward passes do, leaves a stream that nothing runs on
                record.measure(S, B, name, pas, partial(peer_of, name, S, B, pas), "", captured=pas == "fwd")


def peer_of(name: str, S: int, B: int, pas: str) -> Callable[[], Any]:
    """A pass of a peer by name."""
    run, given, _ = peer_runs(S, B)[name]
    return peer_pass(run, given, pas)


PEERS = {"fla-retention": True, "fla-linear": True, "fla-simplegla": False, "fla-gla": False}
"""By name, whether there is a backward pass here."""


def peer_runs(S: int, B: int) -> dict[str, tuple[Callable[..., Any], tuple[Any, ...], bool]]:
    """fla's functions, their tensors [B, S, H, D], and whether they have a backward pass here."""
    from fla.ops.gla import chunk_gla
    from fla.ops.linear_attn import chunk_linear_attn
    from fla.ops.retention import chunk_retention
    from fla.ops.simple_gla import chunk_simple_gla

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
    parser.add_argument("--only", choices=("check", "speed", "time"))
    parser.add_argument("--compile-only", action="store_true")
    parser.add_argument("--commit", default="")
    parser.add_argument("--budget", type=float, default=80.0)
    parser.add_argument("--workers", type=int, default=12)
    parser.add_argument("--dry", action="store_true", help="no GPU: compile the kernels of every check")
    args = parser.parse_args()
    if args.dry:
        return dry(args)
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    card = torch.cuda.get_device_name().replace(" ", "-").lower()
    kind = "scans" if args.only == "check" else "linear"
    record = Record(args.out or RESULTS / card / f"{datetime.date.today()}-{kind}.json", args.commit)
    end = START + args.budget
    checks = [] if args.only in ("speed", "time") or args.compile_only else check_jobs()
    jobs = warm_jobs() if args.compile_only or args.only is None else []
    # some checks first: speed of what is wrong says nothing
    crew = Crew([*checks[:8], *jobs, *checks[8:]], args.workers)
    try:
        if args.only is None and not args.compile_only:
            while time.time() < end - 0.6 * args.budget and any(n not in crew.done for n, _, _ in jobs):
                crew.pump(0.2)
        if args.only != "check" and not args.compile_only:
            speed(record, end - (0.25 * args.budget if args.only is None else 0.0))
        crew.rest(end)
    finally:
        crew.close()
        wrong = {n: t for n, _, _ in checks if (t := crew.done.get(n))}
        ran = sum(n in crew.done for n, _, _ in checks)
        if checks:
            record.checks = [{"case": n, "wrong": bare(t)} for n, _, _ in checks if (t := crew.done.get(n)) is not None]
            record.about["not reached"] = len(checks) - ran
            record.write()
        for n, text in [*wrong.items(), *((n, t) for n, _, _ in jobs if (t := crew.done.get(n)))]:
            print(f"WRONG {n}: {text}", flush=True)
        print(
            f"{ran - len(wrong)} of {ran} cases right ({len(checks)} in all), {time.time() - START:.0f} s", flush=True
        )
    return 1 if wrong else 0


def dry(args: argparse.Namespace) -> int:
    """Compile the kernels of every check, without a GPU. A Taylor map has those of any other."""
    raw = Raw("scans-dry", args.out, args.commit, "cross-compiled")
    jobs = {name: partial(compile_linear, *given) for name, check, given in check_jobs() if check is check_case}
    for name, found in compiled(jobs, args.workers):
        raw.check(name, found.wrong, **found.data())
    return raw.end()


if __name__ == "__main__":
    sys.exit(main())
