"""Forward kernels on a GPU: are they right, and how fast are they beside FlexAttention. One run.

    python benchmarks/gpu.py [--compile-only] [--out FILE] [--only check|time] [--workers 8] [--budget 470] [--quick]
                             [--select REGEX]

Checks every case of `benchmarks/cases.py` in bf16 and fp16 against the dense fp64 definition, then measures workloads
with several tile configurations each, and FlexAttention on the same tensors. Raw rows go to
benchmarks/results/<gpu>/<date>-forward.json. Work that does not fit the budget of seconds is left out, and said so.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportMissingImports=false, reportUnknownParameterType=false

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

RESULTS = Path(__file__).parent / "results"
START = time.time()


def check_case(number: int, dtype_name: str) -> tuple[str, str]:
    """(case, what is wrong or empty) for one case; errors against the eager computation in the same dtype."""
    import attndsl
    from attndsl.reference import reference
    from attndsl.reference.accuracy import OUTPUT_FACTOR
    from benchmarks.cases import ALL_CASES

    case, dtype = ALL_CASES[number], getattr(torch, dtype_name)
    name = f"{case.name} {dtype_name}"
    try:
        tensors = [t.cuda() for t in case.tensors(dtype)]
        inputs = {n: t.cuda() for n, t in case.made().items()}
        offset = case.offset("cuda")
        f = attndsl.load(case.text, **case.consts)
        found = f(
            *tensors, backend="triton", return_lse=case.lse, grid=case.grid, q_offset=offset, scale=case.scale,
            **case.scalars, **inputs,
        )  # fmt: skip
        out, lse = found if case.lse else (found, None)

        def dense(precision: torch.dtype) -> Any:
            return reference(
                f.attention, *tensors, inputs=inputs, scalars=case.scalars, grid=case.grid, q_offset=offset,
                scale=case.scale, dtype=precision,
            )  # fmt: skip

        exact, eager = dense(torch.float64), dense(dtype)
        wrong = wrong_by(out, eager[0], exact[0], dtype, OUTPUT_FACTOR)
        if lse is not None:
            # rows that see nothing have none
            seen = exact[1].isfinite()
            if not torch.equal(lse[~seen].double(), exact[1][~seen]):
                wrong += " lse of rows that see nothing"
            found, plain, right = (torch.where(seen, t.double(), 0.0) for t in (lse, eager[1], exact[1]))
            said = wrong_by(found, plain, right, torch.float32, OUTPUT_FACTOR)
            wrong += f" lse {said}" if said else ""
        return name, wrong
    except Exception as error:
        return name, f"{type(error).__name__}: {error}"[:600]


def wrong_by(found: Any, eager: Any, exact: Any, dtype: torch.dtype, factor: float) -> str:
    """What is wrong with a result, by the project's rule; empty for nothing."""
    from attndsl.reference.accuracy import judge

    verdict = judge(found, eager, exact, dtype, factor)
    return "" if verdict.ok else f"error {verdict.error:.3g} above {verdict.allowed:.3g}"


def check(workers: int) -> list[dict[str, Any]]:
    """All cases, in processes of their own so that kernels compile side by side."""
    from benchmarks.cases import ALL_CASES

    jobs = [(i, d) for i in range(len(ALL_CASES)) for d in ("bfloat16", "float16")]
    rows: list[dict[str, Any]] = []
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(check_case, *j) for j in jobs]):
            try:
                name, wrong = done.result()
            except Exception as error:
                name, wrong = "?", f"process died: {error}"
            rows.append({"case": name, "wrong": wrong})
            if wrong:
                print(f"WRONG {name}: {wrong}", flush=True)
    right = sum(not r["wrong"] for r in rows)
    print(f"-- {right} of {len(rows)} cases right, {time.time() - START:.0f} s", flush=True)
    return rows


def versions() -> dict[str, str]:
    """What the numbers depend on."""
    import numpy
    import triton

    return {
        "torch": torch.__version__, "triton": triton.__version__, "numpy": numpy.__version__,
        "cuda": str(torch.version.cuda), "python": sys.version.split()[0],
    }  # fmt: skip


def ask(*command: str) -> str:
    """What a command prints, empty where there is none."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", choices=["check", "time"])
    parser.add_argument("--workers", type=int, help="processes that compile: 8 to check, none to measure")
    parser.add_argument("--budget", type=float, default=470.0)
    parser.add_argument("--quick", action="store_true", help="one configuration a workload, no FlexAttention")
    parser.add_argument("--compile-only", action="store_true", help="fill the caches on disk and end")
    parser.add_argument("--select", default="", help="workloads whose names a regular expression finds")
    parser.add_argument("--commit", default="")
    parser.add_argument("--dry", action="store_true", help="no GPU: compile the kernels of every check")
    given = parser.parse_args()
    if given.dry:
        from benchmarks.cases import ALL_CASES
        from benchmarks.dry import compile_cases
        from benchmarks.raw import Raw

        raw = Raw("forward-dry", given.out, given.commit, "cross-compiled")
        return compile_cases(raw, ALL_CASES, given.workers or 1)
    # each process would start as many compilers as there are cores
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    if given.compile_only:
        from benchmarks.gpu_workloads import compile_all

        compile_all(START + given.budget, quick=given.quick, workers=given.workers or 8, select=given.select)
        return 0
    gpu = torch.cuda.get_device_name()
    folder = gpu.replace("NVIDIA ", "").replace(" ", "-").lower()
    out: Path = given.out or RESULTS / folder / f"{datetime.date.today().isoformat()}-forward.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {
        "gpu": gpu, "driver": ask("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "versions": versions(), "commit": given.commit or ask("git", "rev-parse", "HEAD"), "checks": [], "rows": [],
    }  # fmt: skip
    print(gpu, record["versions"], flush=True)
    if given.only != "time":
        record["checks"] = check(given.workers or 8)
        out.write_text(json.dumps(record, indent=1))
    if given.only != "check":
        from benchmarks.gpu_workloads import measure

        def keep(row: dict[str, Any]) -> None:
            record["rows"].append(row)
            out.write_text(json.dumps(record, indent=1))

        measure(keep, START + given.budget, quick=given.quick, workers=given.workers or 0, select=given.select)
    print(f"-- {time.time() - START:.0f} s, written to {out}", flush=True)
    return 1 if any(r["wrong"] for r in record["checks"]) else 0


if __name__ == "__main__":
    sys.exit(main())
