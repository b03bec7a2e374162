"""`attndsl run`: a spec on real tensors, with its plan, its error and its speed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from attndsl.cli.options import did_you_mean, parse_grid, parse_settings, parse_shape
from attndsl.cli.output import COMPILER_WRONG, OK, CallError, print_json, progress, unicode_output

if TYPE_CHECKING:
    from attndsl.cli.setup import Setup
    from attndsl.cli.trial import Tensors, Times
    from attndsl.reference.accuracy import Verdict
    from attndsl.schedule.plan import Plan
    from attndsl.schedule.problem import Problem

DTYPES = {
    **dict.fromkeys(("fp32", "f32", "float32"), "fp32"),
    **dict.fromkeys(("bf16", "bfloat16"), "bf16"),
    **dict.fromkeys(("fp16", "f16", "float16"), "fp16"),
}


def run(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The .attn file; - is standard input.")],
    shape: Annotated[str | None, typer.Option(help="Sizes, such as B=1,H=8,L=4096,D=64.")] = None,
    grid: Annotated[str | None, typer.Option(help="Grid extents, such as 8x24x40.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="A const or scalar: window=3,9,9.")] = None,
    name: Annotated[str | None, typer.Option(help="Which attention of the file.")] = None,
    backward: Annotated[bool, typer.Option("--backward", help="Check and time the gradients too.")] = False,
    dtype: Annotated[str, typer.Option(help="fp32, bf16 or fp16.")] = "fp32",
    seed: Annotated[int, typer.Option(help="Seed of the tensors.", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> int:
    """Run an attention on made-up tensors: its plan, its error against the fp64 oracle, its time against dense SDPA."""
    if dtype not in DTYPES:
        raise CallError(f"--dtype: there is no {dtype!r}{did_you_mean(dtype, DTYPES)}; it is fp32, bf16 or fp16")
    given = parse_shape(shape), parse_grid(grid), parse_settings(settings or [])

    from attndsl.cli.planning import plan_of
    from attndsl.cli.setup import prepare
    from attndsl.cli.specs import pick

    setup = prepare(pick(file, name), *given)
    with progress("planning"):
        planned = plan_of(setup, seed)
    plan = planned.plan
    if not as_json:
        _print_plan(setup, planned.problem, plan, DTYPES[dtype], seed)
    errors, rows, times = _try(setup, DTYPES[dtype], seed, backward)
    if as_json:
        print_json(_as_data(setup, plan, DTYPES[dtype], seed, errors, rows, times))
    else:
        _print_results(setup, errors, rows, times)
    return OK if all(e.ok for e in errors.values()) else COMPILER_WRONG


def _try(setup: Setup, dtype: str, seed: int, backward: bool) -> tuple[dict[str, Verdict], int, Times]:
    try:
        import torch
    except ImportError:
        raise CallError("run needs torch: pip install 'attndsl[torch]'") from None
    from attndsl.api import AttentionFunction
    from attndsl.cli import trial

    function = AttentionFunction(setup.attention)
    tensors = trial.make_tensors(setup, trial.DTYPES[dtype], seed)

    def call(t: Tensors) -> Any:
        arguments: dict[str, Any] = {**setup.scalars, **t.inputs}
        if setup.grid is not None:
            arguments["grid"] = setup.grid
        return function(t.q, t.k, t.v, **arguments)

    with progress("running"):
        tracked = trial.with_gradients(tensors) if backward else tensors
        try:
            out = call(tracked)
        except (TypeError, ValueError) as error:
            raise CallError(str(error)) from error
        gradients: dict[str, Any] = {}
        if backward:
            out.backward(tensors.grad)
            floats = tracked.floats()
            gradients = {n: torch.zeros_like(x) if x.grad is None else x.grad for n, x in floats.items()}
    rows = sum(stop - start for start, stop in tensors.rows)
    errors: dict[str, Verdict] = {}
    if tensors.rows:
        with progress("checking against the fp64 oracle"):
            errors = trial.check(setup, tensors, out.detach(), gradients)
    with progress("timing"):
        times = trial.compare(setup, tensors, call, backward)
    return errors, rows, times


def _print_plan(setup: Setup, problem: Problem, plan: Plan, dtype: str, seed: int) -> None:
    from attndsl.cli.inputs import describe
    from attndsl.cli.report import bounds_line, plan_line, settings_line, tiles_line
    from attndsl.viz.neighborhood import middle_query
    from attndsl.viz.terminal import neighborhood_picture, tile_legend, tile_picture

    print(f"{setup.attention.name}  {setup.describe()}  {dtype}")
    if line := settings_line(setup):
        print(f"set     {line}")
    for param in setup.attention.inputs:
        print(f"input   {param.name}: {describe(setup.attention, param)} (seed {seed})")
    print(f"plan    {plan_line(plan)}")
    print(f"tiles   {tiles_line(plan)}")
    print(f"bounds  {bounds_line(plan)}")
    print()
    unicode = unicode_output()
    if setup.q_extents:
        lines = neighborhood_picture(setup.attention, problem, plan, middle_query(setup.attention, problem), unicode)
    else:
        lines = [*tile_picture(problem, plan, unicode), tile_legend(unicode)]
    print("\n".join(f"  {line}" for line in lines), end="\n\n", flush=True)


def _print_results(setup: Setup, errors: dict[str, Verdict], rows: int, times: Times) -> None:
    total = setup.sizes["Lq"]
    if not errors:
        print("error   not checked: all pairs are too many for the dense oracle, and rows of this spec cannot be")
        print("        looked at alone; try a smaller --shape or --grid")
    for name, e in errors.items():
        verdict = "ok" if e.ok else "WRONG"
        print(f"error   {name:<6} {e.error:.1e} against the fp64 oracle, {e.allowed:.1e} allowed: {verdict}")
    if errors and rows < total:
        print(f"        looked at {rows:,} of {total:,} rows: start, middle and end")
    _print_time("forward", times.forward, times.sdpa_forward)
    if times.backward is not None:
        _print_time("backward", times.backward, times.sdpa_backward)
    notes = [times.note] if times.note else []
    if times.sdpa_forward is not None and not _is_sdpa(setup):
        notes.append("SDPA computes the mask only, not this score or weight")
    if notes:
        print(f"        {'; '.join(notes)}")


def _is_sdpa(setup: Setup) -> bool:
    from attndsl.ir.expr import SCORE

    a = setup.attention
    return a.score == SCORE and a.weight is None and a.output is None


def _print_time(what: str, mine: float, dense: float | None) -> None:
    against = "" if dense is None else f", dense SDPA {dense * 1e3:,.1f} ms: {dense / mine:.1f}x"
    print(f"time    {what:<8} {mine * 1e3:,.1f} ms{against}")


def _as_data(
    setup: Setup, plan: Plan, dtype: str, seed: int, errors: dict[str, Verdict], rows: int, times: Times
) -> dict[str, Any]:
    from attndsl.cli.inputs import describe
    from attndsl.cli.report import call_data, plan_data

    def ms(seconds: float | None) -> float | None:
        return None if seconds is None else round(seconds * 1e3, 4)

    checked = {n: {"error": e.error, "allowed": e.allowed, "ok": e.ok} for n, e in errors.items()}
    return {
        "attention": setup.attention.name,
        "call": {**call_data(setup), "dtype": dtype, "seed": seed},
        "inputs": {p.name: describe(setup.attention, p) for p in setup.attention.inputs},
        "plan": plan_data(plan),
        "check": {"rows": rows, "of": setup.sizes["Lq"], "results": checked},
        "time": {
            "forward_ms": ms(times.forward),
            "backward_ms": ms(times.backward),
            "sdpa_forward_ms": ms(times.sdpa_forward),
            "sdpa_backward_ms": ms(times.sdpa_backward),
            "note": times.note,
        },
        "ok": all(e.ok for e in errors.values()) if errors else None,
    }
