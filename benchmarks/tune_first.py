"""How soon a process has its first result: after import and the start of CUDA, with empty and with warm caches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CALL = """
import cProfile, json, os, pstats, sys, time
begin = time.perf_counter()
import torch
import triton
import attndsl
imported = time.perf_counter()
torch.zeros(1, device="cuda")
q, k, v = (torch.randn(1, 16, 4096, 128, device="cuda", dtype=torch.bfloat16) for _ in range(3))
torch.cuda.synchronize()
profile = cProfile.Profile() if "PROFILE" in os.environ else None
start = time.perf_counter()
if profile:
    profile.enable()
f = attndsl.load("attention swa(const w: int) { mask k <= q and q - k < w }", w=1024)
loaded = time.perf_counter()
out = f(q, k, v)
torch.cuda.synchronize()
first = time.perf_counter()
if profile:
    profile.disable()
f(q, k, v)
torch.cuda.synchronize()
again = time.perf_counter()
found = {"import_s": imported - begin, "cuda_s": start - imported, "load_s": loaded - start, "call_s": first - loaded,
         "first_s": first - start, "second_s": again - first}
found |= {n + " imported": n in sys.modules for n in ("sympy", "jinja2")}
if profile:
    stats = pstats.Stats(profile).stats
    slow = sorted(stats.items(), key=lambda s: -s[1][3])[:45]
    def shown(file):
        # without the folders of this machine
        _, ours, rest = file.rpartition("/attndsl/")
        return "attndsl/" + rest if ours else file.split("site-packages/")[-1]
    found["profile"] = [f"{s[3]:.4f} s in all, {s[2]:.4f} s itself, {shown(n[0])}:{n[1]} {n[2]}" for n, s in slow]
print(json.dumps(found))
"""


def first_results(deadline: float) -> list[dict[str, Any]]:
    """Seconds of one cold process, of warm ones, and where a warm one spends them."""
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "ATTNDSL_CACHE_DIR": str(Path(folder) / "cache"), "PYTHONPATH": str(ROOT)}
        # Python's own cache of compiled modules, which an installed package has
        environment |= {"PYTHONPYCACHEPREFIX": str(Path(folder) / "python")}
        for name in ("TRITON_CACHE_DIR", "PYTHONDONTWRITEBYTECODE"):
            environment.pop(name, None)
        for kind in ("cold", "warm", "warm", "warm, profiled"):
            if time.time() > deadline:
                break
            more = {"PROFILE": "1"} if "profiled" in kind else {}
            found.append({"cache": kind, **_run(environment | more)})
            shown = {n: round(v, 4) if isinstance(v, float) else v for n, v in found[-1].items() if n != "profile"}
            print(f"first result, {kind} cache: {shown}", flush=True)
    return found


def _run(environment: dict[str, str]) -> dict[str, Any]:
    try:
        ran = subprocess.run(
            [sys.executable, "-c", CALL], env=environment, capture_output=True, text=True, check=False, timeout=60
        )
    except subprocess.TimeoutExpired:
        return {"note": "ERR not done in 60 s"}
    if ran.returncode:
        return {"note": f"ERR {ran.stderr[-400:]}"}
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found
