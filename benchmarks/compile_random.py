"""Random programs through Triton's compiler, without a GPU: every kernel that a call of theirs runs, for sm_90.

    nice python benchmarks/compile_random.py [--seed N] [--workers 1] [--budget 600] [--limit 60] [--out FILE]

Hypothesis writes the programs, as it does for `gpu_random.py`, in every worker from a seed of its own; forward and
backward are called on tensors that are no GPU's (`tests/runtime/triton/pretend.py`), in default configurations.
Reported are errors, kernels that a stage of the compiler does not end for in `--limit` seconds, those that spill more
than tuning would measure, and how long kernels took.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportPrivateUsage=false

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

Line = dict[str, Any]
HEADS = (0, 0, 64, 128)
"""Components of heads that a program's seed chooses from; 0: those that were drawn."""
SLOW = 15.0
"""Seconds of a kernel that are reported."""


class _OverError(Exception):
    """The time is over."""


def call(spec: Any) -> None:
    """Forward and backward of a program, and where it has few rows the forward pass that keeps nothing."""
    import torch

    import attndsl
    from tests.properties.test_end_to_end import NEEDS, _laid_out, _tensors

    t = _tensors(spec, None)
    function = attndsl.load(spec.text, **spec.consts)
    arguments: dict[str, Any] = {n: x for n, x in t.items() if n not in NEEDS} | spec.scalars
    if spec.grid is not None:
        arguments["grid"] = spec.grid
    if spec.q_offset != 0:
        arguments["q_offset"] = spec.offset()
    arguments |= {"layout": "bshd" if spec.layout == "bshd" else "bhsd", "scale": spec.scale}
    q, k, v = (_laid_out(t[n], spec.layout) for n in NEEDS)
    total: Any
    try:
        out, lse = function(q, k, v, return_lse=True, **arguments)
        total = out.sum() + lse.sum()
    except ValueError as error:
        if "return_lse needs" not in str(error):
            raise
        total = function(q, k, v, **arguments).sum()
    wanted = [x for x in t.values() if x.requires_grad]
    torch.autograd.grad(total, wanted, allow_unused=True)
    if spec.sizes["Lq"] <= 32:
        with torch.no_grad():
            function(q, k, v, **arguments)


def work(seed_of_worker: int, seconds: float, log: Path) -> None:
    """Draw and compile programs until the time is over; a line of the log for what begins and for what ends."""
    import pytest
    import torch
    from hypothesis import HealthCheck, Phase, given, seed, settings
    from triton import knobs

    from attndsl.runtime.triton import compilation
    from attndsl.runtime.triton.cross import _resources
    from attndsl.tune.trials import SPILLS
    from tests.random_specs import specs
    from tests.runtime.triton.pretend import pretend

    torch.set_num_threads(1)
    # one after another: what a kernel takes is its own
    compilation.WORKERS = 1
    end = time.time() + seconds

    def say(what: str, **more: Any) -> None:
        with log.open("a") as file:
            file.write(json.dumps({"what": what, "at": time.time(), **more}) + "\n")

    def listen(*, src: Any, metadata: Any, metadata_group: Any, times: Any, cache_hit: bool) -> None:
        if cache_hit:
            return
        name = src.fn.__name__
        cubin = next(Path(path) for file, path in metadata_group.items() if file.endswith(".cubin"))
        registers, spills = _resources(cubin.read_bytes())
        say(
            "kernel", name=name, seconds=round(times.total / 1e6, 2), registers=registers, spills=spills,
            shared=metadata["shared"], warps=metadata["num_warps"], stages=metadata["num_stages"],
            above=spills > SPILLS.get(name, 128), parts={n: round(t / 1e6, 2) for n, t in times.lowering_stages},
        )  # fmt: skip

    @seed(seed_of_worker)
    @settings(
        max_examples=100_000, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),  # pyright: ignore[reportArgumentType]
    )  # fmt: skip
    @given(specs())
    def run(spec: Any) -> None:
        if time.time() > end:
            raise _OverError
        sizes, head = spec.sizes, HEADS[spec.seed % len(HEADS)]
        if head and not any({sizes["D"], sizes["Dv"]} & {*i.shape} for i in spec.inputs):
            sizes = {**sizes, "D": head, "Dv": head}
        spec = replace(spec, sizes=sizes, dtype="bf16" if spec.dtype == "f32" and spec.seed % 5 else spec.dtype)
        say("begins", text=spec.text, spec=repr(spec))
        with pytest.MonkeyPatch.context() as patched:
            pretend(patched)
            patched.setattr(knobs.compilation, "listener", listen)
            try:
                call(spec)
            except Exception as error:
                if "backend 'triton' does not have" in str(error):
                    say("not there")
                    return
                said = f"{type(error).__name__}: {error}"[:3000]
                say("hangs" if "did not end within" in said else "wrong", wrong=said)
                return
        say("compiled")

    with suppress(_OverError):
        run()


def lines_of(log: Path) -> list[Line]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def gathered(logs: list[Path]) -> tuple[Counter[str], list[Line], list[float]]:
    """Counts, what is to be looked at with its program, and seconds of all kernels."""
    count, found, seconds = Counter[str](), list[Line](), list[float]()
    for log in logs:
        about: Line = {}
        for line in lines_of(log):
            what = line["what"]
            if what == "begins":
                about = {"text": line["text"], "spec": line["spec"]}
                continue
            count[what] += 1
            if what == "kernel":
                seconds.append(line["seconds"])
                if line["above"] or line["seconds"] > SLOW:
                    found.append({**line, **about, "what": "spills" if line["above"] else "slow"})
            elif what in ("wrong", "hangs"):
                found.append({**line, **about})
    return count, found, sorted(seconds)


class Watched:
    """A worker, replaced by one with another seed when it dies, or nothing comes from it for `patience` seconds."""

    def __init__(self, context: Any, seed: int, end: float, patience: float, folder: Path) -> None:
        self.context, self.seed, self.end, self.patience, self.folder = context, seed, end, patience, folder
        self._start()

    def _start(self) -> None:
        self.log = self.folder / f"{self.seed}.jsonl"
        self.begun = time.time()
        given = self.seed, self.end - time.time(), self.log
        self.process = self.context.Process(target=work, args=given, daemon=True)
        self.process.start()
        self.seed += 100_000

    def busy(self) -> bool:
        """Whether it is at work, or another in its place."""
        if not self.process.is_alive():
            if self.process.exitcode == 0:
                return False
            self._append("wrong", wrong=f"the process died: {self.process.exitcode}")
        else:
            lines = lines_of(self.log)
            if time.time() - (lines[-1]["at"] if lines else self.begun) < self.patience:
                return True
            self.process.kill()
            self.process.join()
            self._append("hangs", wrong="nothing came from its process")
        if time.time() > self.end:
            return False
        self._start()
        return True

    def _append(self, what: str, **more: Any) -> None:
        with self.log.open("a") as file:
            file.write(json.dumps({"what": what, "at": time.time(), **more}) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--budget", type=float, default=600.0)
    parser.add_argument("--limit", type=float, default=60.0)
    given = parser.parse_args()
    context = get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # neither the user's cache nor one that an earlier run has filled
        os.environ |= {"TRITON_CACHE_DIR": str(folder / "triton"), "ATTNDSL_CACHE_DIR": str(folder / "ours")}
        os.environ |= {"ATTNDSL_COMPILE_LIMIT": str(given.limit), "OMP_NUM_THREADS": "1"}
        end = time.time() + given.budget
        patience = 20 * given.limit
        workers = [Watched(context, given.seed * 1000 + i, end, patience, folder) for i in range(given.workers)]
        while workers:
            time.sleep(0.5)
            workers = [worker for worker in workers if worker.busy()]
        count, found, seconds = gathered(sorted(folder.glob("*.jsonl")))
    for one in found:
        print(json.dumps({n: v for n, v in one.items() if n not in ("text", "spec", "at")}))
        print(f"{one['text']}{one['spec']}\n", flush=True)
    parts = (50, 90, 99, 100) if seconds else ()
    places = {f"{p}%": seconds[min(len(seconds) - 1, len(seconds) * p // 100)] for p in parts}
    record = {"seed": given.seed, "counts": dict(count), "seconds": places, "found": found}
    print(f"-- {record['counts']}, seconds of kernels {places}")
    if given.out:
        given.out.write_text(json.dumps(record, indent=1))
    return int(any(one["what"] in ("wrong", "hangs") for one in found))


if __name__ == "__main__":
    sys.exit(main())
