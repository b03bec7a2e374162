"""Random programs on a GPU, forward and backward, in bf16 and fp16 against the dense fp64 definition. One run.

    python benchmarks/gpu_random.py [--out FILE] [--seed N] [--workers 14] [--budget 60] [--device cuda]

Hypothesis writes the programs, in every worker from a seed of its own, until the time is over. Those that the backend
does not have are counted apart. What is wrong goes to benchmarks/results/<gpu>/<date>-random.json with its program.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportPrivateUsage=false

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor

RESULTS = Path(__file__).parent / "results"
Results = dict[str, Tensor]


def ours(spec: Any, with_lse: bool, device: str) -> Results:
    """Output, lse and gradients of the Triton backend, on the CPU."""
    import attndsl
    from tests.properties.test_end_to_end import NEEDS, _laid_out, _results, _tensors

    t = {n: x.detach().to(device).requires_grad_(x.requires_grad) for n, x in _tensors(spec, None).items()}
    function = attndsl.load(spec.text, **spec.consts)
    arguments: dict[str, Any] = {n: x for n, x in t.items() if n not in NEEDS} | spec.scalars
    if spec.grid is not None:
        arguments["grid"] = spec.grid
    if spec.q_offset != 0:
        offset = spec.offset()
        arguments["q_offset"] = offset.to(device) if isinstance(offset, Tensor) else offset
    arguments["layout"] = "bshd" if spec.layout == "bshd" else "bhsd"
    q, k, v = (_laid_out(t[n], spec.layout) for n in NEEDS)
    found = function(q, k, v, scale=spec.scale, return_lse=with_lse, backend="triton", **arguments)
    out, lse = found if with_lse else (found, None)
    out = out.transpose(1, 2) if spec.layout == "bshd" else out
    # moved before the functional, whose random numbers are the CPU's; gradients flow back
    return _results(spec, out.cpu(), None if lse is None else lse.cpu(), t)


def check(spec: Any, device: str) -> str:
    """What is wrong with one program, empty for nothing."""
    from tests.accuracy import GRADIENT_FACTOR, OUTPUT_FACTOR, assert_right
    from tests.properties.test_end_to_end import DTYPES, dense

    dtype = DTYPES[spec.dtype]
    exact = dense(spec, torch.float64)
    found = ours(spec, "lse" in exact, device)
    plain = dense(spec, dtype)
    for name, actual in found.items():

        def others(name: str = name) -> Any:
            for i in range(1, 21):
                other = replace(spec, seed=spec.seed + 1000 * i)
                yield dense(other, dtype)[name], dense(other, torch.float64)[name]

        factor = OUTPUT_FACTOR if name in ("out", "lse") else GRADIENT_FACTOR
        own = torch.float32 if name == "lse" else dtype
        try:
            assert_right(name, actual.cpu(), plain[name], exact[name], own, factor, others)
        except AssertionError as error:
            return str(error)
    return ""


def work(seed_of_worker: int, seconds: float, device: str) -> tuple[dict[str, int], list[dict[str, str]]]:
    """Draw and check programs until the time is over: counts, and what is wrong."""
    from hypothesis import HealthCheck, Phase, given, seed, settings

    from tests.random_specs import specs

    torch.set_num_threads(1)
    end, count, wrong = time.time() + seconds, Counter[str](), list[dict[str, str]]()

    @seed(seed_of_worker)
    @settings(
        max_examples=10_000, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),  # pyright: ignore[reportArgumentType]
    )  # fmt: skip
    @given(specs())
    def run(spec: Any) -> None:
        if time.time() > end or count["broken"]:
            return
        if spec.dtype == "f32":
            spec = replace(spec, dtype="bf16")
        try:
            said = check(spec, device)
        except Exception as error:
            if "backend 'triton' does not have" in str(error):
                count["not there"] += 1
                return
            said = f"{type(error).__name__}: {error}"[:600]
            # nothing runs in this process any more
            count["broken"] += "CUDA error" in said
        count["wrong" if said else "right"] += 1
        if said:
            wrong.append({"wrong": said, "text": spec.text, "spec": repr(spec)})

    run()
    return dict(count), wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=14)
    parser.add_argument("--budget", type=float, default=60.0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--commit", default="")
    given = parser.parse_args()
    from benchmarks.gpu import ask, versions

    gpu = torch.cuda.get_device_name() if given.device == "cuda" else given.device
    folder = gpu.replace("NVIDIA ", "").replace(" ", "-").lower()
    out: Path = given.out or RESULTS / folder / f"{datetime.date.today().isoformat()}-random.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    total, wrong = Counter[str](), list[dict[str, str]]()
    with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(work, given.seed * 1000 + i, given.budget, given.device) for i in range(given.workers)]
        for job in jobs:
            counts, found = job.result()
            total.update(counts)
            wrong += found
    record = {
        "gpu": gpu, "driver": ask("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "versions": versions(), "commit": given.commit or ask("git", "rev-parse", "HEAD"), "rows": [],
        "seed": given.seed, "counts": dict(total), "wrong": wrong,
    }  # fmt: skip
    out.write_text(json.dumps(record, indent=1))
    for w in wrong:
        print(f"WRONG {w['wrong']}\n{w['text']}{w['spec'][:700]}", flush=True)
    print(f"-- {dict(total)}, written to {out}", flush=True)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
