"""Tuning on a GPU: how much it gains over the untuned default, and how soon a process with a warm cache has a result.

    python benchmarks/gpu_tune.py [--budget 90] [--each 8] [--out FILE] [--backward]

Tunes one pass after another of workloads and masks of the standard library until the budget of seconds is used, each
for at most `--each` seconds, in a cache of its own. Then starts processes on an empty and on that cache and takes the
time of their first call, after import and the start of CUDA. Raw rows, and the entries themselves, go to
benchmarks/results/<gpu>/<date>-tune.json, from which `benchmarks/ship_tuned.py` writes what the package ships.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

RESULTS = Path(__file__).parent / "results"
START = time.time()


@dataclass(frozen=True)
class Spec:
    """What is tuned: a name, its group, its text, sizes, consts, how its inputs are made, and a grid."""

    name: str
    group: str
    text: str
    B: int = 1
    H: int = 16
    L: int = 32768
    D: int = 128
    consts: dict[str, Any] = field(default_factory=dict[str, Any])
    grid: tuple[int, ...] | None = None
    backward: bool = True


def std(name: str, call: str, **more: Any) -> Spec:
    """A mask of the standard library."""
    function = call.split("(")[0]
    return Spec(
        f"std {name}", "standard library", f"use masks ({function})\nattention {name} {{ mask {call} }}", **more
    )


def specs() -> list[Spec]:
    """The most used first: what does not fit the budget is left out."""
    alibi = "attention alibi(input slope: f32[H]) { score s - slope[h] * (q - k) mask k <= q }"
    window = "attention swa(const w: int) { mask k <= q and q - k < w }"
    gna = (
        "use masks (neighborhood)\nattention gna(const window: int[{n}], const stride: int[{n}]) {{ grid g({axes})\n"
        "    mask all(neighborhood(q.g, k.g, size(g), window, stride, 1, false)) }}"
    )
    grid3: dict[str, Any] = {"text": gna.format(n=3, axes="t, y, x"), "grid": (30, 48, 80), "H": 24, "L": 115200}
    grid2: dict[str, Any] = {"text": gna.format(n=2, axes="y, x"), "L": 16384}
    return [
        Spec("causal D128", "dense", "attention causal { mask k <= q }", L=16384),
        Spec("swa1024 D128", "masks", window, consts={"w": 1024}),
        Spec("causal D64", "dense", "attention causal { mask k <= q }", H=32, L=16384, D=64),
        Spec("alibi D128", "scores", alibi, backward=False),
        Spec("na2d 128x128 w31", "grids", grid=(128, 128), consts={"window": (31, 31), "stride": (1, 1)}, **grid2),
        Spec("full D128", "dense", "attention dense {}", L=16384),
        Spec("softcap D128", "scores", "attention softcap { score 50 * tanh(s / 50) mask k <= q }", backward=False),
        Spec("swa1024 D64", "masks", window, H=32, D=64, consts={"w": 1024}),
        Spec("swa4096 D128", "masks", window, consts={"w": 4096}, backward=False),
        Spec("hunyuan w18,24,24 s16,8,8", "grids", consts={"window": (18, 24, 24), "stride": (16, 8, 8)},
             backward=False, **grid3),
        Spec("full D64", "dense", "attention dense {}", H=32, L=16384, D=64, backward=False),
        Spec("causal D128 S4096", "dense", "attention causal { mask k <= q }", B=4, L=4096, backward=False),
        std("local", "local(q, k, 512)", backward=False),
        std("sink", "sink_window(q, k, 4, 1024)", backward=False),
        std("prefix", "prefix(q, k, 4096)", backward=False),
        std("chunks", "chunked(q, k, 2048)", backward=False),
        std("blocks", "block_causal(q, k, 1024)", backward=False),
        std("dilate", "dilated(q, k, 1024, 4)", backward=False),
        std("stride", "strided(q, k, 128)", backward=False),
    ]  # fmt: skip


def tune_all(budget: float, each: float, backward: bool) -> tuple[list[dict[str, Any]], list[Any]]:
    """Rows and entries."""
    import torch

    import attndsl
    from attndsl.cli.inputs import make_inputs
    from attndsl.runtime.binding import bind_call
    from attndsl.runtime.cache.entry import entry_data
    from attndsl.runtime.triton.config import Pass
    from attndsl.runtime.triton.kernel import TritonKernel
    from attndsl.tune.online import tune_passes
    from attndsl.tune.oracle import Subject
    from attndsl.tune.workers import Workers

    rows: list[dict[str, Any]] = []
    entries: list[Any] = []
    workers = Workers()
    for spec in specs():
        steps: tuple[Pass, ...] = ("forward", "dq", "dkdv") if backward and spec.backward else ("forward",)
        for step in steps:
            if time.time() - START > budget:
                rows.append({"spec": spec.name, "group": spec.group, "pass": step, "note": "no time"})
                continue
            begin = time.time()
            try:
                f = attndsl.load(spec.text, **spec.consts)
                g = torch.Generator(device="cuda").manual_seed(0)
                shape = (spec.B, spec.H, spec.L, spec.D)
                q, k, v, grad = (torch.randn(shape, device="cuda", dtype=torch.bfloat16, generator=g) for _ in range(4))
                sizes = {"B": spec.B, "H": spec.H, "Hkv": spec.H, "L": spec.L, "Lq": spec.L, "Lk": spec.L,
                         "D": spec.D, "Dv": spec.D}  # fmt: skip
                made = make_inputs(f.attention, sizes, 0)
                inputs = {n: torch.from_numpy(t.copy()).cuda() for n, t in made.items()}
                call = bind_call(f.attention, f.simplified, q, k, v, inputs, grid=spec.grid)
                kernel = TritonKernel(f.simplified)
                subject = Subject(f.attention, call, spec.grid, grad)
                (entry,) = tune_passes(kernel, subject, kernel.facts(call), [step], each, workers=workers)
            except Exception as error:
                note = f"ERR {type(error).__name__}: {' '.join(str(error).split())}"[:300]
                rows.append({"spec": spec.name, "group": spec.group, "pass": step, "note": note})
                print(f"{spec.name:28s} {step:8s} {note}", flush=True)
                continue
            states = [t.state for t in entry.timings.values()]
            best = entry.timings[entry.best] if entry.best else None
            row = {
                "spec": spec.name, "group": spec.group, "pass": step, "best": entry.best, "default": entry.default,
                "ms": None if best is None else best.ms, "gain": entry.gain, "seconds": time.time() - begin,
                **{s: states.count(s) for s in ("measured", "wrong", "failed", "unfit")},
            }  # fmt: skip
            rows.append(row)
            entries.append(entry_data(entry))
            gain = "" if entry.gain is None else f"{entry.gain:.3f}x {entry.default}"
            ms = math.nan if best is None or best.ms is None else best.ms
            print(
                f"{spec.name:28s} {step:8s} {entry.best or 'none':34s} {ms:9.4f} ms {gain}  "
                f"({len(states)} tried, {states.count('wrong')} wrong, {states.count('failed')} failed, "
                f"{states.count('unfit')} unfit, {row['seconds']:.1f} s)",
                flush=True,
            )
            del q, k, v, grad, call, subject, kernel
            torch.cuda.empty_cache()
    workers.close()
    return rows, entries


FIRST = """
import json, sys, time
import torch
import triton
import attndsl
torch.zeros(1, device="cuda")
q, k, v = (torch.randn(1, 16, 4096, 128, device="cuda", dtype=torch.bfloat16) for _ in range(3))
torch.cuda.synchronize()
start = time.perf_counter()
f = attndsl.load("attention swa(const w: int) { mask k <= q and q - k < w }", w=1024)
loaded = time.perf_counter()
out = f(q, k, v)
torch.cuda.synchronize()
first = time.perf_counter()
f(q, k, v)
torch.cuda.synchronize()
print(json.dumps({"load_s": loaded - start, "call_s": first - loaded, "first_s": first - start,
                  "second_s": time.perf_counter() - first}))
"""


def first_results() -> list[dict[str, Any]]:
    """Seconds from after import and the start of CUDA to the first result, cold and with a warm cache."""
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "ATTNDSL_CACHE_DIR": str(Path(folder) / "cache")}
        environment["PYTHONPATH"] = str(Path(__file__).resolve().parent.parent)
        environment.pop("TRITON_CACHE_DIR", None)
        for kind in ("cold", "warm", "warm", "warm"):
            ran = subprocess.run(
                [sys.executable, "-c", FIRST], env=environment, capture_output=True, text=True, check=False
            )
            if ran.returncode:
                found.append({"cache": kind, "note": f"ERR {ran.stderr[-400:]}"})
            else:
                found.append({"cache": kind, **json.loads(ran.stdout.splitlines()[-1])})
            print(f"first result, {kind} cache: {found[-1]}", flush=True)
    return found


def gains(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Geometric mean, least and greatest gain of each group and pass."""
    by_group: dict[str, list[float]] = {}
    for row in rows:
        if row.get("gain"):
            by_group.setdefault(f"{row['group']}, {row['pass']}", []).append(row["gain"])
    return {
        name: {
            "geomean": math.exp(sum(map(math.log, found)) / len(found)), "least": min(found), "most": max(found),
            "count": len(found),
        }
        for name, found in by_group.items()
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=90.0, help="seconds for tuning, all specs")
    parser.add_argument("--each", type=float, default=8.0, help="seconds for a pass of a spec")
    parser.add_argument("--backward", action="store_true", help="backward passes too")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--commit", default="")
    given = parser.parse_args()
    import torch

    from benchmarks.gpu import versions

    gpu = torch.cuda.get_device_name()
    folder = gpu.lower().replace(" ", "-")
    out: Path = given.out or RESULTS / folder / f"{datetime.date.today().isoformat()}-tune.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["ATTNDSL_CACHE_DIR"] = str(Path(cache) / "cache")
        rows, entries = tune_all(given.budget, given.each, given.backward)
    record: dict[str, Any] = {
        "gpu": gpu, "versions": versions(), "commit": given.commit, "rows": [], "tuned": rows, "gains": gains(rows),
        "first": [], "entries": entries,
    }  # fmt: skip
    out.write_text(json.dumps(record, indent=1) + "\n")
    record["first"] = first_results()
    out.write_text(json.dumps(record, indent=1) + "\n")
    for name, g in record["gains"].items():
        print(f"gain of {name}: {g['geomean']:.3f}x ({g['least']:.3f} to {g['most']:.3f}, {g['count']} specs)")
    print(f"-- {time.time() - START:.0f} s, written to {out}", flush=True)
    return 1 if any(str(r.get("note", "")).startswith("ERR") for r in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
