"""`attndsl doctor`: what is installed, whether the cache is healthy, and what a call would run with and why."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attndsl.cli.options import parse_grid, parse_settings, parse_shape
from attndsl.cli.output import OK, CallError, print_json

if TYPE_CHECKING:
    from attndsl.ir.attention import Attention
    from attndsl.runtime.cache.key import Machine
    from attndsl.runtime.triton.config import Pass
    from attndsl.schedule.problem import Problem


def doctor(
    file: Annotated[str | None, typer.Argument(metavar="[FILE]", help="An .attn file: what it would run with.")] = None,
    shape: Annotated[str | None, typer.Option(help="Sizes, such as L=32768,H=16,D=128.")] = None,
    grid: Annotated[str | None, typer.Option(help="Grid extents, such as 8x24x40.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="A const or scalar: window=3,9,9.")] = None,
    name: Annotated[str | None, typer.Option(help="Which attention of the file.")] = None,
    dtype: Annotated[str, typer.Option(help="bf16, fp16 or fp32.")] = "bf16",
    target: Annotated[str | None, typer.Option(help="Another GPU: sm_80, sm_90, h200, ...")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> int:
    """Look at this machine: GPU, versions, cache; and say what the calls of a spec would run with, and why."""
    given = parse_shape(shape), parse_grid(grid), parse_settings(settings or [])
    gpus, torch = _gpus()
    found: dict[str, Any] = {"versions": _versions(torch), "gpus": gpus, "cpu": _cpu(bool(torch)), "cache": _cache()}
    found["shipped"] = _shipped()
    if file is not None:
        found["calls"] = _calls(file, given, name, dtype, target)
    if as_json:
        print_json(found)
    else:
        _print(found)
    return OK


def _versions(torch: str) -> dict[str, str]:
    from importlib.metadata import version

    from attndsl.runtime.cache.key import kernels_version
    from attndsl.runtime.triton.machine import triton_version

    return {
        "attndsl": version("attndsl"), "kernels": kernels_version(), "python": platform.python_version(),
        "torch": torch or "not installed", "triton": triton_version() or "not installed",
    }  # fmt: skip


def _gpus() -> tuple[list[dict[str, Any]], str]:
    """The GPUs that torch sees, and torch's version."""
    try:
        import torch
    except ImportError:
        return [], ""
    from attndsl.runtime.triton.machine import driver_version, machine_of

    found: list[dict[str, Any]] = []
    for i in range(torch.cuda.device_count()):
        machine = machine_of(torch.device("cuda", i))
        if machine is not None:
            found.append({**vars(machine), "driver": driver_version()})
    return found, str(torch.__version__)


def _cpu(has_torch: bool) -> dict[str, Any]:
    """Who compiles kernels for the CPU, and what it is for."""
    from attndsl.runtime.native.choice import PAIRS, VARIABLE, mode
    from attndsl.runtime.native.compiler import find
    from attndsl.runtime.native.store import files

    compiler = find()
    why = compiler if isinstance(compiler, str) else f"{VARIABLE} says so" if mode() == "never" else ""
    return {
        "compiler": None if isinstance(compiler, str) else compiler.name, "usable": not why and has_torch, "why": why,
        "runs": mode(), "from_pairs": PAIRS, "kernels": len(files()),
    }  # fmt: skip


def _cache() -> dict[str, Any]:
    from attndsl.runtime.cache.folder import cache_root, distrust, part
    from attndsl.runtime.cache.key import kernels_version
    from attndsl.runtime.cache.store import Store

    root, store = cache_root(), Store()
    reason = distrust(root)
    if reason:
        return {"folder": str(root), "usable": False, "why": reason}
    entries = list(store.entries())
    compiled = part("compiled")
    size = sum(p.stat().st_size for p in compiled.rglob("*") if p.is_file()) if compiled is not None else 0
    return {
        "folder": str(root), "usable": True, "entries": len(entries),
        "other_versions": sum(e.key.kernels != kernels_version() for e in entries), "compiled_bytes": size,
        "problems": {str(p): why for p, why in store.problems().items()},
    }  # fmt: skip


def _shipped() -> dict[str, int]:
    from attndsl.runtime.cache.lookup import every_shipped_entry

    found: dict[str, int] = {}
    for entry in every_shipped_entry():
        found[entry.key.machine.name] = found.get(entry.key.machine.name, 0) + 1
    return found


def _calls(file: str, given: Any, name: str | None, dtype: str, target: str | None) -> dict[str, Any]:
    from attndsl.cli.planning import check
    from attndsl.cli.setup import prepare
    from attndsl.cli.specs import pick
    from attndsl.ir.simplify import simplify
    from attndsl.runtime.triton.choices import decide, facts_of
    from attndsl.runtime.triton.labels import label
    from attndsl.tune.parts import parts_of

    if dtype not in ("bf16", "fp16", "fp32"):
        raise CallError(f"--dtype: there is no {dtype!r}; it is bf16, fp16 or fp32")
    setup = prepare(pick(file, name), *given)
    check(setup)
    machine = _machine(target)
    found: dict[str, Any] = {
        "attention": setup.attention.name, "call": setup.describe(), "dtype": dtype,
        "gpu": None if machine is None else machine.name, "passes": {},
    }  # fmt: skip
    if machine is None:
        return found
    attention = simplify(setup.attention)
    problem = setup.problem({})
    found["passes"] = _scans(attention, problem, dtype, machine)
    if found["passes"]:
        return found
    steps: tuple[Pass, ...] = ("forward", "dq", "dkdv", "decode")
    for step in steps:
        for part in parts_of(attention, problem, step):
            choice = decide(part.attention, step, facts_of(part.attention, part.problem, dtype, machine))
            place = part.name(step)
            found["passes"][place] = {"config": label(choice.config), "origin": choice.origin, "why": choice.why}
    return found


def _scans(attention: Attention, problem: Problem, dtype: str, machine: Machine) -> dict[str, Any]:
    """What the passes of a linear attention would run with; empty for what runs over tiles."""
    from attndsl.runtime.triton.labels import label
    from attndsl.runtime.triton.scan_choices import decide_scan, scan_facts
    from attndsl.tune.scans import scan_of, scan_passes

    try:
        form = scan_of(attention, problem)
    except ImportError:
        # without torch nothing runs at all
        return {}
    if form is None:
        return {}
    found: dict[str, Any] = {}
    facts = scan_facts(form, problem.sizes, dtype, machine)
    for step in scan_passes(form, ("forward", "dq", "dkdv", "decode")):
        choice = decide_scan(attention, step, facts)
        found[step] = {"config": label(choice.config), "origin": choice.origin, "why": choice.why}
    return found


def _machine(target: str | None) -> Machine | None:
    from attndsl.tune.machines import gpu_of

    if target is not None:
        try:
            return gpu_of(target).machine
        except ValueError as error:
            raise CallError(f"--target: {error}") from error
    try:
        import torch
    except ImportError:
        return None
    from attndsl.runtime.triton.machine import machine_of

    return machine_of(torch.device("cuda", torch.cuda.current_device())) if torch.cuda.is_available() else None


def _print(found: dict[str, Any]) -> None:
    from attndsl.cli.report import size

    v, cache = found["versions"], found["cache"]
    print(f"attndsl   {v['attndsl']}, kernels {v['kernels']}, python {v['python']}")
    print(f"torch     {v['torch']}, triton {v['triton']}")
    for g in found["gpus"]:
        print(
            f"gpu       {g['name']}, sm_{g['capability']}, {g['multiprocessors']} multiprocessors, "
            f"{size(g['shared_memory'])} shared memory a block, driver {g['driver'] or 'unknown'}"
        )
    if not found["gpus"]:
        print("gpu       none that torch can see: calls run on backend 'cpu'")
    cpu = found["cpu"]
    if cpu["why"]:
        print(f"cpu       torch operations alone: {cpu['why']}")
    else:
        size_of = "all calls" if cpu["runs"] == "always" else f"calls of {cpu['from_pairs']:,} pairs or more"
        print(f"cpu       C for {size_of}: {cpu['compiler']}, {cpu['kernels']} kernels kept")
    if cache["usable"]:
        print(f"cache     {cache['folder']}:")
        print(f"          {cache['entries']} tuned, {cache['other_versions']} of them by other versions,")
        print(f"          {size(cache['compiled_bytes'])} of compiled kernels, {len(cache['problems'])} problems")
        for path, why in cache["problems"].items():
            print(f"          {path}: {why} (attndsl cache prune)")
    else:
        print(f"cache     {cache['folder']} is not used: it {cache['why']}")
    shipped = ", ".join(f"{count} for {gpu}" for gpu, count in found["shipped"].items())
    print(f"shipped   {shipped or 'none'}")
    if "calls" in found:
        calls = found["calls"]
        print(f"calls     {calls['attention']} {calls['dtype']} {calls['call']} on {calls['gpu'] or 'no GPU'}")
        width = max([8, *map(len, calls["passes"])])
        for step, p in calls["passes"].items():
            print(f"  {step:<{width}} {p['config']:<24} {p['origin']}: {p['why']}")
        if not calls["passes"]:
            print("  backend 'cpu', which has nothing to tune; --target names a GPU to ask about")
