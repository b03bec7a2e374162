"""Kernels under compute-sanitizer, and whether deterministic runs repeat bit by bit.

    python benchmarks/sanitize.py [--tools memcheck,racecheck] [--repeats 250] [--seconds 200]

Runs small calls, forward, backward and few rows: first plainly, which compiles their kernels, then repeatedly under
`torch.use_deterministic_algorithms`, then under each tool of compute-sanitizer, without torch's caching allocator: a
read outside of a tensor is then one outside of an allocation. The exit code is 1 where anything was found.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingImports=false

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor

FORWARD = (
    "dense 40", "causal 128", "window 7, negative scale", "alibi", "softcap", "row and key bias", "documents",
    "sink and gate", "relu2", "gna", "gna dilated", "joint", "few, causal, 4 heads to 1", "few, window and first keys",
    "few, sink and gate", "few, relu2", "few, heads that differ",
)  # fmt: skip
BACKWARD = ("dense 40", "window", "alibi", "sink and gate", "relu2", "gna", "few, causal, 5 rows")
REPEATED = ("causal", "alibi", "sink and gate", "gna", "few, causal, 4 heads to 1", "few, window and first keys")


def jobs() -> list[tuple[str, bool]]:
    """(case, with its backward pass), of which each runs kernels of its own."""
    return [*((n, False) for n in FORWARD), *((n, True) for n in BACKWARD)]


def run(name: str, backward: bool) -> list[Tensor]:
    """The output, lse and gradients of a case in bf16."""
    import attndsl
    from benchmarks.cases import ALL_CASES

    case = next(c for c in ALL_CASES if c.name == name)
    q, k, v = (t.cuda().requires_grad_(backward) for t in case.tensors(torch.bfloat16))
    inputs = {n: t.cuda() for n, t in case.made().items()}
    given: dict[str, Any] = {**case.scalars, **inputs}
    floats = [t.requires_grad_() for t in inputs.values() if t.is_floating_point()] if backward else []
    found = attndsl.load(case.text, **case.consts)(
        q, k, v, backend="triton", return_lse=case.lse, grid=case.grid, q_offset=case.offset("cuda"), scale=case.scale,
        **given,
    )  # fmt: skip
    results = list(found) if case.lse else [found]
    if backward:
        sum((r.float().sin().sum() for r in results), torch.zeros((), device="cuda")).backward()
        results += [t.grad for t in (q, k, v, *floats) if t.grad is not None]
    return [r.detach() for r in results]


def child() -> int:
    """Every job once."""
    wrong = 0
    for name, backward in jobs():
        try:
            results = run(name, backward)
            torch.cuda.synchronize()
            bad = [i for i, r in enumerate(results) if bool(r.isnan().any())]
        except NotImplementedError as missing:
            print(f"left out {name}, backward: {missing}", flush=True)
            continue
        if bad:
            wrong += 1
            print(f"WRONG {name}{', backward' * backward}: results {bad} are not numbers", flush=True)
    print(f"ran {len(jobs())} jobs", flush=True)
    return 1 if wrong else 0


def repeats(times: int) -> int:
    """How many of the repeated cases were not bitwise equal each time."""
    torch.use_deterministic_algorithms(True)
    wrong = 0
    for name in REPEATED:
        for backward in (False, True):
            try:
                first = run(name, backward)
                different = 0
                for _ in range(times):
                    again = run(name, backward)
                    same = all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
                    different += not same
            except NotImplementedError:
                continue
            wrong += different > 0
            word = "WRONG" if different else "right"
            print(f"{word} {name}{', backward' * backward}: {different} of {times} repeats differ", flush=True)
    torch.use_deterministic_algorithms(False)
    return wrong


def sanitized(tool: str, seconds: float) -> int:
    """Errors that a tool of compute-sanitizer finds."""
    folders = ("/usr/local/cuda/bin", "/usr/local/cuda/compute-sanitizer")
    program = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=os.pathsep.join(folders))
    if program is None:
        print(f"{tool}: there is no compute-sanitizer in PATH or {folders[0]}", flush=True)
        return 1
    start = time.time()
    command = [program, "--tool", tool, "--launch-timeout", "0", "--print-limit", "20", sys.executable, __file__]
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    try:
        ran = subprocess.run(
            [*command, "--child"], capture_output=True, text=True, timeout=seconds, check=False, env=environment
        )
    except subprocess.TimeoutExpired as late:
        told = late.stdout.decode() if isinstance(late.stdout, bytes) else late.stdout or ""
        print(f"{tool}: not done after {seconds:.0f} s\n{told[-2000:]}", flush=True)
        return 1
    text = ran.stdout + ran.stderr
    summary = re.search(r"(ERROR|RACECHECK) SUMMARY: .*", text)
    clean = summary is not None and re.search(r"SUMMARY: 0 (errors|hazards)", text) is not None and "ran " in text
    print(f"{tool}: {summary.group(0) if summary else 'no summary'}, {time.time() - start:.0f} s", flush=True)
    if not clean or ran.returncode:
        print(text[:6000], flush=True)
    return 0 if clean and not ran.returncode else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools", default="memcheck,racecheck")
    parser.add_argument("--repeats", type=int, default=250)
    parser.add_argument("--seconds", type=float, default=200.0, help="for each tool")
    parser.add_argument("--child", action="store_true", help="run every job once, and nothing else")
    given = parser.parse_args()
    if given.child:
        return child()
    start = time.time()
    wrong = subprocess.run([sys.executable, __file__, "--child"], check=False).returncode
    print(f"-- compiled, {time.time() - start:.0f} s", flush=True)
    wrong += repeats(given.repeats) if given.repeats else 0
    print(f"-- repeated, {time.time() - start:.0f} s", flush=True)
    for tool in filter(None, given.tools.split(",")):
        wrong += sanitized(tool, given.seconds)
    print(f"-- {time.time() - start:.0f} s", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
