"""`attndsl viz`: a picture of a mask and its tiles, as SVG or PNG."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attndsl.cli.options import did_you_mean, parse_grid, parse_query, parse_settings, parse_shape
from attndsl.cli.output import OK, CallError, print_json, write_whole

if TYPE_CHECKING:
    from attndsl.cli.setup import Setup

FORMATS = (".svg", ".png")


def viz(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The .attn file; - is standard input.")],
    output: Annotated[str, typer.Option("-o", "--output", metavar="OUT", help="Where to write: .svg or .png.")],
    query: Annotated[str | None, typer.Option(help="Show the keys of this query: 3,5,7 on a grid.")] = None,
    shape: Annotated[str | None, typer.Option(help="Sizes, such as L=4096,H=8.")] = None,
    grid: Annotated[str | None, typer.Option(help="Grid extents, such as 8x24x40.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="A const or scalar: window=3,9,9.")] = None,
    name: Annotated[str | None, typer.Option(help="Which attention of the file.")] = None,
    head: Annotated[int, typer.Option(help="Which head to draw.", min=0)] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the inputs that the mask reads.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was drawn as JSON.")] = False,
) -> int:
    """Draw the mask with its tile classes, and on grids the neighborhood of a query."""
    suffix = Path(output).suffix.lower()
    if suffix not in FORMATS:
        raise CallError(f"--output: {output} must end in .svg or .png{did_you_mean(suffix, FORMATS) if suffix else ''}")
    given = parse_shape(shape), parse_grid(grid), parse_settings(settings or [])
    wanted = parse_query(query)

    from attndsl.cli.planning import plan_of
    from attndsl.cli.setup import prepare
    from attndsl.cli.specs import pick
    from attndsl.viz.draw import Picture, draw

    setup = prepare(pick(file, name), *given)
    if head >= setup.sizes["H"]:
        raise CallError(f"--head: {head} is not below H={setup.sizes['H']}")
    planned = plan_of(setup, seed)
    plan = planned.plan
    position = _position(setup, wanted)
    scene = draw(Picture(setup.attention, planned.problem, plan, setup.describe(), head=head, query=position))
    content: str | bytes
    if suffix == ".svg":
        from attndsl.viz.svg import to_svg

        content = to_svg(scene)
    else:
        from attndsl.viz.png import to_png

        try:
            content = to_png(scene)
        except ImportError:
            raise CallError("a PNG needs Pillow: pip install 'attndsl[viz]', or write an .svg") from None
    write_whole(Path(output), content)
    counts = {"visited": plan.visited, "full": plan.full, "partial": plan.partial, "total": plan.total}
    if as_json:
        print_json({"file": output, "attention": setup.attention.name, "call": setup.describe(), **counts})
    else:
        print(f"{output}: {setup.attention.name} at {setup.describe()}")
        if setup.chosen:
            print(f"chosen, as nothing was given: {' '.join(setup.chosen)}")
    return OK


def _position(setup: Setup, wanted: tuple[int, ...] | None) -> int | None:
    from attndsl.viz.neighborhood import linear_position, middle_query, segments

    problem = setup.problem()
    parts = segments(setup.attention, "q", problem.q_extents)
    if wanted is None:
        return middle_query(setup.attention, problem) if parts else None
    if not parts:
        raise CallError(f"--query: {setup.attention.name} has no grid; a query's neighborhood is drawn on grids")
    fits = [p for p in parts if len(p[0].axes) == len(wanted)]
    if not fits:
        axes = " or ".join(",".join(p[0].axes) for p in parts)
        raise CallError(f"--query: {','.join(map(str, wanted))} has {len(wanted)} coordinates; expected {axes}")
    try:
        return linear_position(wanted, fits[-1][0], problem.q_extents, fits[-1][1])
    except ValueError as error:
        raise CallError(f"--query: {error}") from error
