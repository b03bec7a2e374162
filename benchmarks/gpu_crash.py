"""Whether tuning outlives candidates that crash a GPU, on a GPU; and which candidates of documents do.

    python benchmarks/gpu_crash.py [--only address,trap,hang,here,documents] [--repeats 3] [--out FILE]

One candidate of a small search is made to fail: it writes to an address that is none, executes a trap, or never ends.
`attndsl tune`'s own search must leave it out, say why, and end with the others measured; `here` does the same inside a
process that tunes its own call: an error that names the candidate, and a second process that skips it. `documents` runs
every candidate that the sweep over keys of packed documents had when one of them crashed, each several times in a
process of its own, with boxes found on the device and with a plan of the host.

The exit code is 1 where something was not as it should be.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingImports=false

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from attndsl.runtime.triton.config import Config
from attndsl.runtime.triton.labels import label
from attndsl.tune.apart import Asked, Measurer, Recipe
from attndsl.tune.parts import parts_of

SPEC = "attention causal { mask k <= q }"
SIZES = {"B": 1, "H": 8, "Hkv": 8, "Lq": 2048, "Lk": 2048, "L": 2048, "D": 64, "Dv": 64}
KINDS = ("address", "trap", "hang")
NAMES = (*KINDS, "here", "documents")
LIMIT = 20.0
"""Seconds after which a candidate counts as hung."""
DOCUMENTS = (
    Config(64, 64, 4, 2), Config(128, 64, 8, 4), Config(64, 32, 4, 3, fused="boxes"),
    Config(64, 64, 4, 3, fused="boxes"), Config(64, 64, 4, 2, fused="boxes"), Config(128, 64, 8, 3),
    Config(64, 128, 8, 3), Config(64, 32, 4, 2, fused="boxes"),
)  # fmt: skip
BAD = """
import triton
import triton.language as tl

@triton.jit
def address(x, far: "i64"):
    tl.store(x + far, 1)

@triton.jit
def trap(x, far: "i64"):
    one = tl.program_id(0)
    tl.inline_asm_elementwise("trap; mov.u32 $0, $1;", "=r,r", [one], dtype=tl.int32, is_pure=False, pack=1)

@triton.jit
def hang(x, far: "i64"):
    while tl.load(x, volatile=True) == 0:
        tl.debug_barrier()
"""


def main() -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(NAMES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    parser.add_argument("--bad", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        return child(given.child, given.bad)
    found: dict[str, Any] = {}
    for name in given.only.split(","):
        start = time.time()
        if name in KINDS:
            found[name] = apart(name)
        elif name == "here":
            found[name] = here()
        else:
            found[name] = documents(given.repeats)
        found[name]["seconds"] = round(time.time() - start, 1)
        print(name, json.dumps(found[name]), flush=True)
        if given.out is not None:
            given.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0 if all(row["ok"] for row in found.values()) else 1


def apart(kind: str) -> dict[str, Any]:
    """A search whose second candidate fails, as `attndsl tune` does it."""
    import attndsl
    from attndsl.tune.apart_trials import tune_apart
    from attndsl.tune.failures import CRASHED

    f = attndsl.load(SPEC)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["ATTNDSL_CACHE_DIR"] = cache
        bad = likely(f)
        command = [sys.executable, __file__, "--child", kind, "--bad", label(bad)]
        with Measurer(Recipe(f.attention, SIZES, "bf16", {}, {}), command=command, limit=LIMIT) as measurer:
            (entry,) = tune_apart(measurer.recipe, f.problem(**SIZES), ["forward"], 30, measurer=measurer)
    note = entry.timings[label(bad)].note if label(bad) in entry.timings else "was not tried"
    measured = sum(t.state == "measured" for t in entry.timings.values())
    ok = note.startswith(CRASHED) and measured >= 2 and entry.best not in (None, label(bad))
    return {"ok": ok, "candidate": label(bad), "note": note, "measured": measured, "best": entry.best}


def likely(f: Any) -> Config:
    """The candidate that is tried early: the best but for the default and those whose warps may not be specialised."""
    from attndsl.runtime.triton.choices import facts_of
    from attndsl.tune.machines import gpu_of
    from attndsl.tune.offline import ranked

    gpu, problem = gpu_of("h200"), f.problem(**SIZES)
    _, *rest = ranked(f.simplified, problem, facts_of(f.simplified, problem, "bf16", gpu.machine), "forward", gpu)
    return next(c for c in rest if not c.specialize)


def here() -> dict[str, Any]:
    """A process that tunes its own call, twice: what it says when a candidate fails, and that the next one skips it."""
    import attndsl

    f = attndsl.load(SPEC)
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "ATTNDSL_CACHE_DIR": cache}
        bad = label(likely(f))
        command = [sys.executable, __file__, "--child", "here", "--bad", bad]
        first, second = (
            subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=200)
            for _ in range(2)
        )
    named = "CandidateError" in first.stderr and bad in first.stderr and "python " in first.stderr
    ok = first.returncode != 0 and named and second.returncode == 0
    return {"ok": ok, "first": first.stderr[-700:], "second": (second.stdout + second.stderr)[-300:]}


def documents(repeats: int) -> dict[str, Any]:
    """Every candidate of the sweep over keys of documents, alone."""
    from benchmarks.tune_specs import library, problem_of

    w = next(w for w in library("cpu") if w.name == "std document")
    f, problem = problem_of(w)
    (part,) = parts_of(f.simplified, problem, "dkdv")
    recipe = Recipe(f.attention, problem.sizes, "bf16", {n: t.cpu() for n, t in w.inputs.items()}, {})
    rows: dict[str, str] = {}
    for way in ("device", "host"):
        command = [sys.executable, __file__, "--child", f"documents on the {way}"]
        with Measurer(recipe, command=command, limit=60) as measurer:
            for config in DOCUMENTS * repeats:
                place = f"{way}: {label(config)}"
                try:
                    said = measurer.ask(Asked("dkdv", config, DOCUMENTS[0], part=part))
                    ms = measurer.ask(Asked("dkdv", config, DOCUMENTS[0], seconds=0.1, part=part)).ms
                    text = said or f"{ms:.4f} ms"
                except RuntimeError as error:
                    text = str(error)
                rows[place] = f"{rows[place]}; {text}" if place in rows else text
    return {"ok": not any("crashed" in t or "error" in t for t in rows.values()), "rows": rows}


def child(kind: str, bad: str) -> int:
    """A process that measures, one of whose candidates fails; or that tunes its own call."""
    from attndsl.runtime.triton.kernel import TritonKernel
    from attndsl.tune import measurer, trials

    as_is: Any = trials.CallTrials.check

    def check(self: Any, config: Config) -> str:
        if label(config) == bad:
            fail("address" if kind == "here" else kind)
        return as_is(self, config)

    if kind == "documents on the host":
        TritonKernel.locates = lambda self, call: False
    if bad:
        trials.CallTrials.check = check
    if kind == "here":
        return tuned_here()
    measurer.main()
    os._exit(0)


def tuned_here() -> int:
    """Tune a call within this process."""
    import torch

    import attndsl

    f = attndsl.load(SPEC)
    q, k, v = (torch.randn(1, 8, 2048, 64, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    with attndsl.tuning(budget=20):
        out = f(q, k, v)
    print("finite" if bool(out.isfinite().all()) else "not finite")
    return 0


def fail(kind: str) -> None:
    """Run a kernel that does not end as it should."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bad_kernels.py"
        path.write_text(BAD)
        sys.path.insert(0, folder)
        import bad_kernels

        numbers = torch.zeros(16, dtype=torch.int32, device="cuda")
        getattr(bad_kernels, kind)[(1,)](numbers, 1 << 45)
        torch.cuda.synchronize()


if __name__ == "__main__":
    sys.exit(main())
