"""`attndsl explain`: what an error code means, or what the compiler sees in a spec and why it is fast."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attndsl.cli.options import parse_grid, parse_settings, parse_shape
from attndsl.cli.output import OK, CallError, print_json

LONGEST = 400
"""Most characters of a clause on the screen; `--json` and `--dump` give all."""

if TYPE_CHECKING:
    from attndsl.cli.planning import Planned
    from attndsl.cli.setup import Setup
    from attndsl.ir.attention import Attention


def explain(
    subject: Annotated[str, typer.Argument(metavar="FILE|CODE", help="An .attn file (- is standard input) or E0123.")],
    shape: Annotated[str | None, typer.Option(help="Sizes, such as L=1048576,H=8.")] = None,
    grid: Annotated[str | None, typer.Option(help="Grid extents, such as 8x24x40.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="A const or scalar: window=3,9,9.")] = None,
    name: Annotated[str | None, typer.Option(help="Which attention of the file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
    dump: Annotated[
        bool, typer.Option("--dump", help="Print every stage: tree, IR, simplified IR, plan, source.")
    ] = False,
) -> int:
    """Say what the compiler found in a spec (form, tiles, bounds, reasons), or what an error code means."""
    given = parse_shape(shape), parse_grid(grid), parse_settings(settings or [])
    if re.fullmatch(r"[Ee]\d+", subject):
        return _code(subject.upper(), as_json)

    from attndsl.cli.planning import plan_of
    from attndsl.cli.setup import prepare
    from attndsl.cli.specs import pick

    setup = prepare(pick(subject, name), *given)
    if dump:
        from attndsl.cli.dump import dump_stages

        return dump_stages(subject, setup, plan_of(setup, 0), as_json)
    planned = plan_of(setup, 0)
    if as_json:
        print_json(_as_data(setup, planned))
    else:
        _print(setup, planned)
    return OK


def _code(code: str, as_json: bool) -> int:
    from attndsl.cli.options import did_you_mean
    from attndsl.diagnostics.codes import CODES

    if code not in CODES:
        raise CallError(f"there is no error code {code}{did_you_mean(code, CODES)}")
    info = CODES[code]
    if as_json:
        print_json({"code": code, "title": info.title, "explanation": info.explanation})
    else:
        print(f"{code}: {info.title}\n\n{info.explanation}")
    return OK


def clauses(attention: Attention, most: int) -> dict[str, str]:
    """The clauses of an attention in the language's notation, defaults written out, none longer than `most`."""
    from attndsl.ir.infix import infix

    weight = "softmax" if attention.weight is None else infix(attention.weight, most)
    found = {"mask": infix(attention.mask, most), "score": infix(attention.score, most), "weight": weight}
    return found if attention.output is None else {**found, "output": infix(attention.output, most)}


def written(attention: Attention) -> list[str]:
    """The lines of the block as its user wrote it."""
    from attndsl.frontend.parser import parse

    file, _ = parse(attention.span.source)
    (block,) = (b for b in file.attentions if b.name == attention.name)
    return f"attention {block.span.text.removeprefix('attention ')}".split("\n")


def _print(setup: Setup, planned: Planned) -> None:
    from attndsl.cli.report import bounds_line, plan_line, settings_line, tiles_line
    from attndsl.codegen.cpu import cpu_way
    from attndsl.schedule.found import found_on_device
    from attndsl.schedule.predict import predict
    from attndsl.schedule.report import prediction_line
    from attndsl.schedule.scan_report import scan_report

    simplified, plan = planned.simplified, planned.plan
    print(f"{setup.attention.name}  {setup.describe()}")
    if line := settings_line(setup):
        print(f"set        {line}")
    print("\n".join(f"    {line}" for line in written(setup.attention)), end="\n\n")
    print("simplified, consts as numbers:")
    for what, text in clauses(simplified, LONGEST).items():
        print(f"  {what:<7}{text}")
    print()
    for what, text in forms(simplified).items():
        print(f"{what + ' is':<10} {text}")
    if (scan := scan_report(simplified, planned.problem)) is not None:
        for what, text in scan.lines.items():
            print(f"{what:<10} {text}")
        if scan.found.form is not None:
            print("pair by pair it would be:")
    print(f"plan       {plan_line(plan)}")
    print(f"tiles      {tiles_line(plan)}")
    print(f"bounds     {bounds_line(plan)}")
    print(f"predicted  {prediction_line(predict(plan, planned.problem))}")
    print(f"on a CPU   {cpu_way(simplified)}")
    if (found := found_on_device(simplified, planned.problem)) is not None:
        print(f"on a GPU   {found}")
    for text in plan.closed_form:
        print(f"ranges     {text}")
    for text in plan.reasons:
        print(f"because    {text}")


def forms(simplified: Attention) -> dict[str, str]:
    """What kind of score and weight this is, in words."""
    from attndsl.ir.forms import score_form, weight_form

    return {"score": str(score_form(simplified)), "weight": str(weight_form(simplified))}


def _as_data(setup: Setup, planned: Planned) -> dict[str, Any]:
    from attndsl.cli.report import call_data, plan_data
    from attndsl.codegen.cpu import cpu_way
    from attndsl.schedule.found import found_on_device
    from attndsl.schedule.predict import predict
    from attndsl.schedule.scan_report import scan_report

    scan = scan_report(planned.simplified, planned.problem)
    simplified, found = planned.simplified, predict(planned.plan, planned.problem)
    return {
        "attention": setup.attention.name,
        "call": call_data(setup),
        "written": "\n".join(written(setup.attention)),
        "simplified": clauses(simplified, 10**6),
        "forms": forms(simplified),
        "scan": None if scan is None else {"kind": scan.found.kind, **scan.lines},
        "plan": plan_data(planned.plan),
        "on_cpu": cpu_way(simplified),
        "on_gpu": found_on_device(simplified, planned.problem),
        "predicted": {"machine": found.machine, "work_ms": found.work * 1e3, "bytes_ms": found.bytes * 1e3},
    }
