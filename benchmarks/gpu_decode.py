"""Decode on a GPU: one new query against a long cache of keys, beside cuDNN, FlashAttention 2 and FlexAttention.

    python benchmarks/gpu_decode.py [--out FILE] [--budget 100] [--quick] [--far] [--dry]

Checks every shape against the dense definition, then measures it with several tile configurations and splits, and the
time that a call takes of the host. Rows go to benchmarks/results/<gpu>/<date>-decode.json with the keys of the other
tables. `--far` checks tensors of more than 2^31 elements instead, into <date>-far.json. `--dry` compiles what either
would launch, without a GPU.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportMissingImports=false, reportUnknownParameterType=false

from __future__ import annotations

import argparse
import datetime
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor

import attndsl
from attndsl.runtime.triton.config import Config, configured
from benchmarks.cases import Case
from benchmarks.dry import compile_case, compiled
from benchmarks.raw import Raw

RESULTS = Path(__file__).parent / "results"
START = time.time()
LIMIT = 8e-3
"""Relative error (norm over norm) of a bf16 result: its rounding is 1.7e-3."""
BANDWIDTH = 4.3e12
"""Bytes a second that an H200 copies, read and written."""

CAUSAL = "attention causal { mask k <= q }"
WINDOW = "attention window { mask k <= q and (q - k < 4096 or k < 64) }"
SINK = "attention sink(input z: f32[H]) { mask k <= q and q - k < 4096 weight exp(s) / (exp(z[h]) + sum) }"
ALIBI = "attention alibi(input slope: f32[H]) { score s - slope[h] * (q - k) mask k <= q }"
SOFTCAP = "attention softcap { score 50 * tanh(s / 50) mask k <= q }"

CONFIGS = [
    Config(64, 64, 4, 3), Config(64, 32, 4, 4), Config(64, 64, 4, 4), Config(64, 128, 8, 3), Config(64, 64, 2, 3),
    Config(64, 32, 2, 4), Config(64, 128, 4, 2),
]  # fmt: skip
SPLITS = (1, 2, 4, 8, 16, 33, 66)


@dataclass(frozen=True)
class Shape:
    """One row of the table: `seen` keys of the last row are visible."""

    name: str
    text: str
    B: int
    kv: int
    seen: int
    inputs: tuple[str, ...] = ()
    Lq: int = 1
    H: int = 32
    Hkv: int = 8
    D: int = 128
    peers: bool = False

    @property
    def bytes(self) -> int:
        return 2 * self.B * self.Hkv * self.seen * self.D * 2

    @property
    def flops(self) -> int:
        return 4 * self.B * self.H * self.Lq * self.seen * self.D

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        g = torch.Generator(device="cuda").manual_seed(0)
        shapes = [(self.B, self.H, self.Lq, self.D), *[(self.B, self.Hkv, self.kv, self.D)] * 2]
        q, k, v = (torch.randn(s, device="cuda", dtype=torch.bfloat16, generator=g) for s in shapes)
        return q, k, v

    def given(self) -> dict[str, Tensor]:
        g = torch.Generator(device="cuda").manual_seed(1)
        return {n: torch.rand(self.H, device="cuda", generator=g) for n in self.inputs}


def _peers() -> Iterator[Shape]:
    for B, kv in ((32, 8192), (8, 32768), (1, 131072)):
        yield Shape(f"decode B{B} kv{kv} Hq32 Hkv8 D128", CAUSAL, B, kv, kv, peers=True)


SHAPES = (
    *_peers(),
    Shape("decode B8 kv32768 Hq32 Hkv8 D128 window 4096 + sink 64", WINDOW, 8, 32768, 4160),
    Shape("decode B64 kv8192 Hq32 Hkv8 D128 window 4096, sink logit", SINK, 64, 8192, 4096, ("z",)),
    Shape("decode B8 kv32768 Hq32 Hkv8 D128 alibi", ALIBI, 8, 32768, 32768, ("slope",)),
    Shape("decode B8 kv32768 Hq32 Hkv8 D128 softcap", SOFTCAP, 8, 32768, 32768),
    Shape("decode B8 kv32768 Hq32 Hkv8 D128 4 rows", CAUSAL, 8, 32768, 32768, Lq=4),
    Shape("decode B8 kv32768 Hq64 Hkv8 D64", CAUSAL, 8, 32768, 32768, H=64, D=64),
    Shape("decode B8 kv32768 Hq16 Hkv16 D128", CAUSAL, 8, 32768, 32768, H=16, Hkv=16),
)


def exact(shape: Shape, q: Tensor, k: Tensor, v: Tensor, given: dict[str, Tensor]) -> Tensor:
    """The first batch by the dense definition, in fp64 from bf16 numbers."""
    from attndsl.reference import reference

    f = attndsl.load(shape.text)
    group = shape.H // shape.Hkv
    parts: list[Tensor] = []
    for hkv in range(shape.Hkv):
        heads = slice(hkv * group, (hkv + 1) * group)
        own = {n: t[heads] for n, t in given.items()}
        out, _ = reference(
            f.attention, q[:1, heads], k[:1, hkv : hkv + 1], v[:1, hkv : hkv + 1], inputs=own,
            q_offset=shape.kv - shape.Lq, dtype=torch.float32 if shape.kv > 65536 else torch.float64,
        )  # fmt: skip
        parts.append(out.double())
    return torch.cat(parts, 1)


def error(out: Tensor, right: Tensor) -> float:
    """Norm over norm of the first batch; infinite for what is not a number."""
    if not bool(out.isfinite().all()):
        return math.inf
    return float((out[:1].double() - right).norm() / right.norm())


def bench(run: Callable[[], Any]) -> float:
    """Milliseconds, the median, the L2 cache flushed between runs."""
    import triton

    found: Any = triton.testing.do_bench(run, warmup=20, rep=120, return_mode="median")
    return float(found)


def device_time(run: Callable[[], Any]) -> float:
    """Milliseconds of the device alone, the median: calls in a CUDA graph."""
    import triton

    found: Any = triton.testing.do_bench_cudagraph(run, rep=10, return_mode="median")
    return float(found)


class Table:
    """Rows as they are measured, on disk after each."""

    def __init__(self, out: Path, record: dict[str, Any]) -> None:
        self.out, self.record = out, record

    def add(self, shape: Shape, system: str, ms: float | None, note: str) -> None:
        tflops = shape.flops / ms / 1e9 if ms else None
        row = {"wl": shape.name, "sys": system, "pas": "fwd", "ms": ms, "tflops": tflops, "note": note}
        self.record["rows"].append(row)
        self.out.write_text(json.dumps(self.record, indent=1))
        shown = "" if ms is None else f"{ms:8.4f} ms {shape.bytes / ms / 1e9:6.2f} TB/s"
        print(f"{shape.name:58s} {system:16s} {shown} {note}", flush=True)


def ours(shape: Shape, table: Table, quick: bool) -> None:
    """By the choice of the backend, then by others."""
    q, k, v = shape.tensors()
    given = shape.given()
    arguments: dict[str, Any] = dict(given)
    f = attndsl.load(shape.text)

    def call() -> Any:
        return f(q, k, v, backend="triton", q_offset="end", **arguments)

    right = exact(shape, q, k, v, given)
    torch.cuda.synchronize()
    began = time.time()
    out = call()
    torch.cuda.synchronize()
    first = time.time() - began
    wrong = error(out, right)
    if not wrong < LIMIT:
        table.add(shape, "attndsl-triton", None, f"WRONG error {wrong:.2e}")
        return
    note = f"first {first:.2f} s, error {wrong:.1e}; {both_times(call)}"
    table.add(shape, "attndsl-triton", bench(call), note)
    if quick or not shape.peers:
        return
    for config in CONFIGS:
        for splits in (0, *SPLITS):
            if splits and (config != CONFIGS[0] or shape.kv // config.columns < 2 * splits):
                continue
            tried = Config(config.rows, config.columns, config.warps, config.stages, splits=splits)
            shown = f"{tried.columns} w{tried.warps} s{tried.stages} split {splits or 'auto'}"
            try:
                with configured(decode=tried):
                    out = call()
                    wrong = error(out, right)
                    if wrong < LIMIT:
                        table.add(shape, "attndsl-config", device_time(call), "device alone; " + shown)
                    else:
                        table.add(shape, "attndsl-config", None, f"WRONG {shown} error {wrong:.2e}")
            except Exception as failure:
                table.add(shape, "attndsl-config", None, f"ERR {shown} " + repr(failure)[:200].replace("\n", " "))


def host_time(call: Callable[[], Any]) -> float:
    """Microseconds that a call takes before it returns, the median."""
    times: list[float] = []
    for _ in range(20):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return sorted(times)[10] * 1e6


def both_times(call: Callable[[], Any]) -> str:
    """Time of the device alone and of the host, in words."""
    host = f"call {host_time(call):.0f} us of host"
    try:
        return f"device alone {device_time(call):.4f} ms; {host}"
    except Exception as failure:
        return f"no graph ({type(failure).__name__}); {host}"


def growing(table: Table) -> None:
    """A cache that grows by one key a call: host time of each call, and what is compiled or planned again."""
    shape = Shape("decode B1 kv4096.. Hq32 Hkv8 D128, growing", CAUSAL, 1, 4096 + 512, 4096 + 512)
    q, k, v = shape.tensors()
    f = attndsl.load(shape.text)
    times: list[float] = []
    for n in range(4096, 4096 + 512):
        torch.cuda.synchronize()
        start = time.perf_counter()
        f(q, k[:, :, :n], v[:, :, :n], backend="triton", q_offset="end")
        times.append((time.perf_counter() - start) * 1e6)
    times = sorted(times[64:])
    table.add(
        shape, "attndsl-triton", None,
        f"us of host a call: median {times[len(times) // 2]:.0f}, 99 % {times[-5]:.0f}, worst {times[-1]:.0f}",
    )  # fmt: skip


def peers(shape: Shape, table: Table) -> None:
    """cuDNN, FlashAttention 2 and FlexAttention on the same tensors."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.attention.flex_attention import flex_attention
    from torch.nn.functional import scaled_dot_product_attention

    q, k, v = shape.tensors()

    def sdpa(backend: Any) -> Callable[[], Any]:
        def run() -> Any:
            with sdpa_kernel(backend):
                return scaled_dot_product_attention(q, k, v, enable_gqa=True)

        return run

    compiled = torch.compile(flex_attention, dynamic=False)
    systems: dict[str, Callable[[], Any]] = {
        "cudnn": sdpa(SDPBackend.CUDNN_ATTENTION),
        "fa2": sdpa(SDPBackend.FLASH_ATTENTION),
        "flex-decode": lambda: compiled(q, k, v, enable_gqa=True),
    }
    for name, run in systems.items():
        try:
            run()
            table.add(shape, name, bench(run), both_times(run))
        except Exception as failure:
            table.add(shape, name, None, "ERR " + repr(failure)[:200].replace("\n", " "))


FAR_ROWS, FAR_WINDOW = 2_200_000, 300
NEAR = f"attention w {{ mask k <= q and q - k < {FAR_WINDOW} }}"
FAR_CASES = {
    "decode, causal": Case("", CAUSAL, Lq=1, Lk=FAR_ROWS, H=8, D=128, q_offset="end"),
    "decode, window": Case("", NEAR, Lq=1, Lk=FAR_ROWS, H=8, D=128, q_offset="end"),
    "decode, earlier row": Case("", CAUSAL, Lq=1, Lk=FAR_ROWS, H=8, D=128, q_offset=FAR_ROWS - 8),
    "forward, window": Case("", NEAR, Lq=FAR_ROWS, H=8, D=128),
    "1 rows, keys far apart": Case("", "attention dense {}", Lq=1, Lk=66, H=1, D=128),
    "66 rows, keys far apart": Case("", "attention dense {}", Lq=66, H=1, D=128),
}
"""Tensors of more than 2^31 elements, as specs and sizes."""


def far(raw: Raw) -> int:
    """Tensors of more than 2^31 elements: the last keys and rows of the last head."""
    L, H, D, w = FAR_ROWS, 8, 128, FAR_WINDOW
    g = torch.Generator(device="cuda").manual_seed(0)
    k, v = (torch.empty(1, H, L, D, device="cuda", dtype=torch.bfloat16).normal_(generator=g) for _ in range(2))
    assert k.numel() > 2**31
    q = torch.randn(1, H, 1, D, device="cuda", dtype=torch.bfloat16, generator=g)

    def softmax(rows: Tensor, h: int, first: int, last: int) -> Tensor:
        s = rows.float() @ k[0, h, first:last].float().T / D**0.5
        return torch.softmax(s, -1) @ v[0, h, first:last].float()

    def report(name: str, out: Callable[[], Tensor], right: Callable[[], Tensor]) -> None:
        try:
            exact = right()
            found = float((out().float() - exact).norm() / exact.norm())
            raw.check(name, "" if found < LIMIT else "too far", error=found)
        except Exception as error:
            raw.check(name, f"{type(error).__name__}: {error}"[:300])

    for name, seen in (("decode, causal", L), ("decode, window", w)):
        f = attndsl.load(FAR_CASES[name].text)
        for h, word in ((H - 1, ""), (0, ", first head")):
            report(
                name + word,
                lambda h=h, f=f: f(q, k, v, backend="triton", q_offset="end")[0, h],
                lambda h=h, seen=seen: softmax(q[0, h], h, L - seen, L),
            )
    causal = attndsl.load(CAUSAL)
    report(
        "decode, earlier row",
        lambda: causal(q, k, v, backend="triton", q_offset=L - 1 - 7)[0, H - 1],
        lambda: softmax(q[0, H - 1], H - 1, 0, L - 7),
    )
    q = torch.empty_like(k).normal_(generator=g)
    near = attndsl.load(NEAR)
    made: list[Tensor] = []

    def row_of(row: int) -> Tensor:
        made[:] = made or [near(q, k, v, backend="triton")]
        return made[0][0, H - 1, row : row + 1]

    for row in (5, L // 2, L - 1):
        first = max(0, row - w + 1)
        report(
            f"forward, window, row {row}",
            lambda row=row: row_of(row),
            lambda row=row, first=first: softmax(q[0, H - 1, row : row + 1], H - 1, first, row + 1),
        )
    del k, v, q
    made.clear()
    torch.cuda.empty_cache()
    # keys of one box further apart than 32 bits reach
    # (no multiple of 16 bytes, so that descriptors cannot load them)
    step, Lk = 35_000_001, 66
    memory = torch.empty(Lk * step, device="cuda", dtype=torch.bfloat16)
    k = v = memory.as_strided((1, 1, Lk, D), (0, 0, step, 1)).normal_(generator=g)
    dense = attndsl.load("attention dense {}")
    for rows, decode in ((1, Config(64, 64, 4, 3)), (Lk, None)):
        q = torch.randn(1, 1, rows, D, device="cuda", dtype=torch.bfloat16, generator=g)

        def run(q: Tensor = q, decode: Config | None = decode) -> Tensor:
            with configured(Config(64, 64, 4, 2), decode=decode):
                return dense(q, k, v, backend="triton")[0, 0]

        report(f"{rows} rows, keys far apart", run, lambda q=q: softmax(q[0, 0], 0, 0, Lk))
    return raw.end()


def dry(raw: Raw, of_far: bool, workers: int) -> int:
    """Compile what would be launched, without a GPU."""
    cases = FAR_CASES if of_far else {
        s.name: Case("", s.text, Lq=s.Lq, Lk=s.kv, B=s.B, H=s.H, Hkv=s.Hkv, D=s.D, q_offset="end") for s in SHAPES
    }  # fmt: skip
    jobs = {name: partial(compile_case, case, "bf16") for name, case in cases.items()}
    for name, found in compiled(jobs, workers):
        raw.check(name, found.wrong, **found.data())
    return raw.end()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--budget", type=float, default=100.0)
    parser.add_argument("--quick", action="store_true", help="one configuration a shape")
    parser.add_argument("--far", action="store_true", help="check tensors of more than 2^31 elements instead")
    parser.add_argument("--dry", action="store_true", help="no GPU: compile what would be launched")
    parser.add_argument("--workers", type=int, default=1, help="compiling processes of a dry run")
    parser.add_argument("--commit", default="")
    given = parser.parse_args()
    kind = "far" if given.far else "decode"
    if given.dry:
        return dry(Raw(f"{kind}-dry", given.out, given.commit, "cross-compiled"), given.far, given.workers)
    if given.far:
        return far(Raw("far", given.out, given.commit, torch.cuda.get_device_name()))
    from benchmarks.gpu import ask, versions

    gpu = torch.cuda.get_device_name()
    folder = gpu.replace("NVIDIA ", "").replace(" ", "-").lower()
    out: Path = given.out or RESULTS / folder / f"{datetime.date.today().isoformat()}-decode.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {
        "gpu": gpu, "driver": ask("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "versions": versions(), "commit": given.commit or ask("git", "rev-parse", "HEAD"), "rows": [],
    }  # fmt: skip
    table = Table(out, record)
    for shape in SHAPES:
        if shape.peers:
            table.add(shape, "min-bytes", shape.bytes / BANDWIDTH * 1e3, "")
            peers(shape, table)
        if time.time() - START > given.budget:
            print(f"no time for {shape.name}", flush=True)
            continue
        ours(shape, table, given.quick)
        torch.cuda.empty_cache()
    growing(table)
    print(f"-- {time.time() - START:.0f} s, written to {out}", flush=True)
    return 1 if any(r["note"].startswith(("WRONG", "ERR")) and "attndsl" in r["sys"] for r in record["rows"]) else 0


if __name__ == "__main__":
    sys.exit(main())
