"""Backward kernels on a GPU: are they right, and how fast are they beside FlexAttention's. One run.

    python benchmarks/gpu_backward.py [--compile-only] [--out FILE] [--only check|time] [--workers 8] [--budget 300]
                                      [--select REGEX]

Checks the gradients of every case of `benchmarks/cases.py` in bf16 and fp16 against the dense fp64 definition, then
measures workloads with several tile configurations each, and FlexAttention's backward on the same tensors. dq and dkdv
kernels are measured apart (`attndsl-dq`, `attndsl-dkdv`), kernels that find all three gradients together as
`attndsl-fused`, and the best of these ways is `attndsl-triton`. Worker processes compile ahead of what is measured;
`--compile-only` fills the caches on disk and ends, and `--workers 0` measures with what they hold. Raw rows go to
benchmarks/results/<gpu>/<date>-backward.json. Work that does not fit the budget of seconds is left out, and said so.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false, reportMissingImports=false, reportUnknownParameterType=false
# pyright: reportPrivateUsage=false

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor

from attndsl.runtime.triton.config import Config, configured
from attndsl.runtime.triton.labels import label
from attndsl.tune.oracle import Oracle, Subject

RESULTS = Path(__file__).parent / "results"
START = time.time()
LIMIT = 2e-2
"""Relative error (norm over norm) of bf16 gradients against those of another bf16 computation."""
Keep = Callable[[dict[str, Any]], None]

DQ = {
    128: [Config(128, 64, 8, 3), Config(64, 64, 4, 2)],
    64: [Config(64, 64, 4, 3), Config(128, 64, 8, 3)],
}
DKDV = {
    128: [Config(64, 64, 4, 2), Config(128, 64, 8, 3)],
    64: [Config(64, 64, 4, 3), Config(128, 64, 8, 3)],
}
FUSED = {
    128: [Config(64, 32, 4, 3, fused="boxes"), Config(128, 64, 8, 2, fused="boxes")],
    64: [Config(64, 64, 4, 3, fused="boxes"), Config(128, 128, 8, 2, fused="boxes")],
}
NEEDS = {"dq": "q", "dkdv": "kv", "fused": "qkv"}
"""What is asked for, by kind of kernel."""


def check_case(number: int, dtype_name: str, deterministic: bool = False) -> tuple[str, str]:
    """(case, what is wrong or empty) for the gradients of one case; errors against eager ones in the same dtype."""
    import attndsl
    from attndsl.reference import reference
    from attndsl.reference.accuracy import GRADIENT_FACTOR
    from benchmarks.cases import DIFFERENTIATED
    from benchmarks.gpu import wrong_by

    case, dtype = DIFFERENTIATED[number], getattr(torch, dtype_name)
    name = f"{case.name} {dtype_name}{' deterministic' if deterministic else ''}"
    try:
        torch.use_deterministic_algorithms(deterministic, warn_only=True)
        tensors = dict(zip("qkv", (t.cuda() for t in case.tensors(dtype)), strict=True))
        inputs = {n: t.cuda() for n, t in case.made().items()}
        offset = case.offset("cuda")
        f = attndsl.load(case.text, **case.consts)
        g = torch.Generator("cuda").manual_seed(2)
        grad = torch.randn(case.B, case.H, case.Lq, case.Dv or case.D, generator=g, device="cuda").to(dtype)
        grad_lse = torch.randn(case.B, case.H, case.Lq, generator=g, device="cuda")
        floats = tensors | {n: t for n, t in inputs.items() if t.is_floating_point()}

        def gradients(precision: torch.dtype, ours: bool) -> dict[str, Tensor]:
            live = {n: t.detach().to(t.dtype if ours else precision).requires_grad_() for n, t in floats.items()}
            rest: dict[str, Any] = {n: live.get(n, t) for n, t in inputs.items()}
            q, k, v = (live[n] for n in "qkv")
            if ours:
                found: Any = f(q, k, v, backend="triton", return_lse=case.lse, grid=case.grid, q_offset=offset,
                               scale=case.scale, **case.scalars, **rest)  # fmt: skip
                out, lse = found if case.lse else (found, None)
            else:
                out, lse = reference(f.attention, q, k, v, inputs=rest, scalars=case.scalars, grid=case.grid,
                                     q_offset=offset, scale=case.scale, dtype=precision)  # fmt: skip
            outs, grads = [out], [grad.to(out.dtype)]
            if case.lse and lse is not None:
                outs.append(torch.where(lse.isfinite(), lse, 0.0))
                grads.append(grad_lse.to(lse.dtype))
            values: Any = torch.autograd.grad(outs, list(live.values()), grads, allow_unused=True)
            return {n: torch.zeros_like(t) if v is None else v for (n, t), v in zip(live.items(), values, strict=True)}

        actual = gradients(dtype, True)
        exact, eager = gradients(torch.float64, False), gradients(dtype, False)
        wrong = [
            f"{n}: {text}" for n in actual
            if (
                text := wrong_by(
                    actual[n], eager[n], exact[n], dtype if n in "qkv" else torch.float32, GRADIENT_FACTOR
                )
            )
        ]  # fmt: skip
        if deterministic:
            again = gradients(dtype, True)
            wrong += [f"{n} differs in a second run" for n in actual if not torch.equal(actual[n], again[n])]
        return name, "; ".join(wrong)
    except Exception as error:
        return name, f"{type(error).__name__}: {error}"[:600]


def check(workers: int) -> list[dict[str, Any]]:
    """All cases, in processes of their own so that kernels compile side by side."""
    from benchmarks.cases import DIFFERENTIATED

    jobs = [(i, d, False) for i in range(len(DIFFERENTIATED)) for d in ("bfloat16", "float16")]
    jobs += [(i, "bfloat16", True) for i in range(len(DIFFERENTIATED)) if DIFFERENTIATED[i].inputs]
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
    print(f"-- gradients: {right} of {len(rows)} cases right, {time.time() - START:.0f} s", flush=True)
    return rows


class Ours:
    """Our backward of a workload, ready to be called again and again."""

    def __init__(self, w: Any) -> None:
        import attndsl
        from attndsl.runtime.binding import bind_call
        from attndsl.runtime.triton.kernel import TritonKernel
        from attndsl.schedule.build import build

        q, k, v = w.tensors()
        self.f = attndsl.load(w.text, **w.consts)
        self.call = bind_call(self.f.attention, self.f.simplified, q, k, v, dict(w.inputs), grid=w.grid)
        self.kernel = TritonKernel(self.f.simplified)
        self.plan = build(
            self.f.simplified, self.call.problem,
            self.kernel.tiling(self.call).tile(self.f.simplified, self.call.problem),
        )  # fmt: skip
        self.out, _, self.saved = self.kernel.forward(self.call, self.plan, False, True)
        g = torch.Generator(self.out.device).manual_seed(3)
        self.grad = torch.randn(self.out.shape, device=self.out.device, dtype=self.out.dtype, generator=g)

    def run(self, needs: str, grad: Tensor | None = None) -> Mapping[str, Tensor]:
        grad = self.grad if grad is None else grad
        return self.kernel.backward(self.call, self.plan, self.saved, grad, None, frozenset(needs))


def configurations(w: Any, quick: bool) -> dict[str, list[Config]]:
    """Those of every kind of kernel for a workload, the likeliest first."""
    found = {"dq": DQ[w.D], "dkdv": DKDV[w.D], "fused": FUSED[w.D]}
    short = quick or "S4096" in w.name
    return {kind: configs[:1] for kind, configs in found.items()} if short else found


def asked(kind: str, config: Config) -> Any:
    """A context in which a kind of kernel has a configuration."""
    return configured(**{"dq" if kind == "dq" else "dkdv": config})


def workloads() -> list[Any]:
    """In order of importance."""
    from attndsl.bench.workloads import dense, masked, neighborhoods

    long, many, grids = dense(16384), masked(), neighborhoods()
    first = [many[0], long[1], many[6], grids[0], long[3], many[5], grids[1], many[8], long[0]]
    return [*first, *(w for w in (*many, *grids, *long, *dense(4096)) if w not in first)]


def warm(number: int, what: str, quick: bool) -> str:
    """Compile what is measured of a workload into the caches on disk. What went wrong, if something did."""
    w = workloads()[number]
    try:
        if what == "flex":
            _flex_backward(w)
        else:
            ours = Ours(w)
            for config in configurations(w, quick)[what]:
                with asked(what, config):
                    ours.run(NEEDS[what])
        torch.cuda.synchronize()
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]
    return ""


def measure(keep: Keep, deadline: float, *, quick: bool, workers: int, select: str = "") -> None:
    """Every workload: our configurations, then FlexAttention. Rows as peers' tables have them."""
    from benchmarks.gpu_compile import Compiling

    found = workloads()
    kinds = tuple(NEEDS) if quick else (*NEEDS, "flex")
    chosen = [i for i, w in enumerate(found) if re.search(select, w.name)]
    jobs = [(i, what, quick) for i in chosen for what in kinds]
    compiling = Compiling(warm, jobs if workers else (), max(workers, 1))
    for i in chosen:
        w, late = found[i], False
        for what in kinds if workers else ():
            said = compiling.problem((i, what, quick), deadline)
            late |= said == "not compiled in time"
            if said:
                print(f"{w.name} {what}: {said}", flush=True)
        if late or time.time() > deadline:
            print(f"no time for {w.name}", flush=True)
            continue
        try:
            _measure(w, keep, quick)
        except Exception as error:
            _row(keep, w, "attndsl-triton", None, "ERR " + repr(error)[:300].replace("\n", " "))
        torch.cuda.empty_cache()
    compiling.close()


def compile_all(deadline: float, *, quick: bool, workers: int, select: str = "") -> None:
    """Fill the caches on disk, in order of importance, until a time."""
    from benchmarks.gpu_compile import Compiling

    found = workloads()
    chosen = [i for i, w in enumerate(found) if re.search(select, w.name)]
    jobs = [(i, what, quick) for i in chosen for what in (*NEEDS, "flex")]
    compiling = Compiling(warm, jobs, workers)
    for i, what, _ in jobs:
        if said := compiling.problem((i, what, quick), deadline):
            print(f"{found[i].name} {what}: {said}", flush=True)
    compiling.close()


def _measure(w: Any, keep: Keep, quick: bool) -> None:
    ours = Ours(w)
    best: dict[str, tuple[float, Config, str]] = {}
    values: dict[str, Tensor] = {}
    exact = None
    if not quick:
        try:
            flex = _flex_backward(w)
            if w.permuted is None:
                exact = dict(zip("qkv", flex(ours.grad), strict=True))
            grad = ours.grad if w.permuted is None else None
            _row(keep, w, "flex-perm" if w.permuted else "flex", _bench(lambda: flex(grad)), "")
            del flex
        except Exception as error:
            _row(keep, w, "flex", None, "ERR " + repr(error)[:200].replace("\n", " "))
    # what no peer computed in the same order is compared with the definition, on some rows
    oracle = None if exact is not None else Oracle(Subject(ours.f.attention, ours.call, w.grid, ours.grad), "dq")
    for kind, configs in configurations(w, quick).items():
        needs = NEEDS[kind]
        for config in configs:
            shown = label(config)
            with asked(kind, config):
                try:
                    found = ours.run(needs)
                    torch.cuda.synchronize()
                    notes = shown
                    for n, t in found.items():
                        against = exact[n] if exact is not None else values.setdefault(n, t)
                        error = float((t.double() - against.double()).norm() / against.double().norm())
                        notes += f" {n} {error:.1e}"
                        if not error < LIMIT:
                            notes += " WRONG"
                    if oracle is not None and oracle.rows:
                        wrong = oracle.wrong(ours.run(needs, oracle.grad()))
                        notes += f" WRONG {wrong}" if wrong else " as defined"
                    ms = _bench(lambda needs=needs: ours.run(needs))
                except Exception as failure:
                    _row(keep, w, f"attndsl-{kind}", None, f"ERR {shown} " + repr(failure)[:200].replace("\n", " "))
                    continue
            _row(keep, w, f"attndsl-{kind}", ms, notes)
            if "WRONG" not in notes and (kind not in best or ms < best[kind][0]):
                best[kind] = ms, config, notes
    together: list[tuple[float, str]] = []
    if "dq" in best and "dkdv" in best:
        with configured(dq=best["dq"][1], dkdv=best["dkdv"][1]):
            ms = _bench(lambda: ours.run("qkv"))
        together.append((ms, f"dq {best['dq'][2]}; dkdv {best['dkdv'][2]}"))
    if "fused" in best:
        together.append((best["fused"][0], best["fused"][2]))
    if together:
        _row(keep, w, "attndsl-triton", *min(together))


def _flex_backward(w: Any) -> Callable[[Tensor | None], Any]:
    """FlexAttention's gradients of q, k and v as a function of the output's."""
    from torch.nn.attention.flex_attention import flex_attention

    from attndsl.bench.peers import block_mask

    torch.compiler.reset()
    score, mask = w.flex()
    S = w.permuted or w.S
    q, k, v = (t.requires_grad_() for t in w.tensors(S))
    blocks = None
    if mask is not None:
        blocks = block_mask(mask, S, S, "cuda")
    out: Any = torch.compile(flex_attention, dynamic=False)(q, k, v, score_mod=score, block_mask=blocks)
    own = torch.randn_like(out)

    def run(grad: Tensor | None) -> Any:
        return torch.autograd.grad(out, (q, k, v), own if grad is None else grad, retain_graph=True)

    run(None)
    return run


def _bench(run: Callable[[], Any]) -> float:
    import triton

    found: Any = triton.testing.do_bench(run, warmup=25, rep=100, return_mode="median")
    return float(found)


def _row(keep: Keep, w: Any, system: str, ms: float | None, note: str) -> None:
    share = {"attndsl-dq": 1.5, "attndsl-dkdv": 2.0}.get(system, 2.5)
    tflops = w.flops * share / ms / 1e9 if ms else None
    keep({"wl": w.name, "sys": system, "pas": "bwd", "ms": ms, "tflops": tflops, "note": note})
    shown = "" if ms is None or tflops is None else f"{ms:9.4f} ms {tflops:7.1f} TF"
    print(f"{w.name:48s} {system:16s} {shown} {note}", flush=True)


def main() -> int:
    from benchmarks.gpu import ask, versions

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", choices=["check", "time"])
    parser.add_argument("--compile-only", action="store_true", help="fill the caches on disk and end")
    parser.add_argument("--workers", type=int, default=8, help="processes that compile; 0: the caches hold everything")
    parser.add_argument("--budget", type=float, default=300.0)
    parser.add_argument("--quick", action="store_true", help="one configuration a workload, no FlexAttention")
    parser.add_argument("--select", default="", help="workloads whose names a regular expression finds")
    parser.add_argument("--commit", default="")
    parser.add_argument("--dry", action="store_true", help="no GPU: compile the kernels of every check")
    given = parser.parse_args()
    if given.dry:
        from benchmarks.cases import DIFFERENTIATED
        from benchmarks.dry import compile_cases
        from benchmarks.raw import Raw

        raw = Raw("backward-dry", given.out, given.commit, "cross-compiled")
        return compile_cases(raw, DIFFERENTIATED, given.workers or 1, backward=True)
    # every process would start as many of its own
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    if given.compile_only:
        compile_all(START + given.budget, quick=given.quick, workers=given.workers, select=given.select)
        return 0
    gpu = torch.cuda.get_device_name()
    folder = gpu.replace("NVIDIA ", "").replace(" ", "-").lower()
    out: Path = given.out or RESULTS / folder / f"{datetime.date.today().isoformat()}-backward.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {
        "gpu": gpu, "driver": ask("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "versions": versions(), "commit": given.commit or ask("git", "rev-parse", "HEAD"), "checks": [], "rows": [],
    }  # fmt: skip
    print(gpu, record["versions"], flush=True)

    def keep(row: dict[str, Any]) -> None:
        record["rows"].append(row)
        out.write_text(json.dumps(record, indent=1))

    if given.only != "time":
        record["checks"] = check(given.workers)
        out.write_text(json.dumps(record, indent=1))
    if given.only != "check":
        measure(keep, START + given.budget, quick=given.quick, workers=given.workers, select=given.select)
    print(f"-- {time.time() - START:.0f} s, written to {out}", flush=True)
    return 1 if any(r["wrong"] for r in record["checks"]) else 0


if __name__ == "__main__":
    sys.exit(main())
