"""Everything that is measured on a GPU, in order: kernels compiled first, then checks, then times, then tuning.

    python benchmarks/gpu_all.py --out FOLDER [--parts A,B] [--budget 1500] [--workers N] [--commit HASH]
    python benchmarks/gpu_all.py --dry [--parts A,B] [--workers N]
    python benchmarks/gpu_all.py --list

A part is a script with its arguments and a limit of seconds. Parts of one stage run side by side where they only
compile, else one after another: what is timed has the GPU to itself. Every script writes its results as they come, to
FOLDER/<part>.json, and what it says to FOLDER/<part>.log; a part that fails, hangs or has no time left costs nothing
but itself, and FOLDER/all.json says so. A GPU may be there for minutes at a time: `--parts` names what a call is to do,
and the compile stage fills caches that lie on its disk.

`--dry` needs no GPU: it says what would run, and compiles the kernels of every part that can say which they are.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.raw import bare

HERE = Path(__file__).resolve().parent
STAGES = ("compile", "check", "time", "tune")
SIDE_BY_SIDE = frozenset(("compile",))


@dataclass(frozen=True)
class Part:
    """A script of this folder and its arguments, for at most `limit` seconds. `out`: it writes a file; `workers`: it
    has processes that compile; `budget`: it is told its seconds. `dry` are its arguments without a GPU, None for none.
    """

    name: str
    stage: str
    script: str
    arguments: tuple[str, ...]
    limit: float
    dry: tuple[str, ...] | None = None
    out: bool = True
    workers: bool = False
    budget: bool = False


PARTS = (
    Part("compile-forward", "compile", "gpu.py", ("--compile-only",), 240, out=False, workers=True, budget=True),
    Part("compile-backward", "compile", "gpu_backward.py", ("--compile-only",), 240, out=False, workers=True,
         budget=True),
    Part("compile-linear", "compile", "gpu_linear.py", ("--compile-only",), 240, out=False, workers=True, budget=True),
    Part("forward-checks", "check", "gpu.py", ("--only", "check"), 150, ("--dry",), workers=True),
    Part("gradients", "check", "gpu_backward.py", ("--only", "check"), 150, ("--dry",), workers=True),
    Part("scans", "check", "gpu_linear.py", ("--only", "check"), 120, ("--dry",), workers=True, budget=True),
    Part("far", "check", "gpu_decode.py", ("--far",), 60, ("--far", "--dry")),
    Part("sanitize", "check", "sanitize.py", ("--seconds", "120", "--workers", "6"), 400, ("--dry",)),
    Part("random", "check", "gpu_random.py", (), 90, workers=True, budget=True),
    Part("forward", "time", "gpu.py", ("--only", "time", "--workers", "0"), 200, budget=True),
    Part("backward", "time", "gpu_backward.py", ("--only", "time", "--workers", "0"), 200, budget=True),
    Part("linear", "time", "gpu_linear.py", ("--only", "time"), 150, budget=True),
    Part("decode", "time", "gpu_decode.py", (), 100, ("--dry",), budget=True),
    Part("operator", "time", "gpu_operator.py", (), 240),
    Part("grids", "time", "gpu_grids.py", (), 90),
    Part("tune", "tune", "gpu_tune.py", ("--no-first", "--groups", "grids,standard library"), 160,
         ("--dry", "--groups", "grids,standard library"), workers=True, budget=True),
    Part("tune-linear", "tune", "gpu_tune.py", ("--no-first", "--groups", "linear attention,decode"), 120,
         ("--dry", "--groups", "linear attention,decode"), workers=True, budget=True),
    Part("tune-rest", "tune", "gpu_tune.py", ("--groups", "dense,masks,scores"), 160,
         ("--dry", "--groups", "dense,masks,scores"), workers=True, budget=True),
)  # fmt: skip
"""In order: what is wrong must not be timed, and what was never measured comes before what was."""


@dataclass
class Running:
    """A part at work."""

    part: Part
    process: subprocess.Popen[bytes]
    start: float
    limit: float

    def end(self) -> None:
        """End it and what it started: they are a group of their own."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, 9)
        self.process.wait()


def command(part: Part, given: argparse.Namespace, limit: float, share: int) -> list[str]:
    """How a part is started, with `share` processes that compile."""
    words = [sys.executable, str(HERE / part.script)]
    words += part.dry if given.dry and part.dry is not None else part.arguments
    if part.out:
        words += ["--out", str(given.out / f"{part.name}.json")]
    if part.workers or (given.dry and given.workers > 1):
        words += ["--workers", str(share)]
    if part.budget and not (given.dry and part.stage != "tune"):
        words += ["--budget", str(round(max(limit - 5, 1)))]
    return words + (["--commit", given.commit] if given.commit and part.out else [])


def begin(part: Part, given: argparse.Namespace, limit: float, share: int) -> Running:
    """Start a part."""
    log = (given.out / f"{part.name}.log").open("wb")
    with log:
        process = subprocess.Popen(
            command(part, given, limit, share), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    return Running(part, process, time.time(), limit)


def finish(running: Running, out: Path) -> dict[str, Any]:
    """Wait for a part, not longer than its limit; what became of it."""
    part, note = running.part, ""
    try:
        code: int | None = running.process.wait(timeout=max(running.start + running.limit - time.time(), 0.1))
    except subprocess.TimeoutExpired:
        running.end()
        code, note = None, f"not done in {running.limit:.0f} s"
    else:
        # whatever it left behind
        running.end()
    file = out / f"{part.name}.json"
    if part.out:
        note = note or ("" if file.exists() else "it wrote nothing")
        if file.exists():
            clean(file)
    return {"part": part.name, "seconds": round(time.time() - running.start, 1), "exit": code, "note": note}


def clean(file: Path) -> None:
    """Take the folders of this machine out of a file of results."""
    with contextlib.suppress(ValueError):
        data = json.loads(file.read_text())
        found = json.dumps(_bare(data), indent=1) + "\n"
        file.write_text(found)


def _bare(data: Any) -> Any:
    if isinstance(data, dict):
        return {n: _bare(x) for n, x in cast("dict[str, Any]", data).items()}
    if isinstance(data, list):
        return [_bare(x) for x in cast("list[Any]", data)]
    return bare(data) if isinstance(data, str) else data


def chosen(given: argparse.Namespace) -> list[Part]:
    """The parts to run, in order."""
    wanted = [w for w in given.parts.split(",") if w]
    known = {p.name for p in PARTS} | set(STAGES)
    for name in wanted:
        if name not in known:
            raise SystemExit(f"--parts: there is no {name!r}; it has {', '.join([*STAGES, *(p.name for p in PARTS)])}")
    found = [p for p in PARTS if not wanted or p.name in wanted or p.stage in wanted]
    return [p for p in found if p.dry is not None] if given.dry else found


def run(given: argparse.Namespace) -> int:
    """All parts; 1 where one failed."""
    end, every = time.time() + given.budget, chosen(given)
    told: dict[str, Any] = {"commit": given.commit, "parts": []}
    file = given.out / "all.json"

    def tell(row: dict[str, Any]) -> None:
        told["parts"].append(row)
        file.write_text(json.dumps(told, indent=1) + "\n")
        print(" ".join(f"{x}" for x in (row["part"], row["seconds"], "s, exit", row["exit"], row["note"])), flush=True)

    for stage in STAGES:
        parts = [p for p in every if p.stage == stage]
        together = [parts] if stage in SIDE_BY_SIDE else [[p] for p in parts]
        for some in together:
            left = end - time.time()
            if left < 10:
                for p in some:
                    tell({"part": p.name, "seconds": 0.0, "exit": None, "note": "no time left"})
                continue
            share = max(1, given.workers // max(len(some), 1))
            at_work = [begin(p, given, min(p.limit if not given.dry else left, left), share) for p in some]
            for one in at_work:
                tell(finish(one, given.out))
    return 1 if any(row["exit"] != 0 for row in told["parts"]) else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="the folder of results and logs")
    parser.add_argument("--parts", default="", help="names of parts or stages, all unless given")
    parser.add_argument("--budget", type=float, default=1500.0, help="seconds, everything included")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2), help="compiling processes")
    parser.add_argument("--commit", default="", help="of what is measured, where there is no repository")
    parser.add_argument("--dry", action="store_true", help="no GPU: compile what would be launched")
    parser.add_argument("--list", action="store_true", help="say what would run, and end")
    given = parser.parse_args()
    if given.list:
        for p in chosen(given):
            print(f"{p.stage:8s} {p.name:17s} {p.limit:4.0f} s  {p.script} {' '.join(p.arguments)}")
        return 0
    if given.dry and given.out is None:
        with tempfile.TemporaryDirectory() as own:
            given.out = Path(own)
            return run(given)
    if given.out is None:
        parser.error("--out FOLDER is needed")
    given.out = given.out.resolve()
    given.out.mkdir(parents=True, exist_ok=True)
    return run(given)


if __name__ == "__main__":
    sys.exit(main())
