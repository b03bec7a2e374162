"""`attndsl bench`: a spec, or the project's workloads, beside torch's kernels and FlexAttention, in one run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attndsl.cli.options import did_you_mean, parse_grid, parse_settings, parse_shape
from attndsl.cli.output import COMPILER_WRONG, OK, CallError, print_json, progress, write_whole

if TYPE_CHECKING:
    from attndsl.bench.measure import Row
    from attndsl.bench.workloads import Workload
    from attndsl.cli.benching import Subject

BACKENDS = ("cpu", "triton")


def bench(
    file: Annotated[str | None, typer.Argument(metavar="[FILE]", help="The .attn file; - is standard input.")] = None,
    workload: Annotated[
        list[str] | None, typer.Option(help="Part of the name of one of the project's workloads, or `all`.")
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="Print the names of the workloads.")] = False,
    backend: Annotated[str | None, typer.Option(help="cpu or triton; the machine's own unless given.")] = None,
    peers: Annotated[bool, typer.Option("--peers/--no-peers", help="Whether to measure others, too.")] = True,
    backward: Annotated[bool, typer.Option("--backward/--forward", help="Whether to measure gradients.")] = True,
    shape: Annotated[
        list[str] | None, typer.Option(help="Sizes, such as L=4096,H=8; may be given more than once.")
    ] = None,
    grid: Annotated[str | None, typer.Option(help="Grid extents, such as 8x24x40.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="A const or scalar: window=3,9,9.")] = None,
    name: Annotated[str | None, typer.Option(help="Which attention of the file.")] = None,
    dtype: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16; bf16 on a GPU unless given.")] = None,
    output: Annotated[str | None, typer.Option("-o", "--output", metavar="OUT", help="Write the rows as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> int:
    """Measure forward and backward passes beside dense SDPA, FlexAttention and, for the workloads, cuDNN, FA2 and FA4.
    The error of ours is by the fp64 definition on sampled rows; exit 3 where it is too large."""
    from attndsl.cli.run import DTYPES

    if (file is None) == (not workload and not listed):
        raise CallError("name a FILE, or workloads with --workload (--list prints their names)")
    if backend is not None and backend not in BACKENDS:
        raise CallError(f"--backend: there is no {backend!r}{did_you_mean(backend, BACKENDS)}; it is cpu or triton")
    if dtype is not None and dtype not in DTYPES:
        raise CallError(f"--dtype: there is no {dtype!r}{did_you_mean(dtype, DTYPES)}; it is fp32, bf16 or fp16")
    shapes = [parse_shape(s) for s in shape or [None]]
    given = parse_grid(grid), parse_settings(settings or [])
    if workload and (shape or grid or settings or name or dtype):
        raise CallError("--workload says sizes, settings and element types itself")
    if find_spec("torch") is None:
        raise CallError("bench needs torch: pip install 'attndsl[torch]'")
    if listed:
        return _list(as_json)

    from attndsl.cli.benching import device_of, of_file, of_workload

    device = device_of(backend)
    subjects: Iterator[Subject]
    if file is not None:
        chosen = None if dtype is None else DTYPES[dtype]
        subjects = (of_file(file, name, sizes, *given, chosen, device) for sizes in shapes)
    else:
        subjects = (of_workload(w) for w in _chosen(workload or [], device))
    return _run(subjects, backend, device, peers, backward, output, as_json)


def _list(as_json: bool) -> int:
    from attndsl.bench.workloads import workloads

    found = [{"workload": w.name, "runs on": "GPU" if w.device == "cuda" else "CPU"} for w in workloads("cpu")]
    if as_json:
        print_json(found)
    else:
        for w in found:
            print(f"{w['runs on']}  {w['workload']}")
    return OK


def _chosen(wanted: list[str], device: str) -> list[Workload]:
    """The workloads of these names that the machine can run. CallError where there is none."""
    from attndsl.bench.workloads import workloads

    every = workloads(device)
    found = [w for w in every if "all" in wanted or any(n in w.name for n in wanted)]
    runnable = [w for w in found if w.device == device]
    if not found:
        raise CallError(f"--workload: none is called {', '.join(wanted)} (attndsl bench --list prints their names)")
    if not runnable:
        others = ", ".join(repr(w.name) for w in every if w.device == device)
        where = "a GPU" if device == "cpu" else "a CPU (--backend cpu)"
        raise CallError(f"--workload: {found[0].name!r} needs {where}; this machine runs {others}")
    return runnable


def _run(
    subjects: Iterator[Subject], backend: str | None, device: str, peers: bool, backward: bool, output: str | None,
    as_json: bool,
) -> int:  # fmt: skip
    from attndsl.bench.measure import machine
    from attndsl.cli.benching import measure_ours, measure_peers

    record: dict[str, Any] = {**machine(device), "rows": []}
    wrong = False

    def keep(row: Row) -> None:
        nonlocal wrong
        wrong |= row.note.startswith("WRONG")
        record["rows"].append(row.as_data())
        if output is not None:
            write_whole(Path(output), json.dumps(record, indent=1) + "\n")
        if not as_json:
            _print(row)

    for subject in subjects:
        if not as_json:
            print(subject.title)
        with progress(f"measuring {subject.name}"):
            measure_ours(subject, keep, backend or ("triton" if device == "cuda" else "cpu"), backward)
            if peers:
                measure_peers(subject, keep, backward)
    if as_json:
        print_json(record)
    return COMPILER_WRONG if wrong else OK


def _print(row: Row) -> None:
    ms = "-" if row.ms is None else f"{row.ms:,.3f} ms"
    rate = "" if row.tflops is None else f"{row.tflops:,.3g} TFLOP/s"
    print(f"  {row.sys:<16} {row.pas}  {ms:>14}  {rate:>15}  {row.note}".rstrip(), flush=True)
