"""Tuning on a GPU: how much it gains over the untuned default, and how soon a process with a warm cache has a result.

    python benchmarks/gpu_tune.py [--budget 240] [--out FILE] [--only PART] [--groups A,B] [--workers N] [--dry]
    python benchmarks/gpu_tune.py --budget 150 --no-first --groups 'grids,standard library'

First starts processes on an empty and on a warm cache and takes the time of their first call, after import and the
start of CUDA. Then tunes one pass after another of what `tune_specs.py` lists, the most important first: candidates of
all of them are compiled by worker processes in that order, and whatever is compiled is checked and measured by
`attndsl.tune`'s own search, a few of the best ranked candidates each. Everything ends within `--budget` seconds.

Rows and entries are in the file the moment they are known: a run that is stopped goes on where it was. The work is done
in a process of its own; where a candidate takes the GPU's context with it, or hangs, another goes on with the other
candidates of the same pass, and the row says which one it was.
`benchmarks/ship_tuned.py` writes what the package ships from the entries. `--dry` predicts, without a GPU, and with
`--workers` also compiles the candidates for the target.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.tune_first import first_results
from benchmarks.tune_run import LOST, QUIET, Record, run
from benchmarks.tune_specs import GROUPS

RESULTS = Path(__file__).parent / "results"
RESTARTS = 12


def main(arguments: list[str] | None = None) -> int:
    """Measure, or with `--child` do the work of a part of the run."""
    given = parsed(arguments)
    if given.child:
        return run(given)
    start = time.time()
    gpu = given.target if given.dry else gpu_name()
    out: Path = given.out or RESULTS / gpu.lower().replace(" ", "-") / f"{datetime.date.today().isoformat()}-tune.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    record = Record.at(out)
    record.describe(gpu=gpu, commit=given.commit, **({} if given.dry else {"versions": versions()}))
    with tempfile.TemporaryDirectory() as own:
        cache: Path = given.cache or Path(own) / "cache"
        if not given.dry and not given.no_first and "first" not in record.data:
            record.describe(first=first_results(deadline=start + given.budget / 3))
        if given.dry:
            return run(given, out=out, cache=cache, deadline=start + given.budget)
        supervise(given, out, cache, start + given.budget)
    record = Record.at(out)
    for line in record.summary():
        print(line)
    print(f"-- {time.time() - start:.0f} s, written to {out}", flush=True)
    return 0 if any(r.get("ms") for r in record.data["rows"]) else 1


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=240.0, help="seconds, everything included")
    parser.add_argument("--each", type=float, default=6.0, help="seconds of measuring for a pass of a workload")
    parser.add_argument("--most", type=int, default=0, help="candidates of a pass; by importance unless given")
    parser.add_argument("--only", default="", help="a part of the names of workloads, or a group")
    parser.add_argument("--groups", default=",".join(GROUPS), help="groups in the order in which they are tuned")
    parser.add_argument("--passes", default="forward,decode,dq,dkdv,scan,scan_dq,scan_dk,scan_dv,step")
    parser.add_argument("--workers", type=int, help="compiling processes; unless given none in a dry run")
    parser.add_argument("--cache", type=Path, help="where entries are kept; a temporary folder unless given")
    parser.add_argument("--no-first", action="store_true", help="no first results of processes")
    parser.add_argument("--dry", action="store_true", help="no GPU: predict instead of measuring")
    parser.add_argument("--target", default="h200", help="the GPU that is predicted for")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--commit", default="")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, default=0.0, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.workers is None:
        given.workers = 0 if given.dry else max(1, (os.cpu_count() or 2) - 1)
    unknown = [g for g in given.groups.split(",") if g not in GROUPS]
    if unknown:
        parser.error(f"there is no group {unknown[0]!r}; it has {', '.join(GROUPS)}")
    return given


def supervise(given: argparse.Namespace, out: Path, cache: Path, deadline: float) -> None:
    """Have the work done, again and again where its process dies or is silent for too long, until the deadline."""
    command = [sys.executable, __file__, *sys.argv[1:], "--child", "--deadline", str(deadline), "--out", str(out)]
    command += ["--cache", str(cache)]
    for attempt in range(RESTARTS):
        if time.time() > deadline - 5:
            return
        started = time.time()
        child = subprocess.Popen(command, start_new_session=True)
        while child.poll() is None:
            time.sleep(0.3)
            seen = max(started, out.stat().st_mtime)
            if time.time() > deadline + 2 or time.time() - seen > QUIET:
                end(child)
                break
        if child.returncode == 0 or time.time() > deadline:
            return
        lost = Record.at(out).lose(f"its process ended with {child.returncode}, attempt {attempt + 1}")
        if lost or child.returncode != LOST:
            print(f"{lost or 'nothing'} was lost: the process ended with {child.returncode}", flush=True)


def end(child: subprocess.Popen[bytes]) -> None:
    """End a process that was started here and what it started: they are a group of their own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, 9)
    child.wait()


def gpu_name() -> str:
    """The GPU's name, asked by a process that ends: this one holds none of its memory."""
    said = [sys.executable, "-c", "import torch; print(torch.cuda.get_device_name())"]
    return subprocess.run(said, capture_output=True, text=True, check=True).stdout.strip().splitlines()[-1]


def versions() -> dict[str, Any]:
    """What the numbers depend on."""
    from importlib.metadata import version

    found = {n: version(n) for n in ("torch", "triton", "numpy")}
    return {**found, "python": sys.version.split()[0]}


if __name__ == "__main__":
    sys.exit(main())
