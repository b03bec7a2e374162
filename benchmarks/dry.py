"""What a run on a GPU would compile, compiled without one: the kernels of cases, in processes side by side."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch

import attndsl
from attndsl.ir.free import tensors as tensors_read
from attndsl.runtime.triton.config import Config
from benchmarks.cases import Case
from benchmarks.raw import Raw

CAPABILITY, MULTIPROCESSORS = 90, 132
FEW = 16
"""Rows of a call whose keys are split."""


@dataclass(frozen=True)
class Taken:
    """Kernels of a case, and the most registers and bytes that one of them takes; or what was wrong."""

    kernels: int = 0
    registers: int = 0
    spills: int = 0
    shared: int = 0
    wrong: str = ""

    def data(self) -> dict[str, int]:
        """For a row of results."""
        return {"kernels": self.kernels, "registers": self.registers, "spills": self.spills, "shared": self.shared}


def problem_of(f: attndsl.AttentionFunction, case: Case) -> Any:
    """What the plans of a case depend on."""
    masked = tensors_read(f.simplified.mask)
    tables: dict[str, Any] = {n: np.asarray(t) for n, t in case.made().items() if n in masked}
    Lk = case.Lk or case.Lq
    offset: Any = case.q_offset
    if isinstance(offset, tuple):
        offset = np.array(offset)
    elif offset == "end":
        offset = Lk - case.Lq
    sizes: dict[str, Any] = {"B": case.B, "H": case.H, "Hkv": case.Hkv or case.H, "D": case.D, "Dv": case.Dv or case.D}
    sizes |= {"grid": case.grid} if case.grid is not None else {"Lq": case.Lq, "Lk": Lk}
    return f.problem(**sizes, q_offset=offset, **case.scalars, **tables)


def compile_case(case: Case, dtype: Any, backward: bool = False, dkdv: Config | None = None) -> Taken:
    """The kernels of a case; with `dkdv` its sweep over keys in this configuration."""
    from attndsl.runtime.triton.decode_lowering import lower_decode
    from attndsl.runtime.triton.lowering import compile_fitting, lower, lower_backward

    try:
        f = attndsl.load(case.text, **case.consts)
        problem = problem_of(f, case)
        if case.Lq <= FEW and case.grid is None and not backward:
            plan, found = lower_decode(
                f.simplified, problem, dtype, capability=CAPABILITY, multiprocessors=MULTIPROCESSORS
            )
        else:
            plan, found = lower(f.simplified, problem, dtype, capability=CAPABILITY, save=backward)
        every = list(found)
        if backward:
            every += lower_backward(f.simplified, problem, dtype, plan, capability=CAPABILITY, dkdv=dkdv)
        return taken(compile_fitting(it)[1] for it in every)
    except NotImplementedError as missing:
        return Taken(wrong="", kernels=0) if backward else Taken(wrong=str(missing)[:300])
    except Exception as error:
        return Taken(wrong=f"{type(error).__name__}: {' '.join(str(error).split())}"[:300])


def compile_linear(case: Any, config: Any) -> Taken:
    """The kernels of a small linear attention, forward and backward, in a configuration."""
    from attndsl.runtime.triton.scan_config import scan_configured
    from attndsl.runtime.triton.scan_launch import recording
    from attndsl.runtime.triton.scan_lowering import compile_launched
    from attndsl.runtime.triton.scan_passes import backward, forward

    try:
        call = case.call("cpu")
        needs = {"q", "k", "v"} | ({"log"} if case.decay != "none" else set()) | ({"initial"} if case.state else set())
        with torch.no_grad(), scan_configured(config), recording(CAPABILITY, MULTIPROCESSORS) as launches:
            out, shares, final = forward(call, want_final=True)
            given = final if case.state else None
            backward(call, out, shares, torch.zeros_like(out), frozenset(needs), given, final)
        unlike = {(it.kernel.cache_key, it.warps, it.stages, _constants(it)): it for it in launches}
        return taken(compile_launched(it, CAPABILITY) for it in unlike.values())
    except Exception as error:
        return Taken(wrong=f"{type(error).__name__}: {' '.join(str(error).split())}"[:300])


def _constants(it: Any) -> tuple[Any, ...]:
    return tuple(v for p, v in zip(it.kernel.params, it.values, strict=True) if p.is_constexpr)


def taken(built: Iterable[Any]) -> Taken:
    """What compiled kernels take."""
    every = list(built)
    if not every:
        return Taken(wrong="nothing is launched")
    return Taken(
        len(every), max(b.registers for b in every), max(b.spills for b in every), max(b.shared for b in every)
    )  # fmt: skip


def compiled(jobs: Mapping[str, Callable[[], Taken]], workers: int) -> Iterator[tuple[str, Taken]]:
    """What the kernels of jobs take, by name, in their order."""
    if workers < 2:
        yield from ((name, job()) for name, job in jobs.items())
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting = {name: pool.submit(job) for name, job in jobs.items()}
        for name, answer in waiting.items():
            try:
                yield name, answer.result()
            except Exception as error:
                yield name, Taken(wrong=f"its process died: {error!r}"[:300])


def compile_cases(raw: Raw, cases: Sequence[Case], workers: int, *, backward: bool = False) -> int:
    """The kernels of cases in both 16-bit types, as entries of a file; 1 where one does not compile."""
    jobs = {f"{c.name} {d}": partial(compile_case, c, d, backward) for c in cases for d in ("bf16", "fp16")}
    for name, found in compiled(jobs, workers):
        raw.check(name, found.wrong, **found.data())
    return raw.end()
