"""Random programs on a GPU, forward and backward, in bf16 and fp16 against the dense fp64 definition. One run.

    python benchmarks/gpu_random.py [--out FILE] [--seed N] [--workers 14] [--budget 60] [--device cuda]

Hypothesis writes the programs, in every worker from a seed of its own, until the time is over; a worker that has not
come back a little later is ended. Its last program hangs if it began `HANGS` seconds ago, and is unfinished otherwise:
the eight kernels of a program over two segments compile for 20 s on their own, and longer beside other workers. The
worker's stack tells where it was. Programs that the backend does not have are counted apart. What is wrong goes to
benchmarks/results/<gpu>/<date>-random.json with its program.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportPrivateUsage=false

from __future__ import annotations

import argparse
import datetime
import faulthandler
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor

RESULTS = Path(__file__).parent / "results"
Results = dict[str, Tensor]
PATIENCE = 20.0
"""Seconds after the time is over, for what is under way and for the start of processes."""
HANGS = 60.0
"""Seconds of a program, more than its compilations and its dense evaluations take."""


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


def work(seed_of_worker: int, seconds: float, device: str, log: Path) -> None:
    """Draw and check programs until the time is over: a line of the log for each as it begins, and as it ends."""
    from hypothesis import HealthCheck, Phase, given, seed, settings

    from benchmarks.raw import bare
    from tests.random_specs import specs

    torch.set_num_threads(1)
    # until the process ends: the parent asks for it last
    stack = log.with_suffix(".stack").open("w")
    faulthandler.register(signal.SIGUSR1, file=stack)
    end, broken = time.time() + seconds, False

    def say(what: str, **more: str) -> None:
        with log.open("a") as file:
            file.write(json.dumps({"what": what, "at": time.time(), **more}) + "\n")

    @seed(seed_of_worker)
    @settings(
        max_examples=10_000, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),  # pyright: ignore[reportArgumentType]
    )  # fmt: skip
    @given(specs())
    def run(spec: Any) -> None:
        nonlocal broken
        if time.time() > end or broken:
            return
        if spec.dtype == "f32":
            spec = replace(spec, dtype="bf16")
        about = {"text": spec.text, "spec": repr(spec)}
        say("begins", **about)
        try:
            said = check(spec, device)
        except Exception as error:
            if "backend 'triton' does not have" in str(error):
                say("not there", missing=bare(str(error))[:300], text=spec.text)
                return
            said = f"{type(error).__name__}: {error}"[:600]
            # nothing runs in this process any more
            broken = "CUDA error" in said
        say("wrong" if said else "right", **({"wrong": said, **about} if said else {}))

    run()


def gathered(logs: list[Path]) -> tuple[Counter[str], list[dict[str, str]], list[dict[str, str]]]:
    """Counts, what is wrong, and what has no kernel, of the workers' logs."""
    count, wrong, missing = Counter[str](), list[dict[str, str]](), list[dict[str, str]]()
    for log in logs:
        lines: list[dict[str, Any]] = (
            [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        )
        for line in lines:
            if line["what"] != "begins":
                count[line["what"]] += 1
                wrong += [{n: line[n] for n in ("wrong", "text", "spec")}] if "wrong" in line else []
                missing += [{n: line[n] for n in ("missing", "text")}] if "missing" in line else []
        if lines and lines[-1]["what"] == "begins":
            last = lines[-1]
            seconds = time.time() - float(last["at"])
            what = "hangs" if seconds > HANGS else "unfinished"
            count[what] += 1
            stack = log.with_suffix(".stack")
            where = stack.read_text()[:3000] if stack.exists() else ""
            said = f"{what}: {seconds:.0f} s"
            wrong.append({"wrong": said, "text": last["text"], "spec": last["spec"], "where": where})
    return count, wrong, missing


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
    about = {
        "gpu": gpu, "driver": ask("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "versions": versions(), "commit": given.commit or ask("git", "rev-parse", "HEAD"), "rows": [],
        "seed": given.seed,
    }  # fmt: skip

    def write(count: Counter[str], wrong: list[dict[str, str]], missing: list[dict[str, str]]) -> None:
        """What is known so far: a run may be ended at any moment."""
        out.write_text(json.dumps({**about, "counts": dict(count), "wrong": wrong, "not there": missing}, indent=1))

    context = get_context("spawn")
    with tempfile.TemporaryDirectory() as folder_of_logs:
        logs = [Path(folder_of_logs) / f"{i}.jsonl" for i in range(given.workers)]
        workers = [
            context.Process(target=work, args=(given.seed * 1000 + i, given.budget, given.device, log), daemon=True)
            for i, log in enumerate(logs)
        ]
        for worker in workers:
            worker.start()
        end = time.time() + given.budget + PATIENCE
        while any(worker.is_alive() for worker in workers) and time.time() < end:
            time.sleep(1.0)
            write(*gathered(logs))
        late = [worker for worker in workers if worker.is_alive() and worker.pid is not None]
        for worker in late:
            os.kill(worker.pid or 0, signal.SIGUSR1)
        time.sleep(1.0 if late else 0.0)
        for worker in workers:
            worker.kill()
        total, wrong, missing = gathered(logs)
    write(total, wrong, missing)
    for m in missing:
        print(f"NOT THERE {m['missing']}\n{m['text']}", flush=True)
    for w in wrong:
        print(f"WRONG {w['wrong']}\n{w['text']}{w['spec'][:700]}", flush=True)
    print(f"-- {dict(total)}, written to {out}", flush=True)
    return int(any(not w["wrong"].startswith("unfinished") for w in wrong))


if __name__ == "__main__":
    sys.exit(main())
