"""Tuning the call that is about to run."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import sys
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attndsl.ir.attention import Attention
from attndsl.runtime.binding import bind_call
from attndsl.runtime.cache.entry import Entry
from attndsl.runtime.cache.key import Key, hashes
from attndsl.runtime.call import Call
from attndsl.runtime.dispatch import choose_backend
from attndsl.runtime.triton.choices import Facts, facts_of, key_for, untuned
from attndsl.runtime.triton.config import Config, Pass
from attndsl.runtime.triton.kernel import TritonKernel
from attndsl.runtime.triton.launch import interpreting
from attndsl.runtime.triton.machine import machine_of
from attndsl.runtime.triton.projected import AnyKernel, tiles_of
from attndsl.runtime.triton.scan_choices import scan_key
from attndsl.runtime.triton.scan_config import ScanPass
from attndsl.runtime.triton.scan_kernel import LinearKernel
from attndsl.runtime.triton.sweeps import dtype_of
from attndsl.runtime.tuning import Tuning
from attndsl.runtime.tuning import asked as asked_here
from attndsl.schedule.legalise import ScanForm
from attndsl.tune.apart import Recipe
from attndsl.tune.apart_trials import tune_apart
from attndsl.tune.failures import CrashedError, crashed
from attndsl.tune.machines import like
from attndsl.tune.offline import space
from attndsl.tune.oracle import Subject, subject_of
from attndsl.tune.parts import Part, parts_of
from attndsl.tune.scans import scan_of, scan_passes, tune_scan_passes
from attndsl.tune.search import CAREFUL, Progress, Report
from attndsl.tune.session import Searched, Task, tune_all
from attndsl.tune.shape import shape_of
from attndsl.tune.trials import CallTrials
from attndsl.tune.workers import Workers

if TYPE_CHECKING:
    from attndsl.runtime.runner import Runner

_done: set[Key] = set()


def tune_call(
    runner: Runner,
    q: Any,
    k: Any,
    v: Any,
    arguments: Mapping[str, object],
    *,
    now: object = None,
    backend: str | None = None,
    layout: str = "bhsd",
    scale: Any = None,
    q_offset: Any = 0,
    grid: Any = None,
    states: bool = False,
) -> list[Entry]:
    """Tune every pass that a call with these arguments runs and that is not tuned yet; the entries that were made.

    With `now` (the call's own `tune=`) a call that has nothing to tune is a ValueError.
    """
    owner, asked = runner.attention.name, asked_here()
    if now is None and asked is None:
        # another thread asks
        return []
    asked = asked or Tuning()
    if now is not None and now != "now":
        raise ValueError(f"{owner}: tune is 'now' or left out, got {now!r}")
    name = choose_backend(owner, backend, q.device.type if isinstance(q, Tensor) else "cpu")
    if name != "triton" or interpreting():
        if now is None:
            return []
        what = f"backend {name!r} has nothing to tune"
        if name == "triton":
            what = "under TRITON_INTERPRET nothing is timed"
        raise ValueError(f"{owner}: tune='now' needs tensors on a GPU that backend 'triton' runs; {what}")
    call = bind_call(
        runner.attention, runner.simplified, q, k, v, arguments, layout=layout, scale=scale, q_offset=q_offset,
        grid=grid,
    )  # fmt: skip
    if not call.q.numel() or not call.k.numel() or not call.v.numel():
        return []
    kernel = runner.kernel(name)
    assert isinstance(kernel, AnyKernel)
    report = _told if asked.verbose else None
    if asked.isolated:
        return _tune_apart(kernel, runner.attention, call, grid, asked.budget, report, states)
    form = scan_of(runner.simplified, call.problem)
    if form is not None and kernel.scan_gap(call, form) is None:
        return _tune_scan(kernel, Subject(runner.attention, call, None), form, asked.budget, report, states)
    tiles, inner = tiles_of(kernel, call)
    facts = tiles.facts(inner)
    steps: list[Pass] = [s for s in passes_of(kernel, call) if key_for(tiles.attention, s, facts) not in _done]
    grad = torch.randn_like(call.q[..., :1].expand(*call.q.shape[:3], call.v.shape[-1])) if len(steps) > 1 else None
    alone = inner is call
    whole = Subject(runner.attention, call, grid, grad)
    subject = whole if alone else subject_of(tiles.attention, inner, grid, grad)
    sums = _tune_sums(kernel, whole, passes_of(kernel, call), asked.budget, report)
    return [*sums, *tune_passes(tiles, subject, facts, steps, asked.budget, report)]


def _tune_sums(
    kernel: AnyKernel,
    subject: Subject,
    steps: Sequence[Pass],
    budget: float,
    report: Report | None,
) -> list[Entry]:
    """Tune the kernels that add up what a weight needs before its pairs."""
    from attndsl.tune.stage_trials import trials_of

    call = subject.call
    every: list[tuple[Pass, Part]] = [(s, p) for s in steps for p in parts_of(call.attention, call.problem, s)]
    parts: list[tuple[Pass, Part]] = [it for it in every if it[1].stage is not None]
    if not parts:
        return []
    machine = machine_of(call.q.device)
    assert machine is not None
    gpu, dtype, workers = like(machine), dtype_of(call.attention, call), Workers()
    searches: list[Searched] = []
    try:
        for step, part in parts:
            facts = facts_of(part.attention, part.problem, dtype, machine)
            key = key_for(part.attention, step, facts)
            if key in _done:
                continue
            configs = space(part.attention, part.problem, facts, step, gpu)
            task = Task(key, part.name(subject.attention.name), shape_of(facts), configs)
            searches.append((task, trials_of(kernel, subject, part, step, configs[0], gpu, workers)))
        found = tune_all(searches, workers, budget=budget, report=report)
    except CrashedError as error:
        raise crashed(error, subject.attention) from error
    finally:
        workers.close()
    _done.update(e.key for e in found)
    return found


_apart: set[Hashable] = set()
"""Calls that were tuned in processes of their own: what their searches would find again at once."""


def _tune_apart(
    kernel: AnyKernel,
    attention: Attention,
    call: Call,
    grid: Any,
    budget: float,
    report: Report | None,
    states: bool,
) -> list[Entry]:
    """Tune the passes of a call on tensors like its own, in another process."""
    first: Pass = "decode" if states and call.q.shape[2] == 1 else passes_of(kernel, call)[0]
    steps = (first, *passes_of(kernel, call)[1:])
    place = (
        hashes(call.attention), steps, call.q.dtype, tuple(sorted(call.sizes.items())),
        tuple(call.q_extents.items()), tuple(call.k_extents.items()),
    )  # fmt: skip
    if place in _apart:
        return []
    offset = call.q_offset if isinstance(call.q_offset, int) else call.q_offset.cpu()
    recipe = Recipe(
        attention, call.sizes, dtype_of(call.attention, call),
        {n: t.detach().cpu() for n, t in call.inputs.items()}, call.scalars, grid, call.scale, offset,
        device=call.q.device.index or 0, token_major=call.q.stride(1) < call.q.stride(2),
    )  # fmt: skip
    found = tune_apart(recipe, call.problem, steps, budget, report)
    _apart.add(place)
    return found


def _tune_scan(
    kernel: LinearKernel, subject: Subject, form: ScanForm, budget: float, report: Report | None, states: bool
) -> list[Entry]:
    """Tune the passes of a call that runs as a scan. One that has a state is tuned as one without: the kernels are the
    same. `states`: it has one, so that one row is a step."""
    call = subject.call
    facts = kernel.scan_facts(call, form)
    tensors = (call.q, call.k, call.v, *call.inputs.values())
    backward = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    first: Pass = "decode" if states and call.q.shape[2] == 1 else "forward"
    asked: tuple[Pass, ...] = (first, "dq", "dkdv") if backward else (first,)
    steps: list[ScanPass] = [s for s in scan_passes(form, asked) if scan_key(kernel.attention, s, facts) not in _done]
    subject = replace(subject, grad=torch.randn_like(call.q[..., :1].expand(*call.q.shape[:3], call.v.shape[-1])))
    found = tune_scan_passes(kernel, subject, form, facts, steps, budget, report)
    _done.update(e.key for e in found)
    return found


def passes_of(kernel: AnyKernel, call: Call) -> tuple[Pass, ...]:
    """The passes that a call runs."""
    tensors = (call.q, call.k, call.v, *call.inputs.values())
    backward = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    first: Pass = "decode" if kernel.few(call) else "forward"
    return (first, "dq", "dkdv") if backward else (first,)


def tune_passes(
    kernel: TritonKernel,
    subject: Subject,
    facts: Facts,
    steps: Sequence[Pass],
    budget: float,
    report: Report | None = None,
    workers: Workers | None = None,
    among: Mapping[Pass, Sequence[Config]] | None = None,
    careful: float = CAREFUL,
) -> list[Entry]:
    """Tune passes of a call on its GPU, each for at most `budget` seconds. `workers` compile, and are the caller's to
    close; without them there are some for this call. `among` are the candidates of passes, the default first, where
    not all are to be tried. Finalists are measured for `careful` seconds each."""
    if not steps:
        return []
    assert facts.machine is not None
    gpu = like(facts.machine)
    own = workers is None
    workers = workers or Workers()
    chosen = among or {}
    tasks: list[Searched] = []
    try:
        for step in steps:
            default = untuned(step, facts)
            configs = chosen.get(step) or space(kernel.attention, subject.call.problem, facts, step, gpu)
            task = Task(key_for(kernel.attention, step, facts), subject.attention.name, shape_of(facts), configs)
            tasks.append((task, CallTrials(kernel, subject, step, default, gpu, workers)))
        found = tune_all(tasks, workers, budget=budget, report=report, careful=careful)
        _done.update(e.key for e in found)
    except CrashedError as error:
        raise crashed(error, subject.attention) from error
    finally:
        if own:
            workers.close()
    return found


def _told(p: Progress) -> None:
    ms = "" if p.ms is None else f" at {p.ms:.4f} ms"
    text = f"{p.tried} of {p.total} tried, {p.pruned} left out, best {p.best or 'none'}{ms}, {p.left:.0f} s left"
    print(f"attndsl: tuning: {text}", file=sys.stderr, flush=True)
