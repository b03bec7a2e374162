"""Kernels under compute-sanitizer, and whether deterministic runs repeat bit by bit.

    python benchmarks/sanitize.py [--out FILE] [--tools memcheck,racecheck] [--repeats 250] [--seconds 200]
    python benchmarks/sanitize.py --only repeats [--workers N]
    python benchmarks/sanitize.py --dry [--workers N]

Runs small calls, forward, backward and few rows, linear attention, and the sweep that computes dq along in sums to
which programs add in no order: first plainly, which compiles their kernels, then under each tool of compute-sanitizer,
without torch's caching allocator (a read outside of a tensor is then one outside of an allocation), then repeatedly
under `torch.use_deterministic_algorithms`, each case in a process of its own and `--workers` of them at a time. The one
sweep is not bitwise the same twice; it is compared with the two passes, every time.

Every job, every repeated case and every tool is an entry of benchmarks/results/<gpu>/<date>-sanitize.json. The exit
code is 1 where anything was found. `--dry` compiles the kernels of all jobs, without a GPU.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingImports=false

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor

from attndsl.runtime.triton.config import Config, configured
from attndsl.runtime.triton.scan_config import choose_scan
from benchmarks.cases import ALL_CASES, Case
from benchmarks.dry import Taken, compile_case, compile_linear, compiled
from benchmarks.linear_cases import LinearCase
from benchmarks.raw import Raw, bare

FORWARD = (
    "dense 40", "causal 128", "window 7, negative scale", "alibi", "softcap", "row and key bias", "documents",
    "sink and gate", "relu2", "gna", "gna dilated", "joint", "few, causal, 4 heads to 1", "few, window and first keys",
    "few, sink and gate", "few, relu2", "few, heads that differ",
)  # fmt: skip
BACKWARD = ("dense 40", "window", "alibi", "sink and gate", "relu2", "gna", "few, causal, 5 rows")
REPEATED = (
    "causal", "alibi", "sink and gate", "gna", "documents", "row and key bias", "three products", "standard scores",
    "few, causal, 4 heads to 1", "few, window and first keys",
)  # fmt: skip
FUSED: dict[str, Config] = {
    "one sweep, boxes": Config(64, 64, 4, 2, fused="boxes"),
    "one sweep, elements": Config(64, 64, 4, 2, fused="elements"),
}
"""Sweeps over keys that compute dq along."""
SWEPT = ("causal 128", "window", "window 127", "alibi")
"""What they run on."""
SCANS = (
    LinearCase("bf16", 333, 128, 128, "head", state=True), LinearCase("bf16", 200, 96, 40, "token", docs=True),
    LinearCase("fp16", 129, 64, 64, "none", normalised=True, mapped=True),
    LinearCase("bf16", 150, 64, 64, "channel", B=1, Hkv=4), LinearCase("fp32", 129, 40, 40, "log"),
)  # fmt: skip
NEAR = 2e-2
"""Distance (norm over norm) of gradients in bf16 that were summed in another order."""


def case_of(name: str) -> Case:
    """A case by its name."""
    return next(c for c in ALL_CASES if c.name == name)


def jobs() -> dict[str, Callable[[], list[Tensor]]]:
    """What is run once, by name; each runs kernels of its own."""
    found: dict[str, Callable[[], list[Tensor]]] = {n: partial(run, n, False) for n in FORWARD}
    found |= {f"{n}, backward": partial(run, n, True) for n in BACKWARD}
    found |= {f"{n}, {sweep}": partial(swept, n, config) for n in SWEPT for sweep, config in FUSED.items()}
    return found | {f"scan {case}": partial(scan, case) for case in SCANS}


def run(name: str, backward: bool) -> list[Tensor]:
    """The output, lse and gradients of a case in bf16."""
    return prepared(name, backward)()


def prepared(name: str, backward: bool) -> Callable[[], list[Tensor]]:
    """A call of a case in bf16 on tensors that are made once: its output, lse and gradients."""
    import attndsl

    case = case_of(name)
    made = [t.cuda() for t in case.tensors(torch.bfloat16)]
    inputs = {n: t.cuda() for n, t in case.made().items()}
    attention = attndsl.load(case.text, **case.consts)
    offset = case.offset("cuda")

    def call() -> list[Tensor]:
        q, k, v = (t.detach().requires_grad_(backward) for t in made)
        given: Any = {n: t.detach().requires_grad_(backward and t.is_floating_point()) for n, t in inputs.items()}
        found = attention(
            q, k, v, backend="triton", return_lse=case.lse, grid=case.grid, q_offset=offset, scale=case.scale,
            **case.scalars, **given,
        )  # fmt: skip
        results = list(found) if case.lse else [found]
        if backward:
            sum((r.float().sin().sum() for r in results), torch.zeros((), device="cuda")).backward()
            results += [t.grad for t in (q, k, v, *given.values()) if t.grad is not None]
        return [r.detach() for r in results]

    return call


def swept(name: str, config: Config) -> list[Tensor]:
    """Gradients of a case by one sweep. RuntimeError where they are not those of the two passes."""
    import attndsl

    case = case_of(name)
    f = attndsl.load(case.text, **case.consts)
    made = [t.cuda() for t in case.tensors(torch.bfloat16)]
    inputs: dict[str, Any] = {n: t.cuda() for n, t in case.made().items()}

    def gradients(given: Config | None) -> list[Tensor]:
        q, k, v = (t.detach().requires_grad_() for t in made)
        with configured(**({} if given is None else {"dkdv": given})):
            out = f(q, k, v, backend="triton", **case.scalars, **inputs)
            return list(torch.autograd.grad(out.float().sin().sum(), (q, k, v)))

    found, apart = gradients(config), gradients(Config(64, 64, 4, 2))
    for letter, a, b in zip("qkv", found, apart, strict=True):
        off = float((a.float() - b.float()).norm() / b.float().norm())
        if not off < NEAR:
            raise RuntimeError(f"d{letter} is {off:.2g} of its size from that of two passes")
    return found


def scan(case: LinearCase) -> list[Tensor]:
    """Output, final state and gradients of a linear attention."""
    from attndsl.runtime.triton.scan_passes import backward, forward

    call = case.call("cuda")
    needs = {"q", "k", "v"} | ({"log"} if case.decay != "none" else set()) | ({"initial"} if case.state else set())
    with torch.no_grad():
        out, shares, final = forward(call, want_final=True)
        assert final is not None
        found = backward(call, out, shares, out, frozenset(needs), final if case.state else None, final)
    every = (out, shares, final.state, final.column, found.q, found.k, found.v, found.log)
    return [t for t in every if t is not None]


def child() -> int:
    """Every job once; a line of JSON for each."""
    wrong = 0
    for name, job in jobs().items():
        try:
            results = job()
            torch.cuda.synchronize()
            bad = [i for i, r in enumerate(results) if bool(r.isnan().any())]
            said = f"results {bad} are not numbers" if bad else ""
        except NotImplementedError as missing:
            print(json.dumps({"case": name, "left out": bare(str(missing))}), flush=True)
            continue
        except Exception as error:
            said = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
        wrong += bool(said)
        print(json.dumps({"case": name, "wrong": bare(said)}), flush=True)
        if "CUDA" in said:
            # nothing after it means anything
            return 1
    return 1 if wrong else 0


def told(text: str) -> list[dict[str, str]]:
    """What a child said of its jobs."""
    return [json.loads(line) for line in text.splitlines() if line.startswith('{"case"')]


def plainly(raw: Raw, seconds: float) -> None:
    """Every job once, in a process of its own, which also compiles all kernels."""
    command = [sys.executable, __file__, "--child"]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
        text, end = ran.stdout, "" if ran.returncode in (0, 1) else f"its process ended with {ran.returncode}"
    except subprocess.TimeoutExpired as late:
        text, end = late.stdout.decode() if isinstance(late.stdout, bytes) else late.stdout or "", "not done in time"
    done = told(text)
    for line in done:
        raw.check(line["case"], line.get("wrong", ""), **({"left_out": line["left out"]} if "left out" in line else {}))
    if end or len(done) < len(jobs()):
        raw.check("all jobs", end or f"{len(done)} of {len(jobs())} ran")


def repeat(name: str, times: int) -> int:
    """A repeated case, forward and backward, or a sweep that is not the same twice; a line of JSON for each."""
    if name in sweeps():
        case, config = sweeps()[name]
        said = ""
        try:
            for _ in range(times):
                swept(case, config)
        except Exception as error:
            said = f"{type(error).__name__}: {error}"[:300]
        print(json.dumps({"case": f"{name}, repeated near two passes", "wrong": bare(said)}), flush=True)
        return bool(said)
    torch.use_deterministic_algorithms(True)
    wrong = 0
    for backward in (False, True):
        try:
            call = prepared(name, backward)
            first = call()
            different = 0
            for _ in range(times):
                again = call()
                different += not all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
            said = f"{different} of {times} repeats differ" if different else ""
        except NotImplementedError:
            continue
        except Exception as error:
            said = f"{type(error).__name__}: {error}"[:300]
        wrong += bool(said)
        print(json.dumps({"case": f"{name}{', backward' * backward}, repeated", "wrong": bare(said)}), flush=True)
    return 1 if wrong else 0


def sweeps() -> dict[str, tuple[str, Config]]:
    """Cases of the one sweep, by what they are called."""
    return {f"{name}, {sweep}": (name, config) for name in SWEPT for sweep, config in FUSED.items()}


def repeats(raw: Raw, times: int, workers: int, seconds: float, part: str) -> None:
    """Whether the repeated cases with `part` in their names were bitwise equal each time; the one sweep, which is not,
    near the two passes."""

    # threads of torch's for tensors on the host would be as many for each process as there are cores
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def ran(name: str) -> tuple[str, str, str]:
        command = [sys.executable, __file__, "--repeat", name, "--repeats", str(times)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=seconds, check=False, env=environment
            )
        except subprocess.TimeoutExpired:
            return name, "", "not done in time"
        last = (done.stderr.strip().splitlines() or [""])[-1]
        ended = "" if done.returncode in (0, 1) else f"its process ended with {done.returncode}: {last}"
        return name, done.stdout, ended

    with ThreadPoolExecutor(workers) as pool:
        for name, text, end in pool.map(ran, [n for n in (*REPEATED, *sweeps()) if part in n]):
            lines = told(text)
            for line in lines:
                raw.check(line["case"], line["wrong"], repeats=times)
            if end or not lines:
                raw.check(f"{name}, repeated", end or "said nothing")


def sanitized(raw: Raw, tool: str, seconds: float) -> None:
    """What a tool of compute-sanitizer finds in all jobs."""
    folders = ("/usr/local/cuda/bin", "/usr/local/cuda/compute-sanitizer")
    program = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=os.pathsep.join(folders))
    if program is None:
        raw.check(tool, "there is no compute-sanitizer")
        return
    start = time.time()
    command = [program, "--tool", tool, "--launch-timeout", "0", "--print-limit", "20", sys.executable, __file__]
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    late = False
    try:
        ran = subprocess.run(
            [*command, "--child"], capture_output=True, text=True, timeout=seconds, check=False, env=environment
        )
        text = ran.stdout + ran.stderr
    except subprocess.TimeoutExpired as error:
        text, late = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or "", True
    summary = re.search(r"(ERROR|RACECHECK) SUMMARY: .*", text)
    clean = re.search(r"SUMMARY: 0 (errors|hazards)", text) is not None
    lines = told(text)
    wrong = [line["case"] for line in lines if line.get("wrong")]
    said = f"not done in {seconds:.0f} s" if late else "" if clean else "no summary" if summary is None else summary[0]
    if wrong or (not said and len(lines) < len(jobs())):
        said = f"{said} {len(lines)} of {len(jobs())} jobs ran, wrong: {wrong}".strip()
    about = {"jobs": len(lines), "seconds": round(time.time() - start), "summary": summary[0] if summary else ""}
    raw.check(tool, said, **about)
    if said:
        found = [line for line in text.splitlines() if line.startswith("=========")]
        raw.data["rows"].append({"tool": tool, "lines": [bare(line) for line in found[:60]]})
        raw.write()


def dry(raw: Raw, workers: int) -> int:
    """Compile the kernels of all jobs, without a GPU."""
    found: dict[str, Callable[[], Taken]] = {}
    for name in dict.fromkeys((*FORWARD, *REPEATED)):
        found[name] = partial(compile_case, case_of(name), "bf16")
    for name in dict.fromkeys((*BACKWARD, *REPEATED)):
        found[f"{name}, backward"] = partial(compile_case, case_of(name), "bf16", True)
    for name in SWEPT:
        for sweep, config in FUSED.items():
            found[f"{name}, {sweep}"] = partial(compile_case, case_of(name), "bf16", True, config)
    for case in SCANS:
        found[f"scan {case}"] = partial(compile_linear, case, choose_scan(case.dtype, case.D, case.Dv))
    for name, answer in compiled(found, workers):
        raw.check(name, answer.wrong, **answer.data())
    return raw.end()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--tools", default="memcheck,racecheck")
    parser.add_argument("--repeats", type=int, default=250)
    parser.add_argument("--seconds", type=float, default=200.0, help="for each tool")
    parser.add_argument("--commit", default="")
    parser.add_argument("--dry", action="store_true", help="no GPU: compile the kernels of all jobs")
    parser.add_argument("--workers", type=int, default=1, help="compiling processes of a dry run, or repeating ones")
    parser.add_argument("--only", choices=["repeats"], help="leave out the other parts")
    parser.add_argument("--cases", default="", help="a part of the names of repeated cases")
    parser.add_argument("--repeat", default="", help=argparse.SUPPRESS)
    parser.add_argument("--child", action="store_true", help="run every job once, and nothing else")
    given = parser.parse_args()
    if given.child:
        return child()
    if given.repeat:
        return repeat(given.repeat, given.repeats)
    if given.dry:
        return dry(Raw("sanitize-dry", given.out, given.commit, "cross-compiled"), given.workers)
    raw = Raw("sanitize", given.out, given.commit, torch.cuda.get_device_name())
    if given.only is None:
        plainly(raw, given.seconds)
        for tool in filter(None, given.tools.split(",")):
            sanitized(raw, tool, given.seconds)
    if given.repeats:
        repeats(raw, given.repeats, given.workers, given.seconds, given.cases)
    return raw.end()


if __name__ == "__main__":
    sys.exit(main())
